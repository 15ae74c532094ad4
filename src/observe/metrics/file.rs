//! Writes the file of `--metrics` for `node_exporter`'s textfile collector. It is written as `.partial`
//! and renamed, so it is never read half-written. It contains no secrets, and the umask decides who can
//! read it.

use std::io::{self, Write as _};
use std::path::Path;

use crate::error::Error;
use crate::error::exit::Exit;
use crate::observe::metrics::text::text;
use crate::observe::metrics::{Metric, MetricLabel};
use crate::runtime::output_file::{OutputFile, OutputKind};

/// The metrics file, opened before the first request.
pub struct MetricsFile(OutputFile);

impl MetricsFile {
    /// Opens `PATH.partial`, or a pipe or device directly.
    ///
    /// # Errors
    /// If it cannot be written, with exit code 2.
    pub fn open(given: &Path) -> Result<Self, Error> {
        let opened = OutputFile::open(given, OutputKind::Metrics);
        opened.map(Self).map_err(|error| unwritable(given, &error))
    }

    /// Writes the metrics with these labels and renames the file. A failure is only logged: the run is
    /// already complete.
    pub fn finish(mut self, metrics: &[Metric], labels: &[MetricLabel]) {
        let written = self.0.write_all(text(metrics, labels).as_bytes());
        if let Err(error) = written.and_then(|()| self.0.finish()) {
            let path = self.0.path().display().to_string();
            let cause = error.to_string();
            tracing::warn!(path, cause, "cannot write the metrics file");
        }
    }
}

fn unwritable(path: &Path, error: &io::Error) -> Error {
    let what = format!("the metrics file {} cannot be written", path.display());
    Error::new(Exit::Usage, what)
        .cause(error.to_string())
        .hint("check that its folder exists and is writable; no token was requested")
}
