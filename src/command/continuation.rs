//! Continues a run of `--run-id`: its receipts say what is settled, and its journal, if there is one, which
//! tokens were received and which requests were sent.

use std::collections::VecDeque;
use std::path::Path;

use crate::command::replay::state::ReplayState;
use crate::config::RunSettings;
use crate::error::{Error, ErrorKind};
use crate::fetch::Fetcher;
use crate::fetch::continuation::Continuation;
use crate::journal::{Journal, JournalHeader};
use crate::pipeline::numbers::Numbers;
use crate::pipeline::token::{Page, Token};
use crate::report::conclusion::unwritable;
use crate::store::Store;
use crate::store::receipts::{EarlierReceipts, ProcessStart};

/// The number of tokens in a page of those received before.
const PAGE_SIZE: usize = 10_000;

/// The journal of earlier processes of the run, which stays locked.
pub(crate) struct EarlierJournal(ReplayState);

impl EarlierJournal {
    /// Reads the journal at `path`; `None` if it does not exist or belongs to another run.
    ///
    /// # Errors
    /// If the journal is damaged, in use, or belongs to another table.
    pub fn read(path: &Path, settings: &RunSettings) -> Result<Option<Self>, Error> {
        let Some(run_id) = settings.run_id else {
            return Ok(None);
        };
        if !std::fs::metadata(path).is_ok_and(|file| file.is_file() && file.len() > 0) {
            return Ok(None);
        }
        let run_id = run_id.to_string();
        let of_run = settings.store.receipts.as_ref().map(|it| it.shard);
        let header = JournalHeader::read(path);
        if header.is_none_or(|header| header.run_id != run_id || header.shard != of_run) {
            return Ok(None);
        }
        let state = ReplayState::read(path).map_err(unwritable)?;
        state.check_table(settings)?;
        Ok(Some(Self(state)))
    }

    /// Continues to write the journal.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn resume(&mut self, run_id: &str) -> Result<Journal, Error> {
        self.0.resume(run_id)
    }
}

/// Reads the receipts of the run, marks the beginning of this process, and sets what `fetcher` leaves out.
/// Returns the number of the request to which tokens belong that the script makes.
///
/// # Errors
/// If another process of the run is still connected, or if the run cannot be continued.
pub(crate) async fn begin(
    store: &Store,
    fetcher: &mut Fetcher,
    journal: Option<&EarlierJournal>,
    settings: &RunSettings,
) -> Result<u64, Error> {
    let start = ProcessStart {
        // With several requests under way, a second process would not send the same ones.
        is_keyed: fetcher.sends_keys() && settings.journal.is_none(),
        wait: settings.wait,
        is_alone: journal.is_some(),
    };
    let mut earlier = store.read_receipts(Some(start)).await.map_err(|error| {
        if matches!(error.kind, Some(ErrorKind::InvalidArgument { .. })) {
            unwritable(error)
        } else {
            error
        }
    })?;
    if let Some(EarlierJournal(state)) = journal {
        // The journal also knows tokens whose receipts were deleted or not written yet.
        earlier.add_recorded(state.settled_positions());
    }
    let before = Numbers {
        stored_before: earlier.stored.len(),
        rejected_before: earlier.rejected.len(),
        unknown_before: earlier.without_row.len(),
        ..Numbers::default()
    };
    if before.before() > 0 || earlier.generation > 1 {
        tracing::info!(
            stored = before.stored_before,
            rejected = before.rejected_before,
            "continuing the run"
        );
    }
    let script_request = earlier.first_request();
    let is_repeatable = fetcher.is_local() || earlier.is_repeatable(start);
    let continuation = match journal {
        // An input is read again from its beginning.
        Some(EarlierJournal(state)) if !fetcher.is_local() => of_journal(state, earlier),
        // The same requests bring the same tokens, of which the settled ones are dropped.
        _ if is_repeatable => Continuation {
            settled: earlier.settled,
            attempts: earlier.attempts,
            ..Continuation::default()
        },
        _ => Continuation {
            done: before.before(),
            last_request: script_request,
            ..Continuation::default()
        },
    };
    fetcher.set_continuation(continuation, &before);
    Ok(script_request)
}

/// Returns what the journal and the receipts say together.
fn of_journal(state: &ReplayState, earlier: EarlierReceipts) -> Continuation {
    let is_open = |token: &&Token| !earlier.settled.contains(token.receipt.position);
    let open: Vec<Token> = state.received_tokens().filter(is_open).cloned().collect();
    let pages: VecDeque<Page> = open.chunks(PAGE_SIZE).map(Page::from_tokens).collect();
    let first_request = earlier.first_request();
    Continuation {
        done: earlier.settled.len(),
        settled: earlier.settled,
        attempts: earlier.attempts,
        pages,
        unanswered: state.unanswered.values().cloned().collect(),
        // Without keys, another process may have sent requests of which this journal knows nothing.
        last_request: state
            .last_request
            .max(if state.has_keys { 0 } else { first_request }),
    }
}
