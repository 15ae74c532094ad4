//! `token_service replay FILE`: what an earlier run left is settled. Whatever is not known to be
//! stored or rejected is looked up in the table first, so that a replay can be repeated; what is not
//! there is stored; everything is reported anew.

mod state;

use std::collections::HashMap;
use std::path::Path;

use crate::command::replay::state::ReplayState;
use crate::command::run::open;
use crate::command::supervisor::drive;
use crate::config::RunSettings;
use crate::error::diagnostic::Problem;
use crate::error::exit::RunTotals;
use crate::error::{ErrorKind, Fault};
use crate::journal::{JournalReader, ParsedRecord, ReadPurpose};
use crate::observe::progress::ProgressDisplay;
use crate::observe::run_context::RunContext;
use crate::pipeline::channel::PageStream;
use crate::pipeline::token::{Detail, Outcome, Page, Status, Token, TokenDefect};
use crate::report::Reports;
use crate::report::conclusion::{self, Conclusion, RequestCounts, RunRecord, unwritable};
use crate::report::fail_on::Condition;
use crate::report::ledger::Ledger;
use crate::runtime::shutdown::Shutdown;
use crate::store::Store;

/// Replays `file` to its end, whatever way that comes.
pub fn replay(settings: &RunSettings, file: &Path, display: &ProgressDisplay) -> Conclusion {
    match ReplayState::read(file) {
        Err(fault) => unwritable(fault).into(),
        Ok(state) => match state.is_of(settings) {
            Err(problem) => problem.into(),
            Ok(()) => drive("replay", settings, |shutdown, run_context| {
                settle(
                    settings.clone(),
                    state,
                    shutdown,
                    run_context,
                    display.clone(),
                )
            }),
        },
    }
}

/// Reads `bytes` as a replay reads a file, and stores nothing.
pub fn understand(bytes: Vec<u8>) -> Result<(), Fault> {
    let from = Box::new(std::io::Cursor::new(bytes));
    ReplayState::of(JournalReader::of(
        from,
        Path::new("FILE"),
        ReadPurpose::Replay,
    ))
    .map(|state| {
        let open: u64 = state.counts.values().map(|count| count.open()).sum();
        debug_assert_eq!(state.open().is_empty(), open == 0);
    })
}

async fn settle(
    settings: RunSettings,
    mut state: ReplayState,
    shutdown: Shutdown,
    run_context: RunContext,
    display: ProgressDisplay,
) -> Result<Conclusion, Problem> {
    let mut options = settings.store;
    // Under the name of the run that is replayed: a replay that is killed can be replayed too.
    options.session = state
        .run_id
        .clone()
        .unwrap_or_else(|| run_context.run_id.to_string());
    let fail_on = settings.fail_on;
    let store = open(options, &shutdown, &run_context, settings.wait).await?;
    let values = state.open();
    let found = look(&store, &state, &values, &shutdown).await?;
    let mut reports = Reports::open(&settings.reports, settings.color).map_err(unwritable)?;
    reports.mask(settings.mask);
    let mut ledger = Ledger::new(reports);
    for outcome in state.settled.iter().flat_map(ParsedRecord::outcome) {
        let _ = ledger.settle(&outcome, None);
    }
    // From here on, for what the file says already is not to be said twice in it.
    if let Some(journal) = state.go_on(&run_context.run_id.to_string()) {
        ledger.reports().keep_journal(journal);
    }
    let sent = book(&state, &values, found.as_ref(), &mut ledger);
    let total = ledger.tally().total() + sent.len() as u64;
    let tally = |ledger: &Ledger| Some(ledger.tally());
    let glance = |ledger: &Ledger| {
        display.glance(Some(total), || tally(ledger), || store.waits_for());
    };
    let fault = send(&store, sent, &mut ledger, glance).await;
    store.close().await;
    Ok(conclude(
        &state,
        &shutdown,
        &run_context,
        &mut ledger,
        fault,
        &fail_on,
    ))
}

/// How many rows of each value are in the table; `None` where that cannot be seen, or where the
/// replay was stopped before it was.
async fn look(
    store: &Store,
    state: &ReplayState,
    values: &[String],
    shutdown: &Shutdown,
) -> Result<Option<HashMap<String, u64>>, Fault> {
    let controls = state.controls();
    // What its own form refuses was never sent, and the server cannot even be asked for it.
    let is_sound = |value: &&String| TokenDefect::of(value, usize::MAX).is_none();
    let values: Vec<String> = values.iter().filter(is_sound).cloned().collect();
    let found = tokio::select! {
        biased;
        found = store.recheck(&values, &controls, state.horizon) => found,
        () = shutdown.stopping().cancelled() => return Ok(None),
    };
    match found {
        Ok(found) => Ok(Some(found)),
        // Without the right to look, what the report calls unsent is still safe to send.
        Err(fault) if matches!(fault.kind, ErrorKind::DbDenied { .. }) => {
            let (cause, hint) = (fault.causes.first(), fault.hint);
            tracing::warn!(cause, hint, "{}", fault.message);
            Ok(None)
        }
        Err(fault) => Err(fault),
    }
}

/// Books what was found, and gives what is to be sent.
fn book(
    state: &ReplayState,
    values: &[String],
    found: Option<&HashMap<String, u64>>,
    ledger: &mut Ledger,
) -> Vec<Token> {
    let mut to_send = Vec::new();
    for value in values {
        let count = state.counts.get(value).copied().unwrap_or_default();
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
            let mut token = Token::new(value, TokenDefect::of(value, usize::MAX));
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
    state: &ReplayState,
    shutdown: &Shutdown,
    run_context: &RunContext,
    ledger: &mut Ledger,
    fault: Option<Fault>,
    fail_on: &[Condition],
) -> Conclusion {
    let received = state.received();
    let problem = fault.or_else(|| ledger.fault().cloned()).map(Problem::from);
    let tally = ledger.tally();
    let totals = RunTotals {
        size: state.requested.unwrap_or(received),
        received,
        counted: tally.total(),
        unsettled: tally.unsettled(),
        fell_short: false,
        open_ended: false,
        cause: shutdown.cause(),
        chosen: None,
        problem: problem.as_ref().map(|problem| problem.exit),
    };
    let record = RunRecord {
        replay_of: state.origin.clone(),
        ..RunRecord::from(run_context)
    };
    conclusion::close(
        ledger,
        &totals,
        RequestCounts::default(),
        record,
        problem,
        fail_on,
    )
}
