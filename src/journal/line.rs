//! The lines of a journal or of an `ndjson` report.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use serde::Deserialize;

use crate::error::exit::{Cause, Exit};
use crate::journal::checksum::{self, Checksum};
use crate::journal::{JournalHeader, ReplayLine, RequestLine, VERSION};
use crate::pipeline::numbers::Numbers;
use crate::pipeline::token::{Detail, Outcome, ReceiptKey, Status, Token};

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
        /// The number of its request in the run, from 1; older journals lack it.
        request: Option<u64>,
        /// The lines of the tokens in the request's answer, as ranges, unless they are the first ones.
        lines: Option<Vec<(u32, u32)>>,
        /// True if the source has more tokens for the request's idempotency key.
        #[serde(default)]
        partial: bool,
    },
    /// A request that is about to be sent with an idempotency key.
    Request {
        /// The request.
        request: RequestLine,
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
    pub shard: Option<u32>,
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
    /// The position, if the run writes receipts.
    #[serde(default)]
    pub position: Option<u64>,
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
        token.receipt = ReceiptKey::first(self.position.unwrap_or_default());
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

/// Why a line cannot be read. It does not show the line, which contains tokens.
pub(super) type LineError = &'static str;

const UNREADABLE: LineError = "the line is neither a token, a page, a run nor a summary";
pub(super) const DAMAGED: LineError =
    "the line does not match its checksum, so it was changed after it was written";
pub(super) const UNSUPPORTED: LineError =
    "the journal has a format version that this program does not support";

/// Parses a line of an `ndjson` report.
///
/// # Errors
/// Why it cannot be read, without any part of it.
pub fn parse_report_line(line: &[u8]) -> Result<JournalLine, &'static str> {
    parse_line(line, false)
}

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
