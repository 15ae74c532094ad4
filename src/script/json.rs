//! Converts values of scripts to text and JSON.
//!
//! Depth and length are limited, because values can contain themselves.

use rhai::{Dynamic, FnPtr, Map};
use serde_json::Value;

use crate::error::escape::json_of;
use crate::script::texts::is_closure;

/// The maximum nesting depth of JSON output; deeper values are left out.
const MAX_DEPTH: usize = 64;

/// The maximum number of characters of a description.
const MAX_CHARS: usize = 1000;

/// Converts a map to a JSON object on one line.
pub fn to_json(map: &Map) -> String {
    json_of(&object(map, MAX_DEPTH))
}

/// Describes a thrown value for an error message.
pub fn describe(value: &Dynamic) -> String {
    let text = if let Ok(text) = value.as_immutable_string_ref() {
        text.to_string()
    } else if value.is_array() || value.is_map() {
        json_of(&json(value, 3))
    } else if value.is_fnptr() {
        "a closure".to_owned()
    } else if let Some((_, name)) = value.type_name().rsplit_once("::") {
        name.to_owned()
    } else {
        value.to_string()
    };
    if text.chars().nth(MAX_CHARS).is_none() {
        return text;
    }
    text.chars().take(MAX_CHARS).chain("…".chars()).collect()
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
    } else if let Ok(boolean) = value.as_bool() {
        boolean.into()
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
        let name = closure.fn_name();
        if is_closure(name) { "a closure" } else { name }.into()
    } else if let Some((_, name)) = value.type_name().rsplit_once("::") {
        // A type of the host, such as `Tokens`, has no other text here.
        name.into()
    } else {
        value.to_string().into()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn eval(script: &str) -> Dynamic {
        rhai::Engine::new().eval(script).unwrap()
    }

    #[test]
    fn map_becomes_one_line_of_json() {
        let map: Map = eval(
            "#{text: \"q\\\"\\u001b\", none: (), list: [1, 2.5, true, 'c'], deep: #{a: #{}}, blob: blob(2, 7)}",
        )
        .cast();
        assert_eq!(
            to_json(&map),
            r#"{"blob":[7,7],"deep":{"a":{}},"list":[1,2.5,true,"c"],"none":null,"text":"q\"\u001b"}"#
        );
    }

    #[test]
    fn output_is_limited_when_values_are_cyclic_or_deep() {
        let map: Map =
            eval("let f = (); f = || f; let d = 1; for i in 0..200 { d = [d]; } #{f: f, d: d}")
                .cast();
        assert!(to_json(&map).len() < 500);
        assert!(describe(&eval("let f = (); f = || f; [f]")).len() < 100);
    }

    #[test]
    fn descriptions_are_short() {
        assert_eq!(describe(&eval("\"as it is\"")), "as it is");
        assert_eq!(describe(&eval("[1, #{a: \"b\"}]")), r#"[1,{"a":"b"}]"#);
        assert_eq!(describe(&eval("|x| x")), "a closure");
        assert_eq!(
            describe(&eval("let t = \"x\"; t.pad(2000, 'x'); t"))
                .chars()
                .count(),
            1001
        );
    }
}
