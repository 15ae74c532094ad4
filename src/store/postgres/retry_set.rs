//! What one connection hands over to the next: tokens in doubt, tokens that wait to be sent again,
//! and what a connection begins with.

use std::sync::Arc;

use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::pipeline::token::{Detail, Status};
use crate::store::outcome_batch::OutcomeBatch;
use crate::store::postgres::connection::Connection;
use crate::store::postgres::in_doubt::{self, InDoubtSet, InFlight};
use crate::store::postgres::shared::PoolShared;
use crate::store::queue::{Chunk, StoreJob};

/// So often a token is sent whose connection is then lost: it may be the one that ends it.
pub(in crate::store) const MOST_LOSSES: u32 = 8;

/// How a lane ended.
pub(super) enum CloseReason {
    /// The queue is closed and empty, or nothing may be waited for. All tokens are accounted for.
    Finished,
    /// The connection was lost; what it leaves has to be dealt with.
    Lost(Box<Orphans>),
    /// It never had one.
    Unconnected,
}

/// What a lost lane leaves to others.
#[derive(Default)]
pub(super) struct Orphans {
    /// Tokens that were sent and not answered for.
    pub(super) doubt: Option<InDoubtSet>,
    /// Tokens that are certainly not stored and wait to be sent again.
    pub(super) waiting: Vec<RetryToken>,
}

/// A token that is certainly not stored and waits to be sent again.
pub(super) struct RetryToken {
    /// When.
    pub(super) due: Instant,
    /// The token.
    pub(super) in_flight: InFlight,
    /// Why it was not stored.
    pub(super) detail: Arc<Detail>,
}

impl RetryToken {
    /// One that waits for nothing but a connection.
    pub(super) fn now(in_flight: InFlight, detail: Arc<Detail>) -> Self {
        Self {
            due: Instant::now(),
            in_flight,
            detail,
        }
    }

    /// Its end where it will not be sent again.
    pub(super) fn fail(self) {
        let mut batch = OutcomeBatch::default();
        let (job, outcome) = self.in_flight.settle(Status::Failed, Some(self.detail));
        batch.push(&job, outcome);
    }
}

/// What waits to be sent again of tokens that are certainly not stored, because their connection was
/// lost; those that were lost too often have come to their end.
pub(super) fn again(lost: Vec<InFlight>) -> Vec<RetryToken> {
    let detail = Detail::reason("the connection was lost before the token was stored");
    let mut waiting = Vec::with_capacity(lost.len());
    for in_flight in lost {
        let one = RetryToken::now(in_flight, Arc::clone(&detail));
        if one.in_flight.tries < MOST_LOSSES {
            waiting.push(one);
        } else {
            one.fail();
        }
    }
    waiting
}

/// Waits for the time when something is due; for ever where nothing is.
pub(super) async fn until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due).await,
        None => std::future::pending().await,
    }
}

/// A connection that begins to work, with what was left over from others.
pub(super) struct WriterStart {
    /// The connection.
    pub(super) connection: Connection,
    /// The moment before its horizon was asked for.
    pub(super) since: u64,
    /// What it begins with.
    pub(super) chunk: Option<Chunk>,
    /// What waits to be sent again.
    pub(super) waiting: Vec<RetryToken>,
}

impl WriterStart {
    /// One more connection, where the server has one and it is still wanted.
    pub(super) async fn extra(shared: &PoolShared) -> Option<Self> {
        let since = shared.sent.mark();
        let attempt = tokio::select! {
            biased;
            () = shared.queue.shutdown.stopping().cancelled() => return None,
            () = shared.queue.closed().cancelled() => return None,
            attempt = shared.connector.connection() => attempt,
        };
        attempt
            .inspect_err(|fault| {
                tracing::debug!(
                    cause = fault.causes.first(),
                    "makes do with fewer connections"
                );
            })
            .ok()
            .map(|connection| Self {
                connection,
                since,
                chunk: None,
                waiting: Vec::new(),
            })
    }
}

/// What lost lanes left.
#[derive(Default)]
pub(super) struct SharedOrphans {
    /// Tokens in doubt, a connection's together.
    pub(super) doubts: Vec<InDoubtSet>,
    /// Tokens that wait to be sent again.
    pub(super) waiting: Vec<RetryToken>,
}

impl SharedOrphans {
    pub(super) fn add(&mut self, orphans: Orphans) {
        self.doubts.extend(orphans.doubt);
        self.waiting.extend(orphans.waiting);
    }

    /// Takes what those left that are lost by now.
    pub(super) fn gather(&mut self, writers: &mut JoinSet<CloseReason>) {
        while let Some(end) = writers.try_join_next() {
            if let Ok(CloseReason::Lost(orphans)) = end {
                self.add(*orphans);
            }
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.doubts.is_empty() && self.waiting.is_empty()
    }

    /// Whose tokens they are, with repeats.
    pub(super) fn jobs(&self) -> Vec<Arc<StoreJob>> {
        let in_doubt = self.doubts.iter().flat_map(|doubt| &doubt.in_flights);
        let waiting = self.waiting.iter().map(|waiting| &waiting.in_flight);
        let in_flights = in_doubt.chain(waiting);
        in_flights
            .map(|in_flight| Arc::clone(&in_flight.job))
            .collect()
    }

    /// Accounts for everything without having found out more.
    pub(super) fn give_up(&mut self, shared: &PoolShared, reason: &str) {
        for doubt in self.doubts.drain(..) {
            in_doubt::tell(doubt.in_flights.len(), 0, 0);
            in_doubt::give_up(doubt.in_flights, &shared.sent, reason, doubt.close_reason);
        }
        for waiting in self.waiting.drain(..) {
            waiting.fail();
        }
    }

    /// Resolves every doubt over `connection`; false where that was lost too.
    pub(super) async fn resolve(&mut self, shared: &PoolShared, connection: &Connection) -> bool {
        // Whoever stops waiting for this leaves every doubt where it is.
        while let Some(doubt) = self.doubts.last() {
            let Ok(found) =
                in_doubt::examine(doubt, connection, &shared.lookup, &shared.sent).await
            else {
                return false;
            };
            let Some(doubt) = self.doubts.pop() else {
                return true;
            };
            let mut absent = in_doubt::settle(doubt, found, &shared.sent);
            // The first that is missing may be what ended the connection: the others go before it.
            if !absent.is_empty() {
                absent.rotate_left(1);
            }
            self.waiting.extend(again(absent));
        }
        true
    }
}
