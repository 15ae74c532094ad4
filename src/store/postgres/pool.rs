//! Supervises a run's writers and their connections.
//!
//! One supervisor task adds writers while there is a backlog, and continues with fewer if the
//! server has no free connection. A writer that loses its connection ends while others work. Only
//! the supervisor reconnects, so a restarting server sees one client.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use crate::error::{Error, ErrorKind};
use crate::pipeline::token::{Detail, Status};
use crate::store::postgres::connect_error::{is_denied, is_wrong_password};
use crate::store::postgres::connection::{Backend, Connection, DriverTask};
use crate::store::postgres::connector::Connector;
use crate::store::postgres::inflight::InFlightLog;
use crate::store::postgres::progress::ServerProgress;
use crate::store::postgres::recheck::recheck;
use crate::store::postgres::retry_set::{CloseReason, SharedOrphans, WriterStart};
use crate::store::postgres::shared::PoolShared;
use crate::store::postgres::stall_monitor::watch;
use crate::store::postgres::{Address, writer};
use crate::store::queue::{ConsumerGuard, Queue, StoreEnd};
use crate::store::{BackendFuture, StoreOptions};

/// The number of queued tokens that justify one more connection.
const BACKLOG_PER_WRITER: usize = 32;
/// The pause before another connection is tried on a server that had none free.
const FULL_SERVER_PAUSE: Duration = Duration::from_secs(5);
const INITIAL_BACKOFF: Duration = Duration::from_millis(50);
const MAX_BACKOFF: Duration = Duration::from_secs(2);
/// The interval at which an outage is logged again.
const LOG_INTERVAL: Duration = Duration::from_secs(10);

/// The connections of a store, run by a supervisor task.
pub(crate) struct Pool {
    supervisor: JoinHandle<()>,
    shared: Arc<PoolShared>,
    horizon: i64,
    /// The first connection's backend.
    backend: Option<Backend>,
}

impl Pool {
    /// Makes the first connection, checks the table and starts the supervisor.
    pub(crate) async fn open(
        address: &Address,
        options: &StoreOptions,
        queue: &Arc<Queue>,
    ) -> Result<Self, Error> {
        let connector = Connector::new(address, options)?;
        let (connection, lookup, catalog) = tokio::select! {
            biased;
            () = queue.shutdown.stopping().cancelled() => Err(Error::of(
                ErrorKind::DbConnect,
                "the run was stopped before the database answered",
            )),
            first = connector.connect_first() => first,
        }?;
        let shared = Arc::new(PoolShared {
            connector,
            queue: Arc::clone(queue),
            in_flight_log: InFlightLog::new(options.connections),
            dry_run: options.dry_run,
            pipeline: options.pipeline.map(|depth| depth.max(1)),
            statement_timeout: options.statement_timeout,
            lookup,
            length_limit: catalog.length_limit(),
            catalog,
            progress: ServerProgress::new(),
            unconfirmed_fault: OnceLock::new(),
            giving_up: CancellationToken::new(),
            connections: options.connections.max(1),
            patience: options.patience,
        });
        for warning in shared.catalog.warnings() {
            tracing::warn!("{warning}");
        }
        let start = WriterStart {
            connection,
            snapshot_from: 0,
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
        self.shared.progress.wait_clause()
    }

    fn recheck<'a>(
        &'a self,
        values: &'a [String],
        horizon: Option<i64>,
    ) -> BackendFuture<'a, Result<HashMap<String, u64>, Error>> {
        let first_backend = self.backend.as_ref();
        Box::pin(recheck(&self.shared, first_backend, values, horizon))
    }

    fn join(self: Box<Self>) -> BackendFuture<'static, ()> {
        Box::pin(async {
            let _ = self.supervisor.await;
        })
    }
}

async fn supervisor(shared: Arc<PoolShared>, first: WriterStart, expected: u64) {
    let queue = &shared.queue;
    let _consumer = ConsumerGuard(Arc::clone(queue));
    let _stall_monitor = DriverTask(tokio::spawn(watch(Arc::clone(&shared))));
    let mut writers = JoinSet::new();
    let mut server_full_until = None;
    let mut all_orphans = SharedOrphans::default();
    writers.spawn(writer::run(Arc::clone(&shared), Some(first)));
    // Connects ahead: to a distant server that takes as long as the source's first reply.
    grow(
        &shared,
        &mut writers,
        usize::try_from(expected).unwrap_or(usize::MAX),
    );
    loop {
        tokio::select! {
            () = queue.page_arrived() => {
                if server_full_until.is_some_and(|until| Instant::now() < until) {
                    continue;
                }
                grow(&shared, &mut writers, queue.pending());
            }
            Some(end) = writers.join_next() => {
                match end {
                    Ok(CloseReason::Lost(orphans)) => all_orphans.add(*orphans),
                    // A writer that panicked reported its tokens on unwinding.
                    Err(_) => {}
                    Ok(CloseReason::Unconnected) => {
                        server_full_until = Some(Instant::now() + FULL_SERVER_PAUSE);
                    }
                    Ok(CloseReason::Finished) => {
                        while let Some(end) = writers.join_next().await {
                            if let Ok(CloseReason::Lost(orphans)) = end {
                                all_orphans.add(*orphans);
                            }
                        }
                        if all_orphans.is_empty() {
                            return;
                        }
                    }
                }
                all_orphans.collect_finished(&mut writers);
                let mut outage = Instant::now();
                while writers.is_empty() || !all_orphans.is_empty() {
                    match recover(&shared, &mut all_orphans, writers.is_empty(), &mut outage).await {
                        RecoveryOutcome::Connected(start) => {
                            server_full_until = None;
                            writers.spawn(writer::run(Arc::clone(&shared), Some(*start)));
                            grow(&shared, &mut writers, queue.pending());
                        }
                        RecoveryOutcome::GaveUp if writers.is_empty() => return,
                        // Connections lost meanwhile belong to the same outage.
                        RecoveryOutcome::GaveUp => all_orphans.collect_finished(&mut writers),
                    }
                }
            }
        }
    }
}

/// Starts writers until their number fits the backlog.
fn grow(shared: &Arc<PoolShared>, writers: &mut JoinSet<CloseReason>, backlog: usize) {
    let wanted = (backlog / BACKLOG_PER_WRITER).clamp(1, shared.connections);
    while writers.len() < wanted {
        writers.spawn(writer::run(Arc::clone(shared), None));
    }
}

enum RecoveryOutcome {
    /// A new connection, which takes over the orphaned tokens.
    Connected(Box<WriterStart>),
    /// No connection; every orphaned token was reported.
    GaveUp,
}

/// Reconnects, and resolves the tokens that lost connections left behind.
///
/// Without such tokens and without another writer, waits for new work first. If the store ends,
/// reports every queued token. `patience` counts from `outage`.
async fn recover(
    shared: &PoolShared,
    all_orphans: &mut SharedOrphans,
    is_last: bool,
    outage: &mut Instant,
) -> RecoveryOutcome {
    let queue = &shared.queue;
    let mut chunk = None;
    if all_orphans.is_empty() {
        chunk = queue.chunks.try_recv().ok();
        if chunk.is_none() {
            chunk = queue.chunks.recv().await.ok();
            *outage = Instant::now();
        }
        match &chunk {
            Some(next) => queue.mark_taken(next),
            None => return RecoveryOutcome::GaveUp,
        }
    }
    match reconnect(shared, all_orphans, *outage).await {
        Ok((connection, snapshot_from)) => RecoveryOutcome::Connected(Box::new(WriterStart {
            connection,
            snapshot_from,
            chunk,
            waiting: std::mem::take(&mut all_orphans.waiting),
        })),
        Err(fault) => {
            let reason = match &fault {
                Some(_) => {
                    "the connection was lost, and no new one could be made to look the token up"
                }
                None => "the run was aborted before the token could be looked up",
            };
            if let Some(fault) = fault {
                let end = end_after_outage(fault, shared.patience);
                // Every affected job must report why tokens failed, even if another writer
                // continues.
                let mut jobs = all_orphans.jobs();
                jobs.extend(chunk.as_ref().map(|chunk| Arc::clone(&chunk.job)));
                for job in jobs {
                    job.set_fault(&end.fault);
                }
                if is_last {
                    queue.fail_all(end);
                }
            }
            all_orphans.give_up(shared, reason);
            if is_last {
                drop(chunk);
                while let Ok(chunk) = queue.chunks.recv().await {
                    queue.mark_taken(&chunk);
                }
            }
            RecoveryOutcome::GaveUp
        }
    }
}

/// Reconnects with backoff until `patience` expires, and resolves in-doubt tokens.
///
/// Returns `Err(None)` if the run is being stopped.
async fn reconnect(
    shared: &PoolShared,
    all_orphans: &mut SharedOrphans,
    outage: Instant,
) -> Result<(Connection, u64), Option<Error>> {
    let shutdown = &shared.queue.shutdown;
    let mut backoff = INITIAL_BACKOFF;
    let mut logged_at: Option<Instant> = None;
    loop {
        let stopped = async {
            // Resolving in-doubt tokens may use the grace period; new work may not.
            if all_orphans.in_doubt.is_empty() {
                shutdown.stopping().cancelled().await;
            } else {
                shutdown.aborting().cancelled().await;
            }
        };
        let password = shared.connector.address.password_version();
        let mut snapshot_from = shared.in_flight_log.tick();
        let attempt = tokio::select! {
            biased;
            () = stopped => return Err(None),
            attempt = shared.connector.connect() => attempt,
        };
        let fault = match attempt {
            Ok(mut connection) => {
                let had_in_doubt = !all_orphans.in_doubt.is_empty();
                let resolved = tokio::select! {
                    biased;
                    () = shutdown.aborting().cancelled() => return Err(None),
                    resolved = all_orphans.resolve(shared, &connection) => resolved,
                };
                if resolved && !had_in_doubt {
                    return Ok((connection, snapshot_from));
                }
                // The new horizon must lie after the rows that were just found.
                if resolved {
                    snapshot_from = shared.in_flight_log.tick();
                    let queried = tokio::select! {
                        biased;
                        () = shutdown.aborting().cancelled() => return Err(None),
                        queried = timeout(
                            shared.lookup.control_timeout,
                            connection.query_horizon(),
                        ) => queried,
                    };
                    if let Ok(Ok(xid)) = queried {
                        connection.horizon = xid;
                        return Ok((connection, snapshot_from));
                    }
                }
                Error::of(ErrorKind::DbConnect, "the connection was lost again")
            }
            Err(fault) => fault,
        };
        // A password in a file may be replaced soon: the refusal is not final.
        let may_be_rotated = password.is_some() && is_wrong_password(&fault);
        if may_be_rotated && shared.connector.address.password_version() != password {
            tracing::info!("the password changed; reconnecting");
            continue;
        }
        let denied = is_denied(&fault) && !may_be_rotated;
        let patience = shared.patience.saturating_sub(outage.elapsed());
        if denied || patience.is_zero() {
            return Err(Some(fault));
        }
        if logged_at.is_none_or(|at| at.elapsed() >= LOG_INTERVAL) {
            logged_at = Some(Instant::now());
            tracing::warn!(
                cause = fault.causes.first(),
                "the database cannot be reached; retrying"
            );
        }
        // Full jitter, but at least a tenth: each attempt costs the server.
        let share = 0.1 + 0.9 * fastrand::f64();
        tokio::select! {
            biased;
            () = shutdown.aborting().cancelled() => return Err(None),
            () = tokio::time::sleep(backoff.mul_f64(share).min(patience)) => {}
        }
        backoff = (backoff * 2).min(MAX_BACKOFF);
    }
}

/// Returns how the remaining tokens end if no connection could be made within `patience`.
pub(in super::super) fn end_after_outage(fault: Error, patience: Duration) -> StoreEnd {
    if is_denied(&fault) {
        StoreEnd {
            status: Status::NotAttempted,
            detail: Detail::reason("the database denied access"),
            fault,
        }
    } else {
        StoreEnd {
            status: Status::Failed,
            detail: Detail::reason(match fault.kind {
                Some(ErrorKind::DbDenied { .. }) => "the database takes no writes",
                _ => "the database could not be reached",
            }),
            fault: outage_fault(&fault, patience),
        }
    }
}

fn outage_fault(fault: &Error, patience: Duration) -> Error {
    let patience = humantime::format_duration(patience);
    let mut outage = Error::of(
        ErrorKind::DbConnect,
        match fault.kind {
            Some(ErrorKind::DbDenied { .. }) => {
                format!("the database stopped taking writes and did not resume within {patience}")
            }
            _ => format!(
                "the connection to the database was lost and did not come back within {patience}"
            ),
        },
    );
    outage.causes.clone_from(&fault.causes);
    outage.hint("tokens that are `failed` are safe to store again; --patience waits longer")
}
