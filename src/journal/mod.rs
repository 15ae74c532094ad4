//! Writes the journal: each received page is synced before its first token is stored, and outcomes
//! follow. After a crash, `replay` reads from it which tokens were received.
//!
//! The file has one JSON object per line: the header, pages and outcomes as they arrive, and the
//! summary. A replay appends its own header, outcomes and summary. Each line has a checksum.

mod checksum;
mod line;
mod read;
mod request;

use std::fs::{File, TryLockError};
use std::io::{self, BufRead, BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};

use crate::error::{Error, ErrorKind};
use crate::journal::line::parse_line;
pub use crate::journal::line::{JournalLine, ParsedRecord, SummaryRecord, parse_report_line};
pub use crate::journal::read::{JournalReader, ReadPurpose};
pub use crate::journal::request::{ReceivedPage, RequestLine, UnansweredRequest, positions_of};
use crate::journal::request::{RequestEntry, lines_of};
use crate::pipeline::token::{Page, Token};
use crate::runtime::output_file::open_private;

/// Version of the format that is written. Version 1 had no checksums.
const VERSION: u32 = 2;

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
    /// The table of the receipts as configured, if the run writes them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub receipts: Option<String>,
    /// The run's shard, if it writes receipts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shard: Option<u32>,
    /// What names the connections, if several runs share them; otherwise the UUID of the run does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<String>,
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
            receipts: None,
            shard: None,
            session: None,
        }
    }

    /// Reads the header of the journal at `path`; `None` if it does not exist or has no valid header.
    pub fn read(path: &Path) -> Option<Self> {
        let mut line = Vec::new();
        let file = File::open(path).ok()?;
        BufReader::new(file).read_until(b'\n', &mut line).ok()?;
        match parse_line(line.trim_ascii_end(), false) {
            Ok(JournalLine::Journal { journal }) => Some(journal),
            _ => None,
        }
    }

    /// Returns true if each line of the journal has a checksum.
    fn has_checksums(&self) -> bool {
        self.version > 1
    }

    /// Sets the table of the receipts and the run's shard, if the run writes them.
    #[must_use]
    pub fn with_receipts(mut self, receipts: Option<(String, u32)>) -> Self {
        (self.receipts, self.shard) = receipts.unzip();
        self
    }

    /// Sets what names the connections, if several runs share them.
    #[must_use]
    pub fn with_session(mut self, session: Option<String>) -> Self {
        self.session = session;
        self
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
        let file = open_private(path, true).map_err(|error| unusable(path, &error.to_string()))?;
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

    /// Writes that a request is about to be sent with an idempotency key, and waits until it is synced.
    pub async fn requested(&self, number: u64, size: u64, key: &str) -> Result<(), Error> {
        let request = RequestLine {
            number,
            size,
            key: key.to_owned(),
        };
        self.write_synced(move |journal| journal.write_line(&RequestEntry { request }))
            .await
    }

    /// Writes a page, unless it is empty, and waits until it is synced. Invalid tokens are omitted: they
    /// are never sent.
    pub async fn received(&self, received: ReceivedPage) -> Result<(), Error> {
        if received.page.is_empty() {
            return Ok(());
        }
        self.write_synced(move |journal| journal.write_page(&received))
            .await
    }

    /// Writes that no further token of a request is to be expected, and waits until it is synced.
    pub async fn close_request(&self, number: u64) -> Result<(), Error> {
        let closed = ReceivedPage {
            page: Page::from_texts([]),
            request: number,
            is_partial: false,
        };
        self.write_synced(move |journal| journal.write_page(&closed))
            .await
    }

    async fn write_synced(
        &self,
        write: impl FnOnce(&Self) -> io::Result<()> + Send + 'static,
    ) -> Result<(), Error> {
        let journal = self.clone();
        match tokio::task::spawn_blocking(move || write(&journal)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(self.write_error(&error.to_string())),
            Err(error) => Err(self.write_error(&error.to_string())),
        }
    }

    fn write_page(&self, received: &ReceivedPage) -> io::Result<()> {
        #[derive(Serialize)]
        struct JournalLine<'a> {
            received: Vec<&'a str>,
            request: u64,
            #[serde(skip_serializing_if = "Option::is_none")]
            lines: Option<Vec<(u32, u32)>>,
            #[serde(skip_serializing_if = "std::ops::Not::not")]
            partial: bool,
        }
        let valid = received.page.iter();
        let tokens: Vec<Token> = valid.filter(|token| token.defect().is_none()).collect();
        self.write_line(&JournalLine {
            received: tokens.iter().map(Token::as_str).collect(),
            request: received.request,
            lines: lines_of(&tokens),
            partial: received.is_partial,
        })
    }

    /// Writes and syncs a line.
    fn write_line(&self, entry: &impl Serialize) -> io::Result<()> {
        let line = line(entry)?;
        let mut lines = self.file();
        lines.write(&line)?;
        lines.sync()
    }

    fn file(&self) -> MutexGuard<'_, JournalWriter> {
        self.file.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Appends complete lines of JSON objects with their checksums, without interleaving.
    ///
    /// They are synced with the next page or at the end: a lost outcome costs only a re-check.
    pub fn append(&self, lines: &[u8]) -> io::Result<()> {
        let lines = lines.split_inclusive(|byte| *byte == b'\n');
        let lines: Vec<_> = lines.map(checksum::add).collect();
        self.file().write(&lines.concat())
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
    let mut line = checksum::add(&serde_json::to_vec(value)?);
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
    let mut reader = BufReader::new(file);
    let (mut first, mut last, mut headers) = (None, None, 0);
    let mut line = Vec::new();
    while reader.read_until(b'\n', &mut line)? > 0 {
        if !line.trim_ascii().is_empty() {
            headers += u32::from(checksum::without(&line).starts_with(HEADER_KEY));
            let line = line.trim_ascii_end().to_vec();
            if first.is_none() {
                first = Some(line);
            } else {
                last = Some(line);
            }
        }
        if line.last() == Some(&b'\n') {
            line.clear();
        }
    }
    let Some(first) = first else {
        return Ok(ExistingFile::Reusable);
    };
    let Ok(JournalLine::Journal { journal }) = parse_line(&first, false) else {
        // A crash truncated the header; no token is received before it is complete.
        let is_torn = last.is_none() && !line.is_empty() && is_torn_header(&first);
        return Ok(if is_torn {
            ExistingFile::Reusable
        } else {
            ExistingFile::Foreign
        });
    };
    let Some(last) = last else {
        return Ok(ExistingFile::Reusable);
    };
    Ok(match parse_line(&last, journal.has_checksums()) {
        // With a second header, the last summary says nothing about the tokens of the first run.
        Ok(JournalLine::Summary { summary }) if summary.is_settled() && headers == 1 => {
            ExistingFile::Reusable
        }
        _ => ExistingFile::Unsettled,
    })
}

/// The start of a header, after its checksum.
const HEADER_KEY: &[u8] = br#""journal":"#;

fn is_torn_header(line: &[u8]) -> bool {
    let parsed: Result<IgnoredAny, _> = serde_json::from_slice(line);
    parsed.is_err_and(|error| error.is_eof()) && is_start_of_header(line)
}

/// Returns true if a header may begin with these bytes.
fn is_start_of_header(line: &[u8]) -> bool {
    let starts: [&[u8]; 2] = [br#"{"journal":"#, br#"{"sha256":""#];
    let may_be = |start: &&[u8]| start.starts_with(line) || line.starts_with(start);
    starts.iter().any(may_be)
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
        JournalHeader::new(
            "018f0000-0000-7000-8000-000000000000".into(),
            Some(7),
            "secret_tokens".into(),
            "data".into(),
        )
    }

    fn page_of(page: Page) -> ReceivedPage {
        ReceivedPage {
            page,
            request: 1,
            is_partial: false,
        }
    }

    #[tokio::test]
    async fn journal_is_read_back_when_its_last_line_is_torn() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal");
        let journal = Journal::begin(&path, &header()).unwrap();
        let page = Page::from_texts([("aa", None), ("b\"b", None)]);
        journal.received(page_of(page)).await.unwrap();
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
            matches!(&lines[1], JournalLine::Received { received, request: Some(1), .. } if *received == ["aa", "b\"b"])
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
