//! The receipts table of an SQLite file for `audit` and `receipts prune`.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use rusqlite::types::Type;
use rusqlite::{Connection, ErrorCode, MAIN_DB, OptionalExtension as _, Row, params};
use uuid::Uuid;

use crate::error::{Error, ErrorKind};
use crate::pipeline::identifier::TableName;
use crate::store::connection::denied;
use crate::store::receipts::audit::{
    PAGE_ROWS, PositionReceipt, ReadReceipts, ShardReceipts, count_sql,
};
use crate::store::receipts::prune::{PruneBatch, PruneReceipts, batch_sql};
use crate::store::receipts::{COLUMNS, NO_TABLE, OTHER_TABLE, SCHEMA_HINT};
use crate::store::sqlite::open::{open_file, unusable};

/// How long a statement waits for a run that writes to the file.
const BUSY_TIMEOUT: Duration = Duration::from_secs(10);

/// Returns the SQL that writes a time as text in RFC 3339.
fn time(expression: &str) -> String {
    format!("strftime('%Y-%m-%dT%H:%M:%fZ', {expression})")
}

/// An open file, and its receipts table.
pub(in crate::store) struct SqliteReceiptRows {
    path: PathBuf,
    /// The table as SQL.
    table: String,
    connection: Arc<Mutex<Connection>>,
}

impl SqliteReceiptRows {
    /// Opens the file at `path`, and checks that the table has the columns of receipts.
    pub(in crate::store) fn open(path: &Path, name: &TableName) -> Result<Self, Error> {
        let connection = open_file(path)?;
        let unusable = |error| unusable(Some(path), &error);
        connection.busy_timeout(BUSY_TIMEOUT).map_err(unusable)?;
        let columns = connection
            .prepare("SELECT name FROM pragma_table_xinfo(?1, ?2)")
            .and_then(|mut statement| {
                let names = (&name.table, name.schema.as_deref());
                let rows = statement.query_map(names, |row| row.get(0))?;
                rows.collect::<rusqlite::Result<Vec<String>>>()
            })
            .map_err(unusable)?;
        let table = name.to_sql();
        if columns.is_empty() {
            return Err(denied("42P01", NO_TABLE)
                .cause(format!("no table {table} in {}", path.display()))
                .hint(SCHEMA_HINT));
        }
        let is_missing =
            |column: &&str| !columns.iter().any(|name| name.eq_ignore_ascii_case(column));
        if let Some(column) = COLUMNS.iter().copied().find(is_missing) {
            return Err(denied("42703", OTHER_TABLE)
                .cause(format!("{table} has no column {column}"))
                .hint(SCHEMA_HINT));
        }
        Ok(Self {
            path: path.to_owned(),
            table,
            connection: Arc::new(Mutex::new(connection)),
        })
    }

    /// Works with the connection on a thread of its own, so that signals are noticed meanwhile.
    async fn with<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, Error> {
        let connection = Arc::clone(&self.connection);
        let work = move || work(&connection.lock().unwrap_or_else(PoisonError::into_inner));
        let worked = tokio::task::spawn_blocking(work).await;
        let Ok(result) = worked else {
            let message = "the SQLite thread has ended unexpectedly";
            return Err(Error::of(ErrorKind::DbConnect, message));
        };
        result.map_err(|error| self.error(&error))
    }

    fn error(&self, error: &rusqlite::Error) -> Error {
        let path = self.path.display();
        match error {
            rusqlite::Error::FromSqlConversionFailure(..)
            | rusqlite::Error::IntegralValueOutOfRange(..)
            | rusqlite::Error::InvalidColumnType(..) => denied("42804", OTHER_TABLE)
                .cause(format!("{}: {error}", self.table))
                .hint(SCHEMA_HINT),
            error if error.sqlite_error_code() == Some(ErrorCode::DatabaseBusy) => {
                Error::of(ErrorKind::DbConnect, "the database did not answer in time")
                    .cause(format!("{path}: {error}"))
                    .hint("another process writes to the file: try again when it has ended")
            }
            error => unusable(Some(&self.path), error),
        }
    }
}

fn shard_of(row: &Row<'_>) -> rusqlite::Result<ShardReceipts> {
    let number = |column: usize| {
        let number: i64 = row.get(column)?;
        Ok::<_, rusqlite::Error>(u64::try_from(number).unwrap_or(0))
    };
    let time = |column: usize| {
        let text: String = row.get(column)?;
        text.parse::<Timestamp>()
            .map_err(|error| conversion_failure(column, error))
    };
    Ok(ShardReceipts {
        run_id: run_of(row)?,
        shard: row.get(1)?,
        stored: number(2)?,
        skipped: number(3)?,
        rejected: number(4)?,
        tombstones: number(5)?,
        first: time(6)?,
        last: time(7)?,
    })
}

/// Reads the run in the first column.
fn run_of(row: &Row<'_>) -> rusqlite::Result<Uuid> {
    let text: String = row.get(0)?;
    Uuid::parse_str(&text).map_err(|error| conversion_failure(0, error))
}

fn conversion_failure(
    column: usize,
    error: impl std::error::Error + Send + Sync + 'static,
) -> rusqlite::Error {
    rusqlite::Error::FromSqlConversionFailure(column, Type::Text, Box::new(error))
}

impl ReadReceipts for SqliteReceiptRows {
    async fn count(&self, run: Option<Uuid>) -> Result<Vec<ShardReceipts>, Error> {
        let condition = match run {
            Some(_) => "WHERE run_id = ?1",
            None => "",
        };
        let sql = count_sql(&self.table, condition, time);
        self.with(move |connection| {
            let mut statement = connection.prepare(&sql)?;
            let run = run.map(|run| run.to_string());
            let rows = statement.query_map(rusqlite::params_from_iter(run), shard_of)?;
            rows.collect()
        })
        .await
    }

    async fn receipts_after(
        &self,
        run: Uuid,
        shard: i32,
        (position, attempt): (i64, i32),
    ) -> Result<Vec<PositionReceipt>, Error> {
        let sql = format!(
            "SELECT position, attempt, coalesce(kind = 't' AND rows >= 1, 0) FROM {} \
             WHERE run_id = ?1 AND shard = ?2 AND (position, attempt) > (?3, ?4) \
             ORDER BY position, attempt LIMIT {PAGE_ROWS}",
            self.table
        );
        self.with(move |connection| {
            let mut statement = connection.prepare_cached(&sql)?;
            let key = params![run.to_string(), shard, position, attempt];
            let rows = statement.query_map(key, |row| {
                Ok(PositionReceipt {
                    position: row.get(0)?,
                    attempt: row.get(1)?,
                    is_stored: row.get(2)?,
                })
            })?;
            rows.collect()
        })
        .await
    }
}

impl PruneReceipts for SqliteReceiptRows {
    async fn cutoff(&self, age: Duration) -> Result<String, Error> {
        let sql = format!("SELECT {}", time("'now', ?1"));
        let path = self.path.clone();
        let (cutoff, is_readonly) = self
            .with(move |connection| {
                let age = format!("-{}.{:03} seconds", age.as_secs(), age.subsec_millis());
                let cutoff: String = connection.query_row(&sql, [age], |row| row.get(0))?;
                Ok((cutoff, connection.is_readonly(MAIN_DB)?))
            })
            .await?;
        if is_readonly {
            return Err(denied("25006", "the database takes no writes")
                .cause(format!("{} is read-only", path.display()))
                .hint("the file and its folder must be writable"));
        }
        Ok(cutoff)
    }

    async fn runs_before(&self, cutoff: &str, run: Option<Uuid>) -> Result<Vec<Uuid>, Error> {
        let condition = match run {
            Some(_) => "WHERE run_id = ?2",
            None => "",
        };
        let newest = time("max(at)");
        let sql = format!(
            "SELECT run_id FROM {} {condition} GROUP BY run_id HAVING {newest} < ?1 \
             ORDER BY {newest}, run_id",
            self.table
        );
        let cutoff = cutoff.to_owned();
        self.with(move |connection| {
            let mut statement = connection.prepare(&sql)?;
            let run = run.map(|run| run.to_string());
            let parameters = [cutoff].into_iter().chain(run);
            let rows = statement.query_map(rusqlite::params_from_iter(parameters), run_of)?;
            rows.collect()
        })
        .await
    }

    async fn first_batch(&self, run: Uuid, cutoff: &str) -> Result<Option<PruneBatch>, Error> {
        let is_old = format!("coalesce({} < ?2, 0)", time("newest"));
        let sql = batch_sql(&self.table, "?1", &is_old);
        let cutoff = cutoff.to_owned();
        self.with(move |connection| {
            let mut statement = connection.prepare_cached(&sql)?;
            let batch = statement.query_row(params![run.to_string(), cutoff], |row| {
                Ok(PruneBatch {
                    shard: row.get(0)?,
                    first: row.get(1)?,
                    position: row.get(2)?,
                    attempt: row.get(3)?,
                    is_old: row.get(4)?,
                })
            });
            batch.optional()
        })
        .await
    }

    async fn delete(&self, run: Uuid, batch: &PruneBatch, cutoff: &str) -> Result<u64, Error> {
        let sql = format!(
            "DELETE FROM {} WHERE run_id = ?1 AND shard = ?2 AND position BETWEEN ?3 AND ?4 \
             AND (position, attempt) <= (?4, ?5) AND {} < ?6",
            self.table,
            time("at")
        );
        let (batch, cutoff) = (batch.clone(), cutoff.to_owned());
        self.with(move |connection| {
            let mut statement = connection.prepare_cached(&sql)?;
            let deleted = statement.execute(params![
                run.to_string(),
                batch.shard,
                batch.first,
                batch.position,
                batch.attempt,
                cutoff
            ])?;
            Ok(deleted as u64)
        })
        .await
    }
}
