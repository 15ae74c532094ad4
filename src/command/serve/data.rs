//! The folder of `serve.data`: for each run what clients see of it, its report and its journal, readable by
//! this user only. A run without an end in it was interrupted.

use std::fs::{self, DirBuilder, File, TryLockError};
use std::io::{self, Write as _};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::command::replay::state::ReplayState;
use crate::command::serve::run::{RequestKey, Run, RunObject, RunState};
use crate::error::Error;
use crate::error::exit::Exit;
use crate::pipeline::token::Status;
use crate::runtime::output_file::open_private;

/// The file by which one process uses the folder.
const LOCK: &str = "lock";

/// The folder, which this process uses alone.
pub(super) struct DataFolder {
    folder: PathBuf,
    _lock: File,
}

/// What the folder says of a run.
#[derive(Serialize, Deserialize)]
struct KeptRun {
    run: RunObject,
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<RequestKey>,
}

impl DataFolder {
    /// Opens the folder, and creates it if needed.
    ///
    /// # Errors
    /// If it cannot be written, or if another process uses it.
    pub fn open(folder: &Path) -> Result<Self, Error> {
        let unusable = |error: io::Error| {
            let message = format!("the folder {} cannot be used", folder.display());
            Error::new(Exit::Usage, message)
                .cause(error.to_string())
                .hint("set --data to a folder that this user can write; it is created if needed")
        };
        let mut builder = DirBuilder::new();
        builder.recursive(true).mode(0o700);
        builder.create(folder).map_err(unusable)?;
        let lock = open_private(&folder.join(LOCK), true).map_err(unusable)?;
        match lock.try_lock() {
            Ok(()) => Ok(Self {
                folder: folder.to_owned(),
                _lock: lock,
            }),
            Err(TryLockError::WouldBlock) => {
                let message = format!("another process uses the folder {}", folder.display());
                let error = Error::new(Exit::Usage, message);
                Err(error.hint("give each instance a folder of its own"))
            }
            Err(TryLockError::Error(error)) => Err(unusable(error)),
        }
    }

    fn path(&self, id: Uuid, suffix: &str) -> PathBuf {
        self.folder.join(format!("{id}{suffix}"))
    }

    /// Returns the path of a run's journal.
    pub fn journal(&self, id: Uuid) -> PathBuf {
        self.path(id, ".journal")
    }

    /// Returns the path of a run's complete report.
    pub fn report(&self, id: Uuid) -> PathBuf {
        self.path(id, ".ndjson")
    }

    fn partial_report(&self, id: Uuid) -> PathBuf {
        self.path(id, ".ndjson.partial")
    }

    /// Creates the file of a run's report.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn create_report(&self, id: Uuid) -> io::Result<File> {
        let file = open_private(&self.partial_report(id), true)?;
        file.set_len(0)?;
        Ok(file)
    }

    /// Marks a run's report as complete.
    pub fn finish_report(&self, id: Uuid) {
        let renamed = fs::rename(self.partial_report(id), self.report(id));
        log_failure(renamed, id, "the report cannot be renamed");
    }

    /// Removes the files of a run that did not start.
    pub fn remove(&self, id: Uuid) {
        for suffix in [".json", ".ndjson.partial", ".journal"] {
            let _ = fs::remove_file(self.path(id, suffix));
        }
    }

    /// Writes what clients see of a run.
    pub fn keep(&self, run: &RunObject, key: Option<&RequestKey>) {
        let id = run.id;
        let kept = KeptRun {
            run: run.clone(),
            key: key.cloned(),
        };
        log_failure(self.write(id, &kept), id, "the run cannot be kept");
    }

    fn write(&self, id: Uuid, kept: &KeptRun) -> io::Result<()> {
        let partial = self.path(id, ".json.partial");
        let mut file = open_private(&partial, true)?;
        file.set_len(0)?;
        file.write_all(&serde_json::to_vec(kept)?)?;
        fs::rename(partial, self.path(id, ".json"))
    }

    /// Returns the runs of earlier processes, in any order.
    ///
    /// # Errors
    /// If the folder cannot be read.
    pub fn runs(&self) -> io::Result<Vec<Run>> {
        let mut runs = Vec::new();
        for entry in fs::read_dir(&self.folder)? {
            let path = entry?.path();
            if path.extension().is_none_or(|extension| extension != "json") {
                continue;
            }
            let kept: Option<KeptRun> = fs::read(&path)
                .ok()
                .and_then(|text| serde_json::from_slice(&text).ok());
            if let Some(kept) = kept {
                runs.push(self.earlier_run(kept));
            } else {
                let path = path.display().to_string();
                tracing::warn!(path, "the file of a run cannot be read");
            }
        }
        Ok(runs)
    }

    fn earlier_run(&self, KeptRun { mut run, key }: KeptRun) -> Run {
        if !run.state.is_final() {
            run.state = RunState::Interrupted;
            self.count(&mut run);
            tracing::warn!(
                run_id = run.id.to_string(),
                received = run.received,
                "a run was interrupted: POST /v1/runs/ID/replay settles it"
            );
            self.keep(&run, key.as_ref());
        }
        let report = self.report(run.id);
        Run::of_earlier(run, key, Some(report))
    }

    /// Sets the numbers of an interrupted run: what its journal does not settle is unknown.
    fn count(&self, run: &mut RunObject) {
        let journal = self.journal(run.id);
        if !journal.exists() {
            return;
        }
        match ReplayState::read(&journal) {
            Ok(state) => {
                let count = |status: Status| {
                    let settled = state.settled.iter();
                    settled.filter(|it| it.status == status.as_str()).count() as u64
                };
                run.stored = count(Status::Stored);
                run.rejected = count(Status::Rejected);
                run.received = state.received();
                run.unknown = run.received.saturating_sub(run.stored + run.rejected);
            }
            Err(error) => {
                let (path, cause) = (journal.display().to_string(), error.message.clone());
                tracing::warn!(path, cause, "the journal of a run cannot be read");
            }
        }
    }
}

fn log_failure(result: io::Result<()>, id: Uuid, message: &str) {
    if let Err(error) = result {
        let (run_id, cause) = (id.to_string(), error.to_string());
        tracing::error!(run_id, cause, "{message}");
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;

    #[test]
    fn run_without_an_end_was_interrupted() {
        let folder = tempfile::tempdir().unwrap();
        let data = DataFolder::open(&folder.path().join("a/b")).unwrap();
        let ids = [Uuid::now_v7(), Uuid::now_v7()];
        let mut object = RunObject::queued(ids[0], Timestamp::now(), 5);
        data.keep(&object, None);
        object = RunObject::queued(ids[1], Timestamp::now(), 5);
        object.state = RunState::Completed;
        data.keep(&object, None);
        let mut states: Vec<_> = data
            .runs()
            .unwrap()
            .iter()
            .map(|run| (run.id, run.state()))
            .collect();
        states.sort();
        assert_eq!(
            states,
            [
                (ids[0], RunState::Interrupted),
                (ids[1], RunState::Completed)
            ]
        );
        let refused = DataFolder::open(&folder.path().join("a/b")).err().unwrap();
        assert!(
            refused
                .message
                .starts_with("another process uses the folder")
        );
    }
}
