//! What the writers of one store share.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::error::Fault;
use crate::store::postgres::catalog::{Catalog, LengthLimit};
use crate::store::postgres::connector::{Connector, Lookup};
use crate::store::postgres::inflight::InFlightLog;
use crate::store::postgres::progress::ServerProgress;
use crate::store::queue::Queue;

/// What the lanes of a store share.
pub(super) struct PoolShared {
    pub(super) connector: Connector,
    pub(super) queue: Arc<Queue>,
    pub(super) sent: InFlightLog,
    pub(super) pipeline: Option<usize>,
    pub(super) dry_run: bool,
    pub(super) statement_timeout: Duration,
    pub(super) lookup: Lookup,
    pub(super) catalog: Catalog,
    /// How long a token the column keeps.
    pub(super) length_limit: LengthLimit,
    pub(super) progress: ServerProgress,
    /// Why the run was given up, if no commit was confirmed.
    pub(super) unconfirmed: OnceLock<Fault>,
    /// Cancelled then.
    pub(super) gives_up: CancellationToken,
    pub(super) patience: Duration,
    pub(super) connections: usize,
}
