//! Receipts: a row for each token in a table beside the tokens' own, written in the same transaction.
//!
//! A receipt's key is the run, its shard, the token's position and the attempt. Only one transaction can
//! commit a key, so a receipt or a tombstone settles what became of a token whose reply was lost.

use uuid::Uuid;

use crate::store::identifier::TableName;

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
