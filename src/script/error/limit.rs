//! Explains which limit a script exceeded, its value, and what to do.

use rhai::{EvalAltResult, ParseErrorType};

use crate::observe::number::grouped;
use crate::script::error::message::Advice;
use crate::script::sandbox::{
    MAX_CALL_LEVELS, MAX_EXPRESSION_DEPTHS, MAX_FUNCTIONS, MAX_MODULES, MAX_NESTING, MAX_VARIABLES,
    StopReason,
};

/// A limit of a script.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ScriptLimit {
    Operations,
    CallLevels,
    ExpressionDepth,
    Strings,
    Arrays,
    Maps,
    Functions,
    Modules,
    Variables,
    Memory,
    Nesting,
}

impl ScriptLimit {
    fn advice(self) -> Advice {
        let (what, hint) = self.message_and_hint();
        Advice {
            message: format!("the script ran past a limit: {what}"),
            label: String::new(),
            hint: Some(hint),
        }
    }

    fn message_and_hint(self) -> (String, String) {
        let (what, hint): (String, &str) = match self {
            Self::Operations => (
                "more operations than `script.max_operations` allows".into(),
                "raise it, or look for a loop that does not end",
            ),
            Self::CallLevels => (
                format!("functions call each other more than {MAX_CALL_LEVELS} levels deep"),
                "look for a recursion that does not end; a loop has no such limit",
            ),
            Self::ExpressionDepth => {
                let (script, function) = MAX_EXPRESSION_DEPTHS;
                let what = format!(
                    "an expression is nested more than {script} levels deep, or {function} in a function"
                );
                (what, "split it with `let`")
            }
            Self::Strings => (
                "a string, or all strings in one value, took more than 1 MiB".into(),
                "hold fewer tokens at a time: `for page in fetch(SIZE).pages() { … }` holds one page",
            ),
            Self::Arrays => (
                "an array or blob, or all of them in one value, held more than 100,000 values"
                    .into(),
                "work page by page, `for page in fetch(SIZE).pages() { … }`, and keep sums instead of values",
            ),
            Self::Maps => (
                "a map, or all maps in one value, held more than 100,000 entries".into(),
                "work page by page, `for page in fetch(SIZE).pages() { … }`, and keep sums instead of values",
            ),
            Self::Functions => (
                format!("a file defines more than {MAX_FUNCTIONS} functions, closures included"),
                "move some of them into another file, and `import` it",
            ),
            Self::Modules => (
                format!("more than {MAX_MODULES} imports"),
                "import each file once, at the top of the script, and not in a loop",
            ),
            Self::Variables => (
                format!(
                    "more than {} variables at a time",
                    grouped(MAX_VARIABLES as u64)
                ),
                "keep values that belong together in an array or a map",
            ),
            Self::Memory => (
                "the process grew by more than `script.max_memory` allows".into(),
                "store and report page by page; a token that is neither stored nor rejected stays in memory until the end",
            ),
            Self::Nesting => (
                format!(
                    "values are nested more than {} levels deep",
                    grouped(MAX_NESTING as u64)
                ),
                "look for a loop that puts an array, map or closure into a new one",
            ),
        };
        (what, hint.to_owned())
    }
}

/// Returns the message if a running script exceeded a limit.
pub fn of_eval(error: &EvalAltResult) -> Option<Advice> {
    let limit = match error {
        EvalAltResult::ErrorTooManyOperations(_) => ScriptLimit::Operations,
        EvalAltResult::ErrorStackOverflow(_) => ScriptLimit::CallLevels,
        EvalAltResult::ErrorTooManyVariables(_) => ScriptLimit::Variables,
        EvalAltResult::ErrorTooManyModules(_) => ScriptLimit::Modules,
        EvalAltResult::ErrorDataTooLarge(what, _) => size_limit(what),
        EvalAltResult::ErrorParsing(kind, _) => return of_parse(kind),
        EvalAltResult::ErrorTerminated(..) => match StopReason::of(error)? {
            StopReason::Memory => ScriptLimit::Memory,
            StopReason::Nesting => ScriptLimit::Nesting,
            StopReason::Stopped | StopReason::LineClosure => return None,
        },
        _ => return None,
    };
    Some(limit.advice())
}

/// Returns the message if the text of a script exceeds a limit.
pub fn of_parse(kind: &ParseErrorType) -> Option<Advice> {
    let limit = match kind {
        ParseErrorType::ExprTooDeep => ScriptLimit::ExpressionDepth,
        ParseErrorType::TooManyFunctions => ScriptLimit::Functions,
        ParseErrorType::LiteralTooLarge(what, _) => size_limit(what),
        _ => return None,
    };
    Some(limit.advice())
}

/// Returns the size limit that the engine names in its error.
fn size_limit(what: &str) -> ScriptLimit {
    if what.contains("string") {
        ScriptLimit::Strings
    } else if what.contains("map") {
        ScriptLimit::Maps
    } else {
        ScriptLimit::Arrays
    }
}
