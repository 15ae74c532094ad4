//! Explains mistakes in a script: suggests names and translates types for messages.

use std::collections::BTreeSet;

use rhai::{EvalAltResult, ParseErrorType, Position};

use crate::error::suggest::suggestion;
use crate::script::error::message::{Advice, lower_first};
use crate::script::error::{foreign, limit};
use crate::script::tokens::{Token, tokens_of};
use crate::script::type_names::script_type;

/// Returns the message of a parse error at `position`; `text` is the whole script.
pub fn of_parse(kind: &ParseErrorType, position: Position, text: &str) -> Advice {
    if let Some(advice) = limit::of_parse(kind) {
        return advice;
    }
    if let Some(advice) = slip(kind, position, text) {
        return advice;
    }
    match kind {
        ParseErrorType::VariableUndefined(name) => unknown_variable(name, text),
        ParseErrorType::ModuleUndefined(name) => unknown_module(name, text),
        _ => {
            let message = lower_first(&kind.to_string().replace("  ", " "));
            let advice = Advice::new(message);
            match kind {
                ParseErrorType::MismatchedType(_, given) if given.contains("map") => advice.hint(
                    "put the map into a variable first: `let map = #{…}; for entry in map { … }`",
                ),
                _ => advice,
            }
        }
    }
}

/// Explains an error at a place that looks like another language.
fn slip(kind: &ParseErrorType, position: Position, text: &str) -> Option<Advice> {
    let (line, column) = (position.line()?, position.position()?);
    let line = text.lines().nth(line - 1)?;
    let at = line.char_indices().nth(column.saturating_sub(1));
    let (before, rest) = line.split_at(at.map_or(line.len(), |(at, _)| at));
    foreign::slip(kind, before, rest)
}

/// Returns the message of an unknown variable at `position`.
pub fn unknown_variable_at(name: &str, position: Position, text: &str) -> Advice {
    let kind = ParseErrorType::VariableUndefined(name.to_owned());
    slip(&kind, position, text).unwrap_or_else(|| unknown_variable(name, text))
}

/// Returns the message of an unknown variable.
pub fn unknown_variable(name: &str, text: &str) -> Advice {
    let declared = declared_names(text);
    let advice = Advice::new(format!("unknown variable `{name}`"));
    if declared.contains(name) {
        return advice.hint(format!(
            "a function sees only its own variables: pass `{name}` as an argument"
        ));
    }
    advice.label(suggestion(name, declared.iter().map(String::as_str), ""))
}

/// Returns the message of a module that is not imported.
pub fn unknown_module(name: &str, text: &str) -> Advice {
    let mut known = declared_names(text);
    known.extend(["host", "env", "config", "run", "global"].map(str::to_owned));
    let label = suggestion(name, known.iter().map(String::as_str), "");
    let advice = Advice::new(format!("unknown module `{name}`"));
    if label.is_empty() {
        advice.hint(format!(
            "import it first, such as: import \"lib/{name}\" as {name};"
        ))
    } else {
        advice.label(label)
    }
}

/// Returns the names that a script declares anywhere, and the global constants.
fn declared_names(text: &str) -> BTreeSet<String> {
    let mut names = BTreeSet::from(["SIZE".to_owned()]);
    let tokens = tokens_of(text);
    let tokens: Vec<&Token> = tokens.iter().map(|(token, _)| token).collect();
    for (at, keyword) in tokens.iter().enumerate() {
        let first = match keyword {
            // The parameters of a function are behind its name.
            Token::Fn => at + 2,
            Token::Let | Token::Const | Token::For | Token::As | Token::Catch | Token::Pipe => {
                at + 1
            }
            _ => continue,
        };
        let mut rest = tokens
            .iter()
            .skip(first)
            .skip_while(|token| ***token == Token::LeftParen);
        let is_list = |token: &&&Token| matches!(token, Token::Identifier(_) | Token::Comma);
        let list: Vec<_> = rest.clone().take_while(is_list).collect();
        // A bar that no other bar closes is an operator.
        if **keyword == Token::Pipe && rest.nth(list.len()) != Some(&&Token::Pipe) {
            continue;
        }
        names.extend(list.into_iter().filter_map(|token| match token {
            Token::Identifier(name) => Some(name.to_string()),
            _ => None,
        }));
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

/// Explains an error of the engine at run time; `text` is the source text from its place on.
pub fn of_eval(error: &EvalAltResult, rest: &str) -> Option<Advice> {
    Some(match error {
        EvalAltResult::ErrorFor(_) => {
            let calls_in_place = IN_PLACE.iter().find(|name| {
                let line = rest.split('{').next().unwrap_or_default();
                line.contains(&format!(".{name}("))
            });
            let advice = Advice::new("this loop has no values to go through");
            match calls_in_place {
                Some(name) => advice.hint(format!(
                    "`{name}` changes its value in place and returns nothing: call it before the loop"
                )),
                None => advice.hint(
                    "`for` reads an array, a text, a range such as `0..5`, or a stream of tokens or outcomes",
                ),
            }
        }
        EvalAltResult::ErrorMismatchDataType(expected, actual, _) => {
            let (expected, actual) = (script_type(expected), script_type(actual));
            let advice = Advice::new(format!("this value is {actual}, but {expected} is needed"));
            match (expected, actual) {
                ("bool", _) => advice.hint("a condition is `true` or `false`: compare the value"),
                ("string", "char") => advice.hint(
                    "an index gives one character: write `text.sub_string(0, 1)`, or add `.to_string()`",
                ),
                ("char", "string") => advice.hint("one character is in single quotes: 'a'"),
                _ => advice,
            }
        }
        EvalAltResult::ErrorAssignmentToConstant(name, _)
        | EvalAltResult::ErrorNonPureMethodCallOnConstant(name, _) => {
            let copy = name.to_lowercase();
            Advice::new(format!("cannot change the constant `{name}`"))
                .hint(format!("copy it first: `let {copy} = {name};`"))
        }
        EvalAltResult::ErrorFunctionNotFound(text, _) if text.contains("different types") => {
            Advice::new("values of different types have no order")
                .hint("pass a closure that compares them: `array.sort(|one, other| one <= other);`")
        }
        _ => return None,
    })
}

/// Functions that change their value in place and return nothing.
const IN_PLACE: [&str; 8] = [
    "sort", "reverse", "push", "append", "insert", "clear", "trim", "replace",
];

/// Parses ``name (types)`` into the name and the script's names of the argument types.
pub fn parse_signature(signature: &str) -> (&str, Vec<&str>) {
    let (name, types) = signature.split_once(" (").unwrap_or((signature, ""));
    let types = types.strip_suffix(')').unwrap_or(types);
    let types = types.split(", ").filter(|name| !name.is_empty());
    (name, types.map(script_type).collect())
}

/// Explains a closure that uses the value `name`, whose function `method` calls it.
pub fn closure_uses_value(name: &str, method: &str) -> Advice {
    let message = format!("the closure uses `{name}` while `{method}` goes through it");
    Advice::new(message).hint(format!(
        "copy what the closure needs first, such as `let count = {name}.len();`"
    ))
}

/// Explains a call of a closure with a wrong number of arguments.
pub fn wrong_closure_call(signature: &str) -> Advice {
    let (_, types) = parse_signature(signature);
    let given = match types.len() {
        0 => "no argument".to_owned(),
        1 => "1 argument".to_owned(),
        count => format!("{count} arguments"),
    };
    let message =
        format!("this closure is called with {given}, but has another number of parameters");
    Advice::new(message)
        .hint("`report` passes one outcome, `retry` nothing, and a function of an array one item")
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
