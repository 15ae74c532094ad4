//! The destination of a report: standard output, a file or a journal, and the errors of writing it.

use std::io::{self, BufWriter, Write};
use std::path::Path;

use crate::error::{Error, ErrorKind};
use crate::journal::Journal;
use crate::runtime::output_file::{OutputFile, OutputKind};

/// The destination of a report.
pub(super) enum Destination {
    Stdout,
    Writer(Box<dyn Write + Send>),
    Journal(Journal),
    File(BufWriter<OutputFile>),
}

impl Destination {
    /// Opens the file at `given`; it must differ from `others`.
    pub fn open<'a>(
        given: &Path,
        no_clobber: bool,
        mut others: impl Iterator<Item = &'a Self>,
    ) -> Result<Self, Error> {
        let file = OutputFile::open(given, OutputKind::Report { no_clobber }).map_err(|error| {
            let refused = unwritable(given, &error.to_string());
            if error.kind() == io::ErrorKind::AlreadyExists {
                refused.hint(
                    "replay it or move it away, or leave out --no-clobber; no token was requested",
                )
            } else {
                refused
            }
        })?;
        // Two regular files cannot be the same one, because each is locked.
        if others.any(
            |other| matches!(other, Self::File(other) if other.get_ref().path() == file.path()),
        ) {
            return Err(unwritable(given, "another report is written there"));
        }
        Ok(Self::File(BufWriter::with_capacity(64 * 1024, file)))
    }

    /// Renames a complete file to its path.
    pub fn finish(&mut self) -> io::Result<()> {
        match self {
            Self::Stdout => Ok(()),
            Self::Writer(writer) => writer.flush(),
            Self::Journal(journal) => journal.sync(),
            Self::File(writer) => {
                writer.flush()?;
                writer.get_mut().finish()
            }
        }
    }

    /// Removes an incomplete file; called if the run cannot start.
    pub fn discard(self) {
        if let Self::File(writer) = self {
            let (file, _) = writer.into_parts();
            file.discard();
        }
    }

    /// Returns the error of a failed write.
    pub fn error(&self, error: &io::Error) -> Error {
        let (name, hint) = match self {
            Self::Stdout => (String::from("standard output"), None),
            Self::Writer(_) => (String::from("the report"), None),
            Self::Journal(journal) => (
                format!("the journal {}", journal.path().display()),
                Some(String::from(
                    "the summary above counts every token; free disk space and run `token_service replay` on the journal",
                )),
            ),
            Self::File(writer) => {
                let file = writer.get_ref();
                let hint = file.partial().map(|partial| match error.kind() {
                    io::ErrorKind::AlreadyExists => format!(
                        "the file appeared during the run; {} is the complete report, so move it to another path",
                        partial.display()
                    ),
                    _ => format!(
                        "free disk space; {} has the report up to the error, and `token_service replay` writes the complete report from a `--journal`",
                        partial.display()
                    ),
                });
                (format!("the report {}", file.path().display()), hint)
            }
        };
        let hint = hint.unwrap_or_else(|| {
            String::from(
                "the summary above counts every token; use `--report` with a path to keep a report",
            )
        });
        Error::of(
            ErrorKind::OutputClosed,
            format!("{name} cannot be written any more"),
        )
        .cause(error.to_string())
        .hint(hint)
    }
}

fn unwritable(path: &Path, why: &str) -> Error {
    Error::of(
        ErrorKind::InvalidArgument {
            argument: "report".to_owned(),
            expected: "a writable path that no other output uses".to_owned(),
        },
        format!("the report {} cannot be written", path.display()),
    )
    .cause(why)
    .hint("check that its folder exists and is writable; no token was requested")
}
