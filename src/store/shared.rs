//! The state that a store's supervisor and writers share.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use crate::store::in_flight_log::InFlightLog;
use crate::store::queue::Queue;

/// The state that a store's supervisor and writers share.
pub(super) struct WriterShared<D> {
    pub(super) database: D,
    pub(super) queue: Arc<Queue>,
    pub(super) log: Arc<InFlightLog>,
    /// True if each INSERT is rolled back.
    pub(super) is_dry_run: bool,
    pub(super) patience: Duration,
    /// How long a connection without work stays open beside others; `None` for as long as the store.
    pub(super) idle_limit: Option<Duration>,
    /// The number of denied INSERTs since one was stored.
    pub(super) denials: AtomicU32,
    /// True after an error that is no token's fault: the table may have changed.
    pub(super) is_doubtful: AtomicBool,
    /// The numbers of writers, for the supervisor that chooses them.
    pub(super) writers: WriterCounts,
}

/// How many writers work, how many should, and how many replies they received.
#[derive(Default)]
pub(super) struct WriterCounts {
    /// The number of writers that have a connection and take new tokens.
    working: AtomicUsize,
    /// The number of connections to use now.
    wanted: AtomicUsize,
    /// The number of working writers that are to end.
    surplus: AtomicUsize,
    /// The number of INSERTs that were replied to.
    replies: AtomicU64,
}

impl WriterCounts {
    /// Returns the number of writers that work.
    pub(super) fn working(&self) -> usize {
        self.working.load(Ordering::Relaxed)
    }

    /// Returns the number of connections to use now.
    pub(super) fn wanted(&self) -> usize {
        self.wanted.load(Ordering::Relaxed)
    }

    /// Sets the number of connections to use; writers beyond it end.
    pub(super) fn set_wanted(&self, count: usize) {
        self.wanted.store(count, Ordering::Relaxed);
        let surplus = self.working().saturating_sub(count);
        self.surplus.store(surplus, Ordering::Relaxed);
    }

    /// Returns the number of INSERTs that were replied to.
    pub(super) fn replies(&self) -> u64 {
        self.replies.load(Ordering::Relaxed)
    }

    /// Counts replies.
    pub(super) fn add_replies(&self, count: u64) {
        self.replies.fetch_add(count, Ordering::Relaxed);
    }

    /// Counts a writer as working until the result is dropped.
    pub(super) fn begin_work(&self) -> WorkingWriter<'_> {
        self.working.fetch_add(1, Ordering::Relaxed);
        WorkingWriter(self)
    }
}

/// A writer that works.
pub(super) struct WorkingWriter<'a>(&'a WriterCounts);

impl WorkingWriter<'_> {
    /// Returns true if this writer is to end, because fewer are wanted.
    pub(super) fn is_surplus(&self) -> bool {
        let (order, surplus) = (Ordering::Relaxed, &self.0.surplus);
        let taken = surplus.fetch_update(order, order, |count| count.checked_sub(1));
        taken.is_ok()
    }
}

impl Drop for WorkingWriter<'_> {
    fn drop(&mut self) {
        self.0.working.fetch_sub(1, Ordering::Relaxed);
    }
}

impl<D> WriterShared<D> {
    /// The number of consecutive denied INSERTs that ends the run.
    const MAX_DENIALS: u32 = 100;

    /// Records a denied INSERT.
    ///
    /// Returns true if the run must end: `all` further INSERTs would be denied, or too many were in
    /// a row.
    pub(super) fn record_denial(&self, all: bool) -> bool {
        let in_a_row = self.denials.fetch_add(1, Ordering::Relaxed) + 1;
        all || in_a_row >= Self::MAX_DENIALS
    }
}
