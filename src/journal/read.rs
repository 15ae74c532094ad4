//! Reads a journal or an `ndjson` report line by line, and tells a torn line from a damaged one.

use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read as _};
use std::path::{Path, PathBuf};

use crate::error::{Error, ErrorKind};
use crate::journal::checksum;
use crate::journal::line::{DAMAGED, JournalLine, LineError, UNSUPPORTED, parse_line};
use crate::journal::{Journal, is_start_of_header, is_stream, lock};

/// Limit of a line of a report, in bytes; a device such as `/dev/zero` has one without end.
const MAX_LINE: u64 = 64 << 20;

/// The purpose of reading a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadPurpose {
    /// To settle its tokens; the file stays locked.
    Replay,
    /// To merge it with other reports.
    Merge,
    /// To compare it with receipts.
    Audit,
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

/// The largest number of lines that an error lists.
const MAX_LISTED: usize = 10;

impl JournalReader {
    /// Opens the file.
    pub fn open(path: &Path, purpose: ReadPurpose) -> Result<Self, Error> {
        if purpose == ReadPurpose::Replay && is_stream(path) {
            return Err(unreadable(path, purpose, "it is not a regular file"));
        }
        let open_error = |error: io::Error| unreadable(path, purpose, &error.to_string());
        if purpose != ReadPurpose::Replay {
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
                ReadPurpose::Merge | ReadPurpose::Audit => MAX_LINE,
                ReadPurpose::Replay => u64::MAX,
            };
            let mut source = self.source.by_ref().take(limit);
            let length = source.read_until(b'\n', &mut bytes)?;
            if length as u64 == limit {
                let number = self.number;
                return Err(io::Error::other(format!(
                    "line {number} is longer than 64 MiB"
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
            JournalLine::Received { received, .. } => {
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
        let mut can_do_without = may_be_left_out(&line.bytes);
        while let Ok(Some(line)) = self.read_line() {
            match self.parse(&line.bytes) {
                Ok(parsed) => self.count(&parsed),
                Err(_) if self.may_be_torn(&line) => {}
                Err(_) => {
                    can_do_without &= may_be_left_out(&line.bytes);
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
        if !can_do_without || damaged.len() > MAX_LISTED {
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

/// Returns true if a line looks like a request, a page or an outcome, without which a replay is still
/// right.
fn may_be_left_out(line: &[u8]) -> bool {
    let fields = checksum::without(line);
    let starts: [&[u8]; 3] = [br#""request":"#, br#""received":"#, br#""token":"#];
    starts.iter().any(|start| fields.starts_with(start))
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
        ReadPurpose::Audit => (
            "audited",
            "a journal or an ndjson report",
            "audit takes an ndjson report with --report, or a journal with --journal",
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
