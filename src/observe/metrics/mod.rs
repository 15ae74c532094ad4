//! The metrics of a finished run, as docs/observability.md explains them.

pub mod file;
pub(crate) mod text;

use crate::pipeline::latency::LatencyHistogram;

/// One metric of a finished run.
#[derive(Clone, Debug)]
pub struct Metric {
    /// Its OpenTelemetry name, such as `token_service.run.duration`.
    pub name: &'static str,
    /// Its UCUM unit: `s`, `{token}`; `1` if dimensionless.
    pub unit: &'static str,
    /// Its description, one sentence without a full stop.
    pub help: &'static str,
    /// Its value.
    pub value: MetricValue,
}

/// The value of a metric.
#[derive(Clone, Debug)]
pub enum MetricValue {
    /// Monotonic counters, one for each set of attributes.
    Count(Vec<Point>),
    /// A single number.
    Gauge(f64),
    /// A distribution of latencies.
    Latency(Box<LatencyHistogram>),
}

/// A number with its attributes.
#[derive(Clone, Debug)]
pub struct Point {
    /// Names and values.
    pub attributes: Vec<(&'static str, String)>,
    /// The value.
    pub value: u64,
}

/// A label that the user adds to every metric of the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MetricLabel {
    /// Its name, valid in Prometheus and none of [`OWN_LABELS`].
    pub name: String,
    /// Its value; any text.
    pub value: String,
}

/// The labels that the metrics of the file have themselves.
pub const OWN_LABELS: [&str; 5] = ["constraint", "quantile", "sqlstate", "status", "version"];
