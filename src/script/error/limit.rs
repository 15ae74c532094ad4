//! What is said of a script that ran past a limit: which one, how far it goes, and what to do.

use rhai::{EvalAltResult, ParseErrorType};

use crate::script::error::text::Advice;
use crate::script::sandbox::{
    CALL_LEVELS, EXPRESSION_DEPTHS, FUNCTIONS, MODULES, NESTING, StopReason, VARIABLES,
};

/// The limits of a script, each of which has its own words.
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
        let (what, hint) = self.words();
        Advice {
            message: format!("the script ran past a limit: {what}"),
            label: String::new(),
            hint: Some(hint),
        }
    }

    fn words(self) -> (String, String) {
        let (what, hint): (String, &str) = match self {
            Self::Operations => (
                "more operations than `script.max_operations` allows".into(),
                "raise it, or look for a loop that does not end",
            ),
            Self::CallLevels => (
                format!("functions call each other more than {CALL_LEVELS} levels deep"),
                "look for a recursion that does not end; a loop has no such limit",
            ),
            Self::ExpressionDepth => {
                let (script, function) = EXPRESSION_DEPTHS;
                let what = format!(
                    "an expression is nested more than {script} levels deep, or {function} in a function"
                );
                (what, "take it apart with `let`")
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
                format!("a file defines more than {FUNCTIONS} functions, closures included"),
                "move some of them into a file of their own, and `import` it",
            ),
            Self::Modules => (
                format!("more than {MODULES} imports"),
                "import each file once, at the top of the script, and not in a loop",
            ),
            Self::Variables => (
                format!("more than {} variables at a time", thousands(VARIABLES)),
                "keep values that belong together in an array or a map",
            ),
            Self::Memory => (
                "the process grew by more than `script.max_memory` allows".into(),
                "let go of what is done: store and report page by page; a token that was neither stored nor rejected is held until the end",
            ),
            Self::Nesting => (
                format!(
                    "values lie in each other more than {} deep",
                    thousands(NESTING)
                ),
                "look for an array, map or closure that is put into a new one again and again",
            ),
        };
        (what, hint.to_owned())
    }
}

/// What to say where a running script passed a limit.
pub fn of_eval(error: &EvalAltResult) -> Option<Advice> {
    let limit = match error {
        EvalAltResult::ErrorTooManyOperations(_) => ScriptLimit::Operations,
        EvalAltResult::ErrorStackOverflow(_) => ScriptLimit::CallLevels,
        EvalAltResult::ErrorTooManyVariables(_) => ScriptLimit::Variables,
        EvalAltResult::ErrorTooManyModules(_) => ScriptLimit::Modules,
        EvalAltResult::ErrorDataTooLarge(what, _) => of_size(what),
        EvalAltResult::ErrorParsing(kind, _) => return of_parse(kind),
        EvalAltResult::ErrorTerminated(..) => match StopReason::of(error)? {
            StopReason::Memory => ScriptLimit::Memory,
            StopReason::Nesting => ScriptLimit::Nesting,
            StopReason::Asked | StopReason::LastWords => return None,
        },
        _ => return None,
    };
    Some(limit.advice())
}

/// What to say where the text of a script passes a limit.
pub fn of_parse(kind: &ParseErrorType) -> Option<Advice> {
    let limit = match kind {
        ParseErrorType::ExprTooDeep => ScriptLimit::ExpressionDepth,
        ParseErrorType::TooManyFunctions => ScriptLimit::Functions,
        ParseErrorType::LiteralTooLarge(what, _) => of_size(what),
        _ => return None,
    };
    Some(limit.advice())
}

/// The limit that the engine calls by these words.
fn of_size(what: &str) -> ScriptLimit {
    if what.contains("string") {
        ScriptLimit::Strings
    } else if what.contains("map") {
        ScriptLimit::Maps
    } else {
        ScriptLimit::Arrays
    }
}

fn thousands(number: usize) -> String {
    match (number / 1000, number % 1000) {
        (0, rest) => rest.to_string(),
        (thousands, rest) => format!("{thousands},{rest:03}"),
    }
}
