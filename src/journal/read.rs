//! Reads the lines of a journal or of an `ndjson` report.

use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use serde::Deserialize;

use crate::error::exit::{Cause, Exit};
use crate::error::{Error, ErrorKind};
use crate::journal::{Journal, JournalHeader, ReplayLine, VERSION, is_stream, lock};
use crate::pipeline::numbers::Numbers;
use crate::pipeline::token::{Detail, Outcome, Status, Token};

/// A line of a journal or of an `ndjson` report.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub enum JournalLine {
    /// The header of a run.
    Journal {
        /// The header.
        journal: JournalHeader,
    },
    /// The header of a replay that continues the journal.
    Replay {
        /// The header. The key tells the line apart; the value is not needed.
        #[expect(dead_code, reason = "serde recognizes the line by it")]
        replay: ReplayLine,
    },
    /// A received page.
    Received {
        /// Its tokens.
        received: Vec<String>,
    },
    /// The summary at the end.
    Summary {
        /// The summary.
        summary: SummaryRecord,
    },
    /// The outcome of a token.
    Outcome(ParsedRecord),
}

/// The summary of a run. Fields that a replay does not need may be missing.
#[derive(Debug, Deserialize)]
#[allow(missing_docs, reason = "each is described in report::summary::Summary")]
pub struct SummaryRecord {
    pub run_id: String,
    #[serde(flatten)]
    pub numbers: Numbers,
    #[serde(default)]
    pub duration_ms: u64,
    #[serde(default)]
    pub exit_code: u8,
    pub replay_of: Option<String>,
    pub started_at: Option<String>,
    pub aborted_by: Option<String>,
}

impl SummaryRecord {
    /// Returns true if every token was stored or rejected.
    pub fn is_settled(&self) -> bool {
        self.numbers.unsettled() == 0
    }

    /// Returns when the run began and ended, if known.
    pub fn span(&self) -> Option<(Timestamp, Timestamp)> {
        let begin: Timestamp = self.started_at.as_ref()?.parse().ok()?;
        let duration = Duration::from_millis(self.duration_ms);
        Some((begin, begin.checked_add(duration).ok()?))
    }

    /// Returns what stopped the run, if anything.
    pub fn cause(&self) -> Option<Cause> {
        let name = self.aborted_by.as_deref()?;
        let mut causes = Cause::ALL.into_iter();
        causes.find(|cause| cause.as_str() == name)
    }

    /// Returns the exit of its process.
    pub fn exit(&self) -> Exit {
        match (self.exit_code, self.cause()) {
            (0, _) => Exit::Completed,
            (1, _) => Exit::Condition,
            (3, _) => Exit::Script,
            (4, _) => Exit::Source,
            (5, _) => Exit::Database,
            (130 | 143, Some(cause)) => Exit::Signal(cause),
            (code, _) => Exit::Chosen(code),
        }
    }
}

/// A token object of a report.
#[derive(Clone, Debug, Deserialize)]
pub struct ParsedRecord {
    /// The token.
    pub token: String,
    /// Its status.
    pub status: String,
    /// Number of attempts.
    #[serde(default)]
    pub attempts: u16,
    /// Time from sending to the answer, in milliseconds.
    #[serde(default)]
    pub ms: f64,
    /// The SQLSTATE.
    pub sqlstate: Option<String>,
    /// The constraint that rejected it.
    pub constraint: Option<String>,
    /// The reason.
    pub reason: Option<String>,
    /// The database's message.
    pub message: Option<String>,
    /// True in a dry run.
    #[serde(default)]
    pub dry_run: bool,
    /// True if `token` is masked.
    #[serde(default)]
    pub masked: bool,
}

impl ParsedRecord {
    /// Parses its status.
    ///
    /// # Errors
    /// If the status is unknown. The message does not show it: in a malformed line it may be a token.
    pub fn status(&self) -> Result<Status, &'static str> {
        let mut all = Status::ALL.into_iter();
        all.find(|status| status.as_str() == self.status)
            .ok_or("the token has an unknown status")
    }

    /// Converts it to an outcome.
    ///
    /// # Errors
    /// If the status is unknown.
    pub fn outcome(&self) -> Result<Outcome, &'static str> {
        let mut token = Token::new(&self.token, None);
        token.attempts = self.attempts;
        let detail = Detail {
            sqlstate: self.sqlstate.clone(),
            constraint: self.constraint.clone(),
            reason: self.reason.clone(),
            message: self.message.clone(),
        };
        Ok(Outcome {
            token,
            status: self.status()?,
            elapsed: Duration::try_from_secs_f64(self.ms / 1000.0).unwrap_or_default(),
            detail: (detail != Detail::default()).then(|| Arc::new(detail)),
        })
    }
}

/// The purpose of reading a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadPurpose {
    /// To settle its tokens; the file stays locked.
    Replay,
    /// To merge it with other reports.
    Merge,
}

/// Reads a journal or an `ndjson` report, line by line.
pub struct JournalReader {
    source: Box<dyn BufRead + Send>,
    /// The same file, opened for writing, or why that failed.
    file: Option<io::Result<File>>,
    path: PathBuf,
    purpose: ReadPurpose,
    number: usize,
    /// Number of bytes read.
    read: u64,
    /// Number of complete lines.
    complete_lines: usize,
    /// Offset of the end of the last complete line, without its line feed.
    end: u64,
    /// Number and error of an incomplete line; only the last line may be incomplete.
    torn: Option<(usize, String)>,
}

impl JournalReader {
    /// Opens the file.
    pub fn open(path: &Path, purpose: ReadPurpose) -> Result<Self, Error> {
        if purpose == ReadPurpose::Replay && is_stream(path) {
            return Err(unreadable(path, purpose, "it is not a regular file"));
        }
        let open_error = |error: io::Error| unreadable(path, purpose, &error.to_string());
        if purpose == ReadPurpose::Merge {
            let file = File::open(path).map_err(open_error)?;
            return Ok(Self::of(Box::new(BufReader::new(file)), path, purpose));
        }
        let (file, writer) = match OpenOptions::new().read(true).append(true).open(path) {
            Ok(file) => {
                let writer = file.try_clone();
                (file, writer)
            }
            Err(error) => (File::open(path).map_err(open_error)?, Err(error)),
        };
        lock(&file, path)?;
        let mut reader = Self::of(Box::new(BufReader::new(file)), path, purpose);
        reader.file = Some(writer);
        Ok(reader)
    }

    /// Creates a reader; errors name the file `path`.
    pub fn of(source: Box<dyn BufRead + Send>, path: &Path, purpose: ReadPurpose) -> Self {
        Self {
            source,
            file: None,
            path: path.to_owned(),
            purpose,
            number: 0,
            read: 0,
            complete_lines: 0,
            end: 0,
            torn: None,
        }
    }

    /// Reopens the journal for writing, after it was read, for the replay `run_id`.
    ///
    /// A torn last line is removed.
    pub fn resume(&mut self, run_id: &str) -> io::Result<Journal> {
        let file = self.file.take();
        let file = file.unwrap_or_else(|| Err(io::ErrorKind::Unsupported.into()))?;
        Journal::resume(file, &self.path, self.end, run_id)
    }

    /// Creates an error at the line that was read last.
    pub fn error(&self, why: &str) -> Error {
        self.error_at(self.number, why)
    }

    /// Creates an error of the whole file.
    pub fn file_error(&self, why: &str) -> Error {
        unreadable(&self.path, self.purpose, why)
    }

    fn error_at(&self, number: usize, why: &str) -> Error {
        let path = self.path.display();
        unreadable(
            &self.path,
            self.purpose,
            &format!("{path}:{number}:1: {why}"),
        )
    }

    /// Returns true if the last line is incomplete, after a crash.
    pub fn is_torn(&self) -> bool {
        self.torn.is_some()
    }

    fn parse(&mut self, text: &str) -> Result<Option<JournalLine>, Error> {
        if let Some((number, why)) = self.torn.take() {
            return Err(self.error_at(number, &why));
        }
        // serde_json's message would show the line, which contains tokens.
        let line = serde_json::from_str(text).ok();
        if line.is_none() {
            let why = "the line is neither a token, a page, a run nor a summary";
            // A file of another format may consist of one line, which is not torn.
            if self.complete_lines == 0 && !is_torn_first_line(text) {
                return Err(self.error(why));
            }
            self.torn = Some((self.number, why.to_owned()));
        }
        if let Some(JournalLine::Journal { journal }) = &line
            && journal.version != VERSION
        {
            return Err(
                self.error("the journal has a format version that this program does not support")
            );
        }
        self.complete_lines += usize::from(line.is_some());
        Ok(line)
    }
}

impl Iterator for JournalReader {
    type Item = Result<JournalLine, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            self.number += 1;
            let mut line = Vec::new();
            match self.source.read_until(b'\n', &mut line) {
                Ok(0) => return None,
                Ok(_) => {}
                Err(error) => {
                    let why = error.to_string();
                    return Some(Err(unreadable(&self.path, self.purpose, &why)));
                }
            }
            let begin = self.read;
            self.read += line.len() as u64;
            if line.last() == Some(&b'\n') {
                line.pop();
            }
            let end = begin + line.len() as u64;
            // Invalid UTF-8 is treated as an incomplete line.
            let text = match String::from_utf8(line) {
                Ok(text) if text.trim().is_empty() => continue,
                Ok(text) => text,
                Err(_) => String::new(),
            };
            if let Some(result) = self.parse(&text).transpose() {
                self.end = end;
                return Some(result);
            }
        }
    }
}

/// Returns true for a torn first line of a journal or of a report.
fn is_torn_first_line(text: &str) -> bool {
    [r#"{"journal":"#, r#"{"token":"#]
        .iter()
        .any(|prefix| text.starts_with(prefix) || prefix.starts_with(text))
}

fn unreadable(path: &Path, purpose: ReadPurpose, why: &str) -> Error {
    let (done, expected, hint) = match purpose {
        ReadPurpose::Replay => (
            "replayed",
            "a journal or an ndjson report",
            "replay takes a journal, an ndjson report, or the .partial of one",
        ),
        ReadPurpose::Merge => (
            "merged",
            "an ndjson report",
            "merge takes complete ndjson reports, each of a different run",
        ),
    };
    Error::of(
        ErrorKind::InvalidArgument {
            argument: "FILE".to_owned(),
            expected: expected.to_owned(),
        },
        format!("{} cannot be {done}", path.display()),
    )
    .cause(why)
    .hint(hint)
}
