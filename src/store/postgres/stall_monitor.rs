//! Watches whether the server still answers, asks what its INSERTs wait for, and ends a run whose
//! commits are never confirmed after `patience`.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, timeout};
use tokio_postgres::Error;
use tokio_postgres::types::Type;

use crate::error::{ErrorKind, Fault};
use crate::pipeline::token::{Detail, Status};
use crate::store::postgres::connector::ConnectPurpose;
use crate::store::postgres::progress::WaitReason;
use crate::store::postgres::shared::PoolShared;
use crate::store::queue::StoreEnd;

/// How often the server's progress is looked at.
const TICK: Duration = Duration::from_secs(1);
/// After so long without an answer the server is asked what the INSERTs wait for.
const SILENCE: Duration = Duration::from_secs(5);
/// The shortest of such silences, however short `patience` is.
const LEAST: Duration = Duration::from_millis(500);
/// How often a wait that lasts is logged again.
const LOGGED_AGAIN: Duration = Duration::from_secs(10);

/// What most connections of the run wait for.
const WAITS: &str = "SELECT wait_event_type, wait_event FROM pg_stat_activity \
     WHERE starts_with(application_name, $1) AND usename = session_user \
     AND pid <> pg_backend_pid() AND wait_event_type IS NOT NULL AND state = 'active' \
     GROUP BY 1, 2 ORDER BY count(*) DESC LIMIT 1";

/// Watches the server until the run ends: says what is waited for, and gives the run up if no commit is
/// confirmed for as long as `patience` lasts.
pub(super) async fn watch(shared: Arc<PoolShared>) {
    let progress = &shared.progress;
    let tick = TICK.min(shared.patience / 4).max(LEAST / 5);
    let silence = SILENCE.min(shared.patience / 2).max(LEAST);
    let mut asked: Option<Instant> = None;
    let mut logged: Option<Instant> = None;
    loop {
        tokio::time::sleep(tick).await;
        if shared.sent.is_idle() {
            progress.answered();
        }
        let is_silent = progress
            .since(&progress.answered)
            .is_some_and(|silent| silent >= silence);
        if !is_silent {
            progress.set_wait(None);
        }
        if is_silent && asked.is_none_or(|at| at.elapsed() >= silence) {
            asked = Some(Instant::now());
            let wait = ask(&shared).await;
            if wait == Some(WaitReason::Standby) {
                progress.waits_for_standby();
            }
            progress.set_wait(wait);
            if let Some(wait) = wait
                && logged.is_none_or(|at| at.elapsed() >= LOGGED_AGAIN)
            {
                logged = Some(Instant::now());
                tracing::warn!("{}", wait.words());
            }
        }
        let unconfirmed = progress.since(&progress.unconfirmed_since);
        if unconfirmed.is_some_and(|unconfirmed| unconfirmed >= shared.patience) {
            return give_up(&shared);
        }
    }
}

/// Asks over a connection of its own what the run's INSERTs wait for.
async fn ask(shared: &PoolShared) -> Option<WaitReason> {
    let (connection, _) = shared.connector.reach(ConnectPurpose::Inspect).await.ok()?;
    let application = &shared.connector.application;
    let params = [(application as _, Type::TEXT)];
    let rows = timeout(
        shared.lookup.answers_within,
        connection.of_sessions(WAITS, &params),
    );
    let found = match rows.await {
        Ok(Ok(rows)) => rows.first().map(|row| {
            let text = |at| row.try_get::<_, Option<String>>(at);
            Ok::<_, Error>((text(0)?.unwrap_or_default(), text(1)?.unwrap_or_default()))
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

/// Ends the store: no standby confirms its commits.
fn give_up(shared: &PoolShared) {
    let patience = humantime::format_duration(shared.patience);
    let fault = Fault::new(
        ErrorKind::DbConnect,
        format!("no commit was confirmed within {patience}"),
    )
    .cause(
        "commits wait for a synchronous standby (synchronous_standby_names), and none confirms them",
    )
    .hint(
        "start a standby that synchronous_standby_names names, or change that setting; tokens that \
         are `unknown` may be committed on the primary: replay looks at them again",
    );
    let _ = shared.unconfirmed.set(fault.clone());
    shared.queue.fail_all(StoreEnd {
        status: Status::NotAttempted,
        detail: Detail::reason("commits wait for a synchronous standby"),
        fault,
    });
    shared.gives_up.cancel();
}
