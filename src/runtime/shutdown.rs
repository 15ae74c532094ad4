//! How a run is stopped: first `stop` (begin nothing new, finish what is under way), later `abort`
//! (wait for nothing more). Signals, the deadline and the end of the script all use this one way.

use crate::error::exit::Cause;
use std::sync::{Arc, OnceLock};

use tokio_util::sync::CancellationToken;

use crate::error::Fault;

/// The run's stop switch. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Shutdown {
    stop: CancellationToken,
    abort: CancellationToken,
    cause: Arc<OnceLock<Cause>>,
    fault: Arc<OnceLock<Fault>>,
}

impl Shutdown {
    /// A switch that nobody has pressed.
    pub fn new() -> Self {
        Self::default()
    }

    /// Stops the run for `cause`; only the first cause counts.
    pub fn stop_for(&self, cause: Cause) {
        let _ = self.cause.set(cause);
        self.stop.cancel();
    }

    /// Stops the run because it cannot go on truthfully; only the first fault counts.
    pub fn stop_because(&self, fault: Fault) {
        let _ = self.fault.set(fault);
        self.stop.cancel();
    }

    /// Waits for nothing more: what is in flight becomes `unknown`.
    pub fn abort(&self) {
        self.stop.cancel();
        self.abort.cancel();
    }

    /// Why the run was stopped from outside, if it was.
    pub fn cause(&self) -> Option<Cause> {
        self.cause.get().copied()
    }

    /// Why the run could not go on, if it could not.
    pub fn fault(&self) -> Option<&Fault> {
        self.fault.get()
    }

    /// Cancelled when nothing new may begin.
    pub fn stopping(&self) -> &CancellationToken {
        &self.stop
    }

    /// Cancelled when nothing may be waited for.
    pub fn aborting(&self) -> &CancellationToken {
        &self.abort
    }
}
