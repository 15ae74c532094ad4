//! The tokens that a lost connection passes to its successor: in doubt, or waiting to be sent
//! again.

use std::sync::Arc;

use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::pipeline::token::{Detail, Status};
use crate::store::outcome_batch::OutcomeBatch;
use crate::store::postgres::connection::Connection;
use crate::store::postgres::in_doubt::{self, InDoubtSet, InFlight};
use crate::store::postgres::shared::PoolShared;
use crate::store::queue::{Chunk, StoreJob};

/// The most lost connections for one token: the token itself may end them.
pub(in crate::store) const MAX_LOSSES: u32 = 8;

/// How a writer ended.
pub(super) enum CloseReason {
    /// The queue is closed and empty, or the run is aborted. Every token was reported.
    Finished,
    /// The connection was lost; its tokens must be resolved.
    Lost(Box<Orphans>),
    /// No connection could be made.
    Unconnected,
}

/// The unsettled tokens of a lost connection.
#[derive(Default)]
pub(super) struct Orphans {
    /// Tokens that were sent without a reply.
    pub(super) in_doubt: Option<InDoubtSet>,
    /// Tokens that are certainly not stored and wait to be sent again.
    pub(super) waiting: Vec<RetryToken>,
}

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
    /// Creates an entry that is due at once.
    pub(super) fn immediately(in_flight: InFlight, detail: Arc<Detail>) -> Self {
        Self {
            due: Instant::now(),
            in_flight,
            detail,
        }
    }

    /// Reports the token as `failed`.
    pub(super) fn fail(self) {
        let mut batch = OutcomeBatch::default();
        let (job, outcome) = self
            .in_flight
            .into_outcome(Status::Failed, Some(self.detail));
        batch.push(&job, outcome);
    }
}

/// Returns entries for tokens that are certainly not stored because their connection was lost.
///
/// Reports tokens that lost too many connections as `failed`.
pub(super) fn retry_lost(lost: Vec<InFlight>) -> Vec<RetryToken> {
    let detail = Detail::reason("the connection was lost before the token was stored");
    let mut waiting = Vec::with_capacity(lost.len());
    for in_flight in lost {
        let retry = RetryToken::immediately(in_flight, Arc::clone(&detail));
        if retry.in_flight.tries < MAX_LOSSES {
            waiting.push(retry);
        } else {
            retry.fail();
        }
    }
    waiting
}

/// Waits until `due`; for ever if nothing is due.
pub(super) async fn sleep_until_due(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due).await,
        None => std::future::pending().await,
    }
}

/// A connection that starts work, with the tokens that it takes over.
pub(super) struct WriterStart {
    /// The connection.
    pub(super) connection: Connection,
    /// The log's tick before its horizon was queried.
    pub(super) snapshot_from: u64,
    /// The chunk to start with.
    pub(super) chunk: Option<Chunk>,
    /// Tokens that wait to be sent again.
    pub(super) waiting: Vec<RetryToken>,
}

impl WriterStart {
    /// Makes an additional connection, if the server allows it and work is left.
    pub(super) async fn connect_extra(shared: &PoolShared) -> Option<Self> {
        let snapshot_from = shared.in_flight_log.tick();
        let attempt = tokio::select! {
            biased;
            () = shared.queue.shutdown.stopping().cancelled() => return None,
            () = shared.queue.closed().cancelled() => return None,
            attempt = shared.connector.connect() => attempt,
        };
        attempt
            .inspect_err(|fault| {
                tracing::debug!(
                    cause = fault.causes.first(),
                    "continuing with fewer connections"
                );
            })
            .ok()
            .map(|connection| Self {
                connection,
                snapshot_from,
                chunk: None,
                waiting: Vec::new(),
            })
    }
}

/// The unsettled tokens of every lost connection.
#[derive(Default)]
pub(super) struct SharedOrphans {
    /// The in-doubt tokens, one set per connection.
    pub(super) in_doubt: Vec<InDoubtSet>,
    /// Tokens that wait to be sent again.
    pub(super) waiting: Vec<RetryToken>,
}

impl SharedOrphans {
    pub(super) fn add(&mut self, orphans: Orphans) {
        self.in_doubt.extend(orphans.in_doubt);
        self.waiting.extend(orphans.waiting);
    }

    /// Takes the tokens of the writers that have ended by now.
    pub(super) fn collect_finished(&mut self, writers: &mut JoinSet<CloseReason>) {
        while let Some(end) = writers.try_join_next() {
            if let Ok(CloseReason::Lost(orphans)) = end {
                self.add(*orphans);
            }
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.in_doubt.is_empty() && self.waiting.is_empty()
    }

    /// Returns the jobs of the tokens, with repeats.
    pub(super) fn jobs(&self) -> Vec<Arc<StoreJob>> {
        let in_doubt = self.in_doubt.iter().flat_map(|set| &set.tokens);
        let waiting = self.waiting.iter().map(|waiting| &waiting.in_flight);
        let tokens = in_doubt.chain(waiting);
        tokens.map(|in_flight| Arc::clone(&in_flight.job)).collect()
    }

    /// Reports every token without resolving it.
    pub(super) fn give_up(&mut self, shared: &PoolShared, reason: &str) {
        for set in self.in_doubt.drain(..) {
            in_doubt::log_resolution(set.tokens.len(), 0, 0);
            in_doubt::give_up(set.tokens, &shared.in_flight_log, reason, set.close_reason);
        }
        for waiting in self.waiting.drain(..) {
            waiting.fail();
        }
    }

    /// Resolves every set over `connection`; returns false if that was lost too.
    pub(super) async fn resolve(&mut self, shared: &PoolShared, connection: &Connection) -> bool {
        // Cancel safe: a set stays until it is resolved.
        while let Some(set) = self.in_doubt.last() {
            let Ok(found) =
                in_doubt::look_up(set, connection, &shared.lookup, &shared.in_flight_log).await
            else {
                return false;
            };
            let Some(set) = self.in_doubt.pop() else {
                return true;
            };
            let mut absent = in_doubt::settle(set, found, &shared.in_flight_log);
            // The first missing token may have ended the connection, so it goes last.
            if !absent.is_empty() {
                absent.rotate_left(1);
            }
            self.waiting.extend(retry_lost(absent));
        }
        true
    }
}
