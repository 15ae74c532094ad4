//! Settles the tokens of a journal by their receipts. This replaces the look-up by value: each token has a
//! position, and its receipt proves what became of it.

use crate::command::replay::state::{ReplayState, ReplayToken};
use crate::pipeline::token::{Detail, Outcome, Status, Token};
use crate::report::ledger::Ledger;
use crate::store::receipts::EarlierReceipts;

/// Settles the tokens whose outcome is known, and returns those to store.
pub(super) fn settle(
    state: &ReplayState,
    earlier: &EarlierReceipts,
    ledger: &mut Ledger,
) -> Vec<Token> {
    let mut missing = Vec::new();
    for (position, replayed) in &state.tokens {
        // A recorded outcome is final even if its receipt was deleted since.
        let known = replayed
            .recorded()
            .or_else(|| by_receipt(*position, replayed, earlier));
        if let Some(outcome) = known {
            let _ = ledger.settle(&outcome, None);
            continue;
        }
        let mut token = replayed.token.clone();
        if let Some(attempt) = earlier.attempts.get(position) {
            token.receipt.attempt = *attempt;
        }
        missing.push(token);
    }
    missing
}

/// Returns the outcome that the receipt proves; `None` if the token may be sent.
fn by_receipt(position: u64, replayed: &ReplayToken, earlier: &EarlierReceipts) -> Option<Outcome> {
    let (status, reason) = if earlier.stored.contains(position) {
        (Status::Stored, None)
    } else if earlier.rejected.contains(position) {
        let reason = "rejected before; its receipt does not have the reason";
        (Status::Rejected, Some(reason))
    } else if earlier.without_row.contains(position) {
        let reason = "the INSERT was committed without a row in the table";
        (Status::Unknown, Some(reason))
    } else {
        return None;
    };
    let mut token = replayed.token.clone();
    token.attempts = 1;
    Some(Outcome::unsent(token, status, reason.map(Detail::reason)))
}
