//! A connection that is ready for use: INSERTs, and the questions that a doubt raises.

use std::collections::HashMap;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::StreamExt as _;
use tokio::task::JoinHandle;
use tokio_postgres::error::Severity;
use tokio_postgres::types::Type;
use tokio_postgres::{Client, Error, Row, Statement};
use tokio_util::sync::CancellationToken;

use super::Host;
use super::wire::Monitor;

/// How long a connection may take to say goodbye.
const GOODBYE: Duration = Duration::from_secs(1);

/// The number that the next transaction will have at the least.
const HORIZON: &str = "SELECT txid_snapshot_xmax(txid_current_snapshot())";

/// Ends what other connections of a run are left. A pooler may have put the client's address behind
/// the name.
const END_OTHERS: &str = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
     WHERE starts_with(application_name, $1) AND usename = current_user AND pid NOT IN (pg_backend_pid(), $2)";

/// Ends a backend, where it is still the same one; no row where it is gone.
const END_BACKEND: &str = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
     WHERE pid = $1 AND extract(epoch FROM backend_start)::text = $2";

/// One backend of one server, for certain: process numbers are used again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::store) struct Backend {
    pub(super) pid: i32,
    started: String,
    server_started: String,
    cluster: Cluster,
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

/// The backend that the answer to the set-up names.
pub(super) fn backend_of(row: &Row, cluster: Cluster) -> Result<Option<Backend>, Error> {
    let started: Option<String> = row.try_get(4)?;
    Ok(match started {
        Some(started) => Some(Backend {
            pid: row.try_get(3)?,
            started,
            server_started: row.try_get(5)?,
            cluster,
        }),
        None => None,
    })
}

/// A connection that is ready to insert.
pub(in crate::store) struct Link {
    pub(super) host: Host,
    pub(super) client: Client,
    /// What the filter of its stream saw.
    pub(super) monitor: Arc<Monitor>,
    /// Its own TCP port.
    pub(super) local_port: Option<u16>,
    /// False if a connection that looks around was found to lead to a backend of its own.
    pub(super) is_shared: bool,
    pub(super) statement: Option<Statement>,
    pub(super) backend: Option<Backend>,
    pub(super) horizon: i64,
    /// How long an answer was on its way, as far as the set-up showed: rather too long than too short.
    pub(super) round_trip: Duration,
    /// Sent where nothing is prepared.
    pub(super) insert: String,
    pub(super) unprepared: AtomicBool,
    /// True from the sending of such an INSERT until its answer has been heard to the end.
    pub(super) unheard: AtomicBool,
    pub(super) closed: CancellationToken,
    pub(super) driver: Driver,
}

/// The task that moves bytes; it ends with its link.
pub(super) struct Driver(pub(super) JoinHandle<()>);

impl Drop for Driver {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Link {
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
        self.unheard.store(true, Ordering::Relaxed);
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
        self.unheard.store(false, Ordering::Relaxed);
        verdict.map(|()| rows.rows_affected().unwrap_or_default())
    }

    /// True where what the server says next may belong to what was asked before; to be called while
    /// nothing is in flight.
    pub(super) fn is_unheard(&self) -> bool {
        self.unheard.load(Ordering::Relaxed)
    }

    /// Begins a transaction of several statements.
    pub(super) async fn begin(&self) -> Result<(), Error> {
        self.monitor.begin_transaction();
        self.client.batch_execute("BEGIN").await
    }

    /// Takes back what was done since.
    pub(super) async fn roll_back(&self) -> Result<(), Error> {
        let result = self.client.batch_execute("ROLLBACK").await;
        self.monitor.end_transaction();
        result
    }

    /// True if the server handed over a transaction that this connection had not begun. What was not
    /// answered may still be committed, by another client.
    pub(in crate::store) fn had_open_transaction(&self) -> bool {
        self.monitor.had_open_transaction()
    }

    /// Why the client ended the connection, if it did.
    pub(super) fn violation(&self) -> Option<String> {
        self.monitor.violation().map(ToString::to_string)
    }

    /// Tells, as [`Link::insert`] does, what an INSERT of `text` would come to, and takes it back.
    /// Constraints that wait for the commit are asked at once. All travels together, and in this order.
    pub(super) async fn try_out(&self, text: &str) -> Result<u64, Error> {
        let (begun, inserted, checked, taken_back) = tokio::join!(
            biased;
            self.begin(),
            self.insert(text),
            self.client.batch_execute("SET CONSTRAINTS ALL IMMEDIATE"),
            self.roll_back(),
        );
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

    /// Tells `old` to end; true where it is gone.
    pub(in crate::store) async fn end_backend(&self, old: &Backend) -> Result<bool, Error> {
        let same_server = self
            .backend()
            .is_some_and(|own| own.server_started == old.server_started);
        if !same_server {
            return Ok(true);
        }
        let params = [(&old.pid as _, Type::INT4), (&old.started as _, Type::TEXT)];
        let rows = self.client.query_typed(END_BACKEND, &params).await?;
        Ok(rows.is_empty())
    }

    /// Tells every other connection of `application` to end, but for `own`; true where none is left.
    pub(super) async fn end_others(&self, application: &str, own: i32) -> Result<bool, Error> {
        let params = [(&application as _, Type::TEXT), (&own as _, Type::INT4)];
        let rows = self.client.query_typed(END_OTHERS, &params).await?;
        Ok(rows.is_empty())
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

/// True where the server's verdict concerns the statement and not the connection.
pub(in crate::store) fn is_error(db: &tokio_postgres::error::DbError) -> bool {
    db.parsed_severity().map_or_else(
        || db.severity() == "ERROR",
        |severity| severity == Severity::Error,
    )
}
