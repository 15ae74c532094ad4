//! What a journal or a report says of its run, and of the replays that went on with the journal.

use std::collections::HashMap;
use std::path::Path;

use crate::config::RunSettings;
use crate::error::Fault;
use crate::error::diagnostic::Problem;
use crate::error::exit::Exit;
use crate::journal::{Journal, JournalLine, JournalReader, ParsedRecord, ReadPurpose};
use crate::pipeline::token::Status;
use crate::store::identifier::TableName;

/// So many stored values are looked for beside those that are in doubt.
const CONTROLS: usize = 16;

/// What a value's tokens came to, counted: equal values are interchangeable.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct ValueCount {
    pub received: u64,
    pub stored: u64,
    rejected: u64,
    /// Known not to be stored when the report was written.
    pub unsent: u64,
    unknown: u64,
}

impl ValueCount {
    fn told(self) -> u64 {
        self.stored + self.rejected + self.unsent + self.unknown
    }

    /// How many are neither stored nor rejected as far as the file says.
    pub fn open(self) -> u64 {
        self.total() - self.stored - self.rejected
    }

    /// How many there are.
    fn total(self) -> u64 {
        self.received.max(self.told())
    }

    /// A replay has begun. It took up whatever was open, so that what was said of that is past.
    fn is_taken_up(&mut self) {
        self.received = self.total();
        (self.unsent, self.unknown) = (0, 0);
    }
}

/// What a journal or a report says of its run.
pub(crate) struct ReplayState {
    reading: Option<JournalReader>,
    pub run_id: Option<String>,
    /// The run that this file, or the one that it is a replay of, reports on.
    pub origin: Option<String>,
    pub horizon: Option<i64>,
    /// Table and column.
    place: Option<(String, String)>,
    /// SIZE, where the file says it.
    pub requested: Option<u64>,
    /// What is stored or rejected.
    pub settled: Vec<ParsedRecord>,
    /// By value.
    pub counts: HashMap<String, ValueCount>,
    /// True where the file ends with the summary of a run or replay that left nothing open.
    is_closed: bool,
}

impl ReplayState {
    pub fn read(file: &Path) -> Result<Self, Fault> {
        Self::of(JournalReader::open(file, ReadPurpose::Replay)?)
    }

    pub fn of(mut reading: JournalReader) -> Result<Self, Fault> {
        let mut state = Self {
            reading: None,
            run_id: None,
            origin: None,
            horizon: None,
            place: None,
            requested: None,
            settled: Vec::new(),
            counts: HashMap::new(),
            is_closed: false,
        };
        while let Some(line) = reading.next() {
            let line = line?;
            if let JournalLine::Outcome(told) = &line {
                let why = unfit(told);
                if let Some((why, hint)) = why {
                    return Err(reading.fault(why).hint(hint));
                }
            }
            state.add(line).map_err(|why| reading.fault(why))?;
        }
        if reading.is_torn() {
            state.is_closed = false;
            tracing::warn!("the last line is torn: a crash cut it, and it is left out");
        }
        if state.counts.is_empty() {
            tracing::warn!("the file holds no token: there is nothing to replay");
        }
        // Kept open, and with it the lock: nobody else replays the same file meanwhile.
        state.reading = Some(reading);
        Ok(state)
    }

    fn add(&mut self, line: JournalLine) -> Result<(), &'static str> {
        self.is_closed = matches!(&line, JournalLine::Summary { summary } if summary.is_settled());
        match line {
            JournalLine::Replay { .. } => {
                self.counts.values_mut().for_each(ValueCount::is_taken_up);
            }
            JournalLine::Journal { journal } => {
                self.origin = Some(journal.run_id.clone());
                self.run_id = Some(journal.run_id);
                self.horizon = journal.horizon;
                self.place = Some((journal.table, journal.column));
                self.requested = journal.requested;
            }
            JournalLine::Summary { summary } => {
                let run_id = self.run_id.get_or_insert(summary.run_id);
                let origin = summary.replay_of.unwrap_or_else(|| run_id.clone());
                self.origin.get_or_insert(origin);
                self.requested = Some(summary.requested);
            }
            JournalLine::Received { received } => {
                for token in received {
                    self.counts.entry(token).or_default().received += 1;
                }
            }
            JournalLine::Outcome(told) => {
                let count = self.counts.entry(told.token.clone()).or_default();
                match told.status()? {
                    Status::Stored => count.stored += 1,
                    Status::Rejected => count.rejected += 1,
                    Status::Failed | Status::NotAttempted => count.unsent += 1,
                    Status::Unknown => count.unknown += 1,
                }
                if matches!(told.status()?, Status::Stored | Status::Rejected) {
                    self.settled.push(told);
                }
            }
        }
        Ok(())
    }

    /// A replay into another table would find nothing there and store everything once more.
    pub fn is_of(&self, settings: &RunSettings) -> Result<(), Problem> {
        let (table, column) = (&settings.store.table, &settings.store.column);
        let Some((in_table, in_column)) = &self.place else {
            return Ok(());
        };
        if TableName::parse(in_table).as_ref() == Ok(table) && in_column == column {
            return Ok(());
        }
        let problem = Problem::new(
            Exit::Usage,
            "the journal belongs to another table than the one configured",
        );
        Err(problem
            .cause(format!("its run stored in {in_table}, column {in_column}"))
            .cause(format!("configured is {table}, column {column}"))
            .hint("set `database.table` and `database.column` to what the run had"))
    }

    /// The journal, for what the replay settles; `None` where the file is none, or has nothing left to
    /// be said. One that cannot be written is replayed all the same.
    pub fn go_on(&mut self, run_id: &str) -> Option<Journal> {
        if self.place.is_none() || self.is_closed {
            return None;
        }
        let error = match self.reading.as_mut()?.go_on(run_id) {
            Ok(journal) => return Some(journal),
            Err(error) => error,
        };
        let hint =
            "tokens are settled all the same; let the next run keep its journal in another file";
        let cause = error.to_string();
        tracing::warn!(
            cause,
            hint,
            "the journal cannot be written and stays unsettled"
        );
        None
    }

    /// How many tokens there are.
    pub fn received(&self) -> u64 {
        self.counts.values().map(|count| count.total()).sum()
    }

    /// The values that were stored last, of those that nothing else is to be found out about.
    pub fn controls(&self) -> Vec<String> {
        let stored = self.settled.iter().rev().filter(|told| {
            told.status == "stored"
                && self
                    .counts
                    .get(&told.token)
                    .is_some_and(|count| count.open() == 0)
        });
        stored
            .take(CONTROLS)
            .map(|told| told.token.clone())
            .collect()
    }

    /// The values with tokens that are not settled.
    pub fn open(&self) -> Vec<String> {
        let open = self.counts.iter().filter(|(_, count)| count.open() > 0);
        let mut values: Vec<String> = open.map(|(value, _)| value.clone()).collect();
        values.sort_unstable();
        values
    }
}

/// Why what a report says of a token is nothing to go by, and what to do: a mask would be stored as
/// if it were a token, and a dry run has stored nothing of what it calls stored.
fn unfit(told: &ParsedRecord) -> Option<(&'static str, &'static str)> {
    if told.masked {
        return Some((
            "the report was written with --mask, and does not hold the token itself",
            "replay the journal of that run (--journal), which holds tokens as they are",
        ));
    }
    told.dry_run.then_some((
        "the report is that of a dry run, which stored nothing",
        "there is nothing to bring back; to store tokens, run without --dry-run",
    ))
}
