//! Overrides of engine functions that ignore the limits or the clock of the run: in one call they can
//! exceed the memory limit, never end, discard the error of a closure, or end the script unchecked.
//!
//! Otherwise they behave like the engine's functions. The script API reference does not list them.
#![allow(clippy::unwrap_used, reason = "code that the engine's macro generates")]

use std::any::TypeId;
use std::time::Instant;

use rhai::{
    Array, Blob, Dynamic, Engine, EvalAltResult, FLOAT, FnPtr, INT, ImmutableString, Map,
    NativeCallContext, export_module,
};

use crate::script::api::arguments::invalid;
use crate::script::host::ScriptHost;
use crate::script::json;
use crate::script::native::NativeResult as RhaiResultOf;
use crate::script::native::{MAX_STRING_SIZE, check_length, too_long};
use crate::script::sandbox::{StopReason, sort};

/// The most values that one call may add to an array or a blob.
const MAX_ADDED: usize = 2_000_000;

/// Registers the overrides, which take precedence over the engine's functions.
pub fn register(engine: &mut Engine) {
    let mut overrides = rhai::exported_module!(functions);
    // Maps have no iterator of their own.
    overrides.set_iter(TypeId::of::<Map>(), |map| {
        let entries = map.cast::<Map>().into_iter();
        Box::new(entries.map(|(name, value)| Dynamic::from_array(vec![name.into(), value])))
    });
    engine.register_global_module(overrides.into());
}

#[export_module]
mod functions {
    #[rhai_fn(volatile, return_raw)]
    pub fn exit() -> RhaiResultOf<()> {
        Err(invalid("code", "a whole number from 0 to 255"))
    }

    /// The engine's function ends the script with any value.
    #[rhai_fn(name = "exit", volatile, return_raw)]
    pub fn exit_with(_code: Dynamic) -> RhaiResultOf<()> {
        Err(invalid("code", "a whole number from 0 to 255"))
    }

    #[rhai_fn(volatile, return_raw)]
    pub fn timestamp(context: NativeCallContext) -> RhaiResultOf<Instant> {
        Ok(ScriptHost::of(&context)?.clock().now())
    }

    #[rhai_fn(name = "elapsed", get = "elapsed", volatile, return_raw)]
    pub fn elapsed(context: NativeCallContext, since: Instant) -> RhaiResultOf<FLOAT> {
        let now = ScriptHost::of(&context)?.clock().now();
        Ok(match now.checked_duration_since(since) {
            Some(time) => time.as_secs_f64(),
            None => -since.duration_since(now).as_secs_f64(),
        })
    }

    #[rhai_fn(return_raw, pure)]
    pub fn to_json(map: &mut Map) -> RhaiResultOf<String> {
        json::map_to_json(map).ok_or_else(too_long)
    }

    #[rhai_fn(return_raw)]
    pub fn parse_json(context: NativeCallContext, text: &str) -> RhaiResultOf<Dynamic> {
        check_length(text.len())?;
        context.engine().parse_json(text, true).map(Dynamic::from)
    }

    #[rhai_fn(
        name = "print",
        name = "to_string",
        name = "debug",
        name = "to_debug",
        pure
    )]
    pub fn array_text(context: NativeCallContext, array: &mut Array) -> String {
        or_terminate(&context, json::array_to_debug(array, &context))
    }

    #[rhai_fn(
        name = "print",
        name = "to_string",
        name = "debug",
        name = "to_debug",
        pure
    )]
    pub fn map_text(context: NativeCallContext, map: &mut Map) -> String {
        or_terminate(&context, json::map_to_debug(map, &context))
    }

    #[rhai_fn(return_raw)]
    pub fn to_chars(text: &str) -> RhaiResultOf<Array> {
        check_length(text.len())?;
        Ok(text.chars().map(Dynamic::from).collect())
    }

    #[rhai_fn(return_raw)]
    pub fn split(text: &str) -> RhaiResultOf<Array> {
        collect(text, text.split_whitespace())
    }

    #[rhai_fn(name = "split", return_raw)]
    pub fn split_by(text: &str, separator: &str) -> RhaiResultOf<Array> {
        collect(text, text.split(separator))
    }

    #[rhai_fn(name = "split", return_raw)]
    pub fn split_by_char(text: &str, separator: char) -> RhaiResultOf<Array> {
        collect(text, text.split(separator))
    }

    #[rhai_fn(name = "split", return_raw)]
    pub fn split_some(text: &str, separator: &str, parts: INT) -> RhaiResultOf<Array> {
        collect(text, text.splitn(count_of(parts), separator))
    }

    #[rhai_fn(name = "split", return_raw)]
    pub fn split_some_by_char(text: &str, separator: char, parts: INT) -> RhaiResultOf<Array> {
        collect(text, text.splitn(count_of(parts), separator))
    }

    #[rhai_fn(return_raw)]
    pub fn split_rev(text: &str, separator: &str) -> RhaiResultOf<Array> {
        collect(text, text.rsplit(separator))
    }

    #[rhai_fn(name = "split_rev", return_raw)]
    pub fn split_rev_by_char(text: &str, separator: char) -> RhaiResultOf<Array> {
        collect(text, text.rsplit(separator))
    }

    #[rhai_fn(name = "split_rev", return_raw)]
    pub fn split_rev_some(text: &str, separator: &str, parts: INT) -> RhaiResultOf<Array> {
        collect(text, text.rsplitn(count_of(parts), separator))
    }

    #[rhai_fn(name = "split_rev", return_raw)]
    pub fn split_rev_some_by_char(text: &str, separator: char, parts: INT) -> RhaiResultOf<Array> {
        collect(text, text.rsplitn(count_of(parts), separator))
    }

    #[rhai_fn(return_raw)]
    pub fn blob(len: INT) -> RhaiResultOf<Blob> {
        blob_of(len, 0)
    }

    #[rhai_fn(name = "blob", return_raw)]
    pub fn blob_of(len: INT, value: INT) -> RhaiResultOf<Blob> {
        let [value, ..] = value.to_le_bytes();
        Ok(vec![value; added(len, 0)?])
    }

    #[rhai_fn(name = "pad", return_raw)]
    pub fn pad_blob(blob: &mut Blob, len: INT, value: INT) -> RhaiResultOf<()> {
        let [value, ..] = value.to_le_bytes();
        blob.resize(blob.len() + added(len, blob.len())?, value);
        Ok(())
    }

    #[rhai_fn(return_raw)]
    pub fn replace(text: &mut ImmutableString, find: &str, with: &str) -> RhaiResultOf<()> {
        replace_all(text, find, with)
    }

    #[rhai_fn(name = "replace", return_raw)]
    pub fn replace_char(text: &mut ImmutableString, find: char, with: &str) -> RhaiResultOf<()> {
        replace_all(text, &find.to_string(), with)
    }

    /// The engine's function does not end if `with` is empty.
    #[rhai_fn(name = "pad", return_raw)]
    pub fn pad_text(text: &mut ImmutableString, len: INT, with: &str) -> RhaiResultOf<()> {
        let missing = missing(len, text.chars().count());
        if missing == 0 || with.is_empty() {
            return Ok(());
        }
        // A character takes at least one byte.
        if missing.saturating_add(text.len()) > MAX_STRING_SIZE {
            return Err(too_long());
        }
        text.make_mut().extend(with.chars().cycle().take(missing));
        Ok(())
    }

    #[rhai_fn(name = "pad", return_raw)]
    pub fn pad_text_with_char(
        text: &mut ImmutableString,
        len: INT,
        with: char,
    ) -> RhaiResultOf<()> {
        pad_text(text, len, &with.to_string())
    }

    #[rhai_fn(name = "pad", return_raw)]
    pub fn pad_array(array: &mut Array, len: INT, item: Dynamic) -> RhaiResultOf<()> {
        let missing = added(len, array.len())?;
        let each = 1 + nested_values(&item);
        if missing.saturating_mul(each) > MAX_ADDED {
            return Err(too_many());
        }
        array.resize(array.len() + missing, item);
        Ok(())
    }

    #[rhai_fn(name = "sort", name = "sort_by", return_raw)]
    pub fn sort_by(
        context: NativeCallContext,
        array: &mut Array,
        comparer: FnPtr,
    ) -> RhaiResultOf<()> {
        *array = order_by(context, array, comparer)?;
        Ok(())
    }

    #[rhai_fn(name = "order", name = "order_by", return_raw, pure)]
    pub fn order_by(
        context: NativeCallContext,
        array: &mut Array,
        comparer: FnPtr,
    ) -> RhaiResultOf<Array> {
        let mut comes_first = |first: &Dynamic, second: &Dynamic| {
            let result = compare(&context, &comparer, first, second)?;
            let is_first = result.as_bool().ok();
            let order = || result.as_int().ok().map(|order| order <= 0);
            is_first.or_else(order).ok_or_else(invalid_comparer)
        };
        sort::merge_sort(array.clone(), &mut comes_first)
    }

    #[rhai_fn(name = "dedup", return_raw)]
    pub fn dedup_by(
        context: NativeCallContext,
        array: &mut Array,
        comparer: FnPtr,
    ) -> RhaiResultOf<()> {
        let mut kept = Array::new();
        for value in array.iter() {
            let is_equal = match kept.last() {
                Some(last) => compare(&context, &comparer, last, value)?.as_bool(),
                None => Ok(false),
            };
            if !is_equal.map_err(|_| invalid_comparer())? {
                kept.push(value.clone());
            }
        }
        *array = kept;
        Ok(())
    }
}

fn compare(
    context: &NativeCallContext,
    comparer: &FnPtr,
    first: &Dynamic,
    second: &Dynamic,
) -> RhaiResultOf<Dynamic> {
    comparer.call_within_context(context, (first.clone(), second.clone()))
}

fn invalid_comparer() -> Box<EvalAltResult> {
    invalid(
        "comparer",
        "a closure that returns a whole number or a bool",
    )
}

fn replace_all(text: &mut ImmutableString, find: &str, with: &str) -> RhaiResultOf<()> {
    if text.is_empty() {
        return Ok(());
    }
    let growth = with.len().saturating_sub(find.len());
    if growth > 0 {
        let found = text.matches(find).count();
        if found.saturating_mul(growth).saturating_add(text.len()) > MAX_STRING_SIZE {
            return Err(too_long());
        }
    }
    *text = text.replace(find, with).into();
    Ok(())
}

/// Returns how many are missing to reach `len`.
fn missing(len: INT, present: usize) -> usize {
    usize::try_from(len).unwrap_or(0).saturating_sub(present)
}

/// Returns the number of values inside a value.
fn nested_values(value: &Dynamic) -> usize {
    if let Ok(array) = value.as_array_ref() {
        array.iter().map(|value| 1 + nested_values(value)).sum()
    } else if let Ok(map) = value.as_map_ref() {
        map.values().map(|value| 1 + nested_values(value)).sum()
    } else if let Some(closure) = value.read_lock::<FnPtr>() {
        closure.curry().len()
    } else if let Ok(blob) = value.as_blob_ref() {
        blob.len()
    } else {
        0
    }
}

/// Returns how many values are missing to reach `len`.
fn added(len: INT, present: usize) -> RhaiResultOf<usize> {
    let missing = missing(len, present);
    if missing > MAX_ADDED {
        return Err(too_many());
    }
    Ok(missing)
}

/// Returns the engine's error for too many values.
fn too_many() -> Box<EvalAltResult> {
    EvalAltResult::ErrorDataTooLarge("Size of array/BLOB".to_owned(), rhai::Position::NONE).into()
}

fn collect<'a>(text: &str, parts: impl Iterator<Item = &'a str>) -> RhaiResultOf<Array> {
    check_length(text.len())?;
    Ok(parts.map(|part| part.to_owned().into()).collect())
}

/// Returns the number of parts as the engine counts them: at least one.
fn count_of(parts: INT) -> usize {
    usize::try_from(parts).unwrap_or(0).max(1)
}

/// Returns the text; without one, the script is terminated, because the engine discards errors here.
fn or_terminate(context: &NativeCallContext, text: Option<String>) -> String {
    text.unwrap_or_else(|| {
        if let Ok(host) = ScriptHost::of(context) {
            host.script_stop().get_or_init(|| StopReason::Text);
        }
        "…".to_owned()
    })
}
