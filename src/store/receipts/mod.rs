//! Receipts: a row for each token in a table beside the tokens' own, written in the same transaction.
//!
//! A receipt's key is the run, its shard, the token's position and the attempt. Only one transaction can
//! commit a key, so a receipt or a tombstone settles what became of a token whose reply was lost.

pub mod audit;
pub mod ddl;
pub mod positions;
pub mod prune;

use uuid::Uuid;

use crate::store::identifier::TableName;

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
