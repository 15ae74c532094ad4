//! What one connection hands over to the next: tokens in doubt, tokens that wait to be sent again,
//! and what a connection begins with.

use std::sync::Arc;

use tokio::time::Instant;

use super::super::doubt::{Doubt, Flight};
use super::super::job::{Batch, Chunk};
use super::link::Link;
use super::pool::Shared;
use crate::token::{Detail, Status};

/// What a lost lane leaves to others.
#[derive(Default)]
pub(super) struct Remains {
    /// Tokens that were sent and not answered for.
    pub(super) doubt: Option<Doubt>,
    /// Tokens that are certainly not stored and wait to be sent again.
    pub(super) waiting: Vec<Waiting>,
}

/// A token that is certainly not stored and waits to be sent again.
pub(super) struct Waiting {
    /// When.
    pub(super) due: Instant,
    /// The token.
    pub(super) flight: Flight,
    /// Why it was not stored.
    pub(super) detail: Arc<Detail>,
}

impl Waiting {
    /// One that waits for nothing but a connection.
    pub(super) fn now(flight: Flight, detail: Arc<Detail>) -> Self {
        Self {
            due: Instant::now(),
            flight,
            detail,
        }
    }

    /// Its end where it will not be sent again.
    pub(super) fn fail(self) {
        let mut batch = Batch::default();
        let (job, outcome) = self.flight.land(Status::Failed, Some(self.detail));
        batch.push(&job, outcome);
    }
}

/// Waits for the time when something is due; for ever where nothing is.
pub(super) async fn until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due).await,
        None => std::future::pending().await,
    }
}

/// A connection that begins to work, with what was left over from others.
pub(super) struct Start {
    /// The connection.
    pub(super) link: Link,
    /// The moment before its horizon was asked for.
    pub(super) since: u64,
    /// What it begins with.
    pub(super) chunk: Option<Chunk>,
    /// What waits to be sent again.
    pub(super) waiting: Vec<Waiting>,
}

impl Start {
    /// One more connection, where the server has one and it is still wanted.
    pub(super) async fn extra(shared: &Shared) -> Option<Self> {
        let since = shared.sent.mark();
        let attempt = tokio::select! {
            biased;
            () = shared.queue.halt.stopping().cancelled() => return None,
            () = shared.queue.closed().cancelled() => return None,
            attempt = shared.connector.link() => attempt,
        };
        attempt
            .inspect_err(|fault| {
                tracing::debug!(
                    cause = fault.causes.first(),
                    "makes do with fewer connections"
                );
            })
            .ok()
            .map(|link| Self {
                link,
                since,
                chunk: None,
                waiting: Vec::new(),
            })
    }
}
