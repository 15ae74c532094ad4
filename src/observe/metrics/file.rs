//! The file of `--metrics`, as `node_exporter`'s textfile collector reads it: written beside its name and
//! renamed, so that nobody ever reads a half of it. It holds no secret, and others must read it.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use crate::error::diagnostic::Problem;
use crate::error::exit::Exit;
use crate::observe::metrics::Metric;
use crate::observe::metrics::text::text;

/// The file, opened before a token is asked for.
pub struct MetricsFile {
    file: File,
    /// What it is written as until it is whole; the path itself where there is nothing to replace.
    partial: PathBuf,
    path: PathBuf,
}

impl MetricsFile {
    /// Opens `PATH.partial`, or a pipe or device as it is.
    ///
    /// # Errors
    /// One that ends the process with 2, where it cannot be written.
    pub fn open(given: &Path) -> Result<Self, Problem> {
        // A link is followed to what it names, so that the file is replaced and not the link.
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

    /// Writes the metrics and gives the file its name. What became of the run is not changed by a file
    /// that cannot be written any more; that is only logged.
    pub fn finish(mut self, metrics: &[Metric]) {
        let written = text(metrics).map_err(io::Error::other);
        let written = written.and_then(|text| self.file.write_all(text.as_bytes()));
        let named = written.and_then(|()| {
            if self.partial == self.path {
                Ok(())
            } else {
                fs::rename(&self.partial, &self.path)
            }
        });
        if let Err(error) = named {
            let path = self.path.display().to_string();
            let cause = error.to_string();
            tracing::warn!(path, cause, "the metrics cannot be written any more");
        }
    }
}

fn unwritable(path: &Path, error: &io::Error) -> Problem {
    let what = format!("the metrics file {} cannot be written", path.display());
    Problem::new(Exit::Usage, what)
        .cause(error.to_string())
        .hint("check that its folder exists and may be written to; no token was asked for")
}
