//! `token_service replay FILE`: what an earlier run left is settled. Whatever is not known to be
//! stored or rejected is looked up in the table first, so that a replay can be repeated; what is not
//! there is stored; everything is reported anew.

use std::collections::HashMap;
use std::path::Path;

use crate::condition::Condition;
use crate::config::Settings;
use crate::exit::{Exit, Facts};
use crate::fault::{Fault, Kind};
use crate::halt::Halt;
use crate::journal::{Line, Reading, Told, Use};
use crate::problem::Problem;
use crate::report::Reports;
use crate::report::ledger::Ledger;
use crate::run::open;
use crate::screen::Screen;
use crate::store::Store;
use crate::store::name::TableName;
use crate::stream::PageStream;
use crate::supervise::{Begun, drive};
use crate::token::{Detail, Flaw, Outcome, Page, Status, Token};
use crate::verdict::{self, Asked, Finished, Record, unwritable};

/// So many stored values are looked for beside those that are in doubt.
const CONTROLS: usize = 16;

/// Replays `file` to its end, whatever way that comes.
pub fn replay(settings: &Settings, file: &Path, screen: &Screen) -> Finished {
    match Past::read(file) {
        Err(fault) => unwritable(fault).into(),
        Ok(past) => match past.is_of(settings) {
            Err(problem) => problem.into(),
            Ok(()) => drive("replay", settings, |halt, begun| {
                settle(settings.clone(), past, halt, begun, screen.clone())
            }),
        },
    }
}

/// Reads `bytes` as a replay reads a file, and stores nothing.
pub fn understand(bytes: Vec<u8>) -> Result<(), Fault> {
    let from = Box::new(std::io::Cursor::new(bytes));
    Past::of(Reading::of(from, Path::new("FILE"), Use::Replay)).map(|past| {
        let open: u64 = past.counts.values().map(|count| count.open()).sum();
        debug_assert_eq!(past.open().is_empty(), open == 0);
    })
}

/// What a value's tokens came to, counted: equal values are interchangeable.
#[derive(Clone, Copy, Debug, Default)]
struct Count {
    received: u64,
    stored: u64,
    rejected: u64,
    /// Known not to be stored when the report was written.
    unsent: u64,
    unknown: u64,
}

impl Count {
    fn told(self) -> u64 {
        self.stored + self.rejected + self.unsent + self.unknown
    }

    /// How many are neither stored nor rejected as far as the file says.
    fn open(self) -> u64 {
        self.received.max(self.told()) - self.stored - self.rejected
    }
}

/// What a journal or a report says of its run.
struct Past {
    reading: Option<Reading>,
    run_id: Option<String>,
    /// The run that this file, or the one that it is a replay of, reports on.
    origin: Option<String>,
    horizon: Option<i64>,
    /// Table and column.
    place: Option<(String, String)>,
    requested: Option<u64>,
    settled: Vec<Told>,
    counts: HashMap<String, Count>,
}

impl Past {
    fn read(file: &Path) -> Result<Self, Fault> {
        Self::of(Reading::open(file, Use::Replay)?)
    }

    fn of(mut reading: Reading) -> Result<Self, Fault> {
        let mut past = Self {
            reading: None,
            run_id: None,
            origin: None,
            horizon: None,
            place: None,
            requested: None,
            settled: Vec::new(),
            counts: HashMap::new(),
        };
        while let Some(line) = reading.next() {
            let line = line?;
            if let Line::Outcome(told) = &line {
                let why = unfit(told);
                if let Some((why, hint)) = why {
                    return Err(reading.fault(why).hint(hint));
                }
            }
            past.add(line).map_err(|why| reading.fault(why))?;
        }
        if reading.is_torn() {
            tracing::warn!("the last line is torn: a crash cut it, and it is left out");
        }
        // Kept open, and with it the lock: nobody else replays the same file meanwhile.
        past.reading = Some(reading);
        Ok(past)
    }

    fn add(&mut self, line: Line) -> Result<(), &'static str> {
        match line {
            Line::Journal { journal } => {
                self.origin = Some(journal.run_id.clone());
                self.run_id = Some(journal.run_id);
                self.horizon = journal.horizon;
                self.place = Some((journal.table, journal.column));
            }
            Line::Summary { summary } => {
                let run_id = self.run_id.get_or_insert(summary.run_id);
                let origin = summary.replay_of.unwrap_or_else(|| run_id.clone());
                self.origin.get_or_insert(origin);
                self.requested = Some(summary.requested);
            }
            Line::Received { received } => {
                for token in received {
                    self.counts.entry(token).or_default().received += 1;
                }
            }
            Line::Outcome(told) => {
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
    fn is_of(&self, settings: &Settings) -> Result<(), Problem> {
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

    /// The values that were stored last, of those that nothing else is to be found out about.
    fn controls(&self) -> Vec<String> {
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
    fn open(&self) -> Vec<String> {
        let open = self.counts.iter().filter(|(_, count)| count.open() > 0);
        let mut values: Vec<String> = open.map(|(value, _)| value.clone()).collect();
        values.sort_unstable();
        values
    }
}

/// Why what a report says of a token is nothing to go by, and what to do: a mask would be stored as
/// if it were a token, and a dry run has stored nothing of what it calls stored.
fn unfit(told: &Told) -> Option<(&'static str, &'static str)> {
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

async fn settle(
    settings: Settings,
    past: Past,
    halt: Halt,
    begun: Begun,
    screen: Screen,
) -> Result<Finished, Problem> {
    let mut options = settings.store;
    // Under the name of the run that is replayed: a replay that is killed can be replayed too.
    options.session = past
        .run_id
        .clone()
        .unwrap_or_else(|| begun.run_id.to_string());
    let fail_on = settings.fail_on;
    let store = open(options, &halt, &begun, settings.wait).await?;
    let values = past.open();
    let found = look(&store, &past, &values, &halt).await?;
    let mut reports = Reports::open(&settings.reports, settings.color).map_err(unwritable)?;
    reports.mask(settings.mask);
    let mut ledger = Ledger::new(reports);
    for outcome in past.settled.iter().flat_map(Told::outcome) {
        let _ = ledger.settle(&outcome, None);
    }
    let sent = book(&past, &values, found.as_ref(), &mut ledger);
    let total = ledger.tally().total() + sent.len() as u64;
    let glance = |ledger: &Ledger| screen.glance(Some(total), || Some(ledger.tally()));
    let fault = send(&store, sent, &mut ledger, glance).await;
    store.close().await;
    Ok(conclude(&past, &halt, &begun, &mut ledger, fault, &fail_on))
}

/// How many rows of each value are in the table; `None` where that cannot be seen, or where the
/// replay was stopped before it was.
async fn look(
    store: &Store,
    past: &Past,
    values: &[String],
    halt: &Halt,
) -> Result<Option<HashMap<String, u64>>, Fault> {
    let controls = past.controls();
    // What its own form refuses was never sent, and the server cannot even be asked for it.
    let is_sound = |value: &&String| Flaw::of(value, usize::MAX).is_none();
    let values: Vec<String> = values.iter().filter(is_sound).cloned().collect();
    let found = tokio::select! {
        biased;
        found = store.recheck(&values, &controls, past.horizon) => found,
        () = halt.stopping().cancelled() => return Ok(None),
    };
    match found {
        Ok(found) => Ok(Some(found)),
        // Without the right to look, what the report calls unsent is still safe to send.
        Err(fault) if matches!(fault.kind, Kind::DbDenied { .. }) => {
            let (cause, hint) = (fault.causes.first(), fault.hint);
            tracing::warn!(cause, hint, "{}", fault.message);
            Ok(None)
        }
        Err(fault) => Err(fault),
    }
}

/// Books what was found, and gives what is to be sent.
fn book(
    past: &Past,
    values: &[String],
    found: Option<&HashMap<String, u64>>,
    ledger: &mut Ledger,
) -> Vec<Token> {
    let mut to_send = Vec::new();
    for value in values {
        let count = past.counts.get(value).copied().unwrap_or_default();
        let open = count.open();
        let (there, again, unknown) = match found {
            Some(found) => {
                let rows = found.get(value).copied().unwrap_or(0);
                let there = rows.saturating_sub(count.stored).min(open);
                (there, open - there, 0)
            }
            None => (0, count.unsent.min(open), open - count.unsent.min(open)),
        };
        let token = |attempts| {
            let mut token = Token::new(value, Flaw::of(value, usize::MAX));
            token.attempts = attempts;
            token
        };
        for _ in 0..there {
            let stored = Outcome::unsent(token(1), Status::Stored, None);
            let _ = ledger.settle(&stored, None);
        }
        for _ in 0..unknown {
            let detail = Detail::reason("it could not be looked up whether it was stored");
            let unknown = Outcome::unsent(token(1), Status::Unknown, Some(detail));
            let _ = ledger.settle(&unknown, None);
        }
        to_send.extend((0..again).map(|_| token(0)));
    }
    to_send
}

/// Stores tokens and books what becomes of them.
async fn send(
    store: &Store,
    tokens: Vec<Token>,
    ledger: &mut Ledger,
    glance: impl Fn(&Ledger),
) -> Option<Fault> {
    let pages: Vec<Page> = tokens.chunks(10_000).map(Page::from_tokens).collect();
    let mut outcomes = store.store(PageStream::ready(pages));
    let mut fault = None;
    while let Some(next) = outcomes.next().await {
        match next {
            Ok(batch) => {
                for outcome in batch {
                    let _ = ledger.settle(&outcome, None);
                }
                glance(ledger);
            }
            Err(end) => fault = Some(end),
        }
    }
    fault
}

fn conclude(
    past: &Past,
    halt: &Halt,
    begun: &Begun,
    ledger: &mut Ledger,
    fault: Option<Fault>,
    fail_on: &[Condition],
) -> Finished {
    let received = past
        .counts
        .values()
        .map(|count| count.received.max(count.told()))
        .sum();
    let problem = fault.or_else(|| ledger.fault().cloned()).map(Problem::from);
    let tally = ledger.tally();
    let facts = Facts {
        size: past.requested.unwrap_or(received),
        received,
        counted: tally.total(),
        unsettled: tally.unsettled(),
        fell_short: false,
        open_ended: false,
        cause: halt.cause(),
        chosen: None,
        problem: problem.as_ref().map(|problem| problem.exit),
    };
    let record = Record {
        replay_of: past.origin.clone(),
        ..Record::from(begun)
    };
    verdict::close(ledger, &facts, Asked::default(), record, problem, fail_on)
}
