//! The receipts table of a PostgreSQL server for `audit` and `receipts prune`.
//!
//! The receipts of a run are read in pages by their key: each reply is bounded, needs no open transaction,
//! and works behind a pooler. Pgpool-II sends a statement with the first comment to the primary.

use std::time::Duration;

use jiff::Timestamp;
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Error as PostgresError, Row};
use uuid::Uuid;

use crate::error::Error;
use crate::pipeline::identifier::{TableName, quote_identifier};
use crate::store::StoreOptions;
use crate::store::connection::denied;
use crate::store::postgres::Address;
use crate::store::postgres::connector::{ConnectError, ConnectPurpose, Connector};
use crate::store::postgres::raw_connection::RawConnection;
use crate::store::receipts::audit::{
    PAGE_ROWS, PositionReceipt, ReadReceipts, ShardReceipts, count_sql,
};
use crate::store::receipts::prune::{PruneBatch, PruneReceipts, batch_sql};
use crate::store::receipts::{NO_TABLE, OTHER_TABLE, SCHEMA_HINT};

/// The comment by which Pgpool-II sends a statement to the primary.
const ON_PRIMARY: &str = "/*NO LOAD BALANCE*/";

/// The right to read receipts.
const READ: &str = "SELECT";
/// The rights to delete receipts.
const PRUNE: &str = "SELECT, DELETE";

/// A parameter and its type.
type Parameter<'a> = (&'a (dyn ToSql + Sync), Type);

/// Returns a parameter of text.
fn text(value: &String) -> Parameter<'_> {
    (value, Type::TEXT)
}

/// Returns the SQL that writes a time as text in RFC 3339.
fn time(expression: &str) -> String {
    format!("to_char({expression} AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')")
}

/// An open connection, and the name of its receipts table.
pub(in crate::store) struct PostgresReceiptRows {
    connector: Connector,
    connection: RawConnection,
    name: TableName,
    /// The name as SQL.
    table: String,
}

impl PostgresReceiptRows {
    /// Connects to the primary.
    pub(in crate::store) async fn open(
        address: &Address,
        options: &StoreOptions,
        name: &TableName,
    ) -> Result<Self, Error> {
        let connector = Connector::new(address, options)?;
        let (connection, _) = connector
            .connect_to_any_host(ConnectPurpose::Inspect)
            .await?;
        Ok(Self {
            connector,
            connection,
            name: name.clone(),
            table: name.to_sql(),
        })
    }

    /// Closes the connection gracefully.
    pub(in crate::store) async fn close(self) {
        self.connection.close().await;
    }

    /// Runs a query that needs `rights`.
    async fn query(
        &self,
        sql: &str,
        parameters: &[Parameter<'_>],
        rights: &str,
    ) -> Result<Vec<Row>, Error> {
        let rows = self.connection.client.query_typed(sql, parameters).await;
        rows.map_err(|error| self.error(&error, rights))
    }

    /// Explains why a statement failed that needs `rights`.
    fn error(&self, error: &PostgresError, rights: &str) -> Error {
        let host = &self.connection.host;
        if let Some(violation) = self.connection.monitor.violation() {
            let violation = ConnectError::Violation(violation.clone());
            return self.connector.connect_error(host, &violation);
        }
        let Some(db) = error.as_db_error() else {
            return self.connector.refusal(host, error);
        };
        let code = db.code().code();
        let (message, hint) = match code {
            "42501" => (
                "the database denies access to the receipts",
                self.grant(rights),
            ),
            "42P01" | "3F000" => (NO_TABLE, SCHEMA_HINT.to_owned()),
            "42703" | "42804" | "42883" => (OTHER_TABLE, SCHEMA_HINT.to_owned()),
            _ => (
                "the database refused a statement about receipts",
                format!("see the server's log at {}", host.location()),
            ),
        };
        let cause = self.connector.redact(host, db.message());
        denied(code, message)
            .cause(format!("{cause} ({code})"))
            .hint(hint)
    }

    /// Returns the SQL that grants the role these rights on the table.
    fn grant(&self, rights: &str) -> String {
        let role = quote_identifier(&self.connector.address.user);
        let schema = self.name.schema.as_deref().map(quote_identifier);
        let usage = schema.map(|schema| format!("GRANT USAGE ON SCHEMA {schema} TO {role}; "));
        let usage = usage.unwrap_or_default();
        format!("{usage}GRANT {rights} ON {} TO {role}", self.table)
    }

    /// Reads a value of the server's reply.
    fn read<T>(&self, value: Result<T, PostgresError>) -> Result<T, Error> {
        value.map_err(|error| self.unreadable(&error))
    }

    fn unreadable(&self, error: &dyn std::error::Error) -> Error {
        denied("42804", OTHER_TABLE)
            .cause(format!("{}: {error}", self.table))
            .hint(SCHEMA_HINT)
    }

    fn run_id(&self, row: &Row, column: usize) -> Result<Uuid, Error> {
        let text: String = self.read(row.try_get(column))?;
        Uuid::parse_str(&text).map_err(|error| self.unreadable(&error))
    }

    fn time(&self, row: &Row, column: usize) -> Result<Timestamp, Error> {
        let text: String = self.read(row.try_get(column))?;
        text.parse()
            .map_err(|error: jiff::Error| self.unreadable(&error))
    }

    fn number(&self, row: &Row, column: usize) -> Result<u64, Error> {
        let number: i64 = self.read(row.try_get(column))?;
        Ok(u64::try_from(number).unwrap_or(0))
    }
}

impl ReadReceipts for PostgresReceiptRows {
    async fn count(&self, run: Option<Uuid>) -> Result<Vec<ShardReceipts>, Error> {
        let run = run.map(|run| run.to_string());
        let condition = match run {
            Some(_) => "WHERE run_id = $1::uuid",
            None => "",
        };
        let sql = count_sql(&self.table, condition, time);
        let parameters: Vec<Parameter<'_>> = run.iter().map(text).collect();
        // A table may have many runs.
        let _long = self.connection.monitor.allow_long_replies(0);
        let rows = self
            .query(&format!("{ON_PRIMARY} {sql}"), &parameters, READ)
            .await?;
        let shards = rows.iter().map(|row| {
            Ok(ShardReceipts {
                run_id: self.run_id(row, 0)?,
                shard: self.read(row.try_get(1))?,
                stored: self.number(row, 2)?,
                skipped: self.number(row, 3)?,
                rejected: self.number(row, 4)?,
                tombstones: self.number(row, 5)?,
                first: self.time(row, 6)?,
                last: self.time(row, 7)?,
            })
        });
        shards.collect()
    }

    async fn receipts_after(
        &self,
        run: Uuid,
        shard: i32,
        (position, attempt): (i64, i32),
    ) -> Result<Vec<PositionReceipt>, Error> {
        let sql = format!(
            "{ON_PRIMARY} SELECT position, attempt, coalesce(kind = 't' AND rows >= 1, false) \
             FROM {} WHERE run_id = $1::uuid AND shard = $2 AND (position, attempt) > ($3, $4) \
             ORDER BY position, attempt LIMIT {PAGE_ROWS}",
            self.table
        );
        let run = run.to_string();
        let parameters: [Parameter<'_>; 4] = [
            (&run, Type::TEXT),
            (&shard, Type::INT4),
            (&position, Type::INT8),
            (&attempt, Type::INT4),
        ];
        let rows = self.query(&sql, &parameters, READ).await?;
        let receipts = rows.iter().map(|row| {
            Ok(PositionReceipt {
                position: self.read(row.try_get(0))?,
                attempt: self.read(row.try_get(1))?,
                is_stored: self.read(row.try_get(2))?,
            })
        });
        receipts.collect()
    }
}

impl PruneReceipts for PostgresReceiptRows {
    async fn cutoff(&self, age: Duration) -> Result<String, Error> {
        let milliseconds = i64::try_from(age.as_millis()).unwrap_or(i64::MAX);
        let cutoff = time("(now() - $1 * interval '1 millisecond')");
        let parameters: [Parameter<'_>; 1] = [(&milliseconds, Type::INT8)];
        let sql = format!("{ON_PRIMARY} SELECT {cutoff}");
        let rows = self.query(&sql, &parameters, PRUNE).await?;
        // Without a row, a later statement fails by the empty time.
        let cutoff = rows.first().map(|row| self.read(row.try_get(0)));
        cutoff.unwrap_or_else(|| Ok(String::new()))
    }

    async fn runs_before(&self, cutoff: &str, run: Option<Uuid>) -> Result<Vec<Uuid>, Error> {
        let run = run.map(|run| run.to_string());
        let condition = match run {
            Some(_) => "WHERE run_id = $2::uuid",
            None => "",
        };
        let sql = format!(
            "{ON_PRIMARY} SELECT CAST(run_id AS text) FROM {} {condition} GROUP BY run_id \
             HAVING max(at) < $1::timestamptz ORDER BY max(at), run_id",
            self.table
        );
        let cutoff = cutoff.to_owned();
        let parameters: Vec<Parameter<'_>> = [&cutoff].into_iter().chain(&run).map(text).collect();
        let _long = self.connection.monitor.allow_long_replies(0);
        let rows = self.query(&sql, &parameters, PRUNE).await?;
        rows.iter().map(|row| self.run_id(row, 0)).collect()
    }

    async fn first_batch(&self, run: Uuid, cutoff: &str) -> Result<Option<PruneBatch>, Error> {
        let sql = batch_sql(&self.table, "$1::uuid", "newest < $2::timestamptz");
        let run = run.to_string();
        let parameters: [Parameter<'_>; 2] = [(&run, Type::TEXT), (&cutoff, Type::TEXT)];
        let rows = self
            .query(&format!("{ON_PRIMARY} {sql}"), &parameters, PRUNE)
            .await?;
        let batch = rows.first().map(|row| {
            Ok(PruneBatch {
                shard: self.read(row.try_get(0))?,
                first: self.read(row.try_get(1))?,
                position: self.read(row.try_get(2))?,
                attempt: self.read(row.try_get(3))?,
                is_old: self.read(row.try_get(4))?,
            })
        });
        batch.transpose()
    }

    async fn delete(&self, run: Uuid, batch: &PruneBatch, cutoff: &str) -> Result<u64, Error> {
        let sql = format!(
            "DELETE FROM {} WHERE run_id = $1::uuid AND shard = $2 AND position BETWEEN $3 AND $4 \
             AND (position, attempt) <= ($4, $5) AND at < $6::timestamptz",
            self.table
        );
        let run = run.to_string();
        let parameters: [Parameter<'_>; 6] = [
            (&run, Type::TEXT),
            (&batch.shard, Type::INT4),
            (&batch.first, Type::INT8),
            (&batch.position, Type::INT8),
            (&batch.attempt, Type::INT4),
            (&cutoff, Type::TEXT),
        ];
        let deleted = self
            .connection
            .client
            .execute_typed(&sql, &parameters)
            .await;
        deleted.map_err(|error| self.error(&error, PRUNE))
    }
}
