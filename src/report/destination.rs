//! Where a report is written: the standard output, a file beside its name until it is whole, a journal;
//! and what to do where that cannot be.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use crate::error::{ErrorKind, Fault};
use crate::journal::Journal;

/// Where a report is written.
pub(super) enum Destination {
    Stdout,
    Writer(Box<dyn Write + Send>),
    Journal(Journal),
    File {
        writer: BufWriter<File>,
        /// What it is written as until it is whole; the path itself where there is nothing to replace.
        partial: PathBuf,
        path: PathBuf,
    },
}

impl Destination {
    /// Opens the file at `given`, which must be none of `others`.
    pub fn open<'a>(
        given: &Path,
        mut others: impl Iterator<Item = &'a Self>,
    ) -> Result<Self, Fault> {
        // What stands there are open files of this process or devices, whatever they lead to.
        let is_open = (given.starts_with("/dev") && !given.starts_with("/dev/shm"))
            || given.starts_with("/proc");
        // A link is followed to what it names, so that the file is replaced and not the link.
        let path = match given.canonicalize() {
            Ok(target) if !is_open => target,
            _ => given.to_owned(),
        };
        if path.is_dir() {
            return Err(unwritable(given, "it is a folder"));
        }
        // It holds secrets: nobody else may read it.
        let mut options = OpenOptions::new();
        options.write(true).mode(0o600);
        let is_device = is_open || path.exists() && !path.is_file();
        let partial = if is_device {
            // A pipe or a device is written to as it is; there is nothing to replace.
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
        })
    }

    /// True where this is, or will be, written to `wanted`.
    fn is_at(&self, wanted: &Path) -> bool {
        match self {
            Self::File { partial, path, .. } => partial == wanted || path == wanted,
            Self::Stdout | Self::Writer(_) | Self::Journal(_) => false,
        }
    }

    /// Gives what is whole its name.
    pub fn finish(&mut self) -> io::Result<()> {
        match self {
            Self::Stdout | Self::Writer(_) => Ok(()),
            Self::Journal(journal) => journal.sync(),
            Self::File {
                writer,
                partial,
                path,
            } => {
                writer.flush()?;
                if partial == path {
                    Ok(())
                } else {
                    fs::rename(partial, path)
                }
            }
        }
    }

    /// It cannot be written any more.
    pub fn fault(&self, error: &io::Error) -> Fault {
        let (what, hint) = match self {
            Self::Stdout => (String::from("standard output"), None),
            Self::Writer(_) => (String::from("the report"), None),
            Self::Journal(journal) => (
                format!("the journal {}", journal.path().display()),
                Some(String::from(
                    "the summary above counts every token; make room, and `token_service replay` settles what the journal leaves open",
                )),
            ),
            Self::File { partial, path, .. } => (
                format!("the report {}", path.display()),
                (partial != path).then(|| {
                    format!(
                        "make room: {} holds what was written until then; of a run that keeps a `--journal`, `token_service replay` writes the whole report",
                        partial.display()
                    )
                }),
            ),
        };
        let hint = hint.unwrap_or_else(|| {
            String::from("the summary above counts every token; a `--report` on a path keeps them")
        });
        Fault::new(
            ErrorKind::OutputClosed,
            format!("{what} cannot be written any more"),
        )
        .cause(error.to_string())
        .hint(hint)
    }
}

fn unwritable(path: &Path, why: &str) -> Fault {
    Fault::new(
        ErrorKind::InvalidArgument {
            argument: "report".to_owned(),
            expected: "a path that can be written, of its own".to_owned(),
        },
        format!("the report {} cannot be written", path.display()),
    )
    .cause(why)
    .hint("check that its folder exists and may be written to; no token was asked for")
}
