//! The destination of a report: standard output, a file or a journal, and the errors of writing it.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, RenameFlags};
use rustix::io::Errno;

use crate::error::{Error, ErrorKind};
use crate::journal::Journal;

/// The destination of a report.
pub(super) enum Destination {
    Stdout,
    Writer(Box<dyn Write + Send>),
    Journal(Journal),
    File {
        writer: BufWriter<File>,
        /// The path until the report is complete; equals `path` for a pipe or device.
        partial: PathBuf,
        path: PathBuf,
        /// True if the rename must not replace a file.
        no_clobber: bool,
    },
}

impl Destination {
    /// Opens the file at `given`; it must differ from `others`.
    pub fn open<'a>(
        given: &Path,
        no_clobber: bool,
        mut others: impl Iterator<Item = &'a Self>,
    ) -> Result<Self, Error> {
        // These paths are devices, or open files of this process.
        let is_open = (given.starts_with("/dev") && !given.starts_with("/dev/shm"))
            || given.starts_with("/proc");
        // A symbolic link is resolved, so that the rename replaces its target and not the link.
        let path = match given.canonicalize() {
            Ok(target) if !is_open => target,
            _ => given.to_owned(),
        };
        if path.is_dir() {
            return Err(unwritable(given, "it is a folder"));
        }
        // The report has secrets, so only this user may read it.
        let mut options = OpenOptions::new();
        options.write(true).mode(0o600);
        let is_device = is_open || path.exists() && !path.is_file();
        let partial = if is_device {
            // A pipe or device is written in place.
            options.append(true);
            path.clone()
        } else {
            let mut partial = path.clone().into_os_string();
            partial.push(".partial");
            options.create(true).truncate(true);
            PathBuf::from(partial)
        };
        if !is_device && partial.is_symlink() {
            let why = format!("{} is a symbolic link", partial.display());
            return Err(unwritable(given, &why));
        }
        if others.any(|other| other.is_at(&partial) || other.is_at(&path)) {
            return Err(unwritable(given, "another report is written there"));
        }
        let file = options
            .open(&partial)
            .map_err(|error| unwritable(given, &error.to_string()))?;
        Ok(Self::File {
            writer: BufWriter::with_capacity(64 * 1024, file),
            partial,
            path,
            no_clobber,
        })
    }

    /// Returns true if this destination writes to `other` or renames a file to it.
    fn is_at(&self, other: &Path) -> bool {
        match self {
            Self::File { partial, path, .. } => partial == other || path == other,
            Self::Stdout | Self::Writer(_) | Self::Journal(_) => false,
        }
    }

    /// Renames a complete file to its path.
    pub fn finish(&mut self) -> io::Result<()> {
        match self {
            Self::Stdout | Self::Writer(_) => Ok(()),
            Self::Journal(journal) => journal.sync(),
            Self::File {
                writer,
                partial,
                path,
                no_clobber,
            } => {
                writer.flush()?;
                if partial == path {
                    Ok(())
                } else if *no_clobber {
                    rename_without_replacing(partial, path)
                } else {
                    fs::rename(partial, path)
                }
            }
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
            Self::File { partial, path, .. } if error.kind() == io::ErrorKind::AlreadyExists => (
                format!("the report {}", path.display()),
                Some(format!(
                    "the file appeared during the run; {} is the complete report, so move it to another path",
                    partial.display()
                )),
            ),
            Self::File { partial, path, .. } => (
                format!("the report {}", path.display()),
                (partial != path).then(|| {
                    format!(
                        "free disk space; {} has the report up to the error, and `token_service replay` writes the complete report from a `--journal`",
                        partial.display()
                    )
                }),
            ),
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

/// Renames a file, and fails if another one has the new name.
fn rename_without_replacing(from: &Path, to: &Path) -> io::Result<()> {
    match rustix::fs::renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        // The filesystem cannot do it in one step; a link does not replace a file either.
        Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => {
            fs::hard_link(from, to)?;
            fs::remove_file(from)
        }
        renamed => Ok(renamed?),
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
