//! Writes the journal: each received page is synced before its first token is stored, and outcomes
//! follow. After a crash, `replay` reads from it which tokens were received.
//!
//! The file has one JSON object per line: the header, pages and outcomes as they arrive, and the
//! summary. A replay appends its own header, outcomes and summary.

mod read;

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, BufRead, BufReader, BufWriter, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};

use crate::error::{Error, ErrorKind};
pub use crate::journal::read::{
    JournalLine, JournalReader, ParsedRecord, ReadPurpose, SummaryRecord,
};
use crate::pipeline::token::{Page, Token};

/// Version of the format.
const VERSION: u32 = 1;

/// The header of a journal, which identifies its run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JournalHeader {
    /// Version of the format.
    pub version: u32,
    /// The run's UUID, which is part of its connections' `application_name`.
    pub run_id: String,
    /// The oldest transaction id that this run may have used.
    pub horizon: Option<i64>,
    /// The table as configured.
    pub table: String,
    /// The column as configured.
    pub column: String,
    /// SIZE; `None` for a whole pipe, and in journals of older versions.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub requested: Option<u64>,
}

impl JournalHeader {
    /// Creates the header of a run.
    pub fn new(run_id: String, horizon: Option<i64>, table: String, column: String) -> Self {
        Self {
            version: VERSION,
            run_id,
            horizon,
            table,
            column,
            requested: None,
        }
    }

    /// Sets SIZE, if known.
    #[must_use]
    pub fn with_requested(mut self, size: Option<u64>) -> Self {
        self.requested = size;
        self
    }
}

/// The header of a replay that continues a journal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplayLine {
    /// The replay's own UUID.
    pub run_id: String,
}

/// A journal that is being written. Clones share the file.
#[derive(Clone)]
pub struct Journal {
    file: Arc<Mutex<JournalWriter>>,
    path: Arc<PathBuf>,
}

/// Writes complete lines. After a failure it writes nothing: a line after a partial one would make
/// the journal unreadable.
struct JournalWriter {
    file: BufWriter<File>,
    failed: bool,
}

impl JournalWriter {
    fn write(&mut self, lines: &[u8]) -> io::Result<()> {
        self.attempt(|file| file.write_all(lines))
    }

    fn sync(&mut self) -> io::Result<()> {
        self.attempt(|file| {
            file.flush()?;
            file.get_ref().sync_data()
        })
    }

    fn attempt(
        &mut self,
        action: impl FnOnce(&mut BufWriter<File>) -> io::Result<()>,
    ) -> io::Result<()> {
        if self.failed {
            return Err(io::Error::other("an earlier line could not be written"));
        }
        let result = action(&mut self.file);
        self.failed = result.is_err();
        result
    }
}

impl Journal {
    /// Creates a journal.
    ///
    /// It never overwrites a journal with unsettled tokens, nor one that another process uses.
    pub fn begin(path: &Path, header: &JournalHeader) -> Result<Self, Error> {
        if is_stream(path) {
            return Err(unusable(path, "it is not a regular file"));
        }
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            // It contains tokens.
            .mode(0o600)
            .open(path)
            .map_err(|error| unusable(path, &error.to_string()))?;
        lock(&file, path)?;
        match existing_content(&file).map_err(|error| unusable(path, &error.to_string()))? {
            ExistingFile::Reusable => {}
            ExistingFile::Unsettled => {
                return Err(unusable(
                    path,
                    "it contains unsettled tokens of an earlier run",
                )
                .hint(format!(
                    "settle them with `token_service replay {}`, then the file can be used again",
                    path.display()
                )));
            }
            ExistingFile::Foreign => {
                return Err(unusable(path, "it is not a token_service journal")
                    .hint("the file was not changed: name another file"));
            }
        }
        let journal = Self::of(file, path);
        journal
            .start(header)
            .map_err(|error| unusable(path, &error.to_string()))?;
        Ok(journal)
    }

    /// Continues the journal after offset `end` for a replay, and syncs the replay's header.
    fn resume(file: File, path: &Path, end: u64, run_id: &str) -> io::Result<Self> {
        #[derive(Serialize)]
        struct JournalLine {
            replay: ReplayLine,
        }
        let run_id = run_id.to_owned();
        let line = line(&JournalLine {
            replay: ReplayLine { run_id },
        })?;
        file.set_len(end)?;
        let journal = Self::of(file, path);
        let mut lines = journal.file();
        lines.write(b"\n")?;
        lines.write(&line)?;
        lines.sync()?;
        drop(lines);
        Ok(journal)
    }

    fn of(file: File, path: &Path) -> Self {
        Self {
            file: Arc::new(Mutex::new(JournalWriter {
                file: BufWriter::with_capacity(64 * 1024, file),
                failed: false,
            })),
            path: Arc::new(path.to_owned()),
        }
    }

    fn start(&self, header: &JournalHeader) -> io::Result<()> {
        #[derive(Serialize)]
        struct JournalLine<'a> {
            journal: &'a JournalHeader,
        }
        let line = line(&JournalLine { journal: header })?;
        let mut lines = self.file();
        lines.file.get_ref().set_len(0)?;
        io::Seek::rewind(lines.file.get_mut())?;
        lines.write(&line)?;
        lines.sync()?;
        // Syncs the directory entry too, for a power failure.
        let folder = match self.path.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder,
            _ => Path::new("."),
        };
        File::open(folder)?.sync_all()
    }

    /// Writes a page and waits until it is synced. Invalid tokens are omitted: they are never sent.
    pub async fn received(&self, page: Page) -> Result<(), Error> {
        if page.is_empty() {
            return Ok(());
        }
        let journal = self.clone();
        let written = tokio::task::spawn_blocking(move || journal.write_page(&page)).await;
        match written {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(self.write_error(&error.to_string())),
            Err(error) => Err(self.write_error(&error.to_string())),
        }
    }

    fn write_page(&self, page: &Page) -> io::Result<()> {
        #[derive(Serialize)]
        struct JournalLine<'a> {
            received: Vec<&'a str>,
        }
        let tokens: Vec<Token> = page
            .iter()
            .filter(|token| token.defect().is_none())
            .collect();
        let received = tokens.iter().map(Token::as_str).collect();
        let line = line(&JournalLine { received })?;
        let mut lines = self.file();
        lines.write(&line)?;
        lines.sync()
    }

    fn file(&self) -> MutexGuard<'_, JournalWriter> {
        self.file.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Appends complete lines, without interleaving.
    ///
    /// They are synced with the next page or at the end: a lost outcome costs only a re-check.
    pub fn append(&self, lines: &[u8]) -> io::Result<()> {
        self.file().write(lines)
    }

    /// Waits until everything is synced to disk.
    pub fn sync(&self) -> io::Result<()> {
        self.file().sync()
    }

    /// Returns its path, for errors.
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn write_error(&self, why: &str) -> Error {
        Error::of(
            ErrorKind::OutputClosed,
            format!(
                "the journal {} cannot be written any more",
                self.path.display()
            ),
        )
        .cause(why)
        .hint("the run was stopped, because tokens are stored only after they are in the journal")
    }
}

fn line(value: &impl Serialize) -> io::Result<Vec<u8>> {
    let mut line = serde_json::to_vec(value)?;
    line.push(b'\n');
    Ok(line)
}

fn lock(file: &File, path: &Path) -> Result<(), Error> {
    file.try_lock().map_err(|error| match error {
        TryLockError::WouldBlock => unusable(path, "another process is using it")
            .hint("wait until that run has ended, or name another file"),
        TryLockError::Error(error) => unusable(path, &error.to_string()),
    })
}

/// Returns true for a device, pipe or socket, which has no defined end.
pub fn is_stream(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|found| !found.is_file() && !found.is_dir())
}

/// The content of a file that is to become a journal.
enum ExistingFile {
    /// Empty, or a journal whose tokens are all settled.
    Reusable,
    /// A journal with tokens that are neither stored nor rejected.
    Unsettled,
    /// Something else, which must not be overwritten.
    Foreign,
}

fn existing_content(file: &File) -> io::Result<ExistingFile> {
    let lines = BufReader::new(file).split(b'\n');
    let mut lines = lines.filter(|line| !line.as_ref().is_ok_and(Vec::is_empty));
    let Some(first) = lines.next().transpose()? else {
        return Ok(ExistingFile::Reusable);
    };
    let last = lines.try_fold(None, |_, line| line.map(Some))?;
    let header = serde_json::from_slice(&first);
    Ok(match (header, last) {
        (Ok(JournalLine::Journal { .. }), None) => ExistingFile::Reusable,
        (Ok(JournalLine::Journal { .. }), Some(last)) => match serde_json::from_slice(&last) {
            Ok(JournalLine::Summary { summary }) if summary.is_settled() => ExistingFile::Reusable,
            _ => ExistingFile::Unsettled,
        },
        // A crash truncated the header; no token is received before it is complete.
        (Err(_), None) if is_torn_header(&first) => ExistingFile::Reusable,
        _ => ExistingFile::Foreign,
    })
}

fn is_torn_header(line: &[u8]) -> bool {
    let parsed: Result<IgnoredAny, _> = serde_json::from_slice(line);
    let begin = br#"{"journal":"#;
    parsed.is_err_and(|error| error.is_eof())
        && (begin.starts_with(line) || line.starts_with(begin))
}

fn unusable(path: &Path, why: &str) -> Error {
    Error::of(
        ErrorKind::InvalidArgument {
            argument: "journal".to_owned(),
            expected: "a file that can be written".to_owned(),
        },
        format!("the journal {} cannot be used", path.display()),
    )
    .cause(why)
    .hint("name a file in a writable folder; no token was requested")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> JournalHeader {
        JournalHeader::new("run".into(), Some(7), "secret_tokens".into(), "data".into())
    }

    #[tokio::test]
    async fn journal_is_read_back_when_its_last_line_is_torn() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal");
        let journal = Journal::begin(&path, &header()).unwrap();
        let page = Page::from_texts([("aa", None), ("b\"b", None)]);
        journal.received(page).await.unwrap();
        assert!(Journal::begin(&path, &header()).is_err(), "it is in use");
        journal
            .append(b"{\"token\":\"aa\",\"status\":\"stored\"}\n{\"tok")
            .unwrap();
        journal.sync().unwrap();
        drop(journal);
        let mut reader = JournalReader::open(&path, ReadPurpose::Replay).unwrap();
        let lines: Vec<JournalLine> = reader.by_ref().map(Result::unwrap).collect();
        assert!(matches!(&lines[0], JournalLine::Journal { journal } if *journal == header()));
        assert!(
            matches!(&lines[1], JournalLine::Received { received } if *received == ["aa", "b\"b"])
        );
        assert!(matches!(&lines[2], JournalLine::Outcome(record) if record.status == "stored"));
        assert_eq!(lines.len(), 3);
        assert!(reader.is_torn());
        drop(reader);
        let refused = Journal::begin(&path, &header()).err().unwrap();
        assert!(refused.hint.as_deref().unwrap().contains("replay"));
    }

    #[test]
    fn torn_line_in_the_middle_is_an_error_without_the_token() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("report");
        std::fs::write(
            &path,
            "{\"token\":\"s3cret\n{\"token\":\"b\",\"status\":\"failed\"}\n",
        )
        .unwrap();
        let error = JournalReader::open(&path, ReadPurpose::Replay)
            .unwrap()
            .find_map(Result::err)
            .unwrap();
        assert!(!format!("{error:?}").contains("s3cret"));
        assert!(error.causes[0].contains(":1:1:"), "{error:?}");
    }
}
