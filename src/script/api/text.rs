//! `join`, `format`, `repeat`, `mask` and `to_json`: make text of values.
#![allow(clippy::unwrap_used, reason = "code that the engine's macro generates")]

use rhai::{Array, Dynamic, INT, ImmutableString, NativeCallContext, export_module};

use crate::pipeline::token::Outcome;
use crate::script::api::RhaiResultOf;
use crate::script::api::arguments::invalid;
use crate::script::host::ScriptHost;
use crate::script::json;
use crate::script::native::{check_length, too_long};

/// The most decimals that `format` writes.
const MAX_DECIMALS: INT = 20;

/// Functions that make text.
#[export_module]
pub mod functions {
    /// Returns the values of an array as one text, with `separator` between them.
    ///
    /// Strings, numbers, characters and `true` or `false` become what `print` writes, an outcome its
    /// token, and `()` nothing. Throws `invalid_argument` if a value is of another type.
    ///
    /// # Example
    ///
    /// ```rhai
    /// print(join(["one", 2, true], ", ")); // one, 2, true
    /// ```
    #[rhai_fn(return_raw)]
    pub fn join(array: Array, separator: &str) -> RhaiResultOf<ImmutableString> {
        let mut text = String::new();
        for (at, value) in array.iter().enumerate() {
            if at > 0 {
                text.push_str(separator);
            }
            if let Some(outcome) = value.read_lock::<Outcome>() {
                text.push_str(outcome.token.as_str());
            } else if let Ok(string) = value.as_immutable_string_ref() {
                text.push_str(&string);
            } else if value.is_int() || value.is_float() || value.is_bool() || value.is_char() {
                text.push_str(&value.to_string());
            } else if !value.is_unit() {
                return Err(invalid(
                    "array",
                    "strings, numbers, bools, outcomes or `()`",
                ));
            }
            check_length(text.len())?;
        }
        Ok(text.into())
    }
    /// Returns a number with a fixed number of decimals, from 0 to 20. The last one is rounded.
    ///
    /// Throws `invalid_argument` if `number` is not a number, or `decimals` is out of range.
    ///
    /// # Example
    ///
    /// ```rhai
    /// print(format(99.4567, 1)); // 99.5
    /// print(format(7, 2));       // 7.00
    /// ```
    #[rhai_fn(return_raw)]
    pub fn format(number: Dynamic, decimals: INT) -> RhaiResultOf<String> {
        let places = usize::try_from(decimals).ok();
        let places = places.filter(|_| decimals <= MAX_DECIMALS);
        let places = places.ok_or_else(|| invalid("decimals", "a whole number from 0 to 20"))?;
        if let Ok(number) = number.as_int() {
            let zeros = "0".repeat(places);
            let point = if places > 0 { "." } else { "" };
            return Ok(format!("{number}{point}{zeros}"));
        }
        let number = number
            .as_float()
            .map_err(|_| invalid("number", "a number"))?;
        Ok(format!("{number:.places$}"))
    }

    /// Returns a token as `--mask` shows it in the reports; without a mask, the token itself.
    ///
    /// Use it for lines of your own. `emit` and `log_info` write what they get.
    ///
    /// # Example
    ///
    /// ```rhai
    /// for outcome in store(fetch(SIZE)) {
    ///     emit(`${outcome.status} ${mask(outcome.token)}`);
    /// }
    /// ```
    #[rhai_fn(volatile, return_raw)]
    pub fn mask(
        context: NativeCallContext,
        token: ImmutableString,
    ) -> RhaiResultOf<ImmutableString> {
        let host = ScriptHost::of(&context)?;
        let mask = host.ledger().reports().mask;
        Ok(mask.of(&token).map_or(token, Into::into))
    }
}

/// Methods of text and of every value.
#[export_module]
pub mod members {
    /// Returns the text, repeated `count` times. Throws `invalid_argument` if `count` is negative.
    ///
    /// # Example
    ///
    /// ```rhai
    /// print("-".repeat(20));
    /// ```
    #[rhai_fn(return_raw, pure)]
    pub fn repeat(text: &mut ImmutableString, count: INT) -> RhaiResultOf<String> {
        let count = usize::try_from(count);
        let count = count.map_err(|_| invalid("count", "a whole number that is not negative"))?;
        check_length(text.len().saturating_mul(count))?;
        Ok(text.repeat(count))
    }

    /// Returns the value as JSON on one line.
    ///
    /// An outcome becomes a line of the `ndjson` report, a time its RFC 3339 form, a closure its name,
    /// and a stream the name of its type. Values that are nested more than 64 levels deep become `"…"`.
    ///
    /// # Example
    ///
    /// ```rhai
    /// print(["one", 2, ()].to_json()); // ["one",2,null]
    /// ```
    #[rhai_fn(return_raw, pure)]
    pub fn to_json(value: &mut Dynamic) -> RhaiResultOf<String> {
        json::to_json(value).ok_or_else(too_long)
    }
}
