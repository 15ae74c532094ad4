//! Explains which limit a script exceeded, its value, and what to do.

use std::fmt::Display;

use rhai::{EvalAltResult, ParseErrorType};

use crate::observe::number::grouped;
use crate::script::error::message::Advice;
use crate::script::sandbox::{
    MAX_CALL_LEVELS, MAX_EXPRESSION_DEPTHS, MAX_FUNCTIONS, MAX_MODULES, MAX_NESTING, MAX_VARIABLES,
    StopReason,
};

/// Returns the message if a running script exceeded a limit.
pub fn of_eval(error: &EvalAltResult) -> Option<Advice> {
    Some(match error {
        EvalAltResult::ErrorTooManyOperations(_) => exceeded(
            "more operations than `script.max_operations` allows",
            "raise it, or look for a loop that does not end",
        ),
        EvalAltResult::ErrorStackOverflow(_) => exceeded(
            format!("functions call each other more than {MAX_CALL_LEVELS} levels deep"),
            "look for a recursion that does not end; a loop has no such limit",
        ),
        EvalAltResult::ErrorTooManyVariables(_) => exceeded(
            format!("more than {} variables at a time", grouped(MAX_VARIABLES)),
            "keep values that belong together in an array or a map",
        ),
        EvalAltResult::ErrorTooManyModules(_) => exceeded(
            format!("more than {MAX_MODULES} imports"),
            "import each file once, at the top of the script, and not in a loop",
        ),
        EvalAltResult::ErrorDataTooLarge(what, _) => too_large(what),
        EvalAltResult::ErrorParsing(kind, _) => return of_parse(kind),
        EvalAltResult::ErrorTerminated(..) => match StopReason::of(error)? {
            StopReason::Memory => exceeded(
                "the process grew by more than `script.max_memory` allows",
                "store and report page by page; a token that is neither stored nor rejected stays in memory until the end",
            ),
            StopReason::Nesting => exceeded(
                format!(
                    "values are nested more than {} levels deep",
                    grouped(MAX_NESTING)
                ),
                "look for a loop that puts an array, map or closure into a new one",
            ),
            StopReason::Text => too_large("string"),
            StopReason::Stopped | StopReason::LineClosure => return None,
        },
        _ => return None,
    })
}

/// Returns the message if the text of a script exceeds a limit.
pub fn of_parse(kind: &ParseErrorType) -> Option<Advice> {
    let (script, function) = MAX_EXPRESSION_DEPTHS;
    Some(match kind {
        ParseErrorType::ExprTooDeep => exceeded(
            format!(
                "an expression is nested more than {script} levels deep, or {function} in a function"
            ),
            "split it with `let`",
        ),
        ParseErrorType::TooManyFunctions => exceeded(
            format!("a file defines more than {MAX_FUNCTIONS} functions, closures included"),
            "move some of them into another file, and `import` it",
        ),
        ParseErrorType::LiteralTooLarge(what, _) => too_large(what),
        _ => return None,
    })
}

/// Returns the message of a size limit; the engine names `what` was too large.
fn too_large(what: &str) -> Advice {
    if what.contains("string") {
        exceeded(
            "a string, or the text of an array or map, took more than 1 MiB",
            "write it in parts, one `emit` for each line",
        )
    } else {
        exceeded(
            "one call added more than 2,000,000 values to an array or blob",
            "work page by page, `for page in fetch(SIZE).pages() { … }`",
        )
    }
}

fn exceeded(limit: impl Display, hint: &str) -> Advice {
    Advice::new(format!("the script ran past a limit: {limit}")).hint(hint)
}
