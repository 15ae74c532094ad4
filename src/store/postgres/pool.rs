//! How many connections there are, and what happens when one is lost.
//!
//! A foreman owns the lanes. It adds some while there is a backlog and makes do with fewer where
//! the server has no more. A lane that is lost just ends while others work; only when none is left
//! does the foreman reconnect, so that a restarting server meets one knocking client and not many.

use crate::store::postgres::shared::PoolShared;
use std::collections::HashMap;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use crate::error::{ErrorKind, Fault};
use crate::pipeline::token::{Detail, Status};
use crate::store::postgres::connect_error::{is_denied, is_wrong_password};
use crate::store::postgres::connection::{Backend, Connection, DriverTask};
use crate::store::postgres::connector::Connector;
use crate::store::postgres::inflight::InFlightLog;
use crate::store::postgres::progress::ServerProgress;
use crate::store::postgres::recheck::recheck;
use crate::store::postgres::retry_set::{CloseReason, SharedOrphans, WriterStart};
use crate::store::postgres::stall_monitor::watch;
use crate::store::postgres::{Address, writer};
use crate::store::queue::{ConsumerGuard, Queue, StoreEnd};
use crate::store::{BackendFuture, StoreOptions};

/// How many waiting tokens are worth one more connection.
const BACKLOG_PER_LANE: usize = 32;
/// How long a server without a free connection is left alone.
const FULL: Duration = Duration::from_secs(5);
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
/// How long an outage lasts before it is told of again.
const SAID_AGAIN: Duration = Duration::from_secs(10);

/// The connections of a store.
pub(crate) struct Pool {
    supervisor: JoinHandle<()>,
    shared: Arc<PoolShared>,
    horizon: i64,
    /// The first connection's backend.
    backend: Option<Backend>,
}

impl Pool {
    /// Makes the first connection and looks around.
    pub(crate) async fn open(
        address: &Address,
        options: &StoreOptions,
        queue: &Arc<Queue>,
    ) -> Result<Self, Fault> {
        let connector = Connector::new(address, options)?;
        let (connection, lookup, catalog) = tokio::select! {
            biased;
            () = queue.shutdown.stopping().cancelled() => Err(Fault::new(
                ErrorKind::DbConnect,
                "the run was stopped before the database answered",
            )),
            first = connector.first_connection() => first,
        }?;
        let shared = Arc::new(PoolShared {
            connector,
            queue: Arc::clone(queue),
            sent: InFlightLog::of(options.connections),
            dry_run: options.dry_run,
            pipeline: options.pipeline.map(|most| most.max(1)),
            statement_timeout: options.statement_timeout,
            lookup,
            length_limit: catalog.length_limit(),
            catalog,
            progress: ServerProgress::new(),
            unconfirmed: OnceLock::new(),
            gives_up: CancellationToken::new(),
            connections: options.connections.max(1),
            patience: options.patience,
        });
        for words in shared.catalog.warnings() {
            tracing::warn!("{words}");
        }
        let start = WriterStart {
            connection,
            since: 0,
            chunk: None,
            waiting: Vec::new(),
        };
        Ok(Self {
            horizon: start.connection.horizon(),
            backend: start.connection.backend().cloned(),
            supervisor: tokio::spawn(supervisor(Arc::clone(&shared), start, options.expected)),
            shared,
        })
    }
}

impl crate::store::StoreBackend for Pool {
    fn horizon(&self) -> Option<i64> {
        Some(self.horizon)
    }

    fn waits_for(&self) -> Option<&'static str> {
        self.shared.progress.waits_for()
    }

    fn recheck<'a>(
        &'a self,
        values: &'a [String],
        horizon: Option<i64>,
    ) -> BackendFuture<'a, Result<HashMap<String, u64>, Fault>> {
        let own = self.backend.as_ref();
        Box::pin(recheck(&self.shared, own, values, horizon))
    }

    fn join(self: Box<Self>) -> BackendFuture<'static, ()> {
        Box::pin(async {
            let _ = self.supervisor.await;
        })
    }
}

async fn supervisor(shared: Arc<PoolShared>, first: WriterStart, expected: u64) {
    let queue = &shared.queue;
    let _taker = ConsumerGuard(Arc::clone(queue));
    let _watch = DriverTask(tokio::spawn(watch(Arc::clone(&shared))));
    let mut writers = JoinSet::new();
    let mut full_until = None;
    let mut left = SharedOrphans::default();
    writers.spawn(writer::run(Arc::clone(&shared), Some(first)));
    // To a far server they take as long as the first answer of the source.
    grow(
        &shared,
        &mut writers,
        usize::try_from(expected).unwrap_or(usize::MAX),
    );
    loop {
        tokio::select! {
            () = queue.more() => {
                if full_until.is_some_and(|until| Instant::now() < until) {
                    continue;
                }
                grow(&shared, &mut writers, queue.pending());
            }
            Some(end) = writers.join_next() => {
                match end {
                    Ok(CloseReason::Lost(orphans)) => left.add(*orphans),
                    // A lane that panicked has reported its tokens while it unwound.
                    Err(_) => {}
                    Ok(CloseReason::Unconnected) => full_until = Some(Instant::now() + FULL),
                    Ok(CloseReason::Finished) => {
                        while let Some(end) = writers.join_next().await {
                            if let Ok(CloseReason::Lost(orphans)) = end {
                                left.add(*orphans);
                            }
                        }
                        if left.is_empty() {
                            return;
                        }
                    }
                }
                left.gather(&mut writers);
                let mut outage = Instant::now();
                while writers.is_empty() || !left.is_empty() {
                    match recover(&shared, &mut left, writers.is_empty(), &mut outage).await {
                        RecoveryOutcome::Link(start) => {
                            full_until = None;
                            writers.spawn(writer::run(Arc::clone(&shared), Some(*start)));
                            grow(&shared, &mut writers, queue.pending());
                        }
                        RecoveryOutcome::GaveUp if writers.is_empty() => return,
                        // What was lost meanwhile is part of the same outage.
                        RecoveryOutcome::GaveUp => left.gather(&mut writers),
                    }
                }
            }
        }
    }
}

/// Adds lanes where so many tokens are worth it.
fn grow(shared: &Arc<PoolShared>, writers: &mut JoinSet<CloseReason>, backlog: usize) {
    let wanted = (backlog / BACKLOG_PER_LANE).clamp(1, shared.connections);
    while writers.len() < wanted {
        writers.spawn(writer::run(Arc::clone(shared), None));
    }
}

enum RecoveryOutcome {
    /// A connection that begins with what was left.
    Link(Box<WriterStart>),
    /// There is none to be had; what was left is accounted for.
    GaveUp,
}

/// Reconnects, and resolves what lost lanes left. Where they left nothing and no other lane works it
/// waits until there is something to send. Where the store has come to its end, everything in the
/// queue is reported. Patience counts from `outage` on.
async fn recover(
    shared: &PoolShared,
    left: &mut SharedOrphans,
    is_last: bool,
    outage: &mut Instant,
) -> RecoveryOutcome {
    let queue = &shared.queue;
    let mut chunk = None;
    if left.is_empty() {
        chunk = queue.inbox.try_recv().ok();
        if chunk.is_none() {
            chunk = queue.inbox.recv().await.ok();
            *outage = Instant::now();
        }
        match &chunk {
            Some(next) => queue.taken(next),
            None => return RecoveryOutcome::GaveUp,
        }
    }
    match reconnect(shared, left, *outage).await {
        Ok((connection, since)) => RecoveryOutcome::Link(Box::new(WriterStart {
            connection,
            since,
            chunk,
            waiting: std::mem::take(&mut left.waiting),
        })),
        Err(fault) => {
            let why = match &fault {
                Some(_) => "the connection was lost, and there was no other to look it up",
                None => "the run was aborted before it could be looked up",
            };
            if let Some(fault) = fault {
                let verdict = gone(fault, shared.patience);
                // Those whose tokens are all sent hear of it too, and also where another lane goes on:
                // it may have nothing left to send, and nobody else would say why tokens failed.
                let mut jobs = left.jobs();
                jobs.extend(chunk.as_ref().map(|chunk| Arc::clone(&chunk.job)));
                for job in jobs {
                    job.tell(&verdict.fault);
                }
                if is_last {
                    queue.fail_all(verdict);
                }
            }
            left.give_up(shared, why);
            if is_last {
                drop(chunk);
                while let Ok(chunk) = queue.inbox.recv().await {
                    queue.taken(&chunk);
                }
            }
            RecoveryOutcome::GaveUp
        }
    }
}

/// Knocks until the server lets it in and every doubt is resolved, for as long as patience lasts.
/// `Err(None)` where the run is being stopped.
async fn reconnect(
    shared: &PoolShared,
    left: &mut SharedOrphans,
    outage: Instant,
) -> Result<(Connection, u64), Option<Fault>> {
    let shutdown = &shared.queue.shutdown;
    let mut pause = FIRST_PAUSE;
    let mut said: Option<Instant> = None;
    loop {
        let stopped = async {
            // A doubt is worth the drain; new work is not.
            if left.doubts.is_empty() {
                shutdown.stopping().cancelled().await;
            } else {
                shutdown.aborting().cancelled().await;
            }
        };
        let password = shared.connector.address.password_version();
        let mut since = shared.sent.mark();
        let attempt = tokio::select! {
            biased;
            () = stopped => return Err(None),
            attempt = shared.connector.connection() => attempt,
        };
        let fault = match attempt {
            Ok(mut connection) => {
                let had_doubts = !left.doubts.is_empty();
                let resolved = tokio::select! {
                    biased;
                    () = shutdown.aborting().cancelled() => return Err(None),
                    resolved = left.resolve(shared, &connection) => resolved,
                };
                if resolved && !had_doubts {
                    return Ok((connection, since));
                }
                // What was just found in the table is older than what this connection will send.
                if resolved {
                    since = shared.sent.mark();
                    let asked = tokio::select! {
                        biased;
                        () = shutdown.aborting().cancelled() => return Err(None),
                        asked = timeout(shared.lookup.answers_within, connection.ask_horizon()) => asked,
                    };
                    if let Ok(Ok(number)) = asked {
                        connection.horizon = number;
                        return Ok((connection, since));
                    }
                }
                Fault::new(ErrorKind::DbConnect, "the connection was lost again")
            }
            Err(fault) => fault,
        };
        // A password in a file may be about to be replaced: the refusal is not final.
        let may_be_rotated = password.is_some() && is_wrong_password(&fault);
        if may_be_rotated && shared.connector.address.password_version() != password {
            tracing::info!("the password has changed; connecting again");
            continue;
        }
        let denied = is_denied(&fault) && !may_be_rotated;
        let patience = shared.patience.saturating_sub(outage.elapsed());
        if denied || patience.is_zero() {
            return Err(Some(fault));
        }
        if said.is_none_or(|at| at.elapsed() >= SAID_AGAIN) {
            said = Some(Instant::now());
            tracing::warn!(
                cause = fault.causes.first(),
                "the database cannot be reached; trying again"
            );
        }
        // Full jitter, but never less than a tenth: a refused connection costs the server too.
        let share = 0.1 + 0.9 * fastrand::f64();
        tokio::select! {
            biased;
            () = shutdown.aborting().cancelled() => return Err(None),
            () = tokio::time::sleep(pause.mul_f64(share).min(patience)) => {}
        }
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// What is left becomes this where no connection was to be had within `patience`.
pub(in super::super) fn gone(fault: Fault, patience: Duration) -> StoreEnd {
    if is_denied(&fault) {
        StoreEnd {
            status: Status::NotAttempted,
            detail: Detail::reason("the database refused the run"),
            fault,
        }
    } else {
        StoreEnd {
            status: Status::Failed,
            detail: Detail::reason(match fault.kind {
                ErrorKind::DbDenied { .. } => "the database takes no writes",
                _ => "the database could not be reached",
            }),
            fault: lost(fault, patience),
        }
    }
}

fn lost(fault: Fault, patience: Duration) -> Fault {
    let patience = humantime::format_duration(patience);
    let mut lost = Fault::new(
        ErrorKind::DbConnect,
        match fault.kind {
            ErrorKind::DbDenied { .. } => {
                format!("the database takes no writes any more, and did not within {patience}")
            }
            _ => format!(
                "the connection to the database was lost and did not come back within {patience}"
            ),
        },
    );
    lost.causes = fault.causes;
    lost.hint("tokens that are `failed` are safe to store again; --patience waits longer")
}
