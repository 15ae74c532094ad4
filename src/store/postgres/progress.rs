//! Whether the server gets on: when it last answered, when it last confirmed a commit, and what the
//! INSERTs wait for if it does not. A run whose commits are never confirmed ends after `patience`.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// So many INSERTs may be denied one after the other before the rest of the run is not attempted.
const DENIALS: u32 = 100;

/// How a server gets on with a run. Times are milliseconds since its start; 0 means never.
pub(super) struct ServerProgress {
    pub(super) start: Instant,
    pub(super) answered: AtomicU64,
    pub(super) stored: AtomicU64,
    pub(super) unconfirmed_since: AtomicU64,
    pub(super) denials: AtomicU32,
    pub(super) wait: Mutex<Option<WaitReason>>,
}

impl ServerProgress {
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
        self.wait().map(WaitReason::words)
    }

    pub(super) fn wait(&self) -> Option<WaitReason> {
        *self.wait.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn set_wait(&self, wait: Option<WaitReason>) {
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
    pub(super) fn waits_for_standby(&self) {
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

    pub(super) fn now(&self) -> u64 {
        self.at(Instant::now())
    }

    pub(super) fn at(&self, moment: Instant) -> u64 {
        let since = moment.saturating_duration_since(self.start).as_millis();
        u64::try_from(since).unwrap_or(u64::MAX).max(1)
    }

    pub(super) fn since(&self, moment: &AtomicU64) -> Option<Duration> {
        match moment.load(Ordering::Relaxed) {
            0 => None,
            moment => Some(Duration::from_millis(self.now().saturating_sub(moment))),
        }
    }
}

/// What INSERTs wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum WaitReason {
    Standby,
    Lock,
}

impl WaitReason {
    pub(super) fn words(self) -> &'static str {
        match self {
            Self::Standby => "commits wait for a synchronous standby",
            Self::Lock => "inserts wait for a lock that another session holds",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn run_ends_at_a_denial_of_all_or_at_many_in_a_row() {
        assert!(ServerProgress::new().denied(true));
        let progress = ServerProgress::new();
        assert!((1..DENIALS).all(|_| !progress.denied(false)));
        progress.stored();
        assert!((1..DENIALS).all(|_| !progress.denied(false)));
        assert!(progress.denied(false));
    }

    #[test]
    fn confirmation_ends_the_wait_for_a_standby() {
        let progress = ServerProgress::new();
        assert_eq!(progress.since(&progress.unconfirmed_since), None);
        progress.unconfirmed(Instant::now());
        assert!(progress.since(&progress.unconfirmed_since).is_some());
        progress.stored();
        assert_eq!(progress.since(&progress.unconfirmed_since), None);
    }
}
