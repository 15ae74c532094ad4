//! What a new connection is asked before a token is sent over it: who is at its other end, whether it
//! takes writes, and, the first time, whether the table can be used.
//!
//! A backend that the connection has to itself is set up for good. Behind a pooler the next client
//! gets it as soon as an answer has come: nothing may be left on it, and nothing asked ahead.

use crate::store::postgres::connector::SessionFacts;
use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::Instant;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::Type;
use tokio_postgres::{Error, Row, SimpleQueryMessage};

use crate::store::postgres::catalog::{self, Catalog};
use crate::store::postgres::connection::{Cluster, Connection, backend_of};
use crate::store::postgres::connector::{ConnectError, ConnectPurpose, Connector};

/// Asks whether the backend is the connection's own; it then has the mark of its start. Raises
/// `synchronous_commit` to `on` and `client_min_messages` to `warning` if they are lower, never lowers
/// them, sets the time limit, and switches off the compilation of plans, which takes seconds: until the
/// end of the transaction only if others share the backend. Asks who the backend is, whether it takes
/// writes and what it runs. Pgpool-II sends what begins with that comment to the primary.
const SET_UP: &str = "/*NO LOAD BALANCE*/ SELECT set_config('synchronous_commit', CASE \
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

/// The oldest PostgreSQL that is supported, as the server numbers it, and as people do.
const OLDEST: (i32, &str) = (130_000, "13");

/// Which cluster a server belongs to; asked apart, since it may not be allowed.
const CLUSTER: &str = "SELECT system_identifier FROM pg_control_system()";

/// When the backend of a session that has assumed another role was started: that role may not ask.
const STARTED: &str = "SELECT extract(epoch FROM backend_start)::text \
     FROM pg_stat_get_activity(pg_backend_pid())";

impl Connector {
    /// Makes the connection that began with `mark` ready to insert. One for `ConnectPurpose::Inspect` gets the
    /// settings of every session and nothing more.
    pub(super) async fn set_up(
        &self,
        connection: &mut Connection,
        mark: &str,
        purpose: ConnectPurpose,
    ) -> Result<SessionFacts, ConnectError> {
        let timeout = milliseconds(self.statement_timeout).to_string();
        let params = [(&timeout as _, Type::TEXT), (&mark as _, Type::TEXT)];
        let asked = Instant::now();
        let rows = connection.client.query_typed(SET_UP, &params).await;
        connection.round_trip = asked.elapsed();
        let row = understood(connection, rows)?;
        if row.try_get(7)? {
            return Err(ConnectError::ReadOnly);
        }
        let port: Option<i32> = row.try_get(13)?;
        let is_direct = port == connection.local_port.map(i32::from);
        let mut session = SessionFacts {
            is_shared: row.try_get(2)?,
            catalog: None,
        };
        if purpose == ConnectPurpose::Inspect {
            session.is_shared |= !is_direct && self.is_pgpool(connection).await;
            return Ok(session);
        }
        connection.horizon = row.try_get(6)?;
        self.is_at_table.store(true, Ordering::Relaxed);
        if session.is_shared {
            if purpose == ConnectPurpose::Look {
                session.catalog = Some(self.dry_look(connection).await?);
            }
            self.is_at_table.store(false, Ordering::Relaxed);
            return Ok(session);
        }
        // All travel together: one round trip.
        let asked = Instant::now();
        let assumed_role: bool = row.try_get(10)?;
        let (started, prepared, looked, cluster, is_pgpool) = tokio::join!(
            biased;
            started(connection, assumed_role),
            connection.client.prepare_typed(&self.insert, &[Type::TEXT]),
            self.look(connection, purpose == ConnectPurpose::Look),
            self.cluster(connection),
            async { !is_direct && self.is_pgpool(connection).await },
        );
        connection.round_trip = connection.round_trip.min(asked.elapsed());
        // What is going to be refused for what was seen is refused in those words.
        session.catalog = looked?;
        if let Some(catalog) = &session.catalog {
            self.judge(catalog).map_err(ConnectError::Table)?;
        }
        match prepared {
            Ok(statement) if !is_pgpool => {
                connection.statement = Some(statement);
                connection.backend = backend_of(&row, cluster, started?, assumed_role)?;
            }
            Err(error) if !is_unprepared(&error) => return Err(error.into()),
            // A pooler that passes the mark on.
            _ => {}
        }
        self.is_at_table.store(false, Ordering::Relaxed);
        Ok(session)
    }

    /// Looks at the table without preparing anything.
    pub(super) async fn dry_look(&self, connection: &Connection) -> Result<Catalog, ConnectError> {
        let catalog = self.look(connection, true).await?.unwrap_or_default();
        self.judge(&catalog).map_err(ConnectError::Table)?;
        // Says what preparing would have said, executes nothing and leaves nothing.
        let explain = format!("EXPLAIN {}", connection.insert);
        let token = (&"" as _, Type::TEXT);
        connection.client.query_typed(&explain, &[token]).await?;
        Ok(catalog)
    }

    async fn look(
        &self,
        connection: &Connection,
        look: bool,
    ) -> Result<Option<Catalog>, ConnectError> {
        if !look {
            return Ok(None);
        }
        let params = [
            (&self.table as _, Type::TEXT),
            (&self.column as _, Type::TEXT),
        ];
        // Of a table with many partitions it is long.
        let _long = connection.monitor.allow_long_answers(0);
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
                let why = "its catalogs are not those of PostgreSQL";
                Err(ConnectError::Foreign(why.to_owned()))
            }
        }
    }

    /// True if Pgpool-II is at the other end: it passes the mark on, and a backend that dies, or a
    /// failover, is not the connection's own. It answers this statement itself; a server logs an error.
    /// So a server is asked only if it sees the connection come from another port, that is through an
    /// address translation or a proxy, and once.
    async fn is_pgpool(&self, connection: &Connection) -> bool {
        let place = connection.host.place();
        let known = |map: &HashMap<String, bool>| map.get(&place).copied();
        if let Some(known) = self.pgpools.lock().ok().and_then(|map| known(&map)) {
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
        if let Ok(mut map) = self.pgpools.lock() {
            map.insert(place, found);
        }
        found
    }

    async fn cluster(&self, connection: &Connection) -> Cluster {
        if !self.has_several_hosts() {
            return Cluster::Only;
        }
        let rows = connection.client.query_typed(CLUSTER, &[]).await;
        let number = rows.ok().and_then(|rows| rows.first()?.try_get(0).ok());
        number.map_or(Cluster::Hidden, Cluster::Known)
    }
}

/// The answer to [`SET_UP`], if it is that of a PostgreSQL that is supported.
fn understood(connection: &Connection, rows: Result<Vec<Row>, Error>) -> Result<Row, ConnectError> {
    /// What a server says that lacks a function, a setting, a type or a piece of syntax.
    const LACKS: [&str; 3] = ["42", "0A", "XX"];
    let foreign = |why: String| {
        ConnectError::Foreign(match connection.monitor.server_version() {
            Some(version) => format!("{why}; it says that its version is {version}"),
            None => why,
        })
    };
    let odd = || foreign("its answers are not those of PostgreSQL".to_owned());
    let rows = match rows {
        Ok(rows) => rows,
        Err(error) => {
            let code = error.code().map_or("", SqlState::code);
            let lacks = LACKS.contains(&code.get(..2).unwrap_or_default());
            return Err(match error.as_db_error() {
                Some(db) if lacks => foreign(format!("{} ({code})", db.message())),
                _ => ConnectError::Error(error),
            });
        }
    };
    let row = rows.into_iter().next().ok_or_else(odd)?;
    let version: String = row.try_get(8).map_err(|_| odd())?;
    let number: i32 = row.try_get(9).map_err(|_| odd())?;
    let name = version.split(" on ").next().unwrap_or_default();
    let name = name.split(" (").next().unwrap_or_default();
    if !version.starts_with("PostgreSQL ") {
        return Err(ConnectError::Foreign(format!("it says that it is {name}")));
    }
    let (oldest, words) = OLDEST;
    if number < oldest {
        let why = format!("it is {name}, and {words} is the oldest that is supported");
        return Err(ConnectError::Foreign(why));
    }
    Ok(row)
}

/// When the backend was started, if the role that the session has assumed may not see it.
async fn started(connection: &Connection, assumed_role: bool) -> Result<Option<String>, Error> {
    if !assumed_role {
        return Ok(None);
    }
    let rows = connection.as_session_user(STARTED, &[]).await?;
    rows.first().map_or(Ok(None), |row| row.try_get(0))
}

/// A timeout as the server's settings have it: zero is none, and so nothing else may become zero.
fn milliseconds(timeout: Duration) -> i32 {
    if timeout.is_zero() {
        return 0;
    }
    i32::try_from(timeout.as_millis()).map_or(i32::MAX, |most| most.max(1))
}

fn is_unprepared(error: &Error) -> bool {
    let code = error.code().map(SqlState::code);
    matches!(code, Some("26000" | "42P05"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timeout_never_becomes_none_by_rounding() {
        assert_eq!(milliseconds(Duration::ZERO), 0);
        assert_eq!(milliseconds(Duration::from_micros(1)), 1);
        assert_eq!(milliseconds(Duration::from_secs(30)), 30_000);
        assert_eq!(milliseconds(Duration::MAX), i32::MAX);
    }
}
