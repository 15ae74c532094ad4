//! What a run has asked of its source, counted while several fetches go on.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// What was asked of the source so far, over all fetches of a run.
#[derive(Debug, Default)]
pub struct SourceStats {
    pub(super) requests: AtomicU64,
    pub(super) repeated: AtomicU64,
    pub(super) top_ups: AtomicU64,
    pub(super) received: AtomicU64,
    pub(super) surplus: AtomicU64,
    pub(super) unseen: AtomicU64,
    pub(super) fell_short: AtomicBool,
}

impl SourceStats {
    /// Requests sent, retries included.
    pub fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }

    /// Requests that were sent again; those that waited for the source to come up do not count.
    pub fn repeated(&self) -> u64 {
        self.repeated.load(Ordering::Relaxed)
    }

    /// Requests for what earlier answers had left out.
    pub fn top_ups(&self) -> u64 {
        self.top_ups.load(Ordering::Relaxed)
    }

    /// Tokens received.
    pub fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }

    /// Tokens that came beyond what was asked for, and were dropped.
    pub fn surplus(&self) -> u64 {
        self.surplus.load(Ordering::Relaxed)
    }

    /// The most tokens that the source may have issued in answers that never arrived.
    pub fn unseen(&self) -> u64 {
        self.unseen.load(Ordering::Relaxed)
    }

    /// True where some fetch ended with fewer tokens than it was asked for.
    pub fn fell_short(&self) -> bool {
        self.fell_short.load(Ordering::Relaxed)
    }
}
