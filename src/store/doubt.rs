//! Tokens in doubt: sent, but the connection died before the answer.
//!
//! Each of them may have been committed or not, so none of them may be called stored, failed or
//! be sent again on a guess.

use std::sync::Arc;

use tokio::time::Instant;

use super::job::{Batch, Job};
use crate::token::{Detail, Outcome, Status, Token};

/// A token that was sent and not yet answered for.
pub(super) struct Flight {
    /// The token.
    pub(super) token: Token,
    /// Whose it is.
    pub(super) job: Arc<Job>,
    /// When it was (last) sent.
    pub(super) sent: Instant,
    /// How often this store sent it.
    pub(super) tries: u32,
}

impl Flight {
    /// Its outcome, and whose it is.
    pub(super) fn land(self, status: Status, detail: Option<Arc<Detail>>) -> (Arc<Job>, Outcome) {
        let outcome = Outcome {
            elapsed: self.sent.elapsed(),
            token: self.token,
            status,
            detail,
        };
        (self.job, outcome)
    }
}

/// Settles what was in flight on a connection that is lost. Nothing is asked of the server: every
/// one of them is `unknown`.
pub(super) fn settle(in_doubt: impl IntoIterator<Item = Flight>, detail: &Arc<Detail>) {
    let mut batch = Batch::default();
    for flight in in_doubt {
        let (job, outcome) = flight.land(Status::Unknown, Some(Arc::clone(detail)));
        batch.push(&job, outcome);
    }
}
