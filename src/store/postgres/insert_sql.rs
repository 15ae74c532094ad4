//! The statements that insert a token, alone or together with its receipt, and how they are executed.

use std::pin::pin;

use futures_util::StreamExt as _;
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Client, Error as PostgresError};

use crate::pipeline::token::ReceiptKey;
use crate::store::receipts::Receipts;

/// Raises `synchronous_commit` to `on` for the transaction; never lowers it.
const RAISE_SYNCHRONOUS_COMMIT: &str = "set_config('synchronous_commit', CASE \
     current_setting('synchronous_commit') WHEN 'remote_apply' THEN 'remote_apply' ELSE 'on' END, \
     true)";
/// Raises `client_min_messages` to `warning` for the transaction: a warning reports a commit that
/// no standby confirmed.
const RAISE_CLIENT_MIN_MESSAGES: &str = "set_config('client_min_messages', CASE \
     current_setting('client_min_messages') WHEN 'error' THEN 'warning' ELSE \
     current_setting('client_min_messages') END, true)";

/// How a token and its receipt become one transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum InsertForm {
    /// Without a receipt.
    Plain,
    /// One statement for both; `$2` is the position and `$3` the attempt. It returns the number of rows.
    WithReceipt,
    /// `BEGIN`, a statement each, `COMMIT`: rules of the table refuse `RETURNING`.
    InTransaction,
}

/// The statements of one table and its receipts.
#[derive(Debug)]
pub(super) struct InsertSql {
    /// Inserts the token `$1`, with its receipt if there are receipts. For a session that is set up.
    pub(super) insert: String,
    /// The same for a session of a pooler, which is not set up.
    pub(super) durable_insert: String,
    /// Inserts the token alone.
    pub(super) token_only: String,
    /// Inserts the receipt alone: position, attempt and rows.
    pub(super) receipt_only: Option<String>,
}

impl InsertSql {
    /// Creates the statements; `table` and `column` are SQL.
    pub(super) fn new(table: &str, column: &str, receipts: Option<&Receipts>) -> Self {
        let plain = format!("INSERT INTO {table} ({column}) VALUES ($1)");
        let durable = format!(
            "INSERT INTO {table} ({column}) SELECT $1 FROM {} WHERE is_durable",
            durable_session()
        );
        let Some(receipts) = receipts else {
            return Self {
                token_only: durable.clone(),
                insert: plain,
                durable_insert: durable,
                receipt_only: None,
            };
        };
        let into = insert_into(receipts);
        let of_run = of_run(receipts);
        let with_receipt = |insert: &str| {
            format!(
                "WITH token AS ({insert} RETURNING 1) {into} \
                 SELECT {of_run}, $2, $3, count(*), 't' FROM token RETURNING rows"
            )
        };
        Self {
            insert: with_receipt(&plain),
            durable_insert: with_receipt(&durable),
            token_only: durable,
            receipt_only: Some(format!("{into} VALUES ({of_run}, $1, $2, $3, 't')")),
        }
    }
}

/// Returns the beginning of an INSERT of receipts.
pub(super) fn insert_into(receipts: &Receipts) -> String {
    let table = receipts.table.to_sql();
    format!("INSERT INTO {table} (run_id, shard, position, attempt, rows, kind)")
}

/// Returns the run and the shard as SQL values.
pub(super) fn of_run(receipts: &Receipts) -> String {
    format!("'{}'::uuid, {}", receipts.run_id, receipts.shard)
}

/// Returns a table expression with one row, whose column `is_durable` is true: it makes the transaction as
/// durable as that of a session that is set up.
pub(super) fn durable_session() -> String {
    format!(
        "(SELECT {RAISE_SYNCHRONOUS_COMMIT} IS NOT NULL AND {RAISE_CLIENT_MIN_MESSAGES} IS NOT NULL) \
         AS session (is_durable)"
    )
}

/// Returns the values of the columns `position` and `attempt`.
pub(super) fn columns(key: ReceiptKey) -> (i64, i32) {
    let position = i64::try_from(key.position).unwrap_or(i64::MAX);
    (position, i32::from(key.attempt))
}

/// Executes a statement when first polled; resolves when its transaction has ended. Returns the number of
/// rows.
pub(super) async fn execute(
    client: &Client,
    sql: &str,
    params: &[(&(dyn ToSql + Sync), Type)],
) -> Result<u64, PostgresError> {
    let params = params.iter().map(|(value, kind)| (*value, kind.clone()));
    let rows = client.query_typed_raw(sql, params).await?;
    let mut rows = pin!(rows);
    let mut result = Ok(());
    // After an error the server is not ready yet: the rest of the reply is read too.
    while let Some(row) = rows.next().await {
        match row {
            Ok(_) => {}
            Err(error) if result.is_ok() && error.as_db_error().is_some() => result = Err(error),
            Err(error) => return Err(result.err().unwrap_or(error)),
        }
    }
    result.map(|()| rows.rows_affected().unwrap_or_default())
}
