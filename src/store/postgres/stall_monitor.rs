//! Detects a stalled server, queries what its INSERTs wait for, and ends a run whose commits are
//! not confirmed within `patience`.

use std::time::Duration;

use tokio::time::{Instant, timeout};
use tokio_postgres::Error as PostgresError;
use tokio_postgres::types::Type;

use crate::error::{Error, ErrorKind};
use crate::pipeline::token::{Detail, Status};
use crate::store::connection::UNCONFIRMED;
use crate::store::postgres::connector::ConnectPurpose;
use crate::store::postgres::progress::WaitReason;
use crate::store::postgres::shared::PostgresShared;
use crate::store::queue::StoreEnd;

/// The interval of the checks.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);
/// The time without a reply after which the server is stalled.
const STALL_AFTER: Duration = Duration::from_secs(5);
/// The lower bound of that time if `patience` is short.
const MIN_STALL: Duration = Duration::from_millis(500);
/// The interval at which a lasting wait is logged again.
const LOG_INTERVAL: Duration = Duration::from_secs(10);

/// Reads the wait event of most of the run's connections.
const WAITS_SQL: &str = "SELECT wait_event_type, wait_event FROM pg_stat_activity \
     WHERE starts_with(application_name, $1) AND usename = session_user \
     AND pid <> pg_backend_pid() AND wait_event_type IS NOT NULL AND state = 'active' \
     GROUP BY 1, 2 ORDER BY count(*) DESC LIMIT 1";

/// Monitors the server until the run ends.
pub(super) async fn watch(shared: &PostgresShared) {
    let progress = &shared.progress;
    let interval = CHECK_INTERVAL.min(shared.patience / 4).max(MIN_STALL / 5);
    let stall_after = STALL_AFTER.min(shared.patience / 2).max(MIN_STALL);
    let mut queried_at: Option<Instant> = None;
    let mut logged_at: Option<Instant> = None;
    loop {
        tokio::time::sleep(interval).await;
        if shared.log.is_idle() {
            progress.record_reply();
        }
        let is_stalled = progress
            .elapsed_since(&progress.last_reply)
            .is_some_and(|elapsed| elapsed >= stall_after);
        if !is_stalled {
            progress.set_wait(None);
        }
        if is_stalled && queried_at.is_none_or(|at| at.elapsed() >= stall_after) {
            queried_at = Some(Instant::now());
            let wait = query_wait_reason(shared).await;
            if wait == Some(WaitReason::Standby) {
                progress.record_standby_wait();
            }
            progress.set_wait(wait);
            if let Some(wait) = wait
                && logged_at.is_none_or(|at| at.elapsed() >= LOG_INTERVAL)
            {
                logged_at = Some(Instant::now());
                tracing::warn!("{}", wait.as_str());
            }
        }
        let unconfirmed = progress.elapsed_since(&progress.unconfirmed_since);
        if unconfirmed.is_some_and(|unconfirmed| unconfirmed >= shared.patience) {
            return give_up(shared);
        }
    }
}

/// Queries over a separate connection what the run's INSERTs wait for.
async fn query_wait_reason(shared: &PostgresShared) -> Option<WaitReason> {
    let (connection, _) = shared
        .connector
        .connect_to_any_host(ConnectPurpose::Inspect)
        .await
        .ok()?;
    let application_name = &shared.connector.application_name;
    let params = [(application_name as _, Type::TEXT)];
    let rows = timeout(
        shared.lookup.control_timeout,
        connection.query_sessions(WAITS_SQL, &params),
    );
    let found = match rows.await {
        Ok(Ok(rows)) => rows.first().map(|row| {
            let text = |at| row.try_get::<_, Option<String>>(at);
            Ok::<_, PostgresError>((text(0)?.unwrap_or_default(), text(1)?.unwrap_or_default()))
        }),
        Ok(Err(_)) | Err(_) => None,
    };
    connection.close().await;
    match found?.ok()? {
        (_, event) if event == "SyncRep" => Some(WaitReason::Standby),
        (kind, _) if kind == "Lock" => Some(WaitReason::Lock),
        _ => None,
    }
}

/// Ends the store because no standby confirms its commits.
fn give_up(shared: &PostgresShared) {
    let patience = humantime::format_duration(shared.patience);
    let error = Error::of(
        ErrorKind::DbConnect,
        format!("no commit was confirmed within {patience}"),
    )
    .cause(
        "commits wait for a synchronous standby (synchronous_standby_names), and none confirms them",
    )
    .hint(
        "start a standby that synchronous_standby_names names, or change that setting; tokens that \
         are `unknown` may be committed on the primary: replay checks them again",
    );
    let end = StoreEnd {
        status: Status::NotAttempted,
        detail: Detail::reason("commits wait for a synchronous standby"),
        error,
    };
    shared.queue.give_up(end, UNCONFIRMED);
}
