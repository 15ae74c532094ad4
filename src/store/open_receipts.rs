//! Opens the receipts table of the configured database for `audit` and `receipts prune`.

use uuid::Uuid;

use crate::error::{Error, usage};
use crate::pipeline::identifier::TableName;
use crate::pipeline::positions::PositionSet;
use crate::runtime::shutdown::Shutdown;
use crate::store::postgres::receipt_rows::PostgresReceiptRows;
use crate::store::receipts::audit::{ShardReceipts, shards, stored_positions};
use crate::store::receipts::prune::{PruneSelection, PrunedRun, prune};
use crate::store::sqlite::receipt_rows::SqliteReceiptRows;
use crate::store::{DatabaseTarget, StoreOptions};

/// The receipts table of an open database.
pub struct OpenReceipts(Backend);

enum Backend {
    /// Boxed, because it is large.
    Postgres(Box<PostgresReceiptRows>),
    Sqlite(SqliteReceiptRows),
}

impl OpenReceipts {
    /// Connects to the database.
    ///
    /// # Errors
    /// If the database cannot be reached or refuses the connection.
    pub async fn open(options: &StoreOptions, table: &TableName) -> Result<Self, Error> {
        Ok(Self(match &options.target {
            DatabaseTarget::Postgres(address) => {
                let receipts = PostgresReceiptRows::open(address, options, table).await?;
                Backend::Postgres(Box::new(receipts))
            }
            DatabaseTarget::Sqlite(path) => Backend::Sqlite(SqliteReceiptRows::open(path, table)?),
            DatabaseTarget::Demo => return Err(usage("the demo writes no receipts")),
        }))
    }

    /// Counts the receipts of each shard of a run, or of all runs: the newest run first.
    pub async fn shards(&self, run: Option<Uuid>) -> Result<Vec<ShardReceipts>, Error> {
        match &self.0 {
            Backend::Postgres(receipts) => shards(&**receipts, run).await,
            Backend::Sqlite(receipts) => shards(receipts, run).await,
        }
    }

    /// Reads the positions of a shard whose tokens are stored.
    pub async fn stored_positions(&self, run: Uuid, shard: i32) -> Result<PositionSet, Error> {
        match &self.0 {
            Backend::Postgres(receipts) => stored_positions(&**receipts, run, shard).await,
            Backend::Sqlite(receipts) => stored_positions(receipts, run, shard).await,
        }
    }

    /// Deletes the receipts of old runs in batches, and passes each run to `pruned`.
    ///
    /// # Errors
    /// Those of the database, and those of `pruned`.
    pub async fn prune(
        &self,
        selection: PruneSelection,
        shutdown: &Shutdown,
        pruned: impl FnMut(PrunedRun) -> Result<(), Error>,
    ) -> Result<(), Error> {
        match &self.0 {
            Backend::Postgres(receipts) => prune(&**receipts, selection, shutdown, pruned).await,
            Backend::Sqlite(receipts) => prune(receipts, selection, shutdown, pruned).await,
        }
    }

    /// Closes the connection gracefully.
    pub async fn close(self) {
        if let Backend::Postgres(receipts) = self.0 {
            receipts.close().await;
        }
    }
}
