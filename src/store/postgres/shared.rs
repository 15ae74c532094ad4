//! The state that the connections of a PostgreSQL store share.

use std::sync::Arc;
use std::time::Duration;

use crate::store::in_flight_log::InFlightLog;
use crate::store::postgres::catalog::{Catalog, LengthLimit};
use crate::store::postgres::connector::{Connector, Lookup};
use crate::store::postgres::insert_sql::InsertForm;
use crate::store::postgres::progress::ServerProgress;
use crate::store::postgres::receipts::PostgresReceipts;
use crate::store::queue::Queue;

/// The state that all connections of a store share.
pub(super) struct PostgresShared {
    pub(super) connector: Arc<Connector>,
    pub(super) queue: Arc<Queue>,
    pub(super) log: Arc<InFlightLog>,
    /// The configured number of INSERTs in flight per connection.
    pub(super) pipeline: Option<usize>,
    pub(super) is_dry_run: bool,
    pub(super) lookup: Lookup,
    /// The receipts, if they are written.
    pub(super) receipts: Option<PostgresReceipts>,
    pub(super) catalog: Catalog,
    /// The column's length limit.
    pub(super) length_limit: LengthLimit,
    pub(super) progress: ServerProgress,
    pub(super) patience: Duration,
}

impl PostgresShared {
    /// Returns how tokens are inserted.
    pub(super) fn form(&self) -> InsertForm {
        self.receipts
            .as_ref()
            .map_or(InsertForm::Plain, |receipts| receipts.form)
    }
}
