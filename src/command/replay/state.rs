//! The state of a run as its journal or report records it, including earlier replays.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use uuid::Uuid;

use crate::config::RunSettings;
use crate::error::Error;
use crate::error::exit::Exit;
use crate::journal::{
    Journal, JournalLine, JournalReader, ParsedRecord, ReadPurpose, RequestLine, UnansweredRequest,
    positions_of,
};
use crate::pipeline::identifier::TableName;
use crate::pipeline::token::{Outcome, Page, ReceiptKey, Status, Token, TokenDefect};
use crate::store::receipts::Receipts;

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

/// Why a line cannot be replayed.
struct Refusal {
    why: &'static str,
    hint: Option<&'static str>,
}

impl Refusal {
    fn two_runs(why: &'static str) -> Self {
        let hint = "replay the file of each run by itself: split this one before the line";
        Self {
            why,
            hint: Some(hint),
        }
    }
}

impl From<&'static str> for Refusal {
    fn from(why: &'static str) -> Self {
        Self { why, hint: None }
    }
}

/// A token of a run with receipts.
pub(crate) struct ReplayToken {
    pub token: Token,
    /// True if the source delivered it; false if only its outcome is known.
    pub was_received: bool,
    /// Its last outcome.
    pub record: Option<ParsedRecord>,
}

impl ReplayToken {
    /// Creates a token of which only the outcome is known: its form is invalid, or the script made it.
    fn of_record(record: &ParsedRecord) -> Self {
        let mut token = Token::new(&record.token, TokenDefect::of(&record.token, usize::MAX));
        token.receipt = ReceiptKey::first(record.position.unwrap_or_default());
        Self {
            token,
            was_received: false,
            record: None,
        }
    }

    /// Returns its recorded outcome if that is final: the server confirmed it.
    pub fn recorded(&self) -> Option<Outcome> {
        let mut outcome = self.record.as_ref()?.outcome().ok()?;
        outcome.token.receipt = self.token.receipt;
        matches!(outcome.status, Status::Stored | Status::Rejected).then_some(outcome)
    }
}

/// The state of a run, read from its journal or report.
pub(crate) struct ReplayState {
    reader: Option<JournalReader>,
    pub run_id: Option<String>,
    /// What names the connections of the run, if that is not its UUID.
    pub session: Option<String>,
    /// The original run, of which this file's run may be a replay.
    pub origin: Option<String>,
    pub horizon: Option<i64>,
    /// The table and column; `None` in a report.
    table: Option<(String, String)>,
    /// The table of the receipts and the shard, if the run writes receipts.
    pub receipts: Option<(String, u32)>,
    /// The tokens by position, if the run writes receipts.
    pub tokens: BTreeMap<u64, ReplayToken>,
    /// The number of the last request.
    pub last_request: u64,
    /// True if a request had an idempotency key.
    pub has_keys: bool,
    /// SIZE, if the file has it.
    pub requested: Option<u64>,
    /// The requests with an idempotency key that have no complete answer, by number.
    pub unanswered: BTreeMap<u64, UnansweredRequest>,
    /// The records of stored and rejected tokens.
    pub settled: Vec<ParsedRecord>,
    /// The tokens by value.
    pub counts: HashMap<String, ValueCount>,
    /// True if the file ends with a summary without open tokens.
    is_closed: bool,
    /// True if the last line is a summary.
    has_ended: bool,
}

impl ReplayState {
    pub fn read(file: &Path) -> Result<Self, Error> {
        Self::of(JournalReader::open(file, ReadPurpose::Replay)?)
    }

    pub fn of(mut reader: JournalReader) -> Result<Self, Error> {
        let mut state = Self {
            reader: None,
            run_id: None,
            session: None,
            origin: None,
            horizon: None,
            table: None,
            receipts: None,
            tokens: BTreeMap::new(),
            last_request: 0,
            has_keys: false,
            requested: None,
            unanswered: BTreeMap::new(),
            settled: Vec::new(),
            counts: HashMap::new(),
            is_closed: false,
            has_ended: false,
        };
        while let Some(line) = reader.next() {
            let line = line?;
            if let JournalLine::Outcome(record) = &line {
                let unusable = why_unusable(record);
                if let Some((why, hint)) = unusable {
                    return Err(reader.error(why).hint(hint));
                }
            }
            state.add(line).map_err(|refusal| {
                let error = reader.error(refusal.why);
                match refusal.hint {
                    Some(hint) => error.hint(hint),
                    None => error,
                }
            })?;
        }
        if reader.is_torn() {
            state.is_closed = false;
            tracing::warn!("the last line is incomplete after a crash and is ignored");
        }
        if state.counts.is_empty() && state.unanswered.is_empty() {
            tracing::warn!("nothing to replay: the file has no tokens");
        }
        // Kept open to hold the lock, so that no other replay uses the file.
        state.reader = Some(reader);
        Ok(state)
    }

    fn add(&mut self, line: JournalLine) -> Result<(), Refusal> {
        let is_journal = self.table.is_some();
        match &line {
            JournalLine::Journal { .. } if is_journal => {
                return Err(Refusal::two_runs(
                    "a second header follows the journal of another run",
                ));
            }
            JournalLine::Journal { .. } if !self.counts.is_empty() || self.has_ended => {
                return Err(Refusal::two_runs(
                    "the header of a journal follows a report",
                ));
            }
            JournalLine::Received { .. }
            | JournalLine::Request { .. }
            | JournalLine::Replay { .. }
                if !is_journal =>
            {
                return Err("the header of the journal is missing".into());
            }
            JournalLine::Replay { .. } => {}
            _ if self.has_ended => {
                return Err(Refusal::two_runs(
                    "a line follows the summary of another run",
                ));
            }
            _ => {}
        }
        self.has_ended = matches!(&line, JournalLine::Summary { .. });
        self.is_closed = matches!(&line, JournalLine::Summary { summary } if summary.is_settled());
        match line {
            JournalLine::Replay { .. } => {
                self.counts.values_mut().for_each(ValueCount::begin_replay);
            }
            JournalLine::Journal { journal } => {
                check_run_id(&journal.run_id)?;
                self.origin = Some(journal.run_id.clone());
                self.run_id = Some(journal.run_id);
                self.session = journal.session;
                self.horizon = journal.horizon;
                self.table = Some((journal.table, journal.column));
                self.receipts = journal.receipts.zip(journal.shard);
                self.requested = journal.requested;
            }
            JournalLine::Summary { summary } => {
                check_run_id(&summary.run_id)?;
                let run_id = self.run_id.get_or_insert(summary.run_id);
                let origin = summary.replay_of.unwrap_or_else(|| run_id.clone());
                self.origin.get_or_insert(origin);
                self.requested = Some(summary.numbers.requested);
            }
            JournalLine::Request { request } => {
                let RequestLine { number, size, key } = request;
                self.has_keys = true;
                self.last_request = self.last_request.max(number);
                let request = UnansweredRequest {
                    number,
                    size,
                    key,
                    received: Vec::new(),
                };
                self.unanswered.insert(number, request);
            }
            JournalLine::Received {
                received,
                request,
                lines,
                partial,
                ..
            } => {
                let request = request.unwrap_or_default();
                self.last_request = self.last_request.max(request);
                if self.receipts.is_some() {
                    self.add_positions(&received, request, lines.as_deref());
                }
                if !partial {
                    self.unanswered.remove(&request);
                } else if let Some(request) = self.unanswered.get_mut(&request) {
                    request.received.extend(received.iter().cloned());
                }
                for token in received {
                    self.counts.entry(token).or_default().received += 1;
                }
            }
            JournalLine::Outcome(record) => self.add_outcome(record)?,
        }
        Ok(())
    }

    fn add_outcome(&mut self, record: ParsedRecord) -> Result<(), &'static str> {
        if let Some(position) = record.position.filter(|_| self.receipts.is_some()) {
            let token = self.tokens.entry(position);
            let token = token.or_insert_with(|| ReplayToken::of_record(&record));
            token.record = Some(record.clone());
        }
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
        Ok(())
    }

    fn add_positions(&mut self, texts: &[String], request: u64, lines: Option<&[(u32, u32)]>) {
        let page = Page::from_texts(texts.iter().map(|text| (text.as_str(), None)));
        for (mut token, position) in page.iter().zip(positions_of(request, lines)) {
            token.receipt = ReceiptKey::first(position);
            // A repeated page does not undo an outcome.
            let known = self.tokens.remove(&position);
            let token = ReplayToken {
                token,
                was_received: true,
                record: known.and_then(|known| known.record),
            };
            self.tokens.insert(position, token);
        }
    }

    /// Returns the tokens that the source delivered, with their positions.
    pub fn received_tokens(&self) -> impl Iterator<Item = &Token> {
        let tokens = self.tokens.values().filter(|token| token.was_received);
        tokens.map(|token| &token.token)
    }

    /// Returns the positions of the tokens that were stored, with true, and of those that were rejected.
    pub fn settled_positions(&self) -> impl Iterator<Item = (u64, bool)> {
        let settled = |(position, token): (&u64, &ReplayToken)| {
            let status = token.recorded()?.status;
            Some((*position, status == Status::Stored))
        };
        self.tokens.iter().filter_map(settled)
    }

    /// Opens the journal for the next process of its run.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn resume(&mut self, run_id: &str) -> Result<Journal, Error> {
        let path = self.path().to_owned();
        let resumed = self.reader.as_mut().map(|reader| reader.resume(run_id));
        let resumed = resumed.unwrap_or_else(|| Err(std::io::ErrorKind::Unsupported.into()));
        resumed.map_err(|error| {
            Error::new(
                Exit::Usage,
                format!("the journal {} cannot be written", path.display()),
            )
            .cause(error.to_string())
            .hint("name a file that can be written; no token was requested")
        })
    }

    /// Returns the path of the file.
    pub fn path(&self) -> &Path {
        self.reader
            .as_ref()
            .map_or(Path::new(""), JournalReader::path)
    }

    /// Returns an error if another table is configured: a replay would store all tokens again.
    pub fn check_table(&self, settings: &RunSettings) -> Result<(), Error> {
        let (table, column) = (&settings.store.table, &settings.store.column);
        let Some((run_table, run_column)) = &self.table else {
            return Ok(());
        };
        if TableName::parse(run_table).as_ref() == Ok(table) && run_column == column {
            return self.check_receipts(settings);
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

    /// Returns an error if another receipts table is configured.
    fn check_receipts(&self, settings: &RunSettings) -> Result<(), Error> {
        let configured = settings.store.receipts.as_ref().map(|it| &it.table);
        let of_run = self.receipts.as_ref().map(|(table, _)| table);
        match (configured, of_run) {
            (Some(table), Some(of_run)) if TableName::parse(of_run).as_ref() != Ok(table) => {
                let message =
                    "the journal belongs to a different receipts table than the configured one";
                Err(Error::new(Exit::Usage, message)
                    .cause(format!(
                        "the run used {of_run}, the configuration has {table}"
                    ))
                    .hint(
                        "set --receipts or `database.receipts` to that of the run, or leave it out",
                    ))
            }
            _ => Ok(()),
        }
    }

    /// Returns the receipts of the run, if it writes them.
    pub fn receipts(&self) -> Option<Receipts> {
        let (table, shard) = self.receipts.as_ref()?;
        Some(Receipts {
            table: TableName::parse(table).ok()?,
            run_id: Uuid::try_parse(self.run_id.as_deref()?).ok()?,
            shard: *shard,
        })
    }

    /// Opens the journal to append the outcomes of this replay.
    ///
    /// Returns `None` if the file is not a journal or has no open tokens. If the journal cannot be
    /// written, logs a warning and returns `None`.
    pub fn continue_journal(&mut self, run_id: &str) -> Option<Journal> {
        if self.table.is_none() || self.is_closed && self.unanswered.is_empty() {
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
        if self.receipts.is_some() {
            return self.tokens.len() as u64;
        }
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

/// Refuses a run id that the program does not write. A replay ends the sessions whose name begins with
/// it, so a shorter one would end those of other runs.
fn check_run_id(run_id: &str) -> Result<(), &'static str> {
    let is_whole = Uuid::try_parse(run_id).is_ok_and(|uuid| uuid.to_string() == run_id);
    is_whole.then_some(()).ok_or("the run id is not a UUID")
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

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::io::Cursor;

    use super::*;
    use crate::journal::{JournalHeader, ReceivedPage};
    use crate::pipeline::token::Page;

    const RUN: &str = "018f0000-0000-7000-8000-000000000000";

    /// Writes a journal of two pages, the second one of a request with a key, and returns its bytes after
    /// each step.
    async fn written_journal(path: &Path) -> Vec<Vec<u8>> {
        let header = JournalHeader::new(RUN.into(), Some(7), "secret_tokens".into(), "data".into());
        let journal = Journal::begin(path, &header.with_requested(Some(3))).unwrap();
        let mut stages = vec![std::fs::read(path).unwrap()];
        for (number, tokens) in [(1, &["aa", "J*:"][..]), (2, &["cc"])] {
            if number == 2 {
                journal.requested(2, 5, "key-2").await.unwrap();
                stages.push(std::fs::read(path).unwrap());
            }
            let received = ReceivedPage {
                page: Page::from_texts(tokens.iter().map(|token| (*token, None))),
                request: number,
                is_partial: number == 2,
            };
            journal.received(received).await.unwrap();
            stages.push(std::fs::read(path).unwrap());
        }
        let outcomes = [
            r#"{"token":"aa","status":"stored","attempts":1,"ms":1.5}"#,
            r#"{"token":"J*:","status":"failed","attempts":2,"ms":0.0}"#,
            r#"{"token":"cc","status":"rejected","attempts":1,"ms":2.0}"#,
            r#"{"summary":{"run_id":"018f0000-0000-7000-8000-000000000000","requested":3,"received":3,"requests":1,"surplus":0,"stored":1,"rejected":1,"failed":1,"unknown":0,"not_attempted":0}}"#,
        ];
        for line in outcomes {
            journal.append(format!("{line}\n").as_bytes()).unwrap();
            journal.sync().unwrap();
            stages.push(std::fs::read(path).unwrap());
        }
        stages
    }

    /// Returns what a replay of these bytes would do.
    fn replayed(bytes: &[u8]) -> Result<String, Error> {
        let from = Box::new(Cursor::new(bytes.to_vec()));
        let reader = JournalReader::of(from, Path::new("FILE"), ReadPurpose::Replay);
        let state = ReplayState::of(reader)?;
        let mut counts: Vec<_> = state.counts.iter().collect();
        counts.sort_by_key(|(token, _)| *token);
        let ReplayState {
            run_id,
            origin,
            horizon,
            table,
            requested,
            unanswered,
            settled,
            ..
        } = &state;
        Ok(format!(
            "{run_id:?} {origin:?} {horizon:?} {table:?} {requested:?} {unanswered:?} {counts:?} {settled:?}"
        ))
    }

    #[tokio::test]
    async fn flipped_bit_is_detected_at_every_position() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal");
        let header = JournalHeader::new(RUN.into(), None, "t".into(), "c".into());
        let stages = written_journal(&path).await;
        // The header alone, after a crash, and the whole journal.
        for bytes in [&stages[0], &stages[4], &stages[7]] {
            assert!(bytes.ends_with(b"\n"));
            replayed(bytes).unwrap();
            for position in 0..bytes.len() * 8 {
                let mut flipped = bytes.clone();
                flipped[position / 8] ^= 1 << (position % 8);
                let error = replayed(&flipped).err();
                let error = error.unwrap_or_else(|| panic!("bit {position} is not detected"));
                // The error does not show the tokens.
                assert!(!error.causes.concat().contains("J*:"), "{error:?}");
                std::fs::write(&path, &flipped).unwrap();
                let refused = Journal::begin(&path, &header);
                assert!(
                    refused.is_err(),
                    "bit {position}: a run overwrites the journal"
                );
                assert_eq!(std::fs::read(&path).unwrap(), flipped);
            }
        }
    }

    #[tokio::test]
    async fn journal_that_ends_early_has_every_whole_line() {
        let folder = tempfile::tempdir().unwrap();
        let stages = written_journal(&folder.path().join("journal")).await;
        let bytes = stages.last().unwrap();
        for length in stages[0].len()..bytes.len() {
            // The last line may lack only its line feed.
            let whole = stages.iter().rev().find(|stage| stage.len() <= length + 1);
            let expected = replayed(whole.unwrap()).unwrap();
            assert_eq!(replayed(&bytes[..length]).unwrap(), expected, "{length}");
        }
    }

    #[tokio::test]
    async fn damaged_line_is_named_with_the_whole_pages_and_a_way_out() {
        let folder = tempfile::tempdir().unwrap();
        let stages = written_journal(&folder.path().join("journal")).await;
        let bytes = stages.last().unwrap();
        let mut flipped = bytes.clone();
        flipped[stages[0].len() + 40] ^= 1;
        insta::assert_snapshot!(replayed(&flipped).unwrap_err().render(false), @"
        error: FILE cannot be replayed
          caused by: FILE:2:1: the line does not match its checksum, so it was changed after it was written
          caused by: 1 page is whole, with 1 token: line 4
        hint: nothing was changed: restore the file from a copy; without one, `sed '2d' FILE > rest.journal` leaves out line 2, and a replay of rest.journal settles all other tokens
        ");
        // The way out works.
        let mut rest: Vec<&[u8]> = bytes.split_inclusive(|byte| *byte == b'\n').collect();
        rest.remove(1);
        replayed(&rest.concat()).unwrap();
        // Without its header a journal is of no use.
        let mut flipped = bytes.clone();
        flipped[40] ^= 1;
        insta::assert_snapshot!(replayed(&flipped).unwrap_err().render(false), @"
        error: FILE cannot be replayed
          caused by: FILE:1:1: the line does not match its checksum, so it was changed after it was written
          caused by: 2 pages are whole, with 3 tokens: lines 2, 4
        hint: nothing was changed: restore the file from a copy
        ");
    }

    #[tokio::test]
    async fn files_of_two_runs_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let stages = written_journal(&folder.path().join("journal")).await;
        let report = r#"{"token":"zz","status":"failed","attempts":2,"ms":0.0}
{"summary":{"run_id":"018f0000-0000-7000-8000-000000000000","requested":1,"received":1,"requests":1,"surplus":0,"stored":0,"rejected":0,"failed":1,"unknown":0,"not_attempted":0}}
"#;
        let whole = stages.last().unwrap().as_slice();
        for (one, other) in [
            (whole, whole),
            (&stages[2], whole),
            (report.as_bytes(), whole),
            (report.as_bytes(), report.as_bytes()),
            (whole, report.as_bytes()),
            (&stages[2][stages[0].len()..], b""),
        ] {
            assert!(replayed(&[one, other].concat()).is_err());
        }
        let short = report.replace(RUN, "01");
        let error = replayed(short.as_bytes()).unwrap_err();
        assert!(
            error.causes[0].contains("the run id is not a UUID"),
            "{error:?}"
        );
    }
}
