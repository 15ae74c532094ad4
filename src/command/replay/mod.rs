//! `token_service replay FILE`: settles the open tokens of an earlier run and reports all tokens again.
//!
//! Tokens not known to be stored or rejected are looked up in the table, and stored if missing. So a
//! replay is idempotent.

mod by_receipt;
pub(crate) mod state;
mod unanswered;

use std::collections::HashMap;
use std::path::Path;

use crate::command::replay::state::ReplayState;
use crate::command::run::{RunEnvironment, database_inputs, ledger as ledger_of, open_store};
use crate::command::supervisor::run_supervised;
use crate::config::RunSettings;
use crate::error::exit::RunTotals;
use crate::error::{Error, ErrorKind};
use crate::journal::{JournalReader, ParsedRecord, ReadPurpose};
use crate::observe::progress::ProgressDisplay;
use crate::observe::run_context::RunContext;
use crate::pipeline::channel::{OutcomeStream, PageStream};
use crate::pipeline::numbers::Numbers;
use crate::pipeline::token::{Detail, Outcome, Page, Status, Token, TokenDefect};
use crate::report::conclusion::{self, Conclusion, unwritable};
use crate::report::fail_on::Condition;
use crate::report::ledger::Ledger;
use crate::report::summary::RunRecord;
use crate::runtime::shutdown::Shutdown;
use crate::store::Store;
use crate::store::receipts::EarlierReceipts;

/// Replays a journal or report and returns its conclusion.
pub fn replay(settings: &RunSettings, file: &Path, display: &ProgressDisplay) -> Conclusion {
    match ReplayState::read(file) {
        Err(error) => unwritable(error).into(),
        Ok(state) => match state.check_table(settings) {
            Err(error) => error.into(),
            Ok(()) => run_supervised("replay", settings, |shutdown, run_context| {
                let environment = RunEnvironment::of_process(settings, display);
                settle(settings.clone(), state, shutdown, run_context, environment)
            }),
        },
    }
}

/// Parses the content of a journal or report, as a replay does.
pub fn parse(bytes: Vec<u8>) -> Result<(), Error> {
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

/// Settles what a run left, and reports its tokens.
pub(crate) async fn settle(
    settings: RunSettings,
    mut state: ReplayState,
    shutdown: Shutdown,
    run_context: RunContext,
    environment: RunEnvironment,
) -> Result<Conclusion, Error> {
    let RunEnvironment {
        open_reports,
        display,
        ..
    } = environment;
    let mut inputs = vec![("replayed file", state.path().display().to_string())];
    inputs.extend(database_inputs(&settings));
    let fetcher = unanswered::fetcher(&settings, &state, &shutdown, &run_context).await?;
    let mut options = settings.store;
    // The session has the id of the replayed run, so that a killed replay can be replayed.
    options.session = state
        .session
        .clone()
        .or_else(|| state.run_id.clone())
        .unwrap_or_else(|| run_context.run_id.to_string());
    options.receipts = state.receipts();
    let fail_on = settings.fail_on;
    let store = open_store(options, &shutdown, &run_context, settings.wait).await?;
    let earlier = match state.receipts {
        Some(_) => Some(read_receipts(&store, &shutdown).await?),
        None => None,
    };
    let values = state.open();
    let found = match earlier {
        Some(_) => None,
        None => recheck(&store, &state, &values, &shutdown).await?,
    };
    let mut reports = open_reports().map_err(unwritable)?;
    reports.mask = settings.mask;
    reports.inputs = inputs;
    let mut ledger = ledger_of(reports, &store, 0);
    let settled = earlier
        .as_ref()
        .map(|earlier| by_receipt::settle(&state, earlier, &mut ledger));
    if settled.is_none() {
        for outcome in state.settled.iter().flat_map(ParsedRecord::outcome) {
            let _ = ledger.settle(&outcome, None);
        }
    }
    // Only now, because the journal already has the outcomes above.
    let journal = state.continue_journal(&run_context.run_id.to_string());
    let repeated = unanswered::repeat(&state, fetcher, journal.as_ref(), &shutdown).await;
    if let Some(journal) = journal {
        ledger.reports().add_journal(journal);
    }
    let mut missing =
        settled.unwrap_or_else(|| settle_found(&state, &values, found.as_ref(), &mut ledger));
    missing.extend(repeated.tokens);
    let total = ledger.numbers().total() + missing.len() as u64;
    let glance = |ledger: &Ledger| {
        display.update(Some(total), || Some(ledger.numbers()), || store.waits_for());
    };
    let stored = store.store(pages_of(&missing), &shutdown, &run_context.tracer);
    let error = settle_outcomes(stored, &mut ledger, glance).await;
    let error = error.or(repeated.error);
    store.close().await;
    Ok(conclude(
        &state,
        &repeated.numbers,
        &shutdown,
        &run_context,
        &mut ledger,
        error,
        &fail_on,
    ))
}

/// Reads the receipts of the replayed run, after its connections have ended.
async fn read_receipts(store: &Store, shutdown: &Shutdown) -> Result<EarlierReceipts, Error> {
    tokio::select! {
        biased;
        earlier = store.read_receipts(None) => earlier,
        () = shutdown.stopping().cancelled() => Err(conclusion::stopped_early(shutdown)),
    }
}

/// Counts the rows of each value in the table.
///
/// Returns `None` if this user has no right to read them, or if the replay is stopped.
async fn recheck(
    store: &Store,
    state: &ReplayState,
    values: &[String],
    shutdown: &Shutdown,
) -> Result<Option<HashMap<String, u64>>, Error> {
    let controls = state.controls();
    // Tokens with a defect were never sent, and cannot be part of a query.
    let is_valid = |value: &&String| TokenDefect::of(value, usize::MAX).is_none();
    let values: Vec<String> = values.iter().filter(is_valid).cloned().collect();
    let found = tokio::select! {
        biased;
        found = store.recheck(&values, &controls, state.horizon) => found,
        () = shutdown.stopping().cancelled() => return Ok(None),
    };
    match found {
        Ok(found) => Ok(Some(found)),
        // Without this right, unsent tokens are still safe to send.
        Err(error) if matches!(error.kind, Some(ErrorKind::DbDenied { .. })) => {
            let (cause, hint) = (error.causes.first(), error.hint.as_ref());
            tracing::warn!(cause, hint, "{}", error.message);
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// Settles the tokens that were found, and returns those to store.
fn settle_found(
    state: &ReplayState,
    values: &[String],
    found: Option<&HashMap<String, u64>>,
    ledger: &mut Ledger,
) -> Vec<Token> {
    let mut missing = Vec::new();
    for value in values {
        let count = state.counts.get(value).copied().unwrap_or_default();
        let open = count.open();
        let (stored, unsent, unknown) = match found {
            Some(found) => {
                let rows = found.get(value).copied().unwrap_or(0);
                let stored = rows.saturating_sub(count.stored).min(open);
                (stored, open - stored, 0)
            }
            None => (0, count.unsent.min(open), open - count.unsent.min(open)),
        };
        let token = |attempts| {
            let mut token = Token::new(value, TokenDefect::of(value, usize::MAX));
            token.attempts = attempts;
            token
        };
        for _ in 0..stored {
            let stored = Outcome::unsent(token(1), Status::Stored, None);
            let _ = ledger.settle(&stored, None);
        }
        for _ in 0..unknown {
            let detail = Detail::reason("the table could not be read to look it up");
            let unknown = Outcome::unsent(token(1), Status::Unknown, Some(detail));
            let _ = ledger.settle(&unknown, None);
        }
        missing.extend((0..unsent).map(|_| token(0)));
    }
    missing
}

fn pages_of(tokens: &[Token]) -> PageStream<Error> {
    PageStream::ready(tokens.chunks(10_000).map(Page::from_tokens))
}

/// Settles outcomes as they arrive; returns the error that ended them.
async fn settle_outcomes(
    mut outcomes: OutcomeStream<Error>,
    ledger: &mut Ledger,
    glance: impl Fn(&Ledger),
) -> Option<Error> {
    let mut error = None;
    while let Some(next) = outcomes.next().await {
        match next {
            Ok(batch) => {
                for outcome in batch {
                    let _ = ledger.settle(&outcome, None);
                }
                glance(ledger);
            }
            Err(end) => error = Some(end),
        }
    }
    error
}

fn conclude(
    state: &ReplayState,
    repeated: &Numbers,
    shutdown: &Shutdown,
    run_context: &RunContext,
    ledger: &mut Ledger,
    error: Option<Error>,
    fail_on: &[Condition],
) -> Conclusion {
    let received = state.received() + repeated.received;
    let error = error.or_else(|| ledger.error().cloned());
    let totals = RunTotals {
        numbers: Numbers {
            requested: state.requested.unwrap_or(received),
            received,
            requests: repeated.requests,
            surplus: repeated.surplus,
            issued_unseen: repeated.issued_unseen,
            repeated: repeated.repeated,
            ..ledger.numbers()
        },
        cause: shutdown.cause(),
        error: error.as_ref().map(|error| error.exit),
        ..RunTotals::default()
    };
    let record = RunRecord {
        replay_of: state.origin.clone(),
        shard: state.receipts.as_ref().map(|(_, shard)| *shard),
        ..RunRecord::from(run_context)
    };
    conclusion::close(ledger, &totals, record, error, fail_on)
}
