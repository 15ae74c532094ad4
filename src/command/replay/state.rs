//! The state of a run as its journal or report records it, including earlier replays.

use std::collections::HashMap;
use std::path::Path;

use crate::config::RunSettings;
use crate::error::Error;
use crate::error::exit::Exit;
use crate::journal::{Journal, JournalLine, JournalReader, ParsedRecord, ReadPurpose};
use crate::pipeline::token::Status;
use crate::store::identifier::TableName;

/// The number of stored values to look up as a control of the lookup itself.
const CONTROLS: usize = 16;

/// The tokens of one value by state; tokens with equal values are interchangeable.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct ValueCount {
    pub received: u64,
    pub stored: u64,
    rejected: u64,
    /// Not stored when the record was written.
    pub unsent: u64,
    unknown: u64,
}

impl ValueCount {
    /// Returns the number of tokens with an outcome.
    fn recorded(self) -> u64 {
        self.stored + self.rejected + self.unsent + self.unknown
    }

    /// Returns the number of tokens that are neither stored nor rejected.
    pub fn open(self) -> u64 {
        self.total() - self.stored - self.rejected
    }

    /// Returns the number of tokens.
    fn total(self) -> u64 {
        self.received.max(self.recorded())
    }

    /// Applies the start of a replay: the outcomes of open tokens no longer count.
    fn begin_replay(&mut self) {
        self.received = self.total();
        (self.unsent, self.unknown) = (0, 0);
    }
}

/// The state of a run, read from its journal or report.
pub(crate) struct ReplayState {
    reader: Option<JournalReader>,
    pub run_id: Option<String>,
    /// The original run, of which this file's run may be a replay.
    pub origin: Option<String>,
    pub horizon: Option<i64>,
    /// The table and column; `None` in a report.
    table: Option<(String, String)>,
    /// SIZE, if the file has it.
    pub requested: Option<u64>,
    /// The records of stored and rejected tokens.
    pub settled: Vec<ParsedRecord>,
    /// The tokens by value.
    pub counts: HashMap<String, ValueCount>,
    /// True if the file ends with a summary without open tokens.
    is_closed: bool,
}

impl ReplayState {
    pub fn read(file: &Path) -> Result<Self, Error> {
        Self::of(JournalReader::open(file, ReadPurpose::Replay)?)
    }

    pub fn of(mut reader: JournalReader) -> Result<Self, Error> {
        let mut state = Self {
            reader: None,
            run_id: None,
            origin: None,
            horizon: None,
            table: None,
            requested: None,
            settled: Vec::new(),
            counts: HashMap::new(),
            is_closed: false,
        };
        while let Some(line) = reader.next() {
            let line = line?;
            if let JournalLine::Outcome(record) = &line {
                let unusable = why_unusable(record);
                if let Some((why, hint)) = unusable {
                    return Err(reader.error(why).hint(hint));
                }
            }
            state.add(line).map_err(|why| reader.error(why))?;
        }
        if reader.is_torn() {
            state.is_closed = false;
            tracing::warn!("the last line is incomplete after a crash and is ignored");
        }
        if state.counts.is_empty() {
            tracing::warn!("nothing to replay: the file has no tokens");
        }
        // Kept open to hold the lock, so that no other replay uses the file.
        state.reader = Some(reader);
        Ok(state)
    }

    fn add(&mut self, line: JournalLine) -> Result<(), &'static str> {
        self.is_closed = matches!(&line, JournalLine::Summary { summary } if summary.is_settled());
        match line {
            JournalLine::Replay { .. } => {
                self.counts.values_mut().for_each(ValueCount::begin_replay);
            }
            JournalLine::Journal { journal } => {
                self.origin = Some(journal.run_id.clone());
                self.run_id = Some(journal.run_id);
                self.horizon = journal.horizon;
                self.table = Some((journal.table, journal.column));
                self.requested = journal.requested;
            }
            JournalLine::Summary { summary } => {
                let run_id = self.run_id.get_or_insert(summary.run_id);
                let origin = summary.replay_of.unwrap_or_else(|| run_id.clone());
                self.origin.get_or_insert(origin);
                self.requested = Some(summary.numbers.requested);
            }
            JournalLine::Received { received } => {
                for token in received {
                    self.counts.entry(token).or_default().received += 1;
                }
            }
            JournalLine::Outcome(record) => {
                let count = self.counts.entry(record.token.clone()).or_default();
                match record.status()? {
                    Status::Stored => count.stored += 1,
                    Status::Rejected => count.rejected += 1,
                    Status::Failed | Status::NotAttempted => count.unsent += 1,
                    Status::Unknown => count.unknown += 1,
                }
                if matches!(record.status()?, Status::Stored | Status::Rejected) {
                    self.settled.push(record);
                }
            }
        }
        Ok(())
    }

    /// Returns an error if another table is configured: a replay would store all tokens again.
    pub fn check_table(&self, settings: &RunSettings) -> Result<(), Error> {
        let (table, column) = (&settings.store.table, &settings.store.column);
        let Some((run_table, run_column)) = &self.table else {
            return Ok(());
        };
        if TableName::parse(run_table).as_ref() == Ok(table) && run_column == column {
            return Ok(());
        }
        let error = Error::new(
            Exit::Usage,
            "the journal belongs to a different table than the configured one",
        );
        Err(error
            .cause(format!(
                "the run used table {run_table}, column {run_column}"
            ))
            .cause(format!(
                "the configuration has table {table}, column {column}"
            ))
            .hint("set `database.table` and `database.column` to those of the run"))
    }

    /// Opens the journal to append the outcomes of this replay.
    ///
    /// Returns `None` if the file is not a journal or has no open tokens. If the journal cannot be
    /// written, logs a warning and returns `None`.
    pub fn continue_journal(&mut self, run_id: &str) -> Option<Journal> {
        if self.table.is_none() || self.is_closed {
            return None;
        }
        let error = match self.reader.as_mut()?.resume(run_id) {
            Ok(journal) => return Some(journal),
            Err(error) => error,
        };
        let hint = "the replay continues; use another file for the journal of the next run";
        let cause = error.to_string();
        tracing::warn!(
            cause,
            hint,
            "the journal cannot be written; it will not record this replay"
        );
        None
    }

    /// Returns the number of tokens.
    pub fn received(&self) -> u64 {
        self.counts.values().map(|count| count.total()).sum()
    }

    /// Returns the last stored values that have no open tokens, as controls of the lookup.
    pub fn controls(&self) -> Vec<String> {
        let stored = self.settled.iter().rev().filter(|record| {
            record.status == "stored"
                && self
                    .counts
                    .get(&record.token)
                    .is_some_and(|count| count.open() == 0)
        });
        stored
            .take(CONTROLS)
            .map(|record| record.token.clone())
            .collect()
    }

    /// Returns the values with open tokens, sorted.
    pub fn open(&self) -> Vec<String> {
        let open = self.counts.iter().filter(|(_, count)| count.open() > 0);
        let mut values: Vec<String> = open.map(|(value, _)| value.clone()).collect();
        values.sort_unstable();
        values
    }
}

/// Returns why a record cannot be replayed, and a hint.
///
/// A mask would be stored in place of the token. `stored` in a dry run does not mean stored.
fn why_unusable(record: &ParsedRecord) -> Option<(&'static str, &'static str)> {
    if record.masked {
        return Some((
            "the report was written with --mask and does not contain the tokens",
            "replay the journal of that run (--journal), which contains the tokens",
        ));
    }
    record.dry_run.then_some((
        "the report is from a dry run, which stored nothing",
        "run again without --dry-run to store tokens",
    ))
}
