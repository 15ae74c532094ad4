//! How many connections there are, and what happens when one is lost.
//!
//! A foreman owns the lanes. It adds some while there is a backlog and makes do with fewer where
//! the server has no more. A lane that is lost just ends while others work; only when none is left
//! does the foreman reconnect, so that a restarting server meets one knocking client and not many.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::{JoinHandle, JoinSet};
use tokio::time::Instant;

use super::super::Options;
use super::super::job::{Chunk, Queue, Verdict};
use super::Address;
use super::connect::{Connector, Link};
use super::lane::{self, End};
use crate::fault::{Fault, Kind};
use crate::token::{Detail, Status};

/// How many waiting tokens are worth one more connection.
const BACKLOG_PER_LANE: usize = 32;
/// How long a server without a free connection is left alone.
const FULL: Duration = Duration::from_secs(5);
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// What the lanes of a store share.
pub(super) struct Shared {
    pub(super) connector: Connector,
    pub(super) queue: Arc<Queue>,
    pub(super) pipeline: usize,
    pub(super) statement_timeout: Duration,
    connections: usize,
    patience: Duration,
}

/// The connections of a store.
pub(crate) struct Pool {
    foreman: JoinHandle<()>,
}

impl Pool {
    /// Makes the first connection and looks around.
    pub(crate) async fn open(
        address: &Address,
        options: &Options,
        queue: &Arc<Queue>,
    ) -> Result<Self, Fault> {
        let shared = Arc::new(Shared {
            connector: Connector::new(address, options)?,
            queue: Arc::clone(queue),
            pipeline: options.pipeline.max(1),
            statement_timeout: options.statement_timeout,
            connections: options.connections.max(1),
            patience: options.patience,
        });
        let first = async {
            let link = shared.connector.link().await?;
            shared.connector.look(&link).await?;
            Ok(link)
        };
        let link = tokio::select! {
            biased;
            () = queue.halt.stopping().cancelled() => Err(Fault::new(
                Kind::DbConnect,
                "the run was stopped before the database answered",
            )),
            link = first => link,
        }?;
        Ok(Self {
            foreman: tokio::spawn(foreman(shared, link)),
        })
    }

    /// Waits until all connections have ended; the queue must be closed.
    pub(crate) async fn join(self) {
        let _ = self.foreman.await;
    }
}

async fn foreman(shared: Arc<Shared>, first: Link) {
    let queue = &shared.queue;
    let mut lanes = JoinSet::new();
    let mut full_until = None;
    lanes.spawn(lane::run(Arc::clone(&shared), Some(first), None));
    loop {
        tokio::select! {
            () = queue.more() => {
                if full_until.is_some_and(|until| Instant::now() < until) {
                    continue;
                }
                grow(&shared, &mut lanes);
            }
            Some(end) = lanes.join_next() => {
                match end {
                    // A lane that panicked has reported its tokens while it unwound.
                    Ok(End::Lost) | Err(_) => {}
                    Ok(End::Unconnected) => full_until = Some(Instant::now() + FULL),
                    Ok(End::Finished) => {
                        while lanes.join_next().await.is_some() {}
                        return;
                    }
                }
                if lanes.is_empty() {
                    match recover(&shared).await {
                        Some((link, chunk)) => {
                            full_until = None;
                            lanes.spawn(lane::run(Arc::clone(&shared), Some(link), Some(chunk)));
                            grow(&shared, &mut lanes);
                        }
                        None => return,
                    }
                }
            }
        }
    }
}

/// Adds lanes where the backlog is worth it.
fn grow(shared: &Arc<Shared>, lanes: &mut JoinSet<End>) {
    let wanted = (shared.queue.pending() / BACKLOG_PER_LANE).clamp(1, shared.connections);
    while lanes.len() < wanted {
        lanes.spawn(lane::run(Arc::clone(shared), None, None));
    }
}

/// Reconnects once there is something to send. `None` where the store has come to its end; then
/// everything in the queue is reported.
async fn recover(shared: &Shared) -> Option<(Link, Chunk)> {
    let queue = &shared.queue;
    let chunk = queue.inbox.recv().await.ok()?;
    queue.taken(&chunk);
    let started = Instant::now();
    let mut pause = FIRST_PAUSE;
    loop {
        let attempt = tokio::select! {
            biased;
            () = queue.halt.stopping().cancelled() => break,
            attempt = shared.connector.link() => attempt,
        };
        let fault = match attempt {
            Ok(link) => return Some((link, chunk)),
            Err(fault) => fault,
        };
        let denied = matches!(fault.kind, Kind::DbDenied { .. });
        if denied || started.elapsed() + pause > shared.patience {
            let verdict = if denied {
                Verdict {
                    status: Status::NotAttempted,
                    detail: Detail::reason("the database refused the run"),
                    fault,
                }
            } else {
                Verdict {
                    status: Status::Failed,
                    detail: Detail::reason("the database could not be reached"),
                    fault: lost(fault, shared.patience),
                }
            };
            queue.condemn(&chunk.job, verdict);
            break;
        }
        tracing::warn!(cause = fault.causes.first(), "the database is away");
        // Full jitter, but never less than a tenth: a refused connection costs the server too.
        let share = 0.1 + 0.9 * fastrand::f64();
        tokio::select! {
            biased;
            () = queue.halt.stopping().cancelled() => break,
            () = tokio::time::sleep(pause.mul_f64(share)) => {}
        }
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
    drop(chunk);
    while let Ok(chunk) = queue.inbox.recv().await {
        queue.taken(&chunk);
    }
    None
}

fn lost(fault: Fault, patience: Duration) -> Fault {
    let mut lost = Fault::new(
        Kind::DbConnect,
        format!(
            "the connection to the database was lost and did not come back within {}",
            humantime::format_duration(patience)
        ),
    );
    lost.causes = fault.causes;
    lost.hint("tokens that are `failed` are safe to store again; --patience waits longer")
}
