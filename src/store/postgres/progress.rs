//! Whether the server gets on: when it last answered, when it last confirmed a commit, and what the
//! INSERTs wait for if it does not. A run whose commits are never confirmed ends after `patience`.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, timeout};
use tokio_postgres::Error;
use tokio_postgres::types::Type;

use crate::error::{Fault, Kind};
use crate::pipeline::token::{Detail, Status};
use crate::store::postgres::connect::Aim;
use crate::store::postgres::pool::Shared;
use crate::store::queue::Verdict;

/// So many INSERTs may be denied one after the other before the rest of the run is not attempted.
const DENIALS: u32 = 100;
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

/// How a server gets on with a run. Times are milliseconds since its start; 0 means never.
pub(super) struct Progress {
    start: Instant,
    answered: AtomicU64,
    stored: AtomicU64,
    unconfirmed_since: AtomicU64,
    denials: AtomicU32,
    wait: Mutex<Option<Wait>>,
}

impl Progress {
    pub(super) fn new() -> Self {
        Self {
            start: Instant::now(),
            answered: AtomicU64::new(1),
            stored: AtomicU64::new(0),
            unconfirmed_since: AtomicU64::new(0),
            denials: AtomicU32::new(0),
            wait: Mutex::new(None),
        }
    }

    /// What INSERTs wait for, as a clause; `None` while the server answers.
    pub(super) fn waits_for(&self) -> Option<&'static str> {
        self.wait().map(Wait::words)
    }

    fn wait(&self) -> Option<Wait> {
        *self.wait.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set_wait(&self, wait: Option<Wait>) {
        *self.wait.lock().unwrap_or_else(PoisonError::into_inner) = wait;
    }

    /// The server answered an INSERT, or owes no answer.
    pub(super) fn answered(&self) {
        self.answered.store(self.now(), Ordering::Relaxed);
    }

    /// The server confirmed a commit.
    pub(super) fn stored(&self) {
        self.stored.store(self.now(), Ordering::Relaxed);
        self.unconfirmed_since.store(0, Ordering::Relaxed);
        self.denials.store(0, Ordering::Relaxed);
    }

    /// A commit that was sent at `sent` was not confirmed by a standby.
    pub(super) fn unconfirmed(&self, sent: Instant) {
        let sent = self.at(sent);
        let since = &self.unconfirmed_since;
        let first = since.compare_exchange(0, sent, Ordering::Relaxed, Ordering::Relaxed);
        if first.is_ok() {
            tracing::warn!("a commit was not confirmed by its synchronous standby");
        }
    }

    /// Commits wait for a standby, since the last answer at the latest.
    fn waits_for_standby(&self) {
        let answered = self.answered.load(Ordering::Relaxed);
        let since = &self.unconfirmed_since;
        let _ = since.compare_exchange(0, answered, Ordering::Relaxed, Ordering::Relaxed);
    }

    /// An INSERT was denied; true if the run ends here: `all` others would be too, or too many were, one
    /// after the other.
    pub(super) fn denied(&self, all: bool) -> bool {
        let in_a_row = self.denials.fetch_add(1, Ordering::Relaxed) + 1;
        all || in_a_row >= DENIALS
    }

    fn now(&self) -> u64 {
        self.at(Instant::now())
    }

    fn at(&self, moment: Instant) -> u64 {
        let since = moment.saturating_duration_since(self.start).as_millis();
        u64::try_from(since).unwrap_or(u64::MAX).max(1)
    }

    fn since(&self, moment: &AtomicU64) -> Option<Duration> {
        match moment.load(Ordering::Relaxed) {
            0 => None,
            moment => Some(Duration::from_millis(self.now().saturating_sub(moment))),
        }
    }
}

/// What INSERTs wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wait {
    Standby,
    Lock,
}

impl Wait {
    fn words(self) -> &'static str {
        match self {
            Self::Standby => "commits wait for a synchronous standby",
            Self::Lock => "inserts wait for a lock that another session holds",
        }
    }
}

/// Watches the server until the run ends: says what is waited for, and gives the run up if no commit is
/// confirmed for as long as `patience` lasts.
pub(super) async fn watch(shared: Arc<Shared>) {
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
            if wait == Some(Wait::Standby) {
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
async fn ask(shared: &Shared) -> Option<Wait> {
    let (link, _) = shared.connector.reach(Aim::Inspect).await.ok()?;
    let application = &shared.connector.application;
    let params = [(application as _, Type::TEXT)];
    let rows = timeout(
        shared.lookup.answers_within,
        link.of_sessions(WAITS, &params),
    );
    let found = match rows.await {
        Ok(Ok(rows)) => rows.first().map(|row| {
            let text = |at| row.try_get::<_, Option<String>>(at);
            Ok::<_, Error>((text(0)?.unwrap_or_default(), text(1)?.unwrap_or_default()))
        }),
        Ok(Err(_)) | Err(_) => None,
    };
    link.close().await;
    match found?.ok()? {
        (_, event) if event == "SyncRep" => Some(Wait::Standby),
        (kind, _) if kind == "Lock" => Some(Wait::Lock),
        _ => None,
    }
}

/// Ends the store: no standby confirms its commits.
fn give_up(shared: &Shared) {
    let patience = humantime::format_duration(shared.patience);
    let fault = Fault::new(
        Kind::DbConnect,
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
    shared.queue.condemn(Verdict {
        status: Status::NotAttempted,
        detail: Detail::reason("commits wait for a synchronous standby"),
        fault,
    });
    shared.gives_up.cancel();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn run_ends_at_a_denial_of_all_or_at_many_in_a_row() {
        assert!(Progress::new().denied(true));
        let progress = Progress::new();
        assert!((1..DENIALS).all(|_| !progress.denied(false)));
        progress.stored();
        assert!((1..DENIALS).all(|_| !progress.denied(false)));
        assert!(progress.denied(false));
    }

    #[test]
    fn confirmation_ends_the_wait_for_a_standby() {
        let progress = Progress::new();
        assert_eq!(progress.since(&progress.unconfirmed_since), None);
        progress.unconfirmed(Instant::now());
        assert!(progress.since(&progress.unconfirmed_since).is_some());
        progress.stored();
        assert_eq!(progress.since(&progress.unconfirmed_since), None);
    }
}
