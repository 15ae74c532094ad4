//! Receipts: a row for each token in a table beside the tokens' own, written in the same transaction.
//!
//! A receipt's key is the run, its shard, the token's position and the attempt. Only one transaction can
//! commit a key. So a receipt proves that the token was committed, and a tombstone under the same key that it
//! never will be. `earlier` is what the receipts say about earlier processes of the run; `ddl`, `audit` and
//! `prune` serve the commands about the table.

pub mod audit;
pub mod ddl;
mod earlier;
pub mod prune;

use uuid::Uuid;

use crate::pipeline::identifier::TableName;
pub use crate::store::receipts::earlier::{EarlierReceipts, ProcessStart};
pub(in crate::store) use crate::store::receipts::earlier::{MARK_ATTEMPT, mark_position};

/// The columns of the table.
pub(in crate::store) const COLUMNS: [&str; 7] = [
    "run_id", "shard", "position", "attempt", "rows", "kind", "at",
];

/// The error of a table that does not exist.
pub(in crate::store) const NO_TABLE: &str = "the table of receipts does not exist";
/// The error of a table that is another one.
pub(in crate::store) const OTHER_TABLE: &str = "the table is not one of receipts";
/// The hint of both.
pub(in crate::store) const SCHEMA_HINT: &str = "`token_service schema` prints the SQL that creates the table; --receipts or database.receipts names it";

/// The receipts of a run.
#[derive(Clone, Debug)]
pub struct Receipts {
    /// The table.
    pub table: TableName,
    /// The run.
    pub run_id: Uuid,
    /// The shard of the run.
    pub shard: u32,
}

impl Receipts {
    /// The name of the table unless another one is configured.
    pub const DEFAULT_TABLE: &str = "token_receipts";

    /// Creates the receipts of a run that is not known yet.
    pub fn in_table(table: TableName) -> Self {
        Self {
            table,
            run_id: Uuid::nil(),
            shard: 0,
        }
    }
}
