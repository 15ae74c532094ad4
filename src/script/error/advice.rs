//! Explains mistakes in a script: suggests names and translates types for messages.

use std::collections::BTreeSet;

use rhai::{EvalAltResult, ParseErrorType};

use crate::error::suggest::nearest;
use crate::script::error::limit;
use crate::script::error::message::{Advice, lower_first};
use crate::script::type_names::script_type;

/// Returns the message of a parse error; `text` is the whole script.
pub fn of_parse(kind: &ParseErrorType, text: &str) -> Advice {
    if let Some(advice) = limit::of_parse(kind) {
        return advice;
    }
    match kind {
        ParseErrorType::VariableUndefined(name) => unknown_variable(name, text),
        ParseErrorType::ModuleUndefined(name) => unknown_module(name, text),
        _ => Advice {
            message: lower_first(&kind.to_string().replace("  ", " ")),
            ..Advice::default()
        },
    }
}

/// Returns the message of an unknown variable.
pub fn unknown_variable(name: &str, text: &str) -> Advice {
    let declared = declared_names(text);
    let near = nearest(
        name,
        declared.iter().copied().filter(|other| *other != name),
    );
    let hint = declared
        .contains(name)
        .then(|| format!("a function sees only its own variables: pass `{name}` as an argument"));
    Advice {
        message: format!("unknown variable `{name}`"),
        label: match near {
            Some(near) if hint.is_none() => format!("did you mean `{near}`?"),
            _ => String::new(),
        },
        hint,
    }
}

/// Returns the message of a module that is not imported.
fn unknown_module(name: &str, text: &str) -> Advice {
    let imported = text.split(" as ").skip(1).filter_map(|rest| {
        let end = rest.find(|char: char| !char.is_alphanumeric() && char != '_')?;
        Some(&rest[..end])
    });
    let near = nearest(
        name,
        ["host", "env", "config", "global"]
            .into_iter()
            .chain(imported),
    );
    Advice {
        message: format!("unknown module `{name}`"),
        label: near.map_or(String::new(), |near| format!("did you mean `{near}`?")),
        hint: near
            .is_none()
            .then(|| format!("import it first, such as: import \"lib/{name}\" as {name};")),
    }
}

/// Returns the names that a script declares anywhere, and the global constants.
fn declared_names(text: &str) -> BTreeSet<&str> {
    let mut names = BTreeSet::from(["SIZE"]);
    let is_word = |char: char| char.is_alphanumeric() || char == '_';
    let mut words = text
        .split(|char| !is_word(char))
        .filter(|word| !word.is_empty());
    while let Some(word) = words.next() {
        if matches!(word, "let" | "const" | "for" | "as") {
            names.extend(words.next());
        }
    }
    // Parameters are between bars or in the parentheses of a function.
    let between = text.split('|').skip(1).step_by(2);
    let of_functions = text.split("fn ").skip(1).filter_map(|rest| {
        let (_, params) = rest.split_once('(')?;
        params.split(')').next()
    });
    for params in between.chain(of_functions) {
        if params
            .chars()
            .all(|char| is_word(char) || matches!(char, ',' | ' '))
        {
            names.extend(
                params
                    .split(',')
                    .map(str::trim)
                    .filter(|name| !name.is_empty()),
            );
        }
    }
    names
}

/// Returns the name of an unknown property and the type of the value, from the engine's error.
pub fn unknown_property(error: &EvalAltResult) -> Option<(&str, &str)> {
    let EvalAltResult::ErrorDotExpr(message, _) = error else {
        return None;
    };
    let (name, rest) = message
        .strip_prefix("Unknown property '")?
        .split_once('\'')?;
    let kind = rest.rsplit('\'').nth(1)?;
    Some((name, script_type(kind)))
}

/// Parses ``name (types)`` into the name and the script's names of the argument types.
pub fn parse_signature(signature: &str) -> (&str, Vec<&str>) {
    let (name, types) = signature.split_once(" (").unwrap_or((signature, ""));
    let types = types.strip_suffix(')').unwrap_or(types);
    let types = types.split(", ").filter(|name| !name.is_empty());
    (name, types.map(argument_type).collect())
}

fn argument_type(name: &str) -> &str {
    match name {
        "&str | ImmutableString | String" => "string",
        "Fn" => "closure",
        "()" => "nothing",
        other => script_type(other),
    }
}

/// Returns true for an operator such as `+`.
pub fn is_operator(name: &str) -> bool {
    !name.contains(|char: char| char.is_alphanumeric())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_variable_suggests_the_nearest_declared_name() {
        let text = "let total = 1; for (token, at) in x {} fn f(first, second) {} |outcome| 1";
        for (typed, meant) in [
            ("totl", "total"),
            ("secnd", "second"),
            ("outcom", "outcome"),
            ("SIZ", "SIZE"),
            ("tokn", "token"),
        ] {
            let label = unknown_variable(typed, text).label;
            assert_eq!(label, format!("did you mean `{meant}`?"), "{typed}");
        }
        assert_eq!(unknown_variable("y", text).label, "");
        let outside = unknown_variable("total", text);
        assert!(
            outside
                .hint
                .is_some_and(|hint| hint.contains("as an argument"))
        );
    }

    #[test]
    fn signature_uses_type_names_of_scripts() {
        let signature = "store (&str | ImmutableString | String, i64, (), Fn)";
        let (name, types) = parse_signature(signature);
        assert_eq!(
            (name, types),
            ("store", vec!["string", "int", "nothing", "closure"])
        );
        assert_eq!(parse_signature("f ()"), ("f", vec![]));
    }
}
