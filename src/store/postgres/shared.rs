//! The state that a store's supervisor and writers share.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::error::Error;
use crate::store::postgres::catalog::{Catalog, LengthLimit};
use crate::store::postgres::connector::{Connector, Lookup};
use crate::store::postgres::inflight::InFlightLog;
use crate::store::postgres::progress::ServerProgress;
use crate::store::queue::Queue;

/// The state that a store's supervisor and writers share.
pub(super) struct PoolShared {
    pub(super) connector: Connector,
    pub(super) queue: Arc<Queue>,
    pub(super) in_flight_log: InFlightLog,
    pub(super) pipeline: Option<usize>,
    pub(super) dry_run: bool,
    pub(super) statement_timeout: Duration,
    pub(super) lookup: Lookup,
    pub(super) catalog: Catalog,
    /// The column's length limit.
    pub(super) length_limit: LengthLimit,
    pub(super) progress: ServerProgress,
    /// The error that ended the run if no commit was confirmed.
    pub(super) unconfirmed_fault: OnceLock<Error>,
    /// Cancelled when `unconfirmed_fault` is set.
    pub(super) giving_up: CancellationToken,
    pub(super) patience: Duration,
    pub(super) connections: usize,
}
