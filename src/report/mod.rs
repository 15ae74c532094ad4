//! Reporting: every token with what became of it, in the formats that were asked for.

use std::path::PathBuf;

/// The formats of a report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// A line a token for people and shell pipelines.
    Text,
    /// One JSON document.
    Json,
    /// A JSON object a line.
    Ndjson,
}

/// A report that was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spec {
    /// Its format.
    pub format: Format,
    /// Where it goes; `None` is standard output.
    pub path: Option<PathBuf>,
}
