//! The journal: each received page is written and synced before its first token is stored, and what
//! became of each token after. So whatever kills the process, `replay` knows what was received.
//!
//! A line of JSON each: first the run, then pages and outcomes as they come, last the summary. A replay
//! goes on behind that, or behind what a crash left of it: first its name, then outcomes and a summary.

mod read;

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, BufRead, BufReader, BufWriter, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};

use crate::error::{ErrorKind, Fault};
pub use crate::journal::read::{
    JournalLine, JournalReader, ParsedRecord, ReadPurpose, SummaryRecord,
};
use crate::pipeline::token::{Page, Token};

/// The version of the form.
const VERSION: u32 = 1;

/// The run that a journal belongs to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JournalHeader {
    /// The version of the form.
    pub version: u32,
    /// The run's UUID; the server knows its connections by it.
    pub run_id: String,
    /// No row of this run was written by an older transaction.
    pub horizon: Option<i64>,
    /// The table as configured.
    pub table: String,
    /// The column as configured.
    pub column: String,
    /// SIZE; not known of a run that takes all of a pipe, nor of one of an older version.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub requested: Option<u64>,
}

impl JournalHeader {
    /// The header of a run.
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

    /// The same for so many tokens, where that is known.
    #[must_use]
    pub fn asking_for(mut self, size: Option<u64>) -> Self {
        self.requested = size;
        self
    }
}

/// A replay that went on with a journal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplayLine {
    /// The replay's own UUID.
    pub run_id: String,
}

/// A journal that is being written. Clones share it.
#[derive(Clone)]
pub struct Journal {
    file: Arc<Mutex<JournalWriter>>,
    path: Arc<PathBuf>,
}

/// Writes whole lines, and after a failure none: a line that stands behind half a one would make the
/// whole journal unreadable.
struct JournalWriter {
    file: BufWriter<File>,
    broken: bool,
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
        if self.broken {
            return Err(io::Error::other("an earlier line could not be written"));
        }
        let done = action(&mut self.file);
        self.broken = done.is_err();
        done
    }
}

impl Journal {
    /// Begins a journal. A file that still holds tokens of a run that did not end is never
    /// overwritten, nor one that another process uses.
    pub fn begin(path: &Path, header: &JournalHeader) -> Result<Self, Fault> {
        if is_endless(path) {
            return Err(unusable(path, "it is no regular file"));
        }
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            // It holds secrets.
            .mode(0o600)
            .open(path)
            .map_err(|error| unusable(path, &error.to_string()))?;
        lock(&file, path)?;
        match standing(&file).map_err(|error| unusable(path, &error.to_string()))? {
            ExistingFile::Free => {}
            ExistingFile::Unsettled => {
                return Err(unusable(
                    path,
                    "it holds tokens of a run that did not settle all of them",
                )
                .hint(format!(
                    "`token_service replay {}` settles them, and then it can be used again",
                    path.display()
                )));
            }
            ExistingFile::Foreign => {
                return Err(unusable(path, "it is no journal of token_service")
                    .hint("it was left as it is: name another file"));
            }
        }
        let journal = Self::of(file, path);
        journal
            .start(header)
            .map_err(|error| unusable(path, &error.to_string()))?;
        Ok(journal)
    }

    /// Goes on behind `end` with the journal whose run is replayed; nothing is sent before that is on
    /// the disk.
    fn go_on(file: File, path: &Path, end: u64, run_id: &str) -> io::Result<Self> {
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
                broken: false,
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
        // The name must survive a power cut too.
        let folder = match self.path.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder,
            _ => Path::new("."),
        };
        File::open(folder)?.sync_all()
    }

    /// Writes a page and waits until it is on the disk. Flawed tokens are left out: no database
    /// will ever see them.
    pub async fn received(&self, page: Page) -> Result<(), Fault> {
        if page.is_empty() {
            return Ok(());
        }
        let journal = self.clone();
        let written = tokio::task::spawn_blocking(move || journal.write_page(&page)).await;
        match written {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(self.broken(&error.to_string())),
            Err(error) => Err(self.broken(&error.to_string())),
        }
    }

    fn write_page(&self, page: &Page) -> io::Result<()> {
        #[derive(Serialize)]
        struct JournalLine<'a> {
            received: Vec<&'a str>,
        }
        let tokens: Vec<Token> = page.iter().filter(|token| token.flaw().is_none()).collect();
        let received = tokens.iter().map(Token::as_str).collect();
        let line = line(&JournalLine { received })?;
        let mut lines = self.file();
        lines.write(&line)?;
        lines.sync()
    }

    fn file(&self) -> MutexGuard<'_, JournalWriter> {
        self.file.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds whole lines, in one piece between those of others. They reach the disk with the next page
    /// or at the end: losing an outcome costs a look-up, not a token.
    pub fn append(&self, lines: &[u8]) -> io::Result<()> {
        self.file().write(lines)
    }

    /// Waits until everything is on the disk.
    pub fn sync(&self) -> io::Result<()> {
        self.file().sync()
    }

    /// Its path, for errors.
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn broken(&self, why: &str) -> Fault {
        Fault::new(
            ErrorKind::OutputClosed,
            format!(
                "the journal {} cannot be written any more",
                self.path.display()
            ),
        )
        .cause(why)
        .hint("nothing is stored that is not in the journal: the run was stopped")
    }
}

fn line(value: &impl Serialize) -> io::Result<Vec<u8>> {
    let mut line = serde_json::to_vec(value)?;
    line.push(b'\n');
    Ok(line)
}

fn lock(file: &File, path: &Path) -> Result<(), Fault> {
    file.try_lock().map_err(|error| match error {
        TryLockError::WouldBlock => unusable(path, "another process is using it")
            .hint("wait until that run has ended, or name another file"),
        TryLockError::Error(error) => unusable(path, &error.to_string()),
    })
}

/// True for a device, a pipe or the like: it has no end, or none of its own.
pub fn is_endless(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|found| !found.is_file() && !found.is_dir())
}

/// What stands in a file that is to become a journal.
enum ExistingFile {
    /// Nothing, or a journal in which nothing waits to be replayed.
    Free,
    /// A journal with tokens that are neither stored nor rejected, as far as it knows.
    Unsettled,
    /// Something else, which is not to be touched.
    Foreign,
}

fn standing(file: &File) -> io::Result<ExistingFile> {
    let lines = BufReader::new(file).split(b'\n');
    let mut lines = lines.filter(|line| !line.as_ref().is_ok_and(Vec::is_empty));
    let Some(first) = lines.next().transpose()? else {
        return Ok(ExistingFile::Free);
    };
    let last = lines.try_fold(None, |_, line| line.map(Some))?;
    let header = serde_json::from_slice(&first);
    Ok(match (header, last) {
        (Ok(JournalLine::Journal { .. }), None) => ExistingFile::Free,
        (Ok(JournalLine::Journal { .. }), Some(last)) => match serde_json::from_slice(&last) {
            Ok(JournalLine::Summary { summary }) if summary.is_settled() => ExistingFile::Free,
            _ => ExistingFile::Unsettled,
        },
        // A crash cut it, and before it is whole no token is received.
        (Err(_), None) if is_torn_header(&first) => ExistingFile::Free,
        _ => ExistingFile::Foreign,
    })
}

fn is_torn_header(line: &[u8]) -> bool {
    let whole: Result<IgnoredAny, _> = serde_json::from_slice(line);
    let begin = br#"{"journal":"#;
    whole.is_err_and(|error| error.is_eof()) && (begin.starts_with(line) || line.starts_with(begin))
}

fn unusable(path: &Path, why: &str) -> Fault {
    Fault::new(
        ErrorKind::InvalidArgument {
            argument: "journal".to_owned(),
            expected: "a file that can be written".to_owned(),
        },
        format!("the journal {} cannot be used", path.display()),
    )
    .cause(why)
    .hint("name a file in a folder that may be written to; no token was asked for")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> JournalHeader {
        JournalHeader::new("run".into(), Some(7), "secret_tokens".into(), "data".into())
    }

    #[tokio::test]
    async fn what_was_written_is_read_and_a_torn_last_line_is_understood() {
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
        let mut reading = JournalReader::open(&path, ReadPurpose::Replay).unwrap();
        let lines: Vec<JournalLine> = reading.by_ref().map(Result::unwrap).collect();
        assert!(matches!(&lines[0], JournalLine::Journal { journal } if *journal == header()));
        assert!(
            matches!(&lines[1], JournalLine::Received { received } if *received == ["aa", "b\"b"])
        );
        assert!(matches!(&lines[2], JournalLine::Outcome(told) if told.status == "stored"));
        assert_eq!(lines.len(), 3);
        assert!(reading.is_torn());
        drop(reading);
        let refused = Journal::begin(&path, &header()).err().unwrap();
        assert!(refused.hint.unwrap().contains("replay"));
    }

    #[test]
    fn a_torn_line_in_the_middle_is_an_error_that_shows_no_token() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("report");
        std::fs::write(
            &path,
            "{\"token\":\"s3cret\n{\"token\":\"b\",\"status\":\"failed\"}\n",
        )
        .unwrap();
        let fault = JournalReader::open(&path, ReadPurpose::Replay)
            .unwrap()
            .find_map(Result::err)
            .unwrap();
        assert!(!format!("{fault:?}").contains("s3cret"));
        assert!(fault.causes[0].contains(":1:1:"), "{fault:?}");
    }
}
