//! The state that a store's supervisor and writers share.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
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
    /// The number of denied INSERTs since one was stored.
    pub(super) denials: AtomicU32,
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
