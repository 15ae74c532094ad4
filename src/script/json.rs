//! Values of scripts in words and as JSON, however deep, long or entangled they are: a closure may
//! hold itself, so that whoever follows it never arrives.

use rhai::{Dynamic, FnPtr, Map};
use serde_json::Value;

use crate::error::escape::json_of;

/// What lies deeper in other values is left out.
const DEPTH: usize = 64;

/// So many characters of a value are shown to a person.
const SHOWN: usize = 1000;

/// The map as a JSON object on one line.
pub fn to_json(map: &Map) -> String {
    json_of(&object(map, DEPTH))
}

/// What a person sees of a value that was thrown.
pub fn words(value: &Dynamic) -> String {
    let text = if let Ok(text) = value.as_immutable_string_ref() {
        text.to_string()
    } else if value.is_array() || value.is_map() {
        json_of(&json(value, 3))
    } else if value.is_fnptr() {
        "a closure".to_owned()
    } else {
        value.to_string()
    };
    if text.chars().nth(SHOWN).is_none() {
        return text;
    }
    text.chars().take(SHOWN).chain("…".chars()).collect()
}

fn object(map: &Map, depth: usize) -> Value {
    let fields = map.iter();
    Value::Object(
        fields
            .map(|(name, value)| (name.to_string(), json(value, depth)))
            .collect(),
    )
}

fn json(value: &Dynamic, depth: usize) -> Value {
    let Some(depth) = depth.checked_sub(1) else {
        return "…".into();
    };
    if value.is_unit() {
        Value::Null
    } else if let Ok(truth) = value.as_bool() {
        truth.into()
    } else if let Ok(number) = value.as_int() {
        number.into()
    } else if let Ok(number) = value.as_float() {
        number.into()
    } else if let Ok(text) = value.as_immutable_string_ref() {
        text.as_str().into()
    } else if let Ok(map) = value.as_map_ref() {
        object(&map, depth)
    } else if let Ok(values) = value.as_array_ref() {
        values.iter().map(|value| json(value, depth)).collect()
    } else if let Ok(bytes) = value.as_blob_ref() {
        bytes.as_slice().into()
    } else if let Some(closure) = value.read_lock::<FnPtr>() {
        closure.fn_name().into()
    } else {
        value.to_string().into()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn made_by(script: &str) -> Dynamic {
        rhai::Engine::new().eval(script).unwrap()
    }

    #[test]
    fn a_map_is_json() {
        let map: Map = made_by(
            "#{text: \"q\\\"\\u001b\", none: (), list: [1, 2.5, true, 'c'], deep: #{a: #{}}, blob: blob(2, 7)}",
        )
        .cast();
        assert_eq!(
            to_json(&map),
            r#"{"blob":[7,7],"deep":{"a":{}},"list":[1,2.5,true,"c"],"none":null,"text":"q\"\u001b"}"#
        );
    }

    #[test]
    fn what_holds_itself_or_is_deep_ends() {
        let map: Map =
            made_by("let f = (); f = || f; let d = 1; for i in 0..200 { d = [d]; } #{f: f, d: d}")
                .cast();
        assert!(to_json(&map).len() < 500);
        assert!(words(&made_by("let f = (); f = || f; [f]")).len() < 100);
    }

    #[test]
    fn words_are_short() {
        assert_eq!(words(&made_by("\"as it is\"")), "as it is");
        assert_eq!(words(&made_by("[1, #{a: \"b\"}]")), r#"[1,{"a":"b"}]"#);
        assert_eq!(words(&made_by("|x| x")), "a closure");
        assert_eq!(
            words(&made_by("let t = \"x\"; t.pad(2000, 'x'); t"))
                .chars()
                .count(),
            1001
        );
    }
}
