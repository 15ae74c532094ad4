//! Tracks the server's progress: its last reply, and what INSERTs wait for.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// A server's progress in a run. Times are milliseconds since the start; 0 means never.
pub(super) struct ServerProgress {
    pub(super) start: Instant,
    pub(super) last_reply: AtomicU64,
    pub(super) unconfirmed_since: AtomicU64,
    pub(super) wait: Mutex<Option<WaitReason>>,
}

impl ServerProgress {
    pub(super) fn new() -> Self {
        Self {
            start: Instant::now(),
            last_reply: AtomicU64::new(1),
            unconfirmed_since: AtomicU64::new(0),
            wait: Mutex::new(None),
        }
    }

    /// Returns what INSERTs wait for, as a clause; `None` if the server responds.
    pub(super) fn wait_clause(&self) -> Option<&'static str> {
        self.wait().map(WaitReason::as_str)
    }

    pub(super) fn wait(&self) -> Option<WaitReason> {
        *self.wait.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn set_wait(&self, wait: Option<WaitReason>) {
        *self.wait.lock().unwrap_or_else(PoisonError::into_inner) = wait;
    }

    /// Records a reply to an INSERT, or that nothing is in flight.
    pub(super) fn record_reply(&self) {
        self.last_reply.store(self.now_ms(), Ordering::Relaxed);
    }

    /// Records a confirmed commit.
    pub(super) fn record_commit(&self) {
        self.unconfirmed_since.store(0, Ordering::Relaxed);
    }

    /// Records a commit, sent at `sent`, that no standby confirmed.
    pub(super) fn record_unconfirmed(&self, sent: Instant) {
        let sent = self.to_ms(sent);
        let since = &self.unconfirmed_since;
        let first = since.compare_exchange(0, sent, Ordering::Relaxed, Ordering::Relaxed);
        if first.is_ok() {
            tracing::warn!("a commit was not confirmed by its synchronous standby");
        }
    }

    /// Records that commits have waited for a standby since the last reply.
    pub(super) fn record_standby_wait(&self) {
        let last_reply = self.last_reply.load(Ordering::Relaxed);
        let since = &self.unconfirmed_since;
        let _ = since.compare_exchange(0, last_reply, Ordering::Relaxed, Ordering::Relaxed);
    }

    pub(super) fn now_ms(&self) -> u64 {
        self.to_ms(Instant::now())
    }

    pub(super) fn to_ms(&self, moment: Instant) -> u64 {
        let since = moment.saturating_duration_since(self.start).as_millis();
        u64::try_from(since).unwrap_or(u64::MAX).max(1)
    }

    pub(super) fn elapsed_since(&self, moment: &AtomicU64) -> Option<Duration> {
        match moment.load(Ordering::Relaxed) {
            0 => None,
            moment => Some(Duration::from_millis(self.now_ms().saturating_sub(moment))),
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
    pub(super) fn as_str(self) -> &'static str {
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
    fn confirmed_commit_ends_wait_for_standby() {
        let progress = ServerProgress::new();
        assert_eq!(progress.elapsed_since(&progress.unconfirmed_since), None);
        progress.record_unconfirmed(Instant::now());
        assert!(
            progress
                .elapsed_since(&progress.unconfirmed_since)
                .is_some()
        );
        progress.record_commit();
        assert_eq!(progress.elapsed_since(&progress.unconfirmed_since), None);
    }
}
