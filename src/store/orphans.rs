//! The tokens that lost connections leave behind: in doubt, or waiting to be sent again.

use std::sync::Arc;
use std::time::Instant;

use crate::pipeline::token::{Detail, Status};
use crate::store::connection::{Connection, Database, Found, LookUpResult};
use crate::store::in_flight::{InDoubtSet, InFlight, RetryToken, report_unknown};
use crate::store::in_flight_log::InFlightLog;
use crate::store::queue::StoreJob;
use crate::store::shared::WriterShared;

/// The most lost connections for one token: the token itself may end them.
const MAX_LOSSES: u32 = 8;

/// The session of a database's connections.
type SessionOf<D> = <<D as Database>::Connection as Connection>::Session;

/// The unsettled tokens of a lost connection.
pub(super) struct Orphans<D: Database> {
    /// Tokens that were sent without a reply.
    pub(super) in_doubt: Option<InDoubtSet<SessionOf<D>>>,
    /// Tokens that are certainly not stored and wait to be sent again.
    pub(super) waiting: Vec<RetryToken>,
}

/// The unsettled tokens of every lost connection.
pub(super) struct SharedOrphans<D: Database> {
    /// The in-doubt tokens, one set per connection.
    pub(super) in_doubt: Vec<InDoubtSet<SessionOf<D>>>,
    /// Tokens that wait to be sent again.
    pub(super) waiting: Vec<RetryToken>,
}

impl<D: Database> Default for SharedOrphans<D> {
    fn default() -> Self {
        Self {
            in_doubt: Vec::new(),
            waiting: Vec::new(),
        }
    }
}

impl<D: Database> SharedOrphans<D> {
    pub(super) fn add(&mut self, orphans: Orphans<D>) {
        self.in_doubt.extend(orphans.in_doubt);
        self.waiting.extend(orphans.waiting);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.in_doubt.is_empty() && self.waiting.is_empty()
    }

    /// Returns the jobs of the tokens, with repeats.
    pub(super) fn jobs(&self) -> impl Iterator<Item = &Arc<StoreJob>> {
        let in_doubt = self.in_doubt.iter().flat_map(|set| &set.tokens);
        let waiting = self.waiting.iter().map(|waiting| &waiting.in_flight);
        in_doubt.chain(waiting).map(|in_flight| &in_flight.job)
    }

    /// Reports the tokens of runs that do not wait for them any more.
    pub(super) fn detach_aborted(&mut self, shared: &WriterShared<D>) {
        let (queue, now) = (&shared.queue, shared.queue.clock.now());
        for in_flight in self.in_doubt.iter_mut().flat_map(|set| &mut set.tokens) {
            in_flight.detach_if_aborted(queue.abandoned(), now);
        }
        let waiting = std::mem::take(&mut self.waiting);
        for waiting in waiting {
            // It is certainly not stored.
            if waiting.in_flight.job.is_stopping() {
                waiting.fail(now);
            } else {
                self.waiting.push(waiting);
            }
        }
    }

    /// Reports every token without resolving it.
    pub(super) fn give_up(&mut self, shared: &WriterShared<D>, reason: &str) {
        let now = shared.queue.clock.now();
        for set in self.in_doubt.drain(..) {
            log_resolution(set.tokens.len(), 0, 0);
            report_unknown(set.tokens, &shared.log, reason, set.close_reason, now);
        }
        for waiting in self.waiting.drain(..) {
            waiting.fail(now);
        }
    }

    /// Resolves every set over `connection`; returns false if that was lost too.
    pub(super) async fn resolve(
        &mut self,
        shared: &WriterShared<D>,
        connection: &D::Connection,
    ) -> bool {
        if self.in_doubt.is_empty() {
            return true;
        }
        // Cancel safe: a set stays until it is resolved.
        while let Some(set) = self.in_doubt.last() {
            let Ok(found) = connection.look_up(set).await else {
                return false;
            };
            let Some(set) = self.in_doubt.pop() else {
                return true;
            };
            let now = shared.queue.clock.now();
            let mut absent = settle(set, found, &shared.log, now);
            // The first missing token may have ended the connection, so it goes last.
            if !absent.is_empty() {
                absent.rotate_left(1);
            }
            self.waiting.extend(retry_lost(absent, now));
        }
        connection.begin_after_look_up().await.is_ok()
    }
}

/// Reports found tokens as `stored` and uncertain ones as `unknown`.
///
/// Returns the rest, which is certainly not stored.
fn settle<S>(
    set: InDoubtSet<S>,
    look_up: LookUpResult,
    log: &InFlightLog,
    now: Instant,
) -> Vec<InFlight> {
    let in_doubt = set.tokens.len();
    let found = match look_up {
        LookUpResult::Found(found) => found,
        LookUpResult::Unprovable(reason) => {
            tracing::warn!(
                tokens = in_doubt,
                reason,
                "in-doubt tokens cannot be resolved"
            );
            log_resolution(in_doubt, 0, 0);
            report_unknown(set.tokens, log, &reason, set.close_reason, now);
            return Vec::new();
        }
    };
    let mut stored = 0;
    let mut absent = Vec::new();
    for (mut in_flight, found) in Found::pair(set.tokens, found) {
        match found {
            Found::Stored => {
                stored += 1;
                in_flight.mark_settled(log, true);
                in_flight.report(Status::Stored, None, now);
            }
            Found::Absent => {
                in_flight.mark_settled(log, false);
                // With receipts, a tombstone has made this attempt impossible.
                let attempt = &mut in_flight.token.receipt.attempt;
                *attempt = attempt.saturating_add(1);
                absent.push(in_flight);
            }
            Found::Unknown(reason) => {
                report_unknown([in_flight], log, reason, set.close_reason.clone(), now);
            }
        }
    }
    log_resolution(in_doubt, stored, absent.len());
    absent
}

/// Returns entries for tokens that are certainly not stored because their connection was lost.
///
/// Reports tokens that lost too many connections as `failed`.
pub(super) fn retry_lost(lost: Vec<InFlight>, now: Instant) -> Vec<RetryToken> {
    let detail = Detail::reason("the connection was lost before the token was stored");
    let mut waiting = Vec::with_capacity(lost.len());
    for in_flight in lost {
        let retry = RetryToken {
            due: now,
            in_flight,
            detail: Arc::clone(&detail),
        };
        if retry.in_flight.tries < MAX_LOSSES {
            waiting.push(retry);
        } else {
            retry.fail(now);
        }
    }
    waiting
}

/// Logs how in-doubt tokens were resolved.
fn log_resolution(in_doubt: usize, stored: usize, absent: usize) {
    let unknown = in_doubt - stored - absent;
    tracing::debug!(
        in_doubt,
        stored,
        absent,
        unknown,
        "in-doubt tokens processed"
    );
}
