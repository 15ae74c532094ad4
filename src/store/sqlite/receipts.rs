//! Receipts in an SQLite file: written with each token in one transaction, read by key.

use rusqlite::{Connection, OptionalExtension as _, Row, params};

use crate::error::Error;
use crate::pipeline::receipts::{Receipt, ReceiptKind};
use crate::pipeline::token::ReceiptKey;
use crate::store::connection::{Found, denied};
use crate::store::receipts::{
    EarlierReceipts, MARK_ATTEMPT, ProcessStart, Receipts, mark_position,
};

/// The columns that a run reads and writes.
const COLUMNS: [&str; 6] = ["run_id", "shard", "position", "attempt", "rows", "kind"];
/// The columns of the key.
const KEY: [&str; 4] = ["run_id", "shard", "position", "attempt"];

/// The receipts of a run in an SQLite table.
#[derive(Clone, Debug)]
pub(super) struct SqliteReceipts {
    receipts: Receipts,
    /// Inserts a receipt: position, attempt, rows, kind.
    insert: String,
    /// The same, but nothing if the key is taken.
    insert_if_free: String,
}

impl SqliteReceipts {
    pub(super) fn new(receipts: &Receipts) -> Self {
        let into = format!(
            "INTO {} ({}) VALUES ('{}', {}, ?1, ?2, ?3, ?4)",
            receipts.table.to_sql(),
            COLUMNS.join(", "),
            receipts.run_id,
            receipts.shard,
        );
        Self {
            receipts: receipts.clone(),
            insert: format!("INSERT {into}"),
            insert_if_free: format!("INSERT OR IGNORE {into}"),
        }
    }

    /// Checks that the table has the columns and the key.
    ///
    /// # Errors
    /// If it is missing, or receipts in it would prove nothing.
    pub(super) fn check(&self, connection: &Connection) -> rusqlite::Result<Result<(), Error>> {
        let table = &self.receipts.table;
        let mut statement =
            connection.prepare("SELECT name, pk FROM pragma_table_xinfo(?1, ?2)")?;
        let columns = statement.query_map((&table.table, table.schema.as_deref()), |row| {
            Ok((row.get(0)?, row.get(1)?))
        })?;
        let columns = columns.collect::<rusqlite::Result<Vec<(String, i64)>>>()?;
        let has = |name: &&str| columns.iter().any(|(known, _)| known == name);
        let key: Vec<&str> = columns
            .iter()
            .filter(|(_, place)| *place > 0)
            .map(|(name, _)| name.as_str())
            .collect();
        let why = if columns.is_empty() {
            format!("no table {} in the file", table.to_sql())
        } else if let Some(missing) = COLUMNS.iter().find(|name| !has(name)) {
            format!("{table}: the column {missing} is missing")
        } else if key.len() != KEY.len() || !KEY.iter().all(|name| key.contains(name)) {
            format!("{table}: the primary key ({}) is missing", KEY.join(", "))
        } else {
            return Ok(Ok(()));
        };
        Ok(Err(denied("42P01", "the receipts table cannot be used")
            .cause(why)
            .hint(format!(
                "`token_service schema --sqlite --receipts {table}` prints its definition, for sqlite3; a \
                 run creates nothing"
            ))))
    }

    /// Inserts the receipt of a token with this number of rows; part of the token's transaction.
    pub(super) fn insert(
        &self,
        connection: &Connection,
        key: ReceiptKey,
        rows: usize,
    ) -> rusqlite::Result<()> {
        let rows = i32::try_from(rows).unwrap_or(i32::MAX);
        insert(connection, &self.insert, key, ReceiptKind::Token { rows }).map(drop)
    }

    /// Returns true if the message says that the key of a receipt is taken.
    pub(super) fn is_taken(&self, message: &str) -> bool {
        let column = format!("{}.position", self.receipts.table.table);
        message.starts_with("UNIQUE constraint failed") && message.contains(&column)
    }

    /// Finds out what became of a token in doubt: makes its attempt impossible, or reads who has its key.
    pub(super) fn settle(
        &self,
        connection: &Connection,
        key: ReceiptKey,
    ) -> rusqlite::Result<Found> {
        let inserted = insert(
            connection,
            &self.insert_if_free,
            key,
            ReceiptKind::Tombstone,
        )?;
        if inserted > 0 {
            return Ok(Found::Absent);
        }
        let sql = format!(
            "SELECT position, attempt, kind, rows FROM {} \
             WHERE run_id = ?1 AND shard = ?2 AND position = ?3 AND attempt = ?4",
            self.receipts.table.to_sql()
        );
        let (position, attempt) = (position_of(key), key.attempt);
        let run = (self.receipts.run_id.to_string(), self.receipts.shard);
        let found = connection.query_row(&sql, params![run.0, run.1, position, attempt], receipt);
        Ok(match found.optional()?.flatten().map(|found| found.kind) {
            Some(ReceiptKind::Token { rows: 1.. }) => Found::Stored,
            Some(ReceiptKind::Tombstone) => Found::Absent,
            Some(ReceiptKind::Token { .. }) => {
                Found::Unknown("the INSERT was committed without a row in the table")
            }
            _ => Found::Unknown("the token's receipt does not say whether it was stored"),
        })
    }

    /// Writes receipts that are not written with a token.
    pub(super) fn write(
        &self,
        connection: &Connection,
        receipts: &[Receipt],
    ) -> rusqlite::Result<()> {
        let transaction = connection.unchecked_transaction()?;
        for receipt in receipts {
            insert(connection, &self.insert_if_free, receipt.key, receipt.kind)?;
        }
        transaction.commit()
    }

    /// Reads what earlier processes of the run left.
    pub(super) fn read(&self, connection: &Connection) -> rusqlite::Result<EarlierReceipts> {
        let sql = format!(
            "SELECT position, attempt, kind, rows FROM {} WHERE run_id = ?1 AND shard = ?2 \
             ORDER BY position, attempt",
            self.receipts.table.to_sql()
        );
        let mut statement = connection.prepare(&sql)?;
        let run = (self.receipts.run_id.to_string(), self.receipts.shard);
        let mut rows = statement.query(run)?;
        let mut earlier = EarlierReceipts::new();
        let mut last: Option<Receipt> = None;
        while let Some(row) = rows.next()? {
            let position: i64 = row.get(0)?;
            if position < 0 {
                let is_keyed: Option<i64> = row.get(3)?;
                earlier.add_mark(position.unsigned_abs(), is_keyed == Some(1));
            } else if let Some(next) = receipt(row)? {
                // The highest attempt of a position decides.
                let before = last.replace(next);
                let is_other = |it: &Receipt| it.key.position != next.key.position;
                if let Some(before) = before.filter(is_other) {
                    earlier.add(before);
                }
            }
        }
        if let Some(last) = last {
            earlier.add(last);
        }
        Ok(earlier)
    }

    /// Marks the beginning of a process; returns false if another one has the generation.
    pub(super) fn mark(
        &self,
        connection: &Connection,
        generation: u64,
        start: ProcessStart,
    ) -> rusqlite::Result<bool> {
        let is_keyed = i32::from(start.is_keyed);
        let mark = params![mark_position(generation), MARK_ATTEMPT, is_keyed, "x"];
        let inserted = connection.execute(&self.insert_if_free, mark)?;
        Ok(inserted > 0)
    }
}

fn insert(
    connection: &Connection,
    sql: &str,
    key: ReceiptKey,
    kind: ReceiptKind,
) -> rusqlite::Result<usize> {
    let (kind, rows) = kind.columns();
    let mut statement = connection.prepare_cached(sql)?;
    statement.execute(params![position_of(key), key.attempt, rows, kind])
}

fn position_of(key: ReceiptKey) -> i64 {
    i64::try_from(key.position).unwrap_or(i64::MAX)
}

/// Reads position, attempt, kind and rows; `None` if no run of this program wrote the receipt.
fn receipt(row: &Row<'_>) -> rusqlite::Result<Option<Receipt>> {
    let (position, attempt, kind): (i64, i64, String) = (row.get(0)?, row.get(1)?, row.get(2)?);
    Ok(Receipt::of_columns(position, attempt, &kind, row.get(3)?))
}
