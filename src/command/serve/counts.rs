//! What the service counts: runs, tokens, latencies and requests.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;

use crate::error::exit::Exit;
use crate::observe::metrics::text::Exposition;
use crate::pipeline::numbers::Numbers;
use crate::report::conclusion::Conclusion;

/// The upper bounds of the buckets of run durations, in seconds.
pub(super) const RUN_SECONDS: [f64; 16] = [
    0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 900.0, 3600.0,
];
/// The upper bounds of the buckets of commit latencies, in seconds.
pub(super) const COMMIT_SECONDS: [f64; 13] = [
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
];
/// Every outcome of a run.
pub(super) const OUTCOMES: [&str; 7] = [
    "completed",
    "condition",
    "script",
    "source",
    "database",
    "stopped",
    "refused",
];
/// What the service has counted since it started.
pub(super) struct ServiceMetrics {
    counts: Mutex<Counts>,
    /// When the service started.
    pub started: Timestamp,
}

/// The counts.
#[derive(Default)]
pub(super) struct Counts {
    /// The runs by outcome.
    pub runs: BTreeMap<&'static str, u64>,
    /// The sums of the runs that have ended.
    pub tokens: Numbers,
    /// The runs for which the source delivered less than requested.
    pub short_runs: u64,
    /// The rejections by constraint and SQLSTATE.
    pub rejections: BTreeMap<(String, String), u64>,
    pub run_seconds: Buckets,
    pub commit_seconds: Buckets,
    /// The requests by method, route and status.
    pub requests: BTreeMap<(String, String, u16), u64>,
}

/// The counts of a histogram.
#[derive(Default)]
pub(super) struct Buckets {
    /// The values by the index of their bucket; the last one has no bound.
    counts: BTreeMap<usize, u64>,
    sum: f64,
}

impl Buckets {
    fn add(&mut self, bounds: &[f64], seconds: f64, count: u64) {
        let bucket = bounds.partition_point(|bound| *bound < seconds);
        *self.counts.entry(bucket).or_default() += count;
        #[expect(
            clippy::cast_precision_loss,
            reason = "a sum of many values is rounded"
        )]
        let count = count as f64;
        self.sum += seconds * count;
    }

    /// Writes the histogram.
    pub fn write(&self, out: &mut Exposition, name: &str, help: &str, bounds: &[f64]) {
        out.family(name, help, "histogram");
        let bucket_name = format!("{name}_bucket");
        let mut total = 0;
        for (bucket, bound) in bounds
            .iter()
            .map(f64::to_string)
            .chain(["+Inf".into()])
            .enumerate()
        {
            total += self.counts.get(&bucket).copied().unwrap_or_default();
            out.sample(&bucket_name, &[("le", bound)], &total);
        }
        out.sample(&format!("{name}_sum"), &[], &self.sum);
        out.sample(&format!("{name}_count"), &[], &total);
    }
}

impl Default for ServiceMetrics {
    fn default() -> Self {
        Self {
            counts: Mutex::default(),
            started: Timestamp::now(),
        }
    }
}

impl ServiceMetrics {
    /// Locks the counts.
    pub fn counts(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a run that was refused before it began.
    pub fn count_refused(&self) {
        *self.counts().runs.entry("refused").or_default() += 1;
    }

    /// Counts a request; `route` is the pattern of its path.
    pub fn count_request(&self, method: &str, route: &str, status: u16) {
        let key = (method.to_owned(), route.to_owned(), status);
        *self.counts().requests.entry(key).or_default() += 1;
    }

    /// Counts a run that has ended.
    pub fn record(&self, conclusion: &Conclusion, was_stopped: bool, took: Duration) {
        let outcome = match conclusion.exit {
            _ if was_stopped => "stopped",
            Exit::Completed | Exit::Chosen(_) => "completed",
            Exit::Condition => "condition",
            Exit::Source => "source",
            Exit::Database => "database",
            _ => "script",
        };
        let mut counts = self.counts();
        *counts.runs.entry(outcome).or_default() += 1;
        let Some(summary) = &conclusion.summary else {
            return;
        };
        let Counts {
            tokens,
            short_runs,
            rejections,
            run_seconds,
            commit_seconds,
            ..
        } = &mut *counts;
        run_seconds.add(&RUN_SECONDS, took.as_secs_f64(), 1);
        let mut numbers = summary.numbers;
        if summary.run.replay_of.is_some() {
            // The source delivered them to the replayed run.
            numbers.received = 0;
        } else {
            *short_runs += u64::from(numbers.received < numbers.requested);
        }
        add(tokens, &numbers);
        for rejection in summary.rejections.all() {
            let key = (
                rejection.constraint.to_string(),
                rejection.sqlstate.to_string(),
            );
            *rejections.entry(key).or_default() += rejection.count;
        }
        for (latency, count) in summary.latencies.recorded() {
            commit_seconds.add(&COMMIT_SECONDS, latency.as_secs_f64(), count);
        }
    }
}

/// Adds the numbers of a run.
fn add(sum: &mut Numbers, run: &Numbers) {
    sum.received += run.received;
    sum.requests += run.requests;
    sum.surplus += run.surplus;
    sum.retries += run.retries;
    sum.stored += run.stored;
    sum.rejected += run.rejected;
    sum.failed += run.failed;
    sum.unknown += run.unknown;
    sum.not_attempted += run.not_attempted;
}
