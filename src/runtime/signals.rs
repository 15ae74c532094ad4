//! Handles the signals that shut the process down gracefully.

use std::future::poll_fn;
use std::task::Poll;

use anyhow::Context as _;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::error::Error;
use crate::error::exit::Cause;
use crate::runtime::platform::ignored_signals;

/// The signals that stop a run.
const SIGNALS: [(SignalKind, Cause); 4] = [
    (SignalKind::hangup(), Cause::Hangup),
    (SignalKind::interrupt(), Cause::Interrupt),
    (SignalKind::quit(), Cause::Quit),
    (SignalKind::terminate(), Cause::Terminate),
];

/// Handlers of the signals that stop a run.
pub(crate) struct Signals(Vec<(Signal, Cause)>);

impl Signals {
    /// Installs the handlers; from now on the signals do not kill the process.
    ///
    /// SIGHUP stays ignored if the caller ignores it, as `nohup` does. The others do not: a shell ignores
    /// SIGINT for each command in the background.
    pub(crate) fn listen() -> Result<Self, Error> {
        let is_hangup_ignored = ignored_signals() & 1 != 0;
        let mut handlers = Vec::new();
        for (kind, cause) in SIGNALS {
            if kind != SignalKind::hangup() || !is_hangup_ignored {
                let handler = signal(kind).context("cannot install the signal handlers")?;
                handlers.push((handler, cause));
            }
        }
        Ok(Self(handlers))
    }

    /// Waits for the next signal.
    pub(crate) async fn next(&mut self) -> Cause {
        poll_fn(|context| {
            let arrived = self.0.iter_mut().find_map(|(handler, cause)| {
                let is_ready = handler.poll_recv(context).is_ready();
                is_ready.then_some(*cause)
            });
            arrived.map_or(Poll::Pending, Poll::Ready)
        })
        .await
    }
}
