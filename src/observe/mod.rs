//! Observability of a run: log lines, metrics, traces, progress.

pub mod logging;
pub mod metrics;
pub mod number;
pub mod otel;
pub mod progress;
pub mod run_context;
pub(crate) mod trace;
