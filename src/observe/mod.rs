//! What a run tells about itself: log lines, metrics, traces, progress.

pub mod logging;
pub mod metrics;
pub mod otel;
pub mod progress;
pub(crate) mod trace;
