//! Converts values of scripts to text and JSON.
//!
//! Depth and length are limited, because values can contain themselves, and one long string often.

use std::fmt::Write as _;

use rhai::{Dynamic, FnPtr, Map, NativeCallContext};
use serde_json::Value;

use crate::error::escape::json_of;
use crate::pipeline::token::Outcome;
use crate::report::record::TokenRecord;
use crate::script::api::time::Time;
use crate::script::native::MAX_STRING_SIZE;
use crate::script::sandbox::MAX_NESTING;
use crate::script::texts::is_closure;

/// The maximum nesting depth of JSON output; deeper values are left out.
const MAX_DEPTH: usize = 64;

/// The maximum number of characters of a description.
const MAX_CHARS: usize = 1000;

/// Converts a value to JSON on one line; `None` if the text is longer than a string may be.
pub fn to_json(value: &Dynamic) -> Option<String> {
    let mut writer = JsonWriter::new(MAX_STRING_SIZE);
    let value = writer.value(value, MAX_DEPTH + 1);
    let text = (!writer.is_full()).then(|| json_of(&value))?;
    (text.len() <= MAX_STRING_SIZE).then_some(text)
}

/// Converts a map to a JSON object on one line; `None` if it is longer than a string may be.
pub fn map_to_json(map: &Map) -> Option<String> {
    let mut writer = JsonWriter::new(MAX_STRING_SIZE);
    let value = writer.object(map, MAX_DEPTH);
    let text = (!writer.is_full()).then(|| json_of(&value))?;
    (text.len() <= MAX_STRING_SIZE).then_some(text)
}

/// Describes a thrown value for an error message.
pub fn describe(value: &Dynamic) -> String {
    let text = if let Ok(text) = value.as_immutable_string_ref() {
        text.to_string()
    } else if value.is_array() || value.is_map() {
        // Each character takes at most six bytes of JSON.
        json_of(&JsonWriter::new(MAX_CHARS).value(value, 3))
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

/// Builds JSON of limited size.
struct JsonWriter {
    /// The number of bytes that are still allowed.
    left: usize,
}

impl JsonWriter {
    fn new(limit: usize) -> Self {
        Self { left: limit }
    }

    /// Returns true if something was left out.
    fn is_full(&self) -> bool {
        self.left == 0
    }

    /// Counts bytes; returns false if they are too many.
    fn count(&mut self, bytes: usize) -> bool {
        self.left = self.left.saturating_sub(bytes);
        !self.is_full()
    }

    fn object(&mut self, map: &Map, depth: usize) -> Value {
        let mut fields = serde_json::Map::new();
        for (name, value) in map {
            if !self.count(name.len() + 4) {
                break;
            }
            fields.insert(name.to_string(), self.value(value, depth));
        }
        Value::Object(fields)
    }

    fn list<'a>(&mut self, values: impl IntoIterator<Item = &'a Dynamic>, depth: usize) -> Value {
        let mut items = Vec::new();
        for value in values {
            if self.is_full() {
                break;
            }
            items.push(self.value(value, depth));
        }
        Value::Array(items)
    }

    fn text(&mut self, text: &str) -> Value {
        if self.count(text.len() + 3) {
            text.into()
        } else {
            text.chars().take(MAX_CHARS).collect::<String>().into()
        }
    }

    fn value(&mut self, value: &Dynamic, depth: usize) -> Value {
        let Some(depth) = depth.checked_sub(1) else {
            return "…".into();
        };
        if let Ok(text) = value.as_immutable_string_ref() {
            return self.text(&text);
        }
        if !self.count(2) {
            return Value::Null;
        }
        if value.is_unit() {
            Value::Null
        } else if let Ok(boolean) = value.as_bool() {
            boolean.into()
        } else if let Ok(number) = value.as_int() {
            number.into()
        } else if let Ok(number) = value.as_float() {
            number.into()
        } else if let Ok(map) = value.as_map_ref() {
            self.object(&map, depth)
        } else if let Ok(values) = value.as_array_ref() {
            self.list(values.iter(), depth)
        } else if let Ok(bytes) = value.as_blob_ref() {
            if self.count(2 * bytes.len()) {
                bytes.as_slice().into()
            } else {
                Value::Null
            }
        } else if let Some(outcome) = value.read_lock::<Outcome>() {
            self.count(outcome.token.as_str().len() + 64);
            serde_json::to_value(TokenRecord::new(&outcome)).unwrap_or_default()
        } else if let Some(time) = value.read_lock::<Time>() {
            time.to_string().into()
        } else if let Some(closure) = value.read_lock::<FnPtr>() {
            let name = closure.fn_name();
            if is_closure(name) { "a closure" } else { name }.into()
        } else if value.is_char() {
            value.to_string().into()
        } else {
            // The name of a stream's type, without its path.
            let name = value.type_name();
            name.rsplit("::").next().unwrap_or(name).into()
        }
    }
}

/// Formats an array as the engine does; `None` if the text is longer than a string may be.
pub fn array_to_debug(array: &[Dynamic], context: &NativeCallContext) -> Option<String> {
    let mut text = String::new();
    write_array(&mut text, array, context, MAX_NESTING)?;
    Some(text)
}

/// Formats a map as the engine does; `None` if the text is longer than a string may be.
pub fn map_to_debug(map: &Map, context: &NativeCallContext) -> Option<String> {
    let mut text = String::new();
    write_map(&mut text, map, context, MAX_NESTING)?;
    Some(text)
}

fn write_array(
    text: &mut String,
    array: &[Dynamic],
    context: &NativeCallContext,
    depth: usize,
) -> Option<()> {
    text.push('[');
    for (at, value) in array.iter().enumerate() {
        text.push_str(if at > 0 { ", " } else { "" });
        write_debug(text, value, context, depth)?;
    }
    text.push(']');
    Some(())
}

fn write_map(
    text: &mut String,
    map: &Map,
    context: &NativeCallContext,
    depth: usize,
) -> Option<()> {
    text.push_str("#{");
    for (at, (name, value)) in map.iter().enumerate() {
        let separator = if at > 0 { ", " } else { "" };
        // Writing to a string cannot fail.
        let _ = write!(text, "{separator}{name:?}: ");
        write_debug(text, value, context, depth)?;
    }
    text.push('}');
    Some(())
}

fn write_debug(
    text: &mut String,
    value: &Dynamic,
    context: &NativeCallContext,
    depth: usize,
) -> Option<()> {
    let depth = depth.checked_sub(1)?;
    if let Ok(array) = value.as_array_ref() {
        write_array(text, &array, context, depth)?;
    } else if let Ok(map) = value.as_map_ref() {
        write_map(text, &map, context, depth)?;
    } else {
        let mut value = value.clone();
        let debug = context.call_native_fn_raw("to_debug", true, &mut [&mut value]);
        match debug
            .ok()
            .and_then(|debug| debug.into_immutable_string().ok())
        {
            Some(debug) => text.push_str(&debug),
            None => text.push_str(value.type_name()),
        }
    }
    (text.len() <= MAX_STRING_SIZE).then_some(())
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
            map_to_json(&map).unwrap(),
            r#"{"blob":[7,7],"deep":{"a":{}},"list":[1,2.5,true,"c"],"none":null,"text":"q\"\u001b"}"#
        );
    }

    #[test]
    fn output_is_limited_when_values_are_cyclic_or_deep() {
        let map: Map =
            eval("let f = (); f = || f; let d = 1; for i in 0..200 { d = [d]; } #{f: f, d: d}")
                .cast();
        assert!(map_to_json(&map).unwrap().len() < 500);
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
