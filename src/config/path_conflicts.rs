//! What a run writes is kept apart from what it reads and from what else it writes: a report that took
//! the place of the journal, of the configuration or of a replayed file would be the end of that.

use std::path::{Path, PathBuf, absolute};

use crate::cli::RunArgs;
use crate::config::{Layers, ScriptSource};
use crate::error::diagnostic::{Problem, usage};
use crate::store::DatabaseTarget;
use crate::store::postgres::Address;

/// So many links are followed, as the system does.
const LINKS: usize = 40;

/// What becomes of a file.
#[derive(Clone, Copy, PartialEq, Eq)]
enum FileUse {
    /// It is read, or of another run.
    Read,
    /// It is written where it stands.
    Kept,
    /// `PATH.partial` is written, and takes its place at the end.
    Replaced,
}

/// A file that a run has to do with.
struct UsedFile {
    name: &'static str,
    given: PathBuf,
    usage: FileUse,
    /// What the path leads to.
    leads_to: PathBuf,
}

impl UsedFile {
    /// `None` for a pipe, a device or a folder: there is nothing that could be replaced.
    fn new(name: &'static str, given: &Path, usage: FileUse) -> Option<Self> {
        Some(Self {
            name,
            given: given.to_owned(),
            usage,
            leads_to: target(given)?,
        })
    }

    fn partial(&self) -> Option<PathBuf> {
        (self.usage == FileUse::Replaced).then(|| {
            let mut partial = self.leads_to.clone().into_os_string();
            partial.push(".partial");
            PathBuf::from(partial)
        })
    }

    /// Where `self` would be written over `other`, or `other`'s beginnings over `self`.
    fn overwrites(&self, other: &Self) -> Option<PathBuf> {
        let (mine, its) = (self.partial(), other.partial());
        if self.leads_to == other.leads_to || its.as_ref() == Some(&self.leads_to) {
            Some(self.leads_to.clone())
        } else {
            mine.filter(|mine| *mine == other.leads_to)
        }
    }

    fn clash(&self, other: &Self, place: &Path) -> Problem {
        let given = self.given.display();
        let problem = if self.name == other.name {
            usage(format!("two {}s would be written to `{given}`", self.name))
                .hint(format!("give each {} a path of its own", self.name))
        } else {
            let what = format!(
                "the {} `{given}` would be written over the {}",
                self.name, other.name
            );
            usage(what).hint(format!("give the {} a path of its own", self.name))
        };
        if self.given == other.given {
            return problem;
        }
        let (other, place) = (other.given.display(), place.display());
        problem.cause(format!("that and `{other}` come to `{place}`"))
    }
}

/// The file that `path` leads to, be it there or not.
fn target(path: &Path) -> Option<PathBuf> {
    let mut path = path.to_owned();
    for _ in 0..LINKS {
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
    /// Refuses what would be written over something else of the run; `files` are those that it
    /// replays or merges.
    pub(super) fn keep_apart(
        &self,
        args: &RunArgs,
        files: &[PathBuf],
        database: Option<&DatabaseTarget>,
    ) -> Result<(), Problem> {
        // What is wrong with one of them is said where it is asked for.
        let config = self.config.as_deref();
        let script = self.script(args.script.as_ref()).ok();
        let input = self.input(args).ok().flatten();
        let journal = self.journal(args).ok().flatten();
        let reports = self.reports(args).unwrap_or_default();
        let metrics = self.metrics(args).ok().flatten();
        // A replay and a merge keep no journal; the one that is configured is still some run's.
        let keeping = if files.is_empty() {
            FileUse::Kept
        } else {
            FileUse::Read
        };
        let script = match &script {
            Some(ScriptSource::File(path)) => Some(path.as_path()),
            _ => None,
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
        let keys = keys.into_iter().flatten();
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
            ("script", script),
            ("input", input),
            ("password file", passfile),
        ];
        let read = read
            .into_iter()
            .filter_map(|(name, path)| Some((name, path?)));
        let mut parts: Vec<UsedFile> = read
            .chain(files)
            .chain(keys)
            .chain(secrets)
            .filter_map(|(name, path)| UsedFile::new(name, path, FileUse::Read))
            .collect();
        let mut put = |name, path: Option<&Path>, usage| {
            parts.extend(path.and_then(|path| UsedFile::new(name, path, usage)));
        };
        put("database", database, FileUse::Kept);
        put("journal", journal.as_deref(), keeping);
        for report in &reports {
            put("report", report.path.as_deref(), FileUse::Replaced);
        }
        put("metrics file", metrics.as_deref(), FileUse::Replaced);
        // The later one of two would be written last.
        for (index, part) in parts.iter().enumerate() {
            let mut earlier = parts.iter().take(index);
            let clash = earlier.find_map(|other| Some((other, part.overwrites(other)?)));
            if let Some((other, place)) = clash.filter(|_| part.usage != FileUse::Read) {
                return Err(part.clash(other, &place));
            }
        }
        Ok(())
    }
}
