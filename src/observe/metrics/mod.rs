//! What a run came to, as metrics. Their names stand here once, as docs/observability.md explains them.

pub mod file;
mod text;

use crate::pipeline::latency::LatencyHistogram;

/// One metric of a finished run.
#[derive(Clone, Debug)]
pub struct Metric {
    /// Its name in OpenTelemetry's spelling, such as `token_service.run.duration`.
    pub name: &'static str,
    /// Its unit by UCUM: `s`, `{token}`; `1` for a number that counts nothing.
    pub unit: &'static str,
    /// What it says, one sentence without a full stop.
    pub help: &'static str,
    /// What it came to.
    pub value: MetricValue,
}

/// What a metric came to.
#[derive(Clone, Debug)]
pub enum MetricValue {
    /// Counts, which only grow while a run lasts; one for each set of attributes.
    Count(Vec<Point<u64>>),
    /// A number that means itself.
    Gauge(f64),
    /// How long something took, many times over.
    Latency(Box<LatencyHistogram>),
}

/// A number with its attributes.
#[derive(Clone, Debug)]
pub struct Point<T> {
    /// Names and values.
    pub attributes: Vec<(&'static str, String)>,
    /// The number.
    pub value: T,
}
