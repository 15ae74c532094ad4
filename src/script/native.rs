//! What every native function of a script needs: its result type, the errors that it throws as maps,
//! and locks.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rhai::{Dynamic, EvalAltResult, INT, Map, Position};

use crate::error::{ErrorKind, Fault};

/// What a native gives: a value, or an error that the engine understands.
pub type Native<T> = Result<T, Box<EvalAltResult>>;

/// A lock whose holder cannot have left it half-changed: no holder panics between two writes.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The fault as an error that scripts catch as a map; the engine fills in the position.
pub fn thrown(fault: Fault) -> Box<EvalAltResult> {
    EvalAltResult::ErrorRuntime(to_map(fault).into(), Position::NONE).into()
}

/// The error of a stream that is used a second time.
pub fn consumed(what: &str) -> Box<EvalAltResult> {
    thrown(used_already(what))
}

/// The fault of a stream that is used a second time.
pub fn used_already(what: &str) -> Fault {
    Fault::new(
        ErrorKind::StreamConsumed,
        format!("these {what} were used already: a stream can be read once"),
    )
    .hint("keep what you need on the first pass, or fetch again")
}

fn to_map(fault: Fault) -> Map {
    let mut map = Map::new();
    let mut set = |name: &str, value: Dynamic| {
        map.insert(name.into(), value);
    };
    set("kind", fault.kind.as_str().into());
    set("message", fault.message.into());
    set("retryable", fault.retryable.into());
    if !fault.causes.is_empty() {
        let causes: Vec<Dynamic> = fault.causes.into_iter().map(Dynamic::from).collect();
        set("causes", causes.into());
    }
    if let Some(hint) = fault.hint {
        set("hint", hint.into());
    }
    match fault.kind {
        ErrorKind::HttpStatus {
            status,
            retry_after,
        } => {
            set("status", INT::from(status).into());
            if let Some(wait) = retry_after {
                set("retry_after_ms", millis(wait).into());
            }
        }
        ErrorKind::ShortSupply {
            requested,
            received,
        } => {
            set("requested", integer(requested).into());
            set("received", integer(received).into());
        }
        ErrorKind::DbDenied { sqlstate } => set("sqlstate", sqlstate.into()),
        ErrorKind::InvalidArgument { argument, expected } => {
            set("argument", argument.into());
            set("expected", expected.into());
        }
        _ => {}
    }
    map
}

/// A count as scripts have it.
pub fn integer(number: u64) -> INT {
    INT::try_from(number).unwrap_or(INT::MAX)
}

fn millis(wait: Duration) -> INT {
    INT::try_from(wait.as_millis()).unwrap_or(INT::MAX)
}
