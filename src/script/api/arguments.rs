//! Checks the arguments of native functions and builds their errors.

use rhai::{Dynamic, EvalAltResult, INT};

use crate::error::suggest::nearest;
use crate::error::{Error, ErrorKind};
use crate::script::api::RhaiResultOf;
use crate::script::native::thrown;

/// Returns a whole number of at least 1.
pub(super) fn whole_number(name: &str, value: &Dynamic) -> RhaiResultOf<u64> {
    match value.as_int() {
        Ok(number) => positive(name, number),
        Err(_) => Err(invalid(name, "a whole number ≥ 1")),
    }
}

/// Returns a number of at least 1.
pub(super) fn positive(name: &str, number: INT) -> RhaiResultOf<u64> {
    u64::try_from(number)
        .ok()
        .filter(|number| *number >= 1)
        .ok_or_else(|| invalid(name, "a whole number ≥ 1"))
}

/// Returns the error of an argument that is not what was `expected`.
pub(super) fn invalid(argument: &str, expected: &str) -> Box<EvalAltResult> {
    thrown(Error::of(
        ErrorKind::InvalidArgument {
            argument: argument.to_owned(),
            expected: expected.to_owned(),
        },
        format!("`{argument}` must be {expected}"),
    ))
}

/// Returns the error of an option that does not exist.
pub(super) fn unknown_option(name: &str, known: &[&str]) -> Box<EvalAltResult> {
    let near = nearest(name, known.iter().copied());
    let expected = match near {
        Some(near) => format!("did you mean `{near}`?"),
        None => format!("one of {}", known.join(", ")),
    };
    thrown(Error::of(
        ErrorKind::InvalidArgument {
            argument: name.to_owned(),
            expected: known.join(", "),
        },
        format!("unknown option `{name}`: {expected}"),
    ))
}
