//! Checks the arguments of native functions and builds their errors.

use rhai::{Dynamic, EvalAltResult, INT, Map};

use crate::error::suggest::suggestion;
use crate::error::{Error, ErrorKind};
use crate::script::api::{RhaiResultOf, names};
use crate::script::native::thrown;

/// Returns a whole number of at least 1.
pub fn whole_number(name: &str, value: &Dynamic) -> RhaiResultOf<u64> {
    match value.as_int() {
        Ok(number) => positive(name, number),
        Err(_) => Err(invalid(name, "a whole number ≥ 1")),
    }
}

/// Returns a number of at least 1.
pub fn positive(name: &str, number: INT) -> RhaiResultOf<u64> {
    u64::try_from(number)
        .ok()
        .filter(|number| *number >= 1)
        .ok_or_else(|| invalid(name, "a whole number ≥ 1"))
}

/// Returns the error of an argument that is not what was `expected`.
pub fn invalid(argument: &str, expected: &str) -> Box<EvalAltResult> {
    thrown(Error::of(
        ErrorKind::InvalidArgument {
            argument: argument.to_owned(),
            expected: expected.to_owned(),
        },
        format!("`{argument}` must be {expected}"),
    ))
}

/// The options of a primitive: each name, and what sets a value with that name in a `T`.
pub type Options<T, const N: usize> =
    [(&'static str, fn(&mut T, &str, &Dynamic) -> RhaiResultOf<()>); N];

/// Sets the options of the map `given` in `target`.
pub fn set_options<T, const N: usize>(
    target: &mut T,
    given: &Map,
    options: &Options<T, N>,
) -> RhaiResultOf<()> {
    for (name, value) in given {
        let option = options.iter().find(|(known, _)| *known == name.as_str());
        let (_, set) = option.ok_or_else(|| unknown_option(name, &names(options)))?;
        set(target, name, value)?;
    }
    Ok(())
}

/// Returns the error of an option that does not exist.
fn unknown_option(name: &str, known: &[&str]) -> Box<EvalAltResult> {
    let expected = suggestion(name, known.iter().copied(), "one of");
    thrown(Error::of(
        ErrorKind::InvalidArgument {
            argument: name.to_owned(),
            expected: known.join(", "),
        },
        format!("unknown option `{name}`: {expected}"),
    ))
}
