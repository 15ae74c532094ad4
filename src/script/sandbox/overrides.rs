//! Overrides of engine functions that ignore the limits: in one call they can exceed the memory
//! limit, never end, or discard the error of a closure.
//!
//! Otherwise they behave like the engine's functions. The script API reference does not list them.
#![allow(clippy::unwrap_used, reason = "code that the engine's macro generates")]

use rhai::{
    Array, Dynamic, Engine, EvalAltResult, FnPtr, INT, ImmutableString, Map, NativeCallContext,
    Position, export_module,
};

use crate::script::api::arguments::invalid;
use crate::script::json;
use crate::script::native::NativeResult as RhaiResultOf;
use crate::script::sandbox::{MAX_ARRAY_SIZE, MAX_STRING_SIZE, sort};

/// Registers the overrides, which take precedence over the engine's functions.
pub fn register(engine: &mut Engine) {
    engine.register_global_module(rhai::exported_module!(functions).into());
}

#[export_module]
mod functions {
    pub fn to_json(map: &mut Map) -> String {
        json::to_json(map)
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
            return Err(too_large("Length of string"));
        }
        text.make_mut().extend(with.chars().cycle().take(missing));
        Ok(())
    }

    #[rhai_fn(name = "pad", return_raw)]
    pub fn pad_array(array: &mut Array, len: INT, item: Dynamic) -> RhaiResultOf<()> {
        let missing = missing(len, array.len());
        let each = 1 + nested_values(&item);
        if missing.saturating_mul(each).saturating_add(array.len()) > MAX_ARRAY_SIZE && missing > 0
        {
            return Err(too_large("Size of array/BLOB"));
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
            return Err(too_large("Length of string"));
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

/// Returns the engine's error for a value that is too large.
fn too_large(what: &str) -> Box<EvalAltResult> {
    EvalAltResult::ErrorDataTooLarge(what.to_owned(), Position::NONE).into()
}
