//! A connection with its session set up: INSERTs, and the queries that resolve in-doubt tokens.

use std::collections::HashMap;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::StreamExt as _;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_postgres::error::{DbError, Severity};
use tokio_postgres::types::{BorrowToSql, ToSql, Type};
use tokio_postgres::{Client, Error, Row, RowStream, Statement};
use tokio_util::sync::CancellationToken;

use crate::pipeline::token::Token;
use crate::store::connection::ConnectionLost;
use crate::store::postgres::Host;
use crate::store::postgres::insert_sql::{InsertForm, InsertSql, columns, execute};
use crate::store::postgres::wire::{ConnectionMonitor, HostAddress, ReplyThreshold};

/// The time limit for a graceful close.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// Reads the lowest transaction number (XID) that a later transaction can get.
const HORIZON_SQL: &str = "SELECT txid_snapshot_xmax(txid_current_snapshot())";

/// Terminates the run's other connections; one row for each, true if it waits for a synchronous
/// standby.
///
/// Such a wait is not interrupted: that would make a row visible that no standby has.
/// `starts_with`, because a pooler may append the client's address to the name.
const END_OTHERS_SQL: &str = "SELECT waits, CASE WHEN NOT waits THEN pg_terminate_backend(pid) END FROM \
     (SELECT pid, wait_event IS NOT DISTINCT FROM 'SyncRep' AS waits FROM pg_stat_activity \
     WHERE starts_with(application_name, $1) AND usename = session_user \
     AND pid NOT IN (pg_backend_pid(), $2)) AS others";

/// As [`END_OTHERS_SQL`], with the names of the run and of this process.
const END_OTHERS_OF_SQL: &str = "SELECT waits, CASE WHEN NOT waits THEN pg_terminate_backend(pid) END FROM \
     (SELECT pid, wait_event IS NOT DISTINCT FROM 'SyncRep' AS waits FROM pg_stat_activity \
     WHERE starts_with(application_name, $1) AND usename = session_user \
     AND NOT starts_with(application_name, $2) AND datname = current_database()) AS others";

/// Terminates one backend if it is still the same process; no row if it is gone.
const END_BACKEND_SQL: &str = "SELECT waits, CASE WHEN NOT waits THEN pg_terminate_backend(pid) END FROM \
     (SELECT pid, wait_event IS NOT DISTINCT FROM 'SyncRep' AS waits FROM pg_stat_activity \
     WHERE pid = $1 AND extract(epoch FROM backend_start)::text = $2) AS old";

/// Writes a WAL record only. Its commit waits for the standbys, and so for every earlier commit.
const CONFIRM_SQL: &str = "SELECT pg_logical_emit_message(true, 'token_service', '')";

/// What happened to the backends that were to be terminated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FenceResult {
    /// No such backend exists.
    Gone,
    /// They were sent the termination signal.
    Ending,
    /// At least one has committed and waits for a synchronous standby.
    AwaitingStandby,
}

impl FenceResult {
    fn from_rows(rows: &[Row]) -> Result<Self, Error> {
        let waits = rows.iter().map(|row| row.try_get::<_, bool>(0));
        let waits = waits.collect::<Result<Vec<bool>, Error>>()?;
        Ok(match waits[..] {
            [] => Self::Gone,
            _ if waits.contains(&true) => Self::AwaitingStandby,
            _ => Self::Ending,
        })
    }
}

/// Identifies one backend of one server beyond its PID, which the system reuses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Backend {
    pub(super) pid: i32,
    started: String,
    server_started: String,
    cluster: Cluster,
    /// True if the session runs under another role than its login role (`ALTER ROLE … SET role`),
    /// which may not terminate the session's backends.
    assumed_role: bool,
}

/// The cluster, primary and standbys, that a backend belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cluster {
    /// The address has one host, so the cluster is always the same.
    SingleHost,
    /// The cluster's system identifier.
    Known(i64),
    /// The role may not read the system identifier.
    Unknown,
}

/// Reads the backend from the reply to the session set-up.
///
/// `started` replaces the start time that another assumed role may not read.
pub(super) fn backend_from_row(
    row: &Row,
    cluster: Cluster,
    started: Option<String>,
    assumed_role: bool,
) -> Result<Option<Backend>, Error> {
    let visible_start: Option<String> = row.try_get(4)?;
    Ok(match visible_start.or(started) {
        Some(started) => Some(Backend {
            pid: row.try_get(3)?,
            started,
            server_started: row.try_get(5)?,
            cluster,
            assumed_role,
        }),
        None => None,
    })
}

/// A connection whose session is set up for INSERTs.
pub(super) struct RawConnection {
    pub(super) host: Host,
    pub(super) endpoint: HostAddress,
    pub(super) client: Client,
    /// What the filter of the connection's stream observed.
    pub(super) monitor: Arc<ConnectionMonitor>,
    /// The client's TCP port.
    pub(super) local_port: Option<u16>,
    pub(super) statement: Option<Statement>,
    pub(super) backend: Option<Backend>,
    pub(super) horizon: i64,
    /// The network round trip as measured during the set-up; an upper bound.
    pub(super) round_trip: Duration,
    /// The statements that insert a token.
    pub(super) sql: Arc<InsertSql>,
    pub(super) unprepared: AtomicBool,
    /// True from an unprepared INSERT until its reply has arrived completely.
    pub(super) awaits_reply: AtomicBool,
    pub(super) closed: CancellationToken,
    pub(super) reply_threshold: Option<Arc<ReplyThreshold>>,
    pub(super) driver: DriverTask,
}

/// The task that drives the connection's I/O; aborted on drop.
pub(super) struct DriverTask(pub(super) JoinHandle<()>);

impl Drop for DriverTask {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl RawConnection {
    /// Returns true if the server was inside another client's transaction.
    ///
    /// That client may still commit what has no reply.
    pub(super) fn had_open_transaction(&self) -> bool {
        self.monitor.had_open_transaction()
    }

    /// Sends an INSERT of `token` when first polled.
    ///
    /// Resolves to the number of rows after the transaction has ended.
    pub(super) async fn insert(&self, token: &Token, form: InsertForm) -> Result<u64, Error> {
        match (form, self.prepared()) {
            (InsertForm::Plain, Some(statement)) => {
                self.client.execute_raw(statement, [token.as_str()]).await
            }
            (InsertForm::WithReceipt, Some(statement)) => {
                self.insert_with_receipt(statement, token).await
            }
            (InsertForm::InTransaction, _) => self.insert_in_transaction(token).await,
            (InsertForm::Plain, None) => {
                let token = [(token.as_str(), Type::TEXT)];
                // No more rows follow.
                self.insert_unprepared(&self.sql.durable_insert, token)
                    .await
                    .map(|(rows, _)| rows)
            }
            (InsertForm::WithReceipt, None) => {
                let text = token.as_str();
                let (position, attempt) = columns(token.receipt);
                let params: [(&(dyn ToSql + Sync), Type); 3] = [
                    (&text, Type::TEXT),
                    (&position, Type::INT8),
                    (&attempt, Type::INT4),
                ];
                let inserted = self
                    .insert_unprepared(&self.sql.durable_insert, params)
                    .await;
                inserted.map(|(_, rows)| rows)
            }
        }
    }

    /// Inserts a token and its receipt by the prepared statement.
    pub(super) async fn insert_with_receipt(
        &self,
        statement: &Statement,
        token: &Token,
    ) -> Result<u64, Error> {
        let text = token.as_str();
        let (position, attempt) = columns(token.receipt);
        let params: [&(dyn ToSql + Sync); 3] = [&text, &position, &attempt];
        let rows = self.client.query_raw(statement, params).await?;
        rows_of_receipt(pin!(rows)).await
    }

    /// Inserts a token and its receipt by a statement each; nothing else is in flight.
    async fn insert_in_transaction(&self, token: &Token) -> Result<u64, Error> {
        self.monitor.begin_transaction();
        let text = token.as_str();
        let (position, attempt) = columns(token.receipt);
        let inserted = async {
            self.client.batch_execute("BEGIN").await?;
            let rows = execute(&self.client, &self.sql.token_only, &[(&text, Type::TEXT)]).await?;
            let of_receipt = i32::try_from(rows).unwrap_or(i32::MAX);
            let params: [(&(dyn ToSql + Sync), Type); 3] = [
                (&position, Type::INT8),
                (&attempt, Type::INT4),
                (&of_receipt, Type::INT4),
            ];
            let receipt = self.sql.receipt_only.as_deref().unwrap_or_default();
            execute(&self.client, receipt, &params).await?;
            Ok::<u64, Error>(rows)
        };
        let result = match inserted.await {
            // After the reply to COMMIT the transaction has ended, whatever the reply says.
            Ok(rows) => self.client.batch_execute("COMMIT").await.map(|()| rows),
            Err(error) => {
                let is_alive = error.as_db_error().is_some() && !self.is_closed();
                let rolled_back = !is_alive || self.client.batch_execute("ROLLBACK").await.is_ok();
                if !rolled_back {
                    self.awaits_reply.store(true, Ordering::Relaxed);
                }
                Err(error)
            }
        };
        self.monitor.end_transaction();
        result
    }

    /// Inserts without a prepared statement; resolves to the number of rows by the command tag, and by the
    /// receipt if the statement returns it.
    ///
    /// An error arrives before the server is ready for the next statement. A pooler may send
    /// statements of the meantime to another server, so this waits for the whole reply.
    async fn insert_unprepared<P: BorrowToSql>(
        &self,
        sql: &str,
        params: impl IntoIterator<Item = (P, Type)>,
    ) -> Result<(u64, u64), Error> {
        self.awaits_reply.store(true, Ordering::Relaxed);
        // An error here precedes the execution, and no more rows follow.
        let rows = self.client.query_typed_raw(sql, params).await?;
        let mut rows = pin!(rows);
        let mut result = Ok(0);
        while let Some(row) = rows.next().await {
            match row {
                Ok(row) => result = result.and_then(|_| rows_in_receipt(&row)),
                Err(error) if result.is_ok() && error.as_db_error().is_some() => {
                    result = Err(error);
                }
                Err(error) => return Err(result.err().unwrap_or(error)),
            }
        }
        self.awaits_reply.store(false, Ordering::Relaxed);
        result.map(|of_receipt| (rows.rows_affected().unwrap_or_default(), of_receipt))
    }

    /// Returns true if the next reply may belong to an earlier request.
    ///
    /// Only meaningful while nothing is in flight.
    pub(super) fn awaits_reply(&self) -> bool {
        self.awaits_reply.load(Ordering::Relaxed)
    }

    /// Returns why the client ended the connection, if it did.
    pub(super) fn violation(&self) -> Option<String> {
        self.monitor.violation().map(ToString::to_string)
    }

    /// Inserts a token and rolls back, with the result of [`RawConnection::insert`].
    ///
    /// Deferred constraints are checked before the rollback. All four statements are pipelined in
    /// this order.
    pub(super) async fn insert_and_roll_back(&self, token: &Token) -> Result<u64, Error> {
        self.monitor.begin_transaction();
        let (begin, insert, check, rollback) = tokio::join!(
            biased;
            self.client.batch_execute("BEGIN"),
            self.insert(token, InsertForm::Plain),
            self.client.batch_execute("SET CONSTRAINTS ALL IMMEDIATE"),
            self.client.batch_execute("ROLLBACK"),
        );
        self.monitor.end_transaction();
        begin?;
        let rows = insert?;
        check?;
        rollback?;
        Ok(rows)
    }

    /// Returns the backend; `None` if a pooler hides it.
    pub(super) fn backend(&self) -> Option<&Backend> {
        self.backend.as_ref()
    }

    /// Queries the XID horizon when first polled.
    ///
    /// No transaction that is sent afterwards has a lower number.
    pub(super) async fn query_horizon(&self) -> Result<i64, Error> {
        let rows = self.client.query_typed(HORIZON_SQL, &[]).await?;
        match rows.first() {
            Some(row) => row.try_get(0),
            None => Ok(self.horizon),
        }
    }

    /// Returns true if this server is not in the cluster of `old`, so that it proves nothing about
    /// `old`.
    ///
    /// A promoted standby is in the same cluster: it has what `old` committed, or that was lost
    /// with the primary for good.
    pub(super) fn is_other_database(&self, old: &Backend) -> bool {
        self.backend().is_none_or(|current| {
            current.server_started != old.server_started
                && (current.cluster != old.cluster || current.cluster == Cluster::Unknown)
        })
    }

    /// Terminates the backend `old`.
    pub(super) async fn end_backend(&self, old: &Backend) -> Result<FenceResult, Error> {
        let same_server = self
            .backend()
            .is_some_and(|current| current.server_started == old.server_started);
        if !same_server {
            return Ok(FenceResult::Gone);
        }
        let params = [(&old.pid as _, Type::INT4), (&old.started as _, Type::TEXT)];
        FenceResult::from_rows(&self.query_sessions(END_BACKEND_SQL, &params).await?)
    }

    /// Terminates the connections whose names begin with `run`, except those of `own`.
    pub(super) async fn end_others_of(&self, run: &str, own: &str) -> Result<FenceResult, Error> {
        let params = [(&run as _, Type::TEXT), (&own as _, Type::TEXT)];
        FenceResult::from_rows(&self.query_sessions(END_OTHERS_OF_SQL, &params).await?)
    }

    /// Terminates every other connection of `application_name`, except `current`.
    pub(super) async fn end_others(
        &self,
        application_name: &str,
        current: i32,
    ) -> Result<FenceResult, Error> {
        let params = [
            (&application_name as _, Type::TEXT),
            (&current as _, Type::INT4),
        ];
        FenceResult::from_rows(&self.query_sessions(END_OTHERS_SQL, &params).await?)
    }

    /// Runs a query about sessions under the login role.
    pub(super) async fn query_sessions(
        &self,
        sql: &str,
        params: &[(&(dyn ToSql + Sync), Type)],
    ) -> Result<Vec<Row>, Error> {
        if self.backend().is_some_and(|current| current.assumed_role) {
            self.query_as_session_user(sql, params).await
        } else {
            self.client.query_typed(sql, params).await
        }
    }

    /// Runs a query under the login role, then restores the assumed role.
    pub(super) async fn query_as_session_user(
        &self,
        sql: &str,
        params: &[(&(dyn ToSql + Sync), Type)],
    ) -> Result<Vec<Row>, Error> {
        let (left, rows, assumed) = tokio::join!(
            biased;
            self.client.batch_execute("SET ROLE NONE"),
            self.client.query_typed(sql, params),
            self.client.batch_execute("RESET ROLE"),
        );
        left?;
        assumed?;
        rows
    }

    /// Waits until the synchronous standbys have every earlier commit.
    ///
    /// Returns false if they do not confirm within `limit`, or if the server cancelled the wait.
    pub(super) async fn confirm_commits(&self, limit: Duration) -> Result<bool, ConnectionLost> {
        match timeout(limit, self.client.query_typed(CONFIRM_SQL, &[])).await {
            Ok(Ok(_)) => Ok(true),
            Ok(Err(error)) if error.as_db_error().is_none_or(is_fatal) => Err(ConnectionLost),
            Ok(Err(_)) | Err(_) => Ok(false),
        }
    }

    /// Counts the rows of each of `values` that are not older than `horizon`.
    pub(super) async fn count_rows(
        &self,
        sql: &str,
        values: &[&str],
        horizon: Option<i64>,
    ) -> Result<HashMap<String, i64>, Error> {
        let params = [
            (&values as _, Type::TEXT_ARRAY),
            (&horizon as _, Type::INT8),
        ];
        // Each value comes once at most, perhaps padded, with its count and the row header.
        let length: usize = values.iter().map(|value| 2 * value.len() + 64).sum();
        let _long = self.monitor.allow_long_replies(length as u64);
        let rows = self.client.query_typed(sql, &params).await?;
        rows.iter()
            .map(|row| Ok((row.try_get(0)?, row.try_get(1)?)))
            .collect()
    }

    /// Returns the prepared INSERT, unless a pooler lost it.
    pub(super) fn prepared(&self) -> Option<&Statement> {
        self.statement.as_ref().filter(|_| !self.is_unprepared())
    }

    /// Returns true if the prepared statement is not used any more.
    pub(super) fn is_unprepared(&self) -> bool {
        self.unprepared.load(Ordering::Relaxed)
    }

    /// Stops using the prepared statement.
    pub(super) fn unprepare(&self) {
        self.unprepared.store(true, Ordering::Relaxed);
    }

    /// Returns true if nothing can be sent any more.
    pub(super) fn is_closed(&self) -> bool {
        self.client.is_closed()
    }

    /// Waits until the connection is closed.
    pub(super) async fn closed(&self) {
        self.closed.cancelled().await;
    }

    /// Closes the connection gracefully; dropping it closes the socket without a message.
    pub(super) async fn close(self) {
        // First, so that the statement is not closed by a request of its own: the session ends anyway.
        drop(self.client);
        drop(self.statement);
        let mut driver = self.driver;
        let _ = tokio::time::timeout(CLOSE_TIMEOUT, &mut driver.0).await;
    }
}

/// Returns how many rows of the table the receipt names that an INSERT returned.
fn rows_in_receipt(row: &Row) -> Result<u64, Error> {
    let rows: Option<i32> = row.try_get(0)?;
    Ok(u64::try_from(rows.unwrap_or_default()).unwrap_or_default())
}

/// Reads the reply to an INSERT that returns the number of rows.
async fn rows_of_receipt(mut rows: Pin<&mut RowStream>) -> Result<u64, Error> {
    let mut count = 0;
    while let Some(row) = rows.next().await {
        count = rows_in_receipt(&row?)?;
    }
    Ok(count)
}

/// Returns true if the error ends the connection.
fn is_fatal(db: &DbError) -> bool {
    matches!(
        db.parsed_severity(),
        Some(Severity::Fatal | Severity::Panic)
    )
}
