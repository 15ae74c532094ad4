//! Settles the tokens of a journal by their receipts. This replaces the look-up by value: each token has a
//! position, and its receipt says what became of it.

use crate::command::replay::state::{ReplayState, ReplayToken};
use crate::journal::ParsedRecord;
use crate::pipeline::token::{Detail, Outcome, Status, Token};
use crate::report::ledger::Ledger;
use crate::store::receipts::EarlierReceipts;

/// Settles the tokens whose receipts say what became of them, and returns those to store.
pub(super) fn settle(
    state: &ReplayState,
    earlier: &EarlierReceipts,
    ledger: &mut Ledger,
) -> Vec<Token> {
    let mut missing = Vec::new();
    for (position, replayed) in &state.tokens {
        let mut token = replayed.token.clone();
        let settled = if earlier.stored.contains(*position) {
            Some(settled_as(replayed, Status::Stored, None))
        } else if earlier.rejected.contains(*position) {
            let why = "rejected before; its receipt does not say why";
            Some(settled_as(replayed, Status::Rejected, Some(why)))
        } else if earlier.without_row.contains(*position) {
            let why = "the INSERT was committed without a row in the table";
            Some(settled_as(replayed, Status::Unknown, Some(why)))
        } else if !replayed.was_received && is_rejected(replayed) {
            // Its form is invalid, so it was never sent.
            Some(settled_as(replayed, Status::Rejected, None))
        } else {
            None
        };
        if let Some(outcome) = settled {
            let _ = ledger.settle(&outcome, None);
            continue;
        }
        if let Some(attempt) = earlier.attempts.get(position) {
            token.receipt.attempt = *attempt;
        }
        missing.push(token);
    }
    missing
}

fn is_rejected(replayed: &ReplayToken) -> bool {
    let status = replayed.record.as_ref().map(ParsedRecord::status);
    status == Some(Ok(Status::Rejected))
}

/// Returns the outcome that the journal records if it has this status, else one with `reason`.
fn settled_as(replayed: &ReplayToken, status: Status, reason: Option<&str>) -> Outcome {
    let recorded = replayed.record.as_ref().map(ParsedRecord::outcome);
    match recorded {
        Some(Ok(mut outcome)) if outcome.status == status => {
            outcome.token.receipt = replayed.token.receipt;
            outcome
        }
        _ => {
            let mut token = replayed.token.clone();
            token.attempts = 1;
            Outcome::unsent(token, status, reason.map(Detail::reason))
        }
    }
}
