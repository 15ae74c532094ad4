//! Helpers of native functions: their result type, errors as maps, and locks.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rhai::{Dynamic, EvalAltResult, INT, Map, Position};

use crate::error::{Error, ErrorKind};

/// The result of a native function: a value or an error of the engine.
pub type NativeResult<T> = Result<T, Box<EvalAltResult>>;

/// Locks a mutex, also after a panic: no holder panics in the middle of a change.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Converts an error to the map that scripts catch; the engine adds the position.
pub fn thrown(error: Error) -> Box<EvalAltResult> {
    EvalAltResult::ErrorRuntime(to_map(error).into(), Position::NONE).into()
}

/// Returns the error of a stream that is read a second time.
pub fn consumed_error(what: &str) -> Error {
    Error::of(
        ErrorKind::StreamConsumed,
        format!("these {what} were already read: a stream can be read once"),
    )
    .hint("keep what you need on the first pass, or fetch again")
}

fn to_map(error: Error) -> Map {
    let failure = error.into_parts();
    let mut map = Map::new();
    let mut set = |name: &str, value: Dynamic| {
        map.insert(name.into(), value);
    };
    set(
        "kind",
        failure.kind.as_ref().map_or("", ErrorKind::as_str).into(),
    );
    set("message", failure.message.into());
    set("retryable", failure.retryable.into());
    if !failure.causes.is_empty() {
        let causes: Vec<Dynamic> = failure.causes.into_iter().map(Dynamic::from).collect();
        set("causes", causes.into());
    }
    if let Some(hint) = failure.hint {
        set("hint", hint.into());
    }
    match failure.kind {
        Some(ErrorKind::HttpStatus {
            status,
            retry_after,
        }) => {
            set("status", INT::from(status).into());
            if let Some(wait) = retry_after {
                set("retry_after_ms", milliseconds(wait).into());
            }
        }
        Some(ErrorKind::ShortSupply {
            requested,
            received,
        }) => {
            set("requested", integer(requested).into());
            set("received", integer(received).into());
        }
        Some(ErrorKind::DbDenied { sqlstate }) => set("sqlstate", sqlstate.into()),
        Some(ErrorKind::InvalidArgument { argument, expected }) => {
            set("argument", argument.into());
            set("expected", expected.into());
        }
        _ => {}
    }
    map
}

/// Converts a count to the integer type of scripts.
pub fn integer(number: u64) -> INT {
    INT::try_from(number).unwrap_or(INT::MAX)
}

fn milliseconds(wait: Duration) -> INT {
    INT::try_from(wait.as_millis()).unwrap_or(INT::MAX)
}

/// The maximum size of a string in bytes.
pub const MAX_STRING_SIZE: usize = 1024 * 1024;

/// Returns the engine's error for a string that is too long.
pub fn too_long() -> Box<EvalAltResult> {
    EvalAltResult::ErrorDataTooLarge("Length of string".to_owned(), Position::NONE).into()
}

/// Returns an error if a string of this many bytes is too long.
pub fn check_length(bytes: usize) -> NativeResult<()> {
    if bytes > MAX_STRING_SIZE {
        return Err(too_long());
    }
    Ok(())
}
