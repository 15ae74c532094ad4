//! Rejects output paths that would overwrite another file of the run, such as the journal, the
//! configuration or a replayed file.

use std::path::{Path, PathBuf, absolute};

use crate::cli::options::{INPUT, JOURNAL, METRICS, SCRIPT};
use crate::config::keys::{TLS_CA, TLS_CERT, TLS_KEY};
use crate::config::layers::Layers;
use crate::error::{Error, usage};
use crate::store::DatabaseTarget;
use crate::store::postgres::Address;

/// Maximum number of symbolic links to follow, as in Linux.
const MAX_LINKS: usize = 40;

/// How the run uses a file.
#[derive(Clone, Copy, PartialEq, Eq)]
enum FileUse {
    /// Read, or owned by another run.
    Read,
    /// Written in place.
    InPlace,
    /// Written as `PATH.partial` and renamed at the end.
    Replaced,
}

/// A file that the run uses.
struct UsedFile {
    name: &'static str,
    path: PathBuf,
    usage: FileUse,
    /// The path without symbolic links.
    resolved: PathBuf,
}

impl UsedFile {
    /// Returns `None` for a pipe, a device or a folder, which cannot be overwritten.
    fn new(name: &'static str, path: &Path, usage: FileUse) -> Option<Self> {
        Some(Self {
            name,
            path: path.to_owned(),
            usage,
            resolved: resolve(path)?,
        })
    }

    fn partial(&self) -> Option<PathBuf> {
        (self.usage == FileUse::Replaced).then(|| {
            let mut partial = self.resolved.clone().into_os_string();
            partial.push(".partial");
            PathBuf::from(partial)
        })
    }

    /// Returns its path, and those of the files that are written beside it.
    fn paths(&self) -> Vec<PathBuf> {
        let beside = |suffix: &&str| {
            let mut path = self.resolved.clone().into_os_string();
            path.push(suffix);
            PathBuf::from(path)
        };
        // SQLite's journals, and the form of a report that is not complete.
        ["", ".partial", "-journal", "-wal", "-shm"]
            .iter()
            .map(beside)
            .collect()
    }

    /// Returns the path at which `self` would overwrite `other`, or the `.partial` of `other` would
    /// overwrite `self`.
    fn overwrites(&self, other: &Self) -> Option<PathBuf> {
        let other_partial = other.partial();
        if self.resolved == other.resolved || other_partial.as_ref() == Some(&self.resolved) {
            Some(self.resolved.clone())
        } else {
            self.partial().filter(|partial| *partial == other.resolved)
        }
    }

    fn conflict(&self, other: &Self, resolved: &Path) -> Error {
        let path = self.path.display();
        let error = if self.name == other.name {
            usage(format!("two {}s would be written to `{path}`", self.name))
                .hint(format!("give each {} a path of its own", self.name))
        } else {
            let message = format!(
                "the {} `{path}` would overwrite the {}",
                self.name, other.name
            );
            usage(message).hint(format!("give the {} a path of its own", self.name))
        };
        if self.path == other.path {
            return error;
        }
        let (other, resolved) = (other.path.display(), resolved.display());
        error.cause(format!(
            "both `{path}` and `{other}` resolve to `{resolved}`"
        ))
    }
}

/// Returns `path` without symbolic links, whether or not the file exists.
fn resolve(path: &Path) -> Option<PathBuf> {
    let mut path = path.to_owned();
    for _ in 0..MAX_LINKS {
        if let Ok(found) = path.canonicalize() {
            return found.is_file().then_some(found);
        }
        let parent = path
            .parent()
            .filter(|parent| !parent.as_os_str().is_empty());
        let parent = parent.unwrap_or(Path::new("."));
        if let Ok(next) = path.read_link() {
            path = parent.join(next);
        } else {
            let named = parent.canonicalize().ok().zip(path.file_name());
            let named = named.map(|(parent, name)| parent.join(name));
            return named.or_else(|| absolute(path).ok());
        }
    }
    None
}

impl Layers<'_> {
    /// Reports outputs that would overwrite another file of the run, and returns every file that the
    /// run uses; `files` are the files that it replays or merges.
    pub(super) fn check_path_conflicts(
        &self,
        files: &[PathBuf],
        database: Option<&DatabaseTarget>,
    ) -> Vec<PathBuf> {
        let config = self.config.as_deref();
        let script = self.get(&SCRIPT);
        let input = self.get(&INPUT);
        let journal = self.get(&JOURNAL);
        let reports = self.reports();
        let metrics = self.get(&METRICS);
        // A replay or a merge writes no journal; the configured one belongs to a run.
        let journal_use = if files.is_empty() {
            FileUse::InPlace
        } else {
            FileUse::Read
        };
        let input = input.as_deref().map(|input| match input.to_str() {
            Some("-") => Path::new("/dev/stdin"),
            _ => input,
        });
        let (database, keys, passfile) = match database {
            Some(DatabaseTarget::Sqlite(path)) => (Some(path.as_path()), [None; 3], None),
            Some(DatabaseTarget::Postgres(address)) => {
                let Address {
                    sslrootcert,
                    sslcert,
                    sslkey,
                    passfile,
                    ..
                } = address.as_ref();
                let keys = [sslrootcert, sslcert, sslkey];
                (None, keys.map(Option::as_deref), passfile.as_deref())
            }
            Some(DatabaseTarget::Demo) | None => (None, [None; 3], None),
        };
        let of_source = [&TLS_CERT, &TLS_KEY, &TLS_CA].map(|option| self.get(option));
        let keys = keys.into_iter().flatten();
        let keys = keys.chain(of_source.iter().flatten().map(PathBuf::as_path));
        let keys = keys.map(|path| ("certificate or key", path));
        let secrets = self
            .env
            .secret_files()
            .map(|path| ("file of a secret", path));
        let files = files
            .iter()
            .map(|file| ("file that is read", file.as_path()));
        let read = [
            ("configuration", config),
            ("script", script.as_deref()),
            ("input", input),
            ("password file", passfile),
        ];
        let read = read
            .into_iter()
            .filter_map(|(name, path)| Some((name, path?)));
        let mut used: Vec<UsedFile> = read
            .chain(files)
            .chain(keys)
            .chain(secrets)
            .filter_map(|(name, path)| UsedFile::new(name, path, FileUse::Read))
            .collect();
        let mut put = |name, path: Option<&Path>, usage| {
            used.extend(path.and_then(|path| UsedFile::new(name, path, usage)));
        };
        put("database", database, FileUse::InPlace);
        put("journal", journal.as_deref(), journal_use);
        for report in &reports {
            put("report", report.path.as_deref(), FileUse::Replaced);
        }
        put("metrics file", metrics.as_deref(), FileUse::Replaced);
        // Of two files, the later one is written last.
        for (index, file) in used.iter().enumerate() {
            let mut earlier = used.iter().take(index);
            let conflict = earlier.find_map(|other| Some((other, file.overwrites(other)?)));
            if let Some((other, resolved)) = conflict.filter(|_| file.usage != FileUse::Read) {
                self.fail(file.conflict(other, &resolved));
            }
        }
        used.iter().flat_map(UsedFile::paths).collect()
    }
}
