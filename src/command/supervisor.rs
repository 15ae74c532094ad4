//! Supervises a run: signals, deadline and grace period. The run uses the runtime of the same thread.

use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::config::RunSettings;
use crate::error::Error;
use crate::error::exit::{Cause, Exit};
use crate::observe::otel::{RunEnd, Telemetry};
use crate::observe::run_context::RunContext;
use crate::report::conclusion::Conclusion;
use crate::report::metrics::{metrics, span_attributes};
use crate::runtime::shutdown::Shutdown;
use crate::runtime::signals::Signals;
use crate::runtime::{self, clock::Clock};

/// Maximum time for inserts in flight to settle after a stop.
const MAX_DRAIN: Duration = Duration::from_secs(5);

/// Maximum time to complete the report after a second signal.
const SECOND_SIGNAL_GRACE: Duration = Duration::from_secs(2);

/// Maximum time to flush telemetry at the end of a run.
const MAX_FLUSH: Duration = Duration::from_secs(2);

/// The time limits of a run.
#[derive(Clone, Copy, Debug)]
pub struct TimeLimits {
    /// The time after which the run is stopped.
    pub deadline: Option<Duration>,
    /// The time that a stopped run has to settle and report.
    pub grace: Duration,
}

impl TimeLimits {
    /// Returns the limits of a run's settings.
    pub fn of(settings: &RunSettings) -> Self {
        Self {
            deadline: settings.deadline,
            grace: settings.grace,
        }
    }
}

/// Runs `work` under supervision on a new runtime, and sends its telemetry.
///
/// `span_name` is the name of the run's span.
pub fn run_supervised<Work>(
    span_name: &'static str,
    settings: &RunSettings,
    work: impl FnOnce(Shutdown, RunContext) -> Work,
) -> Conclusion
where
    Work: Future<Output = Result<Conclusion, Error>>,
{
    let runtime = match runtime::current_thread() {
        Ok(runtime) => runtime,
        Err(error) => return Error::from(error).into(),
    };
    let finished = runtime.block_on(async {
        let mut signals = Signals::listen()?;
        let mut run_context = RunContext::now();
        run_context.run_id = settings.run_id.unwrap_or(run_context.run_id);
        run_context.shard = settings.shard_of_receipts();
        let telemetry = settings.telemetry.as_ref();
        let telemetry = Telemetry::begin(telemetry, span_name, &run_context.run_id.to_string());
        run_context.tracer = telemetry.tracer();
        let limits = TimeLimits::of(settings);
        let mut signal_times = Vec::new();
        let next_signal = async || {
            let cause = signals.next().await;
            signal_times.push(run_context.clock.now());
            cause
        };
        let finished = supervise(run_context.clone(), limits, next_signal, work).await;
        let flush_time = flush_time(
            limits,
            run_context.instant,
            &signal_times,
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
            // The report is complete, so a signal only ends the flush.
            _ = signals.next() => {}
            () = telemetry.finish(ending, flush_time) => {}
        }
        Ok(finished)
    });
    finished.unwrap_or_else(|failure: Error| failure.into())
}

/// Returns the time to flush telemetry: the rest of the grace period, or 0 after a second signal.
fn flush_time(limits: TimeLimits, start: Instant, signals: &[Instant], now: Instant) -> Duration {
    if signals.len() > 1 {
        return Duration::ZERO;
    }
    let deadline = limits.deadline.map(|deadline| start + deadline);
    let stops = signals.iter().copied().chain(deadline);
    let stopped = stops.filter(|stop| *stop <= now).min();
    let rest = stopped.map(|stop| (stop + limits.grace).saturating_duration_since(now));
    rest.unwrap_or(MAX_FLUSH).min(MAX_FLUSH)
}

/// Runs `work` under supervision on the current runtime.
///
/// Stops it at its limits or at a signal, and abandons it after the grace period.
pub async fn supervise<Work>(
    run_context: RunContext,
    limits: TimeLimits,
    next_signal: impl AsyncFnMut() -> Cause,
    work: impl FnOnce(Shutdown, RunContext) -> Work,
) -> Conclusion
where
    Work: Future<Output = Result<Conclusion, Error>>,
{
    let shutdown = Shutdown::new();
    tokio::select! {
        biased;
        finished = work(shutdown.clone(), run_context.clone()) => finished.unwrap_or_else(Conclusion::from),
        cause = enforce_limits(&shutdown, &run_context, limits, next_signal) => overdue(cause),
    }
}

/// Stops the run at a signal or the deadline, then aborts it after the drain time or at a second
/// signal. Returns when the grace period is over.
async fn enforce_limits(
    shutdown: &Shutdown,
    run_context: &RunContext,
    limits: TimeLimits,
    mut next_signal: impl AsyncFnMut() -> Cause,
) -> Cause {
    let clock = &run_context.clock;
    let deadline = limits
        .deadline
        .map(|deadline| run_context.instant + deadline);
    let cause = tokio::select! {
        biased;
        cause = next_signal() => cause,
        () = until(clock, deadline) => Cause::Deadline,
    };
    tracing::info!(cause = cause.as_str(), "stopping");
    shutdown.stop_for(cause);
    let stopped = clock.now();
    let drain = MAX_DRAIN.min(limits.grace.mul_f64(5.0 / 8.0));
    let mut end = stopped + limits.grace;
    tokio::select! {
        biased;
        _ = next_signal() => end = end.min(clock.now() + SECOND_SIGNAL_GRACE),
        () = clock.sleep_until(stopped + drain) => {}
    }
    tracing::debug!("no longer waiting for inserts in flight");
    shutdown.abort();
    tokio::select! {
        biased;
        _ = next_signal() => {}
        () = clock.sleep_until(end) => {}
    }
    cause
}

async fn until(clock: &Arc<dyn Clock>, deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => clock.sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

/// Returns the conclusion of a run that exceeded its grace period, for example because its standard
/// output is blocked.
fn overdue(cause: Cause) -> Conclusion {
    let exit = match cause {
        Cause::Deadline => Exit::Database,
        signal => Exit::Signal(signal),
    };
    Error::new(exit, "the report could not be completed in time")
        .hint("raise `--grace` if needed; a report on a path remains as PATH.partial")
        .into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flush_time_is_the_rest_of_the_grace_period_and_at_most_two_seconds() {
        let start = Instant::now();
        let after = |seconds| start + Duration::from_secs(seconds);
        let rest = |deadline: Option<u64>, signals: &[u64], now| {
            let limits = TimeLimits {
                deadline: deadline.map(Duration::from_secs),
                grace: Duration::from_secs(8),
            };
            let signals: Vec<_> = signals.iter().copied().map(after).collect();
            flush_time(limits, start, &signals, after(now)).as_secs()
        };
        assert_eq!(rest(None, &[], 100), 2);
        assert_eq!(rest(Some(200), &[], 100), 2);
        assert_eq!(rest(None, &[99], 100), 2);
        assert_eq!(rest(None, &[93], 100), 1);
        assert_eq!(rest(None, &[80], 100), 0);
        assert_eq!(rest(Some(93), &[], 100), 1);
        // A second signal skips the flush.
        assert_eq!(rest(None, &[98, 99], 100), 0);
    }
}
