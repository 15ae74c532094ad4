//! Reads the lines of a journal or of an `ndjson` report.

use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use serde::Deserialize;

use crate::error::exit::{Cause, Exit};
use crate::error::{Error, ErrorKind};
use crate::journal::checksum::{self, Checksum};
use crate::journal::{
    Journal, JournalHeader, ReplayLine, VERSION, is_start_of_header, is_stream, lock,
};
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

/// Limit of a line of a report, in bytes; a device such as `/dev/zero` has one without end.
const MAX_LINE: u64 = 64 << 20;

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
    /// True if the last line is incomplete, after a crash.
    is_torn: bool,
    /// True after the header of a journal.
    is_journal: bool,
    /// True if each line must have a checksum.
    has_checksums: bool,
    pages: PageCount,
}

/// The pages of a journal that were read whole.
#[derive(Default)]
struct PageCount {
    /// Their line numbers.
    lines: Vec<usize>,
    tokens: usize,
}

/// A line of the file, without its line feed.
struct RawLine {
    bytes: Vec<u8>,
    /// True if a line feed ends it, so that it was written whole.
    is_ended: bool,
}

/// Why a line cannot be read. It does not show the line, which contains tokens.
type LineError = &'static str;

const UNREADABLE: LineError = "the line is neither a token, a page, a run nor a summary";
const DAMAGED: LineError =
    "the line does not match its checksum, so it was changed after it was written";
const UNSUPPORTED: LineError =
    "the journal has a format version that this program does not support";

/// The largest number of lines that an error lists.
const MAX_LISTED: usize = 10;

/// Parses a line. With `has_checksums` it must have one; a checksum that it has must match.
pub(super) fn parse_line(line: &[u8], has_checksums: bool) -> Result<JournalLine, LineError> {
    let text = std::str::from_utf8(line).map_err(|_| UNREADABLE)?;
    let checksum = checksum::check(text);
    if checksum == Checksum::Differs {
        return Err(DAMAGED);
    }
    let parsed = serde_json::from_str(text).map_err(|_| UNREADABLE)?;
    if matches!(&parsed, JournalLine::Journal { journal } if !(1..=VERSION).contains(&journal.version))
    {
        return Err(UNSUPPORTED);
    }
    let must_match = has_checksums
        || matches!(&parsed, JournalLine::Journal { journal } if journal.has_checksums());
    if must_match && checksum == Checksum::Missing {
        return Err("the line has no checksum, so the program did not write it");
    }
    Ok(parsed)
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
            is_torn: false,
            is_journal: false,
            has_checksums: false,
            pages: PageCount::default(),
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

    /// Returns the path of the file.
    pub fn path(&self) -> &Path {
        &self.path
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
        self.is_torn
    }

    /// Reads the next line that is not blank.
    fn read_line(&mut self) -> io::Result<Option<RawLine>> {
        loop {
            self.number += 1;
            let mut bytes = Vec::new();
            // A page of a journal may be longer; there the file is regular, so it ends.
            let limit = match self.purpose {
                ReadPurpose::Merge => MAX_LINE,
                ReadPurpose::Replay => u64::MAX,
            };
            let mut source = self.source.by_ref().take(limit);
            let length = source.read_until(b'\n', &mut bytes)?;
            if length as u64 == limit {
                return Err(io::Error::other(format!(
                    "line {} is longer than 64 MiB",
                    self.number
                )));
            }
            self.read += length as u64;
            let is_ended = bytes.pop_if(|byte| *byte == b'\n').is_some();
            if !bytes.trim_ascii().is_empty() {
                return Ok(Some(RawLine { bytes, is_ended }));
            }
            if length == 0 {
                return Ok(None);
            }
        }
    }

    fn parse(&self, line: &[u8]) -> Result<JournalLine, LineError> {
        parse_line(line, self.has_checksums)
    }

    /// Records what a line says about the file.
    fn count(&mut self, line: &JournalLine) {
        self.complete_lines += 1;
        match line {
            JournalLine::Journal { journal } => {
                self.is_journal = true;
                self.has_checksums |= journal.has_checksums();
            }
            JournalLine::Received { received } => {
                self.pages.lines.push(self.number);
                self.pages.tokens += received.len();
            }
            _ => {}
        }
    }

    /// Returns true if a crash may have left this line: it is the last one and has no line feed.
    fn may_be_torn(&self, line: &RawLine) -> bool {
        let Some((_, all_but_last)) = line.bytes.split_last() else {
            return true;
        };
        if line.is_ended || self.parse(all_but_last).is_ok() {
            // The line feed itself was changed.
            return false;
        }
        // A file of another format may consist of one line, which is not torn.
        self.complete_lines > 0 || is_start_of_file(&line.bytes)
    }

    /// Returns the error of a damaged line. In a journal it names the pages that are whole.
    fn damaged(&mut self, why: LineError, line: &RawLine) -> Error {
        let error = self.error(why);
        let is_journal = self.is_journal || why == DAMAGED;
        if !is_journal || why == UNSUPPORTED {
            return error;
        }
        let mut damaged = vec![self.number];
        let mut may_be_left_out = is_page_or_outcome(&line.bytes);
        while let Ok(Some(line)) = self.read_line() {
            match self.parse(&line.bytes) {
                Ok(parsed) => self.count(&parsed),
                Err(_) if self.may_be_torn(&line) => {}
                Err(_) => {
                    may_be_left_out &= is_page_or_outcome(&line.bytes);
                    damaged.push(self.number);
                }
            }
        }
        let PageCount { lines, tokens } = &self.pages;
        let tokens = match tokens {
            1 => String::from("1 token"),
            count => format!("{count} tokens"),
        };
        let error = error.cause(match lines.len() {
            0 => String::from("no page is whole"),
            1 => format!("1 page is whole, with {tokens}: {}", listed(lines)),
            count => format!("{count} pages are whole, with {tokens}: {}", listed(lines)),
        });
        if !may_be_left_out || damaged.len() > MAX_LISTED {
            return error.hint("nothing was changed: restore the file from a copy");
        }
        let path = self.path.display();
        let deletions: Vec<String> = damaged.iter().map(|line| format!("{line}d")).collect();
        error.hint(format!(
            "nothing was changed: restore the file from a copy; without one, `sed '{}' {path} > rest.journal` \
             leaves out {}, and a replay of rest.journal settles all other tokens",
            deletions.join(";"),
            listed(&damaged),
        ))
    }
}

/// Names lines by their numbers, at most the first few.
fn listed(lines: &[usize]) -> String {
    let numbers = lines.iter().take(MAX_LISTED).map(usize::to_string);
    let numbers = numbers.collect::<Vec<_>>().join(", ");
    match lines.len() {
        1 => format!("line {numbers}"),
        count if count > MAX_LISTED => format!("lines {numbers}, …"),
        _ => format!("lines {numbers}"),
    }
}

/// Returns true if a line looks like a page or an outcome, without which a replay is still right.
fn is_page_or_outcome(line: &[u8]) -> bool {
    let fields = checksum::without(line);
    fields.starts_with(br#""received":"#) || fields.starts_with(br#""token":"#)
}

impl Iterator for JournalReader {
    type Item = Result<JournalLine, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        let line = match self.read_line() {
            Ok(line) => line?,
            Err(error) => {
                let why = error.to_string();
                return Some(Err(unreadable(&self.path, self.purpose, &why)));
            }
        };
        match self.parse(&line.bytes) {
            Ok(parsed) => {
                self.count(&parsed);
                self.end = self.read - u64::from(line.is_ended);
                Some(Ok(parsed))
            }
            Err(_) if self.may_be_torn(&line) => {
                self.is_torn = true;
                None
            }
            Err(why) => Some(Err(self.damaged(why, &line))),
        }
    }
}

/// Returns true if a journal or a report may begin with these bytes.
fn is_start_of_file(line: &[u8]) -> bool {
    let token = br#"{"token":"#;
    is_start_of_header(line) || token.starts_with(line) || line.starts_with(token)
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
