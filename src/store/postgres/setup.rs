//! Sets up the session of a new connection: identifies the backend, checks that it accepts writes
//! and, the first time, that the table can be used.
//!
//! A direct session is set up for good. A pooler assigns the backend to the next client after each
//! reply, so nothing may stay set or prepared on it.

use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::Instant;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Error, Row, SimpleQueryMessage, Statement};

use crate::store::postgres::catalog::{self, Catalog};
use crate::store::postgres::connector::SessionFacts;
use crate::store::postgres::connector::{Attempt, ConnectError, ConnectPurpose, Connector};
use crate::store::postgres::free_connections::free_connections;
use crate::store::postgres::raw_connection::{Cluster, RawConnection, backend_from_row};
use crate::store::postgres::receipts_table::{ReceiptsTable, TABLE_SQL};

/// Sets up the session and identifies the server.
///
/// Only a direct connection's backend has the marker of its start. Raises `synchronous_commit` to
/// `on` and `client_min_messages` to `warning`, never lowers them. Sets the statement timeout and
/// switches JIT off, which can take seconds. If others share the backend, all of this ends with the
/// transaction. Pgpool-II sends a statement with this comment to the primary.
const SET_UP_SQL: &str = "/*NO LOAD BALANCE*/ SELECT set_config('synchronous_commit', CASE \
     current_setting('synchronous_commit') WHEN 'remote_apply' THEN 'remote_apply' ELSE 'on' END, \
     shared), set_config('statement_timeout', $1, shared), shared, pg_backend_pid(), \
     (SELECT extract(epoch FROM backend_start)::text FROM pg_stat_get_activity(pg_backend_pid())), \
     extract(epoch FROM pg_postmaster_start_time())::text, \
     txid_snapshot_xmax(txid_current_snapshot()), \
     pg_is_in_recovery() OR current_setting('transaction_read_only') = 'on', \
     version(), current_setting('server_version_num')::int4, session_user <> current_user, \
     set_config('client_min_messages', CASE current_setting('client_min_messages') WHEN 'error' \
     THEN 'warning' ELSE current_setting('client_min_messages') END, shared), \
     set_config('jit', 'off', shared), inet_client_port() \
     FROM (SELECT current_setting('token_service.connection', true) IS DISTINCT FROM $2) \
     AS backend (shared)";

/// The oldest supported PostgreSQL: `server_version_num` and its usual name.
const OLDEST: (i32, &str) = (130_000, "13");

/// Reads the cluster's system identifier; a separate query, since the role may not be allowed.
const CLUSTER_SQL: &str = "SELECT system_identifier FROM pg_control_system()";

/// Reads the start time of a backend whose assumed role may not read it.
const BACKEND_START_SQL: &str = "SELECT extract(epoch FROM backend_start)::text \
     FROM pg_stat_get_activity(pg_backend_pid())";

impl Connector {
    /// Sets up the session of the connection that started with `marker`.
    ///
    /// `ConnectPurpose::Inspect` only applies the settings. If an earlier connection has shown that
    /// the server is connected directly, the INSERT is prepared in the same round trip.
    pub(super) async fn set_up(
        &self,
        connection: &mut RawConnection,
        marker: &str,
        attempt: &Attempt<'_>,
    ) -> Result<SessionFacts, ConnectError> {
        let purpose = attempt.purpose;
        let known = self.servers.get(attempt.endpoint);
        // A server accepts the marker.
        let is_known = self.sends_marker()
            && known.is_direct == Some(true)
            && known.is_pgpool == Some(false)
            && purpose != ConnectPurpose::Inspect;
        let timeout = milliseconds(self.statement_timeout).to_string();
        let params = [(&timeout as _, Type::TEXT), (&marker as _, Type::TEXT)];
        let sent_at = Instant::now();
        let (rows, early) = tokio::join!(
            biased;
            connection.client.query_typed(SET_UP_SQL, &params),
            self.prepare_if(is_known, connection),
        );
        connection.round_trip = connection.round_trip.min(sent_at.elapsed());
        let row = session_row(connection, rows)?;
        if row.try_get(7)? {
            return Err(ConnectError::ReadOnly);
        }
        let is_shared: bool = row.try_get(2)?;
        let port: Option<i32> = row.try_get(13)?;
        let sees_own_port = port == connection.local_port.map(i32::from);
        self.servers.learn(attempt.endpoint, |facts| {
            facts.is_direct = Some(!is_shared);
            // A pooler in between would connect from a port of its own.
            facts.is_pgpool = facts.is_pgpool.or(sees_own_port.then_some(false));
        });
        if is_shared && is_known {
            return Err(ConnectError::Pooler);
        }
        let mut session = SessionFacts {
            is_shared,
            catalog: None,
            receipts_table: None,
            needs_transaction: false,
            free_connections: None,
        };
        if purpose == ConnectPurpose::Inspect {
            session.is_shared |= self.is_pgpool(connection).await;
            return Ok(session);
        }
        connection.horizon = row.try_get(6)?;
        attempt.is_checking_table.store(true, Ordering::Relaxed);
        let is_first = purpose == ConnectPurpose::InsertAndCheck;
        if is_shared {
            self.end_identification(is_first);
            if is_first {
                session.receipts_table = self.load_receipts_table(connection, is_first).await?;
                session.catalog = Some(self.check_table_unprepared(connection).await?);
                session.needs_transaction = self.needs_transaction(connection).await?;
            }
            attempt.is_checking_table.store(false, Ordering::Relaxed);
            return Ok(session);
        }
        // All are pipelined: one round trip, and none if there is nothing left to do.
        let sent_at = Instant::now();
        let assumed_role: bool = row.try_get(10)?;
        let (is_pgpool, backend_start, late, loaded, receipts_table, free) = tokio::join!(
            biased;
            async {
                let is_pgpool = self.is_pgpool(connection).await;
                self.end_identification(is_first);
                is_pgpool
            },
            backend_start(connection, assumed_role),
            self.prepare_if(!is_known, connection),
            self.load_catalog(connection, is_first),
            self.load_receipts_table(connection, is_first),
            free_connections_if(is_first && self.needs_several, connection),
        );
        if !is_known {
            connection.round_trip = connection.round_trip.min(sent_at.elapsed());
        }
        // The catalog explains a refusal better than the failed PREPARE.
        session.catalog = loaded?;
        if let Some(catalog) = &session.catalog {
            self.check_catalog(catalog).map_err(ConnectError::Table)?;
        }
        session.receipts_table = receipts_table?;
        match early.or(late) {
            Some((Ok(statement), cluster)) if !is_pgpool => {
                connection.statement = Some(statement);
                connection.backend = backend_from_row(&row, cluster, backend_start?, assumed_role)?;
            }
            Some((Err(error), cluster)) if self.refuses_returning(&error) && !is_pgpool => {
                session.needs_transaction = true;
                connection.backend = backend_from_row(&row, cluster, backend_start?, assumed_role)?;
            }
            Some((Err(error), _)) if !is_prepare_failure(&error) => return Err(error.into()),
            // A pooler that forwards the marker.
            _ => session.is_shared = true,
        }
        if !session.is_shared {
            session.free_connections = free;
        }
        attempt.is_checking_table.store(false, Ordering::Relaxed);
        Ok(session)
    }

    /// Lets the early connections set up their sessions.
    fn end_identification(&self, is_first: bool) {
        if is_first {
            self.first.is_identified.cancel();
        }
    }

    /// Prepares the INSERT and identifies the cluster, if that is due.
    async fn prepare_if(
        &self,
        is_due: bool,
        connection: &RawConnection,
    ) -> Option<(Result<Statement, Error>, Cluster)> {
        if !is_due {
            return None;
        }
        let prepared = tokio::join!(
            biased;
            connection.client.prepare_typed(&self.sql.insert, self.insert_types()),
            self.cluster(connection),
        );
        Some(prepared)
    }

    /// Returns the types of the parameters of an INSERT.
    fn insert_types(&self) -> &'static [Type] {
        const TYPES: [Type; 3] = [Type::TEXT, Type::INT8, Type::INT4];
        match self.receipts {
            Some(_) => &TYPES,
            None => &TYPES[..1],
        }
    }

    /// Returns true if rules of the table refuse a token and its receipt in one statement.
    fn refuses_returning(&self, error: &Error) -> bool {
        self.receipts.is_some() && error.code() == Some(&SqlState::FEATURE_NOT_SUPPORTED)
    }

    /// Checks the table without preparing a statement.
    pub(super) async fn check_table_unprepared(
        &self,
        connection: &RawConnection,
    ) -> Result<Catalog, ConnectError> {
        let catalog = self
            .load_catalog(connection, true)
            .await?
            .unwrap_or_default();
        self.check_catalog(&catalog).map_err(ConnectError::Table)?;
        self.explain(&self.sql.token_only, 1, connection).await?;
        Ok(catalog)
    }

    /// Returns true if a token and its receipt need a statement each, because of the table's rules.
    async fn needs_transaction(&self, connection: &RawConnection) -> Result<bool, Error> {
        if self.receipts.is_none() {
            return Ok(false);
        }
        let count = self.insert_types().len();
        match self
            .explain(&self.sql.durable_insert, count, connection)
            .await
        {
            Ok(()) => Ok(false),
            Err(error) if self.refuses_returning(&error) => Ok(true),
            Err(error) => Err(error),
        }
    }

    /// Plans an INSERT with so many parameters: it gives the errors of PREPARE, executes nothing and leaves
    /// nothing.
    async fn explain(
        &self,
        insert: &str,
        count: usize,
        connection: &RawConnection,
    ) -> Result<(), Error> {
        let params: [(&(dyn ToSql + Sync), Type); 3] = [
            (&"", Type::TEXT),
            (&0_i64, Type::INT8),
            (&0_i32, Type::INT4),
        ];
        let explain = format!("EXPLAIN {insert}");
        let planned = connection.client.query_typed(&explain, &params[..count]);
        planned.await.map(drop)
    }

    /// Reads and checks the receipts table, if receipts are written.
    pub(super) async fn load_receipts_table(
        &self,
        connection: &RawConnection,
        is_needed: bool,
    ) -> Result<Option<ReceiptsTable>, ConnectError> {
        let Some(receipts) = self.receipts.as_ref().filter(|_| is_needed) else {
            return Ok(None);
        };
        let table = receipts.table.to_sql();
        let _long = connection.monitor.allow_long_replies(0);
        let params: [(&(dyn ToSql + Sync), Type); 1] = [(&table, Type::TEXT)];
        let rows = connection.client.query_typed(TABLE_SQL, &params).await?;
        let json: Option<&str> = rows.first().map(|row| row.try_get(0)).transpose()?;
        ReceiptsTable::parse(json, receipts)
            .map(Some)
            .map_err(ConnectError::Table)
    }

    async fn load_catalog(
        &self,
        connection: &RawConnection,
        is_needed: bool,
    ) -> Result<Option<Catalog>, ConnectError> {
        if !is_needed {
            return Ok(None);
        }
        let params = [
            (&self.table as _, Type::TEXT),
            (&self.column as _, Type::TEXT),
        ];
        // The reply for a table with many partitions is long.
        let _long = connection.monitor.allow_long_replies(0);
        let sql = catalog::plain_table_sql();
        let mut rows = connection.client.query_typed(&sql, &params).await?;
        if rows.is_empty() {
            let sql = catalog::any_relation_sql();
            rows = connection.client.query_typed(&sql, &params).await?;
        }
        let json: Option<&str> = rows.first().and_then(|row| row.try_get(0).ok());
        match Catalog::parse(json.unwrap_or_default(), &self.column) {
            Ok(catalog) => Ok(Some(catalog)),
            Err(error) => {
                tracing::debug!(cause = %error, "the catalog cannot be read");
                let reason = "its catalogs are not those of PostgreSQL";
                Err(ConnectError::Unsupported(reason.to_owned()))
            }
        }
    }

    /// Returns true if the server is a Pgpool-II.
    ///
    /// Pgpool-II forwards the marker, but the backend can change by a failover. It replies to this
    /// statement itself, while a server logs an error. So each address is probed once, and only if
    /// its server sees another client port, through NAT or a proxy.
    async fn is_pgpool(&self, connection: &RawConnection) -> bool {
        if let Some(known) = self.servers.get(&connection.endpoint).is_pgpool {
            return known;
        }
        let answer = connection.client.simple_query("SHOW pool_version").await;
        let found = match &answer {
            Ok(messages) => messages
                .iter()
                .any(|message| matches!(message, SimpleQueryMessage::Row(_))),
            Err(error) if error.as_db_error().is_some() => false,
            Err(_) => return false,
        };
        self.servers
            .learn(&connection.endpoint, |facts| facts.is_pgpool = Some(found));
        found
    }

    async fn cluster(&self, connection: &RawConnection) -> Cluster {
        if !self.has_several_hosts() {
            return Cluster::SingleHost;
        }
        let rows = connection.client.query_typed(CLUSTER_SQL, &[]).await;
        let number = rows.ok().and_then(|rows| rows.first()?.try_get(0).ok());
        number.map_or(Cluster::Unknown, Cluster::Known)
    }
}

/// Returns the reply to [`SET_UP_SQL`] if a supported PostgreSQL sent it.
fn session_row(
    connection: &RawConnection,
    rows: Result<Vec<Row>, Error>,
) -> Result<Row, ConnectError> {
    /// The classes for a missing function, setting, type or syntax.
    const MISSING_FEATURE: [&str; 3] = ["42", "0A", "XX"];
    let unsupported = |reason: String| {
        ConnectError::Unsupported(match connection.monitor.server_version() {
            Some(version) => format!("{reason}; it reports version {version}"),
            None => reason,
        })
    };
    let unexpected_reply = || unsupported("its replies are not those of PostgreSQL".to_owned());
    let rows = match rows {
        Ok(rows) => rows,
        Err(error) => {
            let code = error.code().map_or("", SqlState::code);
            let is_missing = MISSING_FEATURE.contains(&code.get(..2).unwrap_or_default());
            return Err(match error.as_db_error() {
                Some(db) if is_missing => unsupported(format!("{} ({code})", db.message())),
                _ => ConnectError::Server(error),
            });
        }
    };
    let row = rows.into_iter().next().ok_or_else(unexpected_reply)?;
    let version: String = row.try_get(8).map_err(|_| unexpected_reply())?;
    let number: i32 = row.try_get(9).map_err(|_| unexpected_reply())?;
    let name = version.split(" on ").next().unwrap_or_default();
    let name = name.split(" (").next().unwrap_or_default();
    if !version.starts_with("PostgreSQL ") {
        return Err(ConnectError::Unsupported(format!(
            "it reports itself as {name}"
        )));
    }
    let (oldest, oldest_name) = OLDEST;
    if number < oldest {
        let reason = format!("it is {name}, and the oldest supported version is {oldest_name}");
        return Err(ConnectError::Unsupported(reason));
    }
    Ok(row)
}

/// Returns how many connections the role can use, if that is asked and known.
async fn free_connections_if(is_asked: bool, connection: &RawConnection) -> Option<u32> {
    if !is_asked {
        return None;
    }
    let free = free_connections(&connection.client).await.ok()??;
    Some(u32::try_from(free.0).unwrap_or(0))
}

/// Returns the backend's start time if an assumed role may not see it.
async fn backend_start(
    connection: &RawConnection,
    assumed_role: bool,
) -> Result<Option<String>, Error> {
    if !assumed_role {
        return Ok(None);
    }
    let rows = connection
        .query_as_session_user(BACKEND_START_SQL, &[])
        .await?;
    rows.first().map_or(Ok(None), |row| row.try_get(0))
}

/// Returns a timeout for the server's settings: 0 means none, so no other value may round to 0.
fn milliseconds(timeout: Duration) -> i32 {
    if timeout.is_zero() {
        return 0;
    }
    i32::try_from(timeout.as_millis()).map_or(i32::MAX, |most| most.max(1))
}

fn is_prepare_failure(error: &Error) -> bool {
    let code = error.code().map(SqlState::code);
    matches!(code, Some("26000" | "42P05"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeout_never_rounds_to_zero() {
        assert_eq!(milliseconds(Duration::ZERO), 0);
        assert_eq!(milliseconds(Duration::from_micros(1)), 1);
        assert_eq!(milliseconds(Duration::from_secs(30)), 30_000);
        assert_eq!(milliseconds(Duration::MAX), i32::MAX);
    }
}
