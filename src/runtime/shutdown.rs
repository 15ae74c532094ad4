//! Stops a run in two steps: `stop` (start nothing new, finish what is in flight) and `abort` (stop
//! waiting). Signals, the deadline and the end of the script all use it.

use std::sync::{Arc, OnceLock};

use tokio_util::sync::CancellationToken;

use crate::error::Error;
use crate::error::exit::Cause;

/// A handle that stops the run. Clones share its state.
#[derive(Clone, Debug, Default)]
pub struct Shutdown {
    stop: CancellationToken,
    abort: CancellationToken,
    cause: Arc<OnceLock<Cause>>,
    error: Arc<OnceLock<Error>>,
}

impl Shutdown {
    /// Creates a handle that has not been triggered.
    pub fn new() -> Self {
        Self::default()
    }

    /// Stops the run for `cause`; only the first cause counts.
    pub fn stop_for(&self, cause: Cause) {
        let _ = self.cause.set(cause);
        self.stop.cancel();
    }

    /// Stops the run because of `error`; only the first error counts.
    pub fn stop_because(&self, error: Error) {
        let _ = self.error.set(error);
        self.stop.cancel();
    }

    /// Aborts the run without waiting: tokens in flight become `unknown`.
    pub fn abort(&self) {
        self.stop.cancel();
        self.abort.cancel();
    }

    /// Returns why the run was stopped from outside, if it was.
    pub fn cause(&self) -> Option<Cause> {
        self.cause.get().copied()
    }

    /// Returns the error that stopped the run, if any.
    pub fn error(&self) -> Option<&Error> {
        self.error.get()
    }

    /// Returns the token that is cancelled when nothing new may start.
    pub fn stopping(&self) -> &CancellationToken {
        &self.stop
    }

    /// Returns the token that is cancelled when the run is aborted.
    pub fn aborting(&self) -> &CancellationToken {
        &self.abort
    }
}
