//! What watches over a run: signals, the deadline, and the grace that a stopped run has. The work goes
//! on in the same thread's runtime.

use crate::observe::run_context::RunContext;
use crate::report::metrics::{metrics, span_attributes};
use crate::runtime::signals::Signals;
use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use tokio::runtime::Builder;

use crate::config::RunSettings;
use crate::error::diagnostic::Problem;
use crate::error::exit::{Cause, Exit};
use crate::observe::otel::{RunEnd, Telemetry};
use crate::report::conclusion::Conclusion;
use crate::runtime::clock::Clock;
use crate::runtime::shutdown::Shutdown;

/// The longest that what is in flight is waited for when a run is stopped.
const DRAIN: Duration = Duration::from_secs(5);

/// How long the report may take after a second signal.
const AT_ONCE: Duration = Duration::from_secs(2);

/// The longest that a run which has ended waits for its OpenTelemetry collector.
const LAST_WORD: Duration = Duration::from_secs(2);

/// How long a run may take.
#[derive(Clone, Copy, Debug)]
pub struct TimeLimits {
    /// After this long it is stopped.
    pub deadline: Option<Duration>,
    /// So long a stopped run may take to settle and report.
    pub grace: Duration,
}

impl TimeLimits {
    /// Those of a run's settings.
    pub fn of(settings: &RunSettings) -> Self {
        Self {
            deadline: settings.deadline,
            grace: settings.grace,
        }
    }
}

/// Does the work of a run until it is done, or has outlived its grace. `what` is its name for an
/// OpenTelemetry collector, which hears of it.
pub fn drive<Work>(
    what: &'static str,
    settings: &RunSettings,
    work: impl FnOnce(Shutdown, RunContext) -> Work,
) -> Conclusion
where
    Work: Future<Output = Result<Conclusion, Problem>>,
{
    let runtime = Builder::new_current_thread()
        .enable_all()
        .build()
        .context("the runtime cannot be started");
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => return Problem::from(error).into(),
    };
    let finished = runtime.block_on(async {
        let mut signals = Signals::listen()?;
        let mut run_context = RunContext::now();
        let telemetry = settings.telemetry.as_ref();
        let telemetry = Telemetry::begin(telemetry, what, &run_context.run_id.to_string());
        run_context.tracer = telemetry.tracer();
        let limits = TimeLimits::of(settings);
        let mut stopped = Vec::new();
        let stops = async || {
            let cause = signals.next().await;
            stopped.push(run_context.clock.now());
            cause
        };
        let finished = watch_over(run_context.clone(), limits, stops, work).await;
        let within = last_word(
            limits,
            run_context.instant,
            &stopped,
            run_context.clock.now(),
        );
        let (exit, summary) = (finished.exit, finished.summary.as_ref());
        let ending = RunEnd {
            exit,
            metrics: metrics(exit, summary, run_context.elapsed(), jiff::Timestamp::now()),
            attributes: span_attributes(exit, summary),
        };
        tokio::select! {
            biased;
            // Whoever has seen the report waits for nothing more.
            _ = signals.next() => {}
            () = telemetry.finish(ending, within) => {}
        }
        Ok(finished)
    });
    finished.unwrap_or_else(|problem: Problem| problem.into())
}

/// How long the collector may be waited for: what the grace leaves of a run that was `stopped`, and
/// nothing where it was told to be quick.
fn last_word(limits: TimeLimits, began: Instant, stopped: &[Instant], now: Instant) -> Duration {
    if stopped.len() > 1 {
        return Duration::ZERO;
    }
    let deadline = limits.deadline.map(|deadline| began + deadline);
    let ends = stopped.iter().copied().chain(deadline);
    let passed = ends.filter(|end| *end <= now).min();
    let left = passed.map(|end| (end + limits.grace).saturating_duration_since(now));
    left.unwrap_or(LAST_WORD).min(LAST_WORD)
}

/// The same on the current runtime: does the work until it is done, stops it within its limits or
/// where `stops` says so, and gives it up where it outlives its grace.
pub async fn watch_over<Work>(
    run_context: RunContext,
    limits: TimeLimits,
    stops: impl AsyncFnMut() -> Cause,
    work: impl FnOnce(Shutdown, RunContext) -> Work,
) -> Conclusion
where
    Work: Future<Output = Result<Conclusion, Problem>>,
{
    let shutdown = Shutdown::new();
    tokio::select! {
        biased;
        finished = work(shutdown.clone(), run_context.clone()) => finished.unwrap_or_else(Conclusion::from),
        cause = supervise(&shutdown, &run_context, limits, stops) => overdue(cause),
    }
}

/// Stops the run at a signal or the deadline, gives up waiting after a while or at a second signal,
/// and returns when the run has outlived its grace.
async fn supervise(
    shutdown: &Shutdown,
    run_context: &RunContext,
    limits: TimeLimits,
    mut stops: impl AsyncFnMut() -> Cause,
) -> Cause {
    let clock = &run_context.clock;
    let deadline = limits
        .deadline
        .map(|deadline| run_context.instant + deadline);
    let cause = tokio::select! {
        biased;
        cause = stops() => cause,
        () = until(clock, deadline) => Cause::Deadline,
    };
    tracing::info!(cause = cause.as_str(), "stopping");
    shutdown.stop_for(cause);
    let stopped = clock.now();
    let drain = DRAIN.min(limits.grace.mul_f64(5.0 / 8.0));
    let mut end = stopped + limits.grace;
    tokio::select! {
        biased;
        _ = stops() => end = end.min(clock.now() + AT_ONCE),
        () = clock.at(stopped + drain) => {}
    }
    tracing::debug!("no longer waiting for what is in flight");
    shutdown.abort();
    tokio::select! {
        biased;
        _ = stops() => {}
        () = clock.at(end) => {}
    }
    cause
}

async fn until(clock: &Arc<dyn Clock>, deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => clock.at(deadline).await,
        None => std::future::pending().await,
    }
}

/// The end of a run that did not end by itself within its grace, such as one whose standard output
/// nobody reads.
fn overdue(cause: Cause) -> Conclusion {
    let exit = match cause {
        Cause::Deadline => Exit::Database,
        signal => Exit::Signal(signal),
    };
    Problem::new(exit, "the report could not be completed in time")
        .hint("`--grace` sets the time; a report on a path is left as PATH.partial")
        .into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_collector_gets_what_the_grace_leaves_and_two_seconds_at_the_most() {
        let began = Instant::now();
        let after = |seconds| began + Duration::from_secs(seconds);
        let left = |deadline: Option<u64>, stopped: &[u64], now| {
            let limits = TimeLimits {
                deadline: deadline.map(Duration::from_secs),
                grace: Duration::from_secs(8),
            };
            let stopped: Vec<_> = stopped.iter().copied().map(after).collect();
            last_word(limits, began, &stopped, after(now)).as_secs()
        };
        assert_eq!(left(None, &[], 100), 2);
        assert_eq!(left(Some(200), &[], 100), 2);
        assert_eq!(left(None, &[99], 100), 2);
        assert_eq!(left(None, &[93], 100), 1);
        assert_eq!(left(None, &[80], 100), 0);
        assert_eq!(left(Some(93), &[], 100), 1);
        // Whoever stops it twice waits for nothing.
        assert_eq!(left(None, &[98, 99], 100), 0);
    }
}
