//! Counts a run's requests to its source, over concurrent fetches.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Counters of requests and tokens, over all fetches of a run.
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
    /// Returns the number of requests sent, retries included.
    pub fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }

    /// Returns the number of retried requests, without those that waited for the source to start.
    pub fn repeated(&self) -> u64 {
        self.repeated.load(Ordering::Relaxed)
    }

    /// Returns the number of requests for tokens that earlier answers had omitted.
    pub fn top_ups(&self) -> u64 {
        self.top_ups.load(Ordering::Relaxed)
    }

    /// Returns the number of received tokens.
    pub fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }

    /// Returns the number of tokens beyond the requested ones, which were dropped.
    pub fn surplus(&self) -> u64 {
        self.surplus.load(Ordering::Relaxed)
    }

    /// Returns the largest number of tokens that lost answers may have contained.
    pub fn unseen(&self) -> u64 {
        self.unseen.load(Ordering::Relaxed)
    }

    /// Returns true if a fetch ended with fewer tokens than requested.
    pub fn fell_short(&self) -> bool {
        self.fell_short.load(Ordering::Relaxed)
    }
}
