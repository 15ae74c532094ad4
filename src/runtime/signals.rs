//! The signals that end a process gracefully.

use anyhow::Context as _;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::error::diagnostic::Problem;
use crate::error::exit::Cause;

/// The signals that end a process in good order.
pub(crate) struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    /// From now on they do not kill, but are heard.
    pub(crate) fn listen() -> Result<Self, Problem> {
        let listen = |kind| signal(kind).context("signals cannot be heard");
        Ok(Self {
            interrupt: listen(SignalKind::interrupt())?,
            terminate: listen(SignalKind::terminate())?,
        })
    }

    /// The next one.
    pub(crate) async fn next(&mut self) -> Cause {
        tokio::select! {
            _ = self.interrupt.recv() => Cause::Interrupt,
            _ = self.terminate.recv() => Cause::Terminate,
        }
    }
}
