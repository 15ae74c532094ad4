//! Tokens between the queue and their outcome: in flight, waiting to be sent again, or in doubt.

use std::sync::Arc;
use std::time::Instant;

use crate::pipeline::token::{Detail, Outcome, Status, Token};
use crate::store::in_flight_log::InFlightLog;
use crate::store::queue::StoreJob;

/// A token that was sent.
pub(super) struct InFlight {
    /// The token.
    pub(super) token: Token,
    /// The job that the token belongs to.
    pub(super) job: Arc<StoreJob>,
    /// When it was last sent.
    pub(super) sent_at: Instant,
    /// The same as a tick of [`InFlightLog`].
    pub(super) sent_tick: u64,
    /// How often this store sent it.
    pub(super) tries: u32,
    /// When a sequence first produced a key that is taken.
    pub(super) key_taken_since: Option<Instant>,
}

impl InFlight {
    /// Records in `log` that the token is resolved, or stays unknown.
    pub(super) fn mark_settled(&self, log: &InFlightLog, stored: bool) {
        log.record_settled(self.token.as_str(), self.sent_tick, stored);
    }

    /// Reports the outcome, which became known at `now`.
    pub(super) fn report(self, status: Status, detail: Option<Arc<Detail>>, now: Instant) {
        self.job.report(Outcome {
            elapsed: now.saturating_duration_since(self.sent_at),
            token: self.token,
            status,
            detail,
        });
    }
}

impl InFlight {
    /// Reports the token as `unknown` if its run does not wait for it any more; its result is then dropped.
    pub(super) fn detach_if_aborted(&mut self, abandoned: &Arc<StoreJob>, now: Instant) {
        if !self.job.is_aborted() {
            return;
        }
        let job = std::mem::replace(&mut self.job, Arc::clone(abandoned));
        job.report(Outcome {
            elapsed: now.saturating_duration_since(self.sent_at),
            token: self.token.clone(),
            status: Status::Unknown,
            detail: Some(Detail::reason(RUN_ABORTED)),
        });
    }
}

/// Why a token of an aborted run is unknown.
pub(super) const RUN_ABORTED: &str = "the run was aborted before the database answered";

/// A token that is certainly not stored and waits to be sent again.
pub(super) struct RetryToken {
    /// When it may be sent.
    pub(super) due: Instant,
    /// The token.
    pub(super) in_flight: InFlight,
    /// Why it was not stored.
    pub(super) detail: Arc<Detail>,
}

impl RetryToken {
    /// Reports the token as `failed`.
    pub(super) fn fail(self, now: Instant) {
        self.in_flight
            .report(Status::Failed, Some(self.detail), now);
    }
}

/// The in-doubt tokens of a lost connection, and what resolving them needs.
pub(super) struct InDoubtSet<S> {
    /// The tokens, in the order in which they were sent.
    pub(super) tokens: Vec<InFlight>,
    /// What the look-up needs to know about the lost connection.
    pub(super) session: S,
    /// Why the connection was lost, for tokens that stay unknown.
    pub(super) close_reason: Option<String>,
}

/// Reports every token as `unknown` for `reason`; `message` says more about it.
pub(super) fn report_unknown(
    tokens: impl IntoIterator<Item = InFlight>,
    log: &InFlightLog,
    reason: &str,
    message: Option<String>,
    now: Instant,
) {
    let detail = Arc::new(Detail {
        reason: Some(reason.to_owned()),
        message,
        ..Detail::default()
    });
    for in_flight in tokens {
        in_flight.mark_settled(log, false);
        in_flight.report(Status::Unknown, Some(Arc::clone(&detail)), now);
    }
}
