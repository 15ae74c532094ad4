//! Writes the file of `--metrics` for `node_exporter`'s textfile collector. It is written as `.partial`
//! and renamed, so it is never read half-written. It contains no secrets and is world-readable.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use crate::error::Error;
use crate::error::exit::Exit;
use crate::observe::metrics::Metric;
use crate::observe::metrics::text::text;

/// The metrics file, opened before the first request.
pub struct MetricsFile {
    file: File,
    /// Path until the file is complete; `path` itself for a pipe or device.
    partial: PathBuf,
    path: PathBuf,
}

impl MetricsFile {
    /// Opens `PATH.partial`, or a pipe or device directly.
    ///
    /// # Errors
    /// If it cannot be written, with exit code 2.
    pub fn open(given: &Path) -> Result<Self, Error> {
        // Resolves symbolic links, so that the file is replaced and not the link.
        let path = given.canonicalize().unwrap_or_else(|_| given.to_owned());
        let mut options = OpenOptions::new();
        let partial = if path.exists() && !path.is_file() {
            options.append(true);
            path.clone()
        } else {
            options.write(true).create(true).truncate(true);
            let mut partial = path.clone().into_os_string();
            partial.push(".partial");
            PathBuf::from(partial)
        };
        match options.open(&partial) {
            Ok(file) => Ok(Self {
                file,
                partial,
                path,
            }),
            Err(error) => Err(unwritable(given, &error)),
        }
    }

    /// Writes the metrics and renames the file. A failure is only logged: the run is already complete.
    pub fn finish(mut self, metrics: &[Metric]) {
        let written = text(metrics).map_err(io::Error::other);
        let written = written.and_then(|text| self.file.write_all(text.as_bytes()));
        let renamed = written.and_then(|()| {
            if self.partial == self.path {
                Ok(())
            } else {
                fs::rename(&self.partial, &self.path)
            }
        });
        if let Err(error) = renamed {
            let path = self.path.display().to_string();
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
