//! What watches over a run: signals, the deadline, and the grace that a stopped run has. The work goes
//! on in the same thread's runtime.

use std::future::Future;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use tokio::runtime::Builder;
use tokio::signal::unix::{Signal, SignalKind, signal};
use uuid::Uuid;

use crate::config::Settings;
use crate::exit::Exit;
use crate::halt::{Cause, Halt};
use crate::problem::Problem;
use crate::verdict::Finished;

/// The longest that what is in flight is waited for when a run is stopped.
const DRAIN: Duration = Duration::from_secs(5);

/// How long the report may take after a second signal.
const AT_ONCE: Duration = Duration::from_secs(2);

/// When a run began, by each clock that is asked for it.
#[derive(Clone, Copy)]
pub struct Begun {
    /// For durations.
    pub instant: Instant,
    /// For people.
    pub timestamp: jiff::Timestamp,
    /// A UUID (version 7).
    pub run_id: Uuid,
}

impl Begun {
    /// Now.
    pub fn now() -> Self {
        Self {
            instant: Instant::now(),
            timestamp: jiff::Timestamp::now(),
            run_id: Uuid::now_v7(),
        }
    }
}

/// Does the work of a run until it is done, or has outlived its grace.
pub fn drive<Work>(settings: &Settings, work: impl FnOnce(Halt, Begun) -> Work) -> Finished
where
    Work: Future<Output = Result<Finished, Problem>>,
{
    let runtime = Builder::new_current_thread()
        .enable_all()
        .build()
        .context("the runtime cannot be started");
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => return Problem::from(error).into(),
    };
    let halt = Halt::new();
    let begun = Begun::now();
    let deadline = settings.deadline.map(|deadline| begun.instant + deadline);
    let finished = runtime.block_on(async {
        let signals = Signals::listen()?;
        tokio::select! {
            finished = work(halt.clone(), begun) => finished,
            cause = supervise(signals, &halt, deadline, settings.grace) => Ok(overdue(cause)),
        }
    });
    finished.unwrap_or_else(Finished::from)
}

struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    fn listen() -> Result<Self, Problem> {
        let listen = |kind| signal(kind).context("signals cannot be heard");
        Ok(Self {
            interrupt: listen(SignalKind::interrupt())?,
            terminate: listen(SignalKind::terminate())?,
        })
    }

    async fn next(&mut self) -> Cause {
        tokio::select! {
            _ = self.interrupt.recv() => Cause::Interrupt,
            _ = self.terminate.recv() => Cause::Terminate,
        }
    }
}

/// Stops the run at a signal or the deadline, gives up waiting after a while or at a second signal,
/// and returns when the run has outlived its grace.
async fn supervise(
    mut signals: Signals,
    halt: &Halt,
    deadline: Option<Instant>,
    grace: Duration,
) -> Cause {
    let cause = tokio::select! {
        cause = signals.next() => cause,
        () = until(deadline) => Cause::Deadline,
    };
    tracing::info!(cause = cause.as_str(), "stopping");
    halt.stop_for(cause);
    let stopped = tokio::time::Instant::now();
    let drain = DRAIN.min(grace.mul_f64(5.0 / 8.0));
    let mut end = stopped + grace;
    tokio::select! {
        () = tokio::time::sleep_until(stopped + drain) => {}
        _ = signals.next() => end = end.min(tokio::time::Instant::now() + AT_ONCE),
    }
    halt.abort();
    tokio::select! {
        () = tokio::time::sleep_until(end) => {}
        _ = signals.next() => {}
    }
    cause
}

async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline.into()).await,
        None => std::future::pending().await,
    }
}

/// The end of a run that did not end by itself within its grace, such as one whose standard output
/// nobody reads.
fn overdue(cause: Cause) -> Finished {
    let exit = match cause {
        Cause::Deadline => Exit::Database,
        signal => Exit::Signal(signal),
    };
    Problem::new(exit, "the report could not be completed in time")
        .hint("`--grace` sets the time; a report on a path is left as PATH.partial")
        .into()
}
