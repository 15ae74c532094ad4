//! Supervises a run's writers and their connections.
//!
//! One supervisor task adds writers while there is a backlog, finds their best number, and continues
//! with fewer if the database has no free connection. A writer that loses its connection ends while
//! others work. Only the supervisor reconnects, so a restarting server sees one client.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;
use tokio::task::JoinSet;

use crate::error::{Error, ErrorKind};
use crate::pipeline::backoff::Backoff;
use crate::pipeline::token::{Detail, Status};
use crate::runtime;
use crate::store::connection::Database;
use crate::store::connection_count::{ConnectionCount, rest_of};
use crate::store::in_flight_log::InFlightLog;
use crate::store::orphans::SharedOrphans;
use crate::store::queue::{Claim, ConsumerGuard, Queue, StoreEnd};
use crate::store::rate_window::{Load, RateWindow};
use crate::store::receipts::{EarlierReceipts, ProcessStart};
use crate::store::shared::{WriterCounts, WriterShared};
use crate::store::writer::{self, CloseReason, WriterStart};
use crate::store::{BackendFuture, StoreBackend, StoreLoad, StoreOptions};

/// The number of queued tokens that justify one more connection.
const BACKLOG_PER_WRITER: usize = 32;
/// The pause before another connection is tried on a database that had none free.
const FULL_SERVER_PAUSE: Duration = Duration::from_secs(5);
/// The wait before the next attempt to reconnect.
const RECONNECT_BACKOFF: Backoff = Backoff {
    base: Duration::from_millis(50),
    max: Duration::from_secs(2),
};
/// The interval at which an outage is logged again.
const LOG_INTERVAL: Duration = Duration::from_secs(10);

/// The connections of a store, run by a supervisor.
pub(super) struct Pool<D: Database> {
    shared: Arc<WriterShared<D>>,
    /// Resolves when the supervisor has ended.
    ended: oneshot::Receiver<()>,
}

/// Ends the pool's supervisor visibly, even by a panic.
struct EndGuard(Option<oneshot::Sender<()>>);

impl Drop for EndGuard {
    fn drop(&mut self) {
        let _ = self.0.take().map(|ended| ended.send(()));
    }
}

impl<D: Database> Pool<D> {
    /// Starts the supervisor on the current tokio runtime, with its first connection.
    pub(super) fn start(
        database: D,
        first: D::Connection,
        log: Arc<InFlightLog>,
        queue: &Arc<Queue>,
        options: &StoreOptions,
    ) -> Self {
        let (pool, supervisor) = Self::new(database, first, log, queue, options);
        tokio::spawn(supervisor);
        pool
    }

    /// Starts the supervisor on a thread of its own, since the database blocks its caller.
    ///
    /// # Errors
    /// If the thread cannot be started.
    pub(super) fn start_on_thread(
        name: &str,
        database: D,
        first: D::Connection,
        queue: &Arc<Queue>,
        options: &StoreOptions,
    ) -> Result<Self, Error> {
        let log = Arc::new(InFlightLog::new(1));
        let (pool, supervisor) = Self::new(database, first, log, queue, options);
        let runtime = runtime::current_thread()?;
        std::thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || runtime.block_on(supervisor))
            .map_err(|error| {
                Error::of(ErrorKind::DbConnect, "cannot start the database's thread")
                    .cause(error.to_string())
            })?;
        Ok(pool)
    }

    fn new(
        database: D,
        first: D::Connection,
        log: Arc<InFlightLog>,
        queue: &Arc<Queue>,
        options: &StoreOptions,
    ) -> (Self, impl Future<Output = ()> + Send + use<D>) {
        let shared = Arc::new(WriterShared {
            database,
            queue: Arc::clone(queue),
            log,
            is_dry_run: options.dry_run,
            patience: options.patience,
            idle_limit: options.idle_limit,
            denials: AtomicU32::new(0),
            is_doubtful: AtomicBool::new(false),
            writers: WriterCounts::default(),
        });
        let (sender, ended) = oneshot::channel();
        let guard = EndGuard(Some(sender));
        let first = WriterStart::new(first);
        let run = supervise(Arc::clone(&shared), first, options.expected);
        let supervisor = async move {
            let _guard = guard;
            run.await;
        };
        (Self { shared, ended }, supervisor)
    }
}

impl<D: Database> StoreBackend for Pool<D> {
    fn horizon(&self) -> Option<i64> {
        self.shared.database.horizon()
    }

    fn waits_for(&self) -> Option<&'static str> {
        self.shared.database.waits_for()
    }

    fn recheck<'a>(
        &'a self,
        values: &'a [String],
        horizon: Option<i64>,
    ) -> BackendFuture<'a, Result<HashMap<String, u64>, Error>> {
        Box::pin(self.shared.database.recheck(values, horizon))
    }

    fn read_receipts(
        &self,
        start: Option<ProcessStart>,
    ) -> BackendFuture<'_, Result<EarlierReceipts, Error>> {
        Box::pin(self.shared.database.read_receipts(start))
    }

    fn load(&self) -> StoreLoad {
        let shared = &self.shared;
        StoreLoad {
            open: shared.writers.working(),
            wanted: shared.writers.wanted(),
            queued: shared.queue.pending(),
        }
    }

    fn take_doubt(&self) -> bool {
        self.shared.is_doubtful.swap(false, Ordering::Relaxed)
    }

    fn verify(&self) -> BackendFuture<'_, Result<bool, Error>> {
        Box::pin(self.shared.database.verify())
    }

    fn current_horizon(&self) -> BackendFuture<'_, Result<Option<i64>, Error>> {
        Box::pin(self.shared.database.current_horizon())
    }

    fn join(self: Box<Self>) -> BackendFuture<'static, ()> {
        Box::pin(async {
            let _ = self.ended.await;
        })
    }
}

async fn supervise<D: Database>(
    shared: Arc<WriterShared<D>>,
    first: WriterStart<D::Connection>,
    expected: u64,
) {
    let queue = &shared.queue;
    let clock = &queue.clock;
    let _consumer = ConsumerGuard(Arc::clone(queue));
    let mut monitor = JoinSet::new();
    let monitored = Arc::clone(&shared);
    monitor.spawn(async move { monitored.database.watch().await });
    let mut writers = JoinSet::new();
    let mut server_full_until = None;
    let mut orphans = SharedOrphans::default();
    let mut count = shared.database.connection_count();
    shared.writers.set_wanted(count.wanted());
    let mut window = RateWindow::begin(clock.now(), shared.writers.replies());
    writers.spawn(writer::run(Arc::clone(&shared), Some(first)));
    // Connects ahead: to a distant server that takes as long as the source's first reply.
    grow(
        &shared,
        &mut writers,
        usize::try_from(expected).unwrap_or(usize::MAX),
    );
    loop {
        tokio::select! {
            biased;
            () = queue.page_arrived() => {
                if server_full_until.is_none_or(|until| clock.now() >= until) {
                    grow(&shared, &mut writers, queue.pending());
                }
            }
            () = clock.sleep_until(window.end()), if count.is_searching() => {
                let load = Load {
                    all_work: shared.writers.working() == count.wanted(),
                    tokens_wait: queue.pending() > 0,
                };
                let settled = shared.writers.replies();
                let ended = window.next(clock.now(), settled, load);
                let rest = rest_of(expected, settled);
                if choose(&mut count, &shared.writers, |count| count.record(ended, rest)) {
                    window.discard();
                }
                if server_full_until.is_none_or(|until| clock.now() >= until) {
                    grow(&shared, &mut writers, queue.pending());
                }
            }
            Some(end) = writers.join_next() => {
                match end {
                    Ok(CloseReason::Lost(lost)) => orphans.add(*lost),
                    // A writer that panicked reported its tokens on unwinding.
                    Ok(CloseReason::Surplus) | Err(_) => {}
                    Ok(CloseReason::Unconnected) => {
                        server_full_until = Some(clock.now() + FULL_SERVER_PAUSE);
                        choose(&mut count, &shared.writers, |count| count.refuse(writers.len()));
                    }
                    Ok(CloseReason::Finished) => {
                        while let Some(end) = writers.join_next().await {
                            if let Ok(CloseReason::Lost(lost)) = end {
                                orphans.add(*lost);
                            }
                        }
                        if orphans.is_empty() {
                            return;
                        }
                    }
                }
                collect_finished(&mut orphans, &mut writers);
                let mut outage = clock.now();
                while writers.is_empty() || !orphans.is_empty() {
                    match recover(&shared, &mut orphans, writers.is_empty(), &mut outage).await {
                        Some(start) => {
                            server_full_until = None;
                            writers.spawn(writer::run(Arc::clone(&shared), Some(*start)));
                            grow(&shared, &mut writers, queue.pending());
                        }
                        None if writers.is_empty() => return,
                        // Connections lost meanwhile belong to the same outage.
                        None => collect_finished(&mut orphans, &mut writers),
                    }
                }
            }
        }
    }
}

/// Takes the tokens of the writers that have ended by now.
fn collect_finished<D: Database>(
    orphans: &mut SharedOrphans<D>,
    writers: &mut JoinSet<CloseReason<D>>,
) {
    while let Some(end) = writers.try_join_next() {
        if let Ok(CloseReason::Lost(lost)) = end {
            orphans.add(*lost);
        }
    }
}

/// Changes the number of connections; returns true if it is another one.
fn choose(
    count: &mut ConnectionCount,
    counts: &WriterCounts,
    change: impl FnOnce(&mut ConnectionCount),
) -> bool {
    let before = count.wanted();
    change(count);
    if count.wanted() != before {
        tracing::debug!(
            connections = count.wanted(),
            "changing the number of connections"
        );
    }
    counts.set_wanted(count.wanted());
    count.wanted() != before
}

/// Returns how many connections a backlog justifies.
pub(super) fn connections_for(backlog: usize, most: usize) -> usize {
    (backlog / BACKLOG_PER_WRITER).clamp(1, most.max(1))
}

/// Starts writers until their number fits the backlog.
fn grow<D: Database>(
    shared: &Arc<WriterShared<D>>,
    writers: &mut JoinSet<CloseReason<D>>,
    backlog: usize,
) {
    let wanted = connections_for(backlog, shared.writers.wanted());
    while writers.len() < wanted {
        writers.spawn(writer::run(Arc::clone(shared), None));
    }
}

/// Reconnects, and resolves the tokens that lost connections left behind.
///
/// Without such tokens and without another writer, waits for new work first. Returns `None` if there
/// is no connection; every orphaned token is then reported. If the store ends, reports every queued
/// token. `patience` counts from `outage`.
async fn recover<D: Database>(
    shared: &WriterShared<D>,
    orphans: &mut SharedOrphans<D>,
    is_last: bool,
    outage: &mut Instant,
) -> Option<Box<WriterStart<D::Connection>>> {
    let queue = &shared.queue;
    let mut claim = None;
    if orphans.is_empty() {
        claim = queue.try_claim();
        if claim.is_none() {
            claim = queue.claim().await;
            *outage = queue.clock.now();
        }
        claim.as_ref()?;
    }
    let error = match reconnect(shared, orphans, &mut claim, *outage).await {
        Ok(connection) => {
            return Some(Box::new(WriterStart {
                connection,
                claim,
                waiting: std::mem::take(&mut orphans.waiting),
            }));
        }
        Err(error) => error,
    };
    let reason = match &error {
        Some(_) => "the connection was lost, and no new one could be made to look the token up",
        None => "the run was aborted before the token could be looked up",
    };
    if let Some(error) = error {
        let end = end_after_outage(error, shared.patience);
        // Every affected job must report why tokens failed, even if another writer continues.
        let of_claim = claim.as_ref().map(|claim| &claim.job);
        for job in orphans.jobs().chain(of_claim) {
            job.set_error(&end.error);
        }
        if is_last {
            queue.fail_all(end);
        }
    }
    orphans.give_up(shared, reason);
    drop(claim);
    if is_last {
        while queue.claim().await.is_some() {}
    }
    None
}

/// Reconnects with backoff until `patience` expires, and resolves in-doubt tokens.
///
/// Returns `Err(None)` if the run is being stopped.
async fn reconnect<D: Database>(
    shared: &WriterShared<D>,
    orphans: &mut SharedOrphans<D>,
    claim: &mut Option<Claim>,
    outage: Instant,
) -> Result<D::Connection, Option<Error>> {
    let shutdown = &shared.queue.shutdown;
    let clock = &shared.queue.clock;
    let mut failures = 0;
    let mut logged_at: Option<Instant> = None;
    let mut job_stops = shared.queue.job_stops();
    loop {
        // The tokens of a stopped run do not wait for the connection.
        orphans.detach_aborted(shared);
        claim.take_if(|claim| claim.job.is_stopping());
        let stopped = async {
            // Resolving in-doubt tokens may use the grace period; new work may not.
            if orphans.in_doubt.is_empty() {
                shutdown.stopping().cancelled().await;
            } else {
                shutdown.aborting().cancelled().await;
            }
        };
        let attempt = tokio::select! {
            biased;
            () = stopped => return Err(None),
            Ok(()) = job_stops.changed() => continue,
            attempt = shared.database.connect() => attempt,
        };
        let error = match attempt {
            Ok(connection) => {
                let resolved = tokio::select! {
                    biased;
                    () = shutdown.aborting().cancelled() => return Err(None),
                    resolved = orphans.resolve(shared, &connection) => resolved,
                };
                if resolved {
                    return Ok(connection);
                }
                Error::of(ErrorKind::DbConnect, "the connection was lost again")
            }
            Err(error) => error,
        };
        let now = clock.now();
        let patience = shared
            .patience
            .saturating_sub(now.saturating_duration_since(outage));
        if is_denied(&error) && !error.retryable || patience.is_zero() {
            return Err(Some(error));
        }
        if logged_at.is_none_or(|at| now.saturating_duration_since(at) >= LOG_INTERVAL) {
            logged_at = Some(now);
            tracing::warn!(
                cause = error.causes.first(),
                "the database cannot be reached; retrying"
            );
        }
        // Full jitter, but at least a tenth: each attempt costs the server.
        let share = 0.1 + 0.9 * clock.jitter();
        failures += 1;
        let wait = RECONNECT_BACKOFF.wait(failures, share).min(patience);
        tokio::select! {
            biased;
            () = shutdown.aborting().cancelled() => return Err(None),
            Ok(()) = job_stops.changed() => {}
            () = clock.sleep_until(now + wait) => {}
        }
    }
}

/// Returns true if the database refused access or takes no writes.
pub(super) fn is_denied(error: &Error) -> bool {
    matches!(error.kind, Some(ErrorKind::DbDenied { .. }))
}

/// Returns true if the server refused the role's password.
pub(super) fn is_wrong_password(error: &Error) -> bool {
    matches!(&error.kind, Some(ErrorKind::DbDenied { sqlstate }) if sqlstate == "28P01")
}

/// Returns how the remaining tokens end if no connection could be made within `patience`.
fn end_after_outage(mut error: Error, patience: Duration) -> StoreEnd {
    let (status, reason) = match is_denied(&error) {
        true if !error.retryable || is_wrong_password(&error) => {
            error.retryable = false;
            return StoreEnd {
                status: Status::NotAttempted,
                detail: Detail::reason("the database denied access"),
                error,
            };
        }
        true => (Status::Failed, "the database takes no writes"),
        false => (Status::Failed, "the database could not be reached"),
    };
    let within = humantime::format_duration(patience);
    let message = if is_denied(&error) {
        format!("the database stopped taking writes and did not resume within {within}")
    } else {
        format!("the connection to the database was lost and did not come back within {within}")
    };
    let mut outage = Error::of(ErrorKind::DbConnect, message);
    outage.causes = error.into_parts().causes;
    StoreEnd {
        status,
        detail: Detail::reason(reason),
        error: outage
            .hint("tokens that are `failed` are safe to store again; --patience waits longer"),
    }
}
