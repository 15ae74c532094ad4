//! A connection that is ready for use: INSERTs, and the questions that a doubt raises.

use std::collections::HashMap;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::StreamExt as _;
use tokio::task::JoinHandle;
use tokio_postgres::error::{DbError, Severity};
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Client, Error, Row, Statement};
use tokio_util::sync::CancellationToken;

use crate::store::postgres::Host;
use crate::store::postgres::wire::ConnectionMonitor;

/// How long a connection may take to say goodbye.
const GOODBYE: Duration = Duration::from_secs(1);

/// The number that the next transaction will have at the least.
const HORIZON: &str = "SELECT txid_snapshot_xmax(txid_current_snapshot())";

/// Ends the other connections of a run that are left; a row for each, true if it waits for a synchronous
/// standby. Such a wait is not cut short: that would make a row visible that no standby has. A pooler
/// may have put the client's address behind the name.
const END_OTHERS: &str = "SELECT waits, CASE WHEN NOT waits THEN pg_terminate_backend(pid) END FROM \
     (SELECT pid, wait_event IS NOT DISTINCT FROM 'SyncRep' AS waits FROM pg_stat_activity \
     WHERE starts_with(application_name, $1) AND usename = session_user \
     AND pid NOT IN (pg_backend_pid(), $2)) AS others";

/// The same for one backend, if it is still the same one; no row if it is gone.
const END_BACKEND: &str = "SELECT waits, CASE WHEN NOT waits THEN pg_terminate_backend(pid) END FROM \
     (SELECT pid, wait_event IS NOT DISTINCT FROM 'SyncRep' AS waits FROM pg_stat_activity \
     WHERE pid = $1 AND extract(epoch FROM backend_start)::text = $2) AS old";

/// Writes to the log and nowhere else: its commit waits for the standbys as any other, and for all that
/// was committed before it.
const CONFIRM: &str = "SELECT pg_logical_emit_message(true, 'token_service', '')";

/// What became of backends that were to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::store) enum FenceResult {
    /// They are gone.
    Gone,
    /// They were told to end.
    Ending,
    /// One of them has committed and waits for a synchronous standby.
    Waiting,
}

impl FenceResult {
    fn of(rows: &[Row]) -> Result<Self, Error> {
        let waits = rows.iter().map(|row| row.try_get::<_, bool>(0));
        let waits = waits.collect::<Result<Vec<bool>, Error>>()?;
        Ok(match waits[..] {
            [] => Self::Gone,
            _ if waits.contains(&true) => Self::Waiting,
            _ => Self::Ending,
        })
    }
}

/// One backend of one server, for certain: process numbers are used again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::store) struct Backend {
    pub(super) pid: i32,
    started: String,
    server_started: String,
    cluster: Cluster,
    /// True if the session has assumed another role than its own (`ALTER ROLE … SET role`), which may
    /// not end the session's backends.
    assumed_role: bool,
}

/// The cluster of servers, primary and standbys, that a backend belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cluster {
    /// There is one host: nothing else could be meant.
    Only,
    /// The number that its servers share.
    Known(i64),
    /// It does not say.
    Hidden,
}

/// The backend that the answer to the set-up names, which was `started` then if the session has assumed
/// another role.
pub(super) fn backend_of(
    row: &Row,
    cluster: Cluster,
    started: Option<String>,
    assumed_role: bool,
) -> Result<Option<Backend>, Error> {
    let seen: Option<String> = row.try_get(4)?;
    Ok(match seen.or(started) {
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

/// A connection that is ready to insert.
pub(in crate::store) struct Connection {
    pub(super) host: Host,
    pub(super) client: Client,
    /// What the filter of its stream saw.
    pub(super) monitor: Arc<ConnectionMonitor>,
    /// Its own TCP port.
    pub(super) local_port: Option<u16>,
    pub(super) statement: Option<Statement>,
    pub(super) backend: Option<Backend>,
    pub(super) horizon: i64,
    /// How long an answer was on its way, as far as the set-up showed: rather too long than too short.
    pub(super) round_trip: Duration,
    /// Sent where nothing is prepared.
    pub(super) insert: String,
    pub(super) unprepared: AtomicBool,
    /// True from the sending of such an INSERT until its answer has been heard to the end.
    pub(super) unreported: AtomicBool,
    pub(super) closed: CancellationToken,
    pub(super) driver: DriverTask,
}

/// The task that moves bytes; it ends with its link.
pub(super) struct DriverTask(pub(super) JoinHandle<()>);

impl Drop for DriverTask {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Connection {
    /// True if the server handed over a transaction that was not this connection's. What was not
    /// answered may still be committed, by another client.
    pub(in crate::store) fn had_open_transaction(&self) -> bool {
        self.monitor.had_open_transaction()
    }

    /// Sends an INSERT of `text` when first polled; resolves, after the transaction's end, to the
    /// number of rows.
    pub(super) async fn insert(&self, text: &str) -> Result<u64, Error> {
        match &self.statement {
            Some(statement) if !self.unprepared.load(Ordering::Relaxed) => {
                self.client.execute_raw(statement, [text]).await
            }
            _ => self.insert_alone(text).await,
        }
    }

    /// The same without a prepared statement. An error comes before the server is ready for more, and
    /// a pooler may split between two servers what is sent meanwhile: this waits for both.
    async fn insert_alone(&self, text: &str) -> Result<u64, Error> {
        self.unreported.store(true, Ordering::Relaxed);
        let token = [(text, Type::TEXT)];
        // Its own error is one from before the execution, and ends the hearing.
        let rows = self.client.query_typed_raw(&self.insert, token).await?;
        let mut rows = pin!(rows);
        let mut verdict = Ok(());
        while let Some(row) = rows.next().await {
            match row {
                Ok(_) => {}
                Err(error) if verdict.is_ok() && error.as_db_error().is_some() => {
                    verdict = Err(error);
                }
                Err(error) => return Err(verdict.err().unwrap_or(error)),
            }
        }
        self.unreported.store(false, Ordering::Relaxed);
        verdict.map(|()| rows.rows_affected().unwrap_or_default())
    }

    /// True where what the server says next may belong to what was asked before; to be called while
    /// nothing is in flight.
    pub(super) fn is_unheard(&self) -> bool {
        self.unreported.load(Ordering::Relaxed)
    }

    /// Why the client ended the connection, if it did.
    pub(super) fn violation(&self) -> Option<String> {
        self.monitor.violation().map(ToString::to_string)
    }

    /// Tells, as [`Connection::insert`] does, what an INSERT of `text` would come to, and takes it back.
    /// Constraints that wait for the commit are asked at once. All travels together, and in this order.
    pub(super) async fn try_out(&self, text: &str) -> Result<u64, Error> {
        self.monitor.begin_transaction();
        let (begun, inserted, checked, taken_back) = tokio::join!(
            biased;
            self.client.batch_execute("BEGIN"),
            self.insert(text),
            self.client.batch_execute("SET CONSTRAINTS ALL IMMEDIATE"),
            self.client.batch_execute("ROLLBACK"),
        );
        self.monitor.end_transaction();
        begun?;
        let rows = inserted?;
        checked?;
        taken_back?;
        Ok(rows)
    }

    /// The backend at the other end; `None` where a pooler hides it.
    pub(in crate::store) fn backend(&self) -> Option<&Backend> {
        self.backend.as_ref()
    }

    /// The horizon at the time of connecting.
    pub(super) fn horizon(&self) -> i64 {
        self.horizon
    }

    /// Asks for the horizon when first polled: no transaction that is sent afterwards has an older
    /// number.
    pub(super) async fn ask_horizon(&self) -> Result<i64, Error> {
        let rows = self.client.query_typed(HORIZON, &[]).await?;
        match rows.first() {
            Some(row) => row.try_get(0),
            None => Ok(self.horizon),
        }
    }

    /// True where this is another database than that of `old`, so that nothing it shows proves what
    /// `old` did. A standby that was promoted is the same database: what `old` committed is there,
    /// or was lost with its server and never will be.
    pub(in crate::store) fn is_elsewhere(&self, old: &Backend) -> bool {
        self.backend().is_none_or(|own| {
            own.server_started != old.server_started
                && (own.cluster != old.cluster || own.cluster == Cluster::Hidden)
        })
    }

    /// Tells `old` to end.
    pub(in crate::store) async fn end_backend(&self, old: &Backend) -> Result<FenceResult, Error> {
        let same_server = self
            .backend()
            .is_some_and(|own| own.server_started == old.server_started);
        if !same_server {
            return Ok(FenceResult::Gone);
        }
        let params = [(&old.pid as _, Type::INT4), (&old.started as _, Type::TEXT)];
        FenceResult::of(&self.of_sessions(END_BACKEND, &params).await?)
    }

    /// Tells every other connection of `application` to end, except `own`.
    pub(super) async fn end_others(
        &self,
        application: &str,
        own: i32,
    ) -> Result<FenceResult, Error> {
        let params = [(&application as _, Type::TEXT), (&own as _, Type::INT4)];
        FenceResult::of(&self.of_sessions(END_OTHERS, &params).await?)
    }

    /// Asks about sessions, under the role that they logged in with.
    pub(super) async fn of_sessions(
        &self,
        sql: &str,
        params: &[(&(dyn ToSql + Sync), Type)],
    ) -> Result<Vec<Row>, Error> {
        if self.backend().is_some_and(|own| own.assumed_role) {
            self.as_session_user(sql, params).await
        } else {
            self.client.query_typed(sql, params).await
        }
    }

    /// Asks under the role that the session logged in with, and assumes the other one again.
    pub(super) async fn as_session_user(
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

    /// Waits until the standbys that commits wait for have what was committed so far; false if the
    /// server gave up waiting.
    pub(in crate::store) async fn confirm(&self) -> Result<bool, Error> {
        match self.client.query_typed(CONFIRM, &[]).await {
            Ok(_) => Ok(true),
            Err(error) if error.as_db_error().is_some_and(|db| !is_fatal(db)) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// How many rows there are of each of `values` that are not older than `horizon`.
    pub(in crate::store) async fn count(
        &self,
        sql: &str,
        values: &[&str],
        horizon: Option<i64>,
    ) -> Result<HashMap<String, i64>, Error> {
        let params = [
            (&values as _, Type::TEXT_ARRAY),
            (&horizon as _, Type::INT8),
        ];
        // Each value at most once, maybe padded, with its number and the header of a row.
        let length: usize = values.iter().map(|value| 2 * value.len() + 64).sum();
        let _long = self.monitor.allow_long_answers(length as u64);
        let rows = self.client.query_typed(sql, &params).await?;
        rows.iter()
            .map(|row| Ok((row.try_get(0)?, row.try_get(1)?)))
            .collect()
    }

    /// From now on does without the prepared statement.
    pub(super) fn unprepare(&self) {
        self.unprepared.store(true, Ordering::Relaxed);
    }

    /// True where nothing can be sent any more.
    pub(super) fn is_closed(&self) -> bool {
        self.client.is_closed()
    }

    /// Resolves when the connection has ended.
    pub(super) async fn ended(&self) {
        self.closed.cancelled().await;
    }

    /// Takes leave of the server. A link that is dropped instead just hangs up.
    pub(super) async fn close(self) {
        drop(self.statement);
        drop(self.client);
        let mut driver = self.driver;
        let _ = tokio::time::timeout(GOODBYE, &mut driver.0).await;
    }
}

/// True if the error ends the connection.
fn is_fatal(db: &DbError) -> bool {
    matches!(
        db.parsed_severity(),
        Some(Severity::Fatal | Severity::Panic)
    )
}
