//! Reading a journal or an `ndjson` report, and what either may hold.

use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use serde::Deserialize;

use crate::error::exit::{Cause, Exit};
use crate::error::{ErrorKind, Fault};
use crate::journal::{Journal, JournalHeader, ReplayLine, VERSION, is_endless, lock};
use crate::pipeline::token::{Detail, Outcome, Status, Token};

/// A line of a journal or of an `ndjson` report.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub enum JournalLine {
    /// The run.
    Journal {
        /// Its header.
        journal: JournalHeader,
    },
    /// A replay, which goes on with the journal.
    Replay {
        /// The key tells the line apart; its value is not needed.
        #[expect(dead_code, reason = "serde recognizes the line by it")]
        replay: ReplayLine,
    },
    /// A page.
    Received {
        /// Its tokens.
        received: Vec<String>,
    },
    /// The end.
    Summary {
        /// What replay needs of it.
        summary: SummaryRecord,
    },
    /// What became of a token.
    Outcome(ParsedRecord),
}

/// A summary. What a replay can do without may be missing.
#[derive(Debug, Deserialize)]
#[allow(missing_docs, reason = "each is described in report::summary::Summary")]
pub struct SummaryRecord {
    pub run_id: String,
    pub requested: u64,
    pub failed: u64,
    pub unknown: u64,
    pub not_attempted: u64,
    #[serde(default)]
    pub stored: u64,
    #[serde(default)]
    pub rejected: u64,
    #[serde(default)]
    pub received: u64,
    #[serde(default)]
    pub requests: u64,
    #[serde(default)]
    pub surplus: u64,
    #[serde(default)]
    pub issued_unseen: u64,
    #[serde(default)]
    pub duration_ms: u64,
    #[serde(default)]
    pub exit_code: u8,
    pub replay_of: Option<String>,
    pub started_at: Option<String>,
    pub aborted_by: Option<String>,
}

impl SummaryRecord {
    /// True where every token was stored or rejected.
    pub fn is_settled(&self) -> bool {
        self.failed == 0 && self.unknown == 0 && self.not_attempted == 0
    }

    /// Tokens in each state, in the order of [`Status::ALL`].
    pub fn counts(&self) -> [u64; 5] {
        [
            self.stored,
            self.rejected,
            self.failed,
            self.unknown,
            self.not_attempted,
        ]
    }

    /// When the run began and ended, if that is said.
    pub fn span(&self) -> Option<(Timestamp, Timestamp)> {
        let begin: Timestamp = self.started_at.as_ref()?.parse().ok()?;
        let took = Duration::from_millis(self.duration_ms);
        Some((begin, begin.checked_add(took).ok()?))
    }

    /// What stopped the run.
    pub fn cause(&self) -> Option<Cause> {
        let name = self.aborted_by.as_deref()?;
        let mut causes = [Cause::Interrupt, Cause::Terminate, Cause::Deadline].into_iter();
        causes.find(|cause| cause.as_str() == name)
    }

    /// How its process ended.
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
    /// How often it was sent.
    #[serde(default)]
    pub attempts: u16,
    /// From sending to verdict, in milliseconds.
    #[serde(default)]
    pub ms: f64,
    /// The database's code.
    pub sqlstate: Option<String>,
    /// The constraint that refused it.
    pub constraint: Option<String>,
    /// Why.
    pub reason: Option<String>,
    /// The database's message.
    pub message: Option<String>,
    /// True where nothing was stored.
    #[serde(default)]
    pub dry_run: bool,
    /// True where `token` is not the token itself.
    #[serde(default)]
    pub masked: bool,
}

impl ParsedRecord {
    /// Its status.
    ///
    /// # Errors
    /// Where there is no such one. It is not shown: in a line that is not what it seems to be it may be
    /// a token.
    pub fn status(&self) -> Result<Status, &'static str> {
        let mut all = Status::ALL.into_iter();
        all.find(|status| status.as_str() == self.status)
            .ok_or("the token has a status that does not exist")
    }

    /// The same as an outcome of this run.
    ///
    /// # Errors
    /// As for its status.
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

/// What a file is read for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadPurpose {
    /// To settle what its run left; nobody else may use it meanwhile.
    Replay,
    /// To report it anew together with others.
    Merge,
}

/// Reads a journal or an `ndjson` report, line by line.
pub struct JournalReader {
    from: Box<dyn BufRead + Send>,
    /// The same file, to go on writing it; why that cannot be done, where it cannot.
    file: Option<io::Result<File>>,
    path: PathBuf,
    purpose: ReadPurpose,
    number: usize,
    /// How many bytes were read.
    read: u64,
    /// How many lines were whole.
    whole: usize,
    /// Where the last of them ends, its line feed left out.
    end: u64,
    /// A line that is not whole; only the last one may be.
    torn: Option<(usize, String)>,
}

impl JournalReader {
    /// Opens the file.
    pub fn open(path: &Path, purpose: ReadPurpose) -> Result<Self, Fault> {
        if purpose == ReadPurpose::Replay && is_endless(path) {
            return Err(unreadable(path, purpose, "it is no regular file"));
        }
        let unopened = |error: io::Error| unreadable(path, purpose, &error.to_string());
        if purpose == ReadPurpose::Merge {
            let file = File::open(path).map_err(unopened)?;
            return Ok(Self::of(Box::new(BufReader::new(file)), path, purpose));
        }
        let (file, written) = match OpenOptions::new().read(true).append(true).open(path) {
            Ok(file) => {
                let written = file.try_clone();
                (file, written)
            }
            Err(error) => (File::open(path).map_err(unopened)?, Err(error)),
        };
        lock(&file, path)?;
        let mut reading = Self::of(Box::new(BufReader::new(file)), path, purpose);
        reading.file = Some(written);
        Ok(reading)
    }

    /// Reads what errors call `path`.
    pub fn of(from: Box<dyn BufRead + Send>, path: &Path, purpose: ReadPurpose) -> Self {
        Self {
            from,
            file: None,
            path: path.to_owned(),
            purpose,
            number: 0,
            read: 0,
            whole: 0,
            end: 0,
            torn: None,
        }
    }

    /// The journal that was read to its end, for what the replay `run_id` makes of its tokens. A torn
    /// last line is cut off.
    pub fn go_on(&mut self, run_id: &str) -> io::Result<Journal> {
        let file = self.file.take();
        let file = file.unwrap_or_else(|| Err(io::ErrorKind::Unsupported.into()))?;
        Journal::go_on(file, &self.path, self.end, run_id)
    }

    /// An error at the line that was read last.
    pub fn fault(&self, why: &str) -> Fault {
        self.fault_at(self.number, why)
    }

    /// An error of the file as a whole.
    pub fn fault_of_all(&self, why: &str) -> Fault {
        unreadable(&self.path, self.purpose, why)
    }

    fn fault_at(&self, number: usize, why: &str) -> Fault {
        let place = self.path.display();
        unreadable(
            &self.path,
            self.purpose,
            &format!("{place}:{number}:1: {why}"),
        )
    }

    /// True where the last line was torn by a crash.
    pub fn is_torn(&self) -> bool {
        self.torn.is_some()
    }

    fn parse(&mut self, text: &str) -> Result<Option<JournalLine>, Fault> {
        if let Some((number, why)) = self.torn.take() {
            return Err(self.fault_at(number, &why));
        }
        // serde_json's own message would show the line, and that holds tokens.
        let line = serde_json::from_str(text).ok();
        if line.is_none() {
            let why = "the line is neither a token, a page, a run nor a summary";
            // A file of another form may have one line alone, and that is not torn.
            if self.whole == 0 && !is_beginning(text) {
                return Err(self.fault(why));
            }
            self.torn = Some((self.number, why.to_owned()));
        }
        if let Some(JournalLine::Journal { journal }) = &line
            && journal.version != VERSION
        {
            return Err(self.fault("the journal has a form that this version does not know"));
        }
        self.whole += usize::from(line.is_some());
        Ok(line)
    }
}

impl Iterator for JournalReader {
    type Item = Result<JournalLine, Fault>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            self.number += 1;
            let mut line = Vec::new();
            match self.from.read_until(b'\n', &mut line) {
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
            // What is no text is no line either.
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

/// True for the torn first line of a journal or of a report.
fn is_beginning(text: &str) -> bool {
    [r#"{"journal":"#, r#"{"token":"#]
        .iter()
        .any(|beginning| text.starts_with(beginning) || beginning.starts_with(text))
}

fn unreadable(path: &Path, purpose: ReadPurpose, why: &str) -> Fault {
    let (done, expected, hint) = match purpose {
        ReadPurpose::Replay => (
            "replayed",
            "a journal or an ndjson report",
            "replay takes a journal, an ndjson report, or the .partial of one",
        ),
        ReadPurpose::Merge => (
            "merged",
            "an ndjson report",
            "merge takes whole ndjson reports, each of another run",
        ),
    };
    Fault::new(
        ErrorKind::InvalidArgument {
            argument: "FILE".to_owned(),
            expected: expected.to_owned(),
        },
        format!("{} cannot be {done}", path.display()),
    )
    .cause(why)
    .hint(hint)
}
