//! What a new connection is asked before a token is sent over it: who is at its other end, whether it
//! takes writes, and, the first time, whether the table can be used.
//!
//! A backend that the connection has to itself is set up for good. Behind a pooler the next client
//! gets it as soon as an answer has come: nothing may be left on it, and nothing asked ahead.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;
use tokio_postgres::types::Type;
use tokio_postgres::{Error, Row, SimpleQueryMessage};

use super::super::sqlstate::{Class, class_of};
use super::connect::{Aim, Connector, Hitch};
use super::link::{Cluster, Link, backend_of};

/// Asks whether the backend is the connection's own; it then has the mark of its start. Raises
/// `synchronous_commit` to `on` where it is lower, never lowers it, and names the limits: until the
/// end of the transaction only where others share the backend. Asks who the backend is and whether
/// it takes writes. Pgpool-II sends what begins with that comment to the primary.
const SET_UP: &str = "/*NO LOAD BALANCE*/ SELECT set_config('synchronous_commit', CASE \
     current_setting('synchronous_commit') WHEN 'remote_apply' THEN 'remote_apply' ELSE 'on' END, \
     shared), set_config('statement_timeout', $1, shared), shared, pg_backend_pid(), \
     (SELECT extract(epoch FROM backend_start)::text FROM pg_stat_get_activity(pg_backend_pid())), \
     extract(epoch FROM pg_postmaster_start_time())::text, \
     txid_snapshot_xmax(txid_current_snapshot()), \
     pg_is_in_recovery() OR current_setting('transaction_read_only') = 'on', inet_client_port() \
     FROM (SELECT current_setting('token_service.connection', true) IS DISTINCT FROM $2) \
     AS backend (shared)";

/// Which cluster a server belongs to; asked apart, since it may not be allowed.
const CLUSTER: &str = "SELECT system_identifier FROM pg_control_system()";

/// What `look` wants to know before a token is asked for.
const LOOK: &str = "SELECT \
     has_column_privilege($1::text, $2::text, 'INSERT'), \
     (SELECT min(c.oid::regclass::text) FROM pg_attrdef a \
     JOIN pg_depend d ON d.classid = 'pg_attrdef'::regclass AND d.objid = a.oid \
     JOIN pg_class c ON d.refclassid = 'pg_class'::regclass AND c.oid = d.refobjid \
     WHERE a.adrelid = $1::text::regclass \
     AND CASE c.relkind WHEN 'S' THEN NOT has_sequence_privilege(c.oid, 'USAGE, UPDATE') END), \
     has_column_privilege($1::text, $2::text, 'SELECT'), \
     (SELECT c.relkind IN ('r', 'p') AND NOT c.relhasrules AND NOT c.relrowsecurity \
     AND NOT EXISTS (SELECT FROM pg_trigger t WHERE t.tgrelid = c.oid AND NOT t.tgisinternal) \
     FROM pg_class c WHERE c.oid = $1::text::regclass), \
     EXISTS (SELECT FROM pg_class c WHERE c.relpersistence <> 'p' AND (c.oid = $1::text::regclass \
     OR c.oid IN (SELECT relid FROM pg_partition_tree($1::text::regclass)))), \
     (SELECT t.typname::text FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid \
     WHERE a.attrelid = $1::text::regclass AND a.attname = $2 AND t.typname IN ('char', 'name'))";

impl Connector {
    /// Makes the connection that began with `mark` ready to insert; gives what `LOOK` saw, where it
    /// was to look. One that is to look around is told what every one is told first, and no more.
    pub(super) async fn set_up(
        &self,
        link: &mut Link,
        mark: &str,
        aim: Aim,
    ) -> Result<Option<Row>, Hitch> {
        let timeout = milliseconds(self.statement_timeout).to_string();
        let params = [(&timeout as _, Type::TEXT), (&mark as _, Type::TEXT)];
        let asked = Instant::now();
        let rows = link.client.query_typed(SET_UP, &params).await?;
        link.round_trip = asked.elapsed();
        let Some(row) = rows.into_iter().next() else {
            return Ok(None);
        };
        if row.try_get(7)? {
            return Err(Hitch::ReadOnly);
        }
        let port: Option<i32> = row.try_get(8)?;
        let is_direct = port == link.local_port.map(i32::from);
        let look = match aim {
            Aim::Insert => false,
            Aim::Look => true,
            Aim::Inspect => {
                link.is_shared = row.try_get(2)? || (!is_direct && self.is_pgpool(link).await);
                return Ok(Some(row));
            }
        };
        link.horizon = row.try_get(6)?;
        if row.try_get(2)? {
            return if look {
                self.dry_look(link).await
            } else {
                Ok(None)
            };
        }
        // All travel together: one round trip.
        let asked = Instant::now();
        let (prepared, looked, cluster, is_pgpool) = tokio::join!(
            link.client.prepare_typed(&self.insert, &[Type::TEXT]),
            self.look(link, look),
            self.cluster(link),
            async { !is_direct && self.is_pgpool(link).await },
        );
        link.round_trip = link.round_trip.min(asked.elapsed());
        match prepared {
            Ok(_) if is_pgpool => {}
            Ok(statement) => {
                link.statement = Some(statement);
                link.backend = backend_of(&row, cluster)?;
            }
            // A pooler that passes the mark on.
            Err(error) if is_unprepared(&error) => {}
            Err(error) => return Err(error.into()),
        }
        Ok(looked?)
    }

    /// Looks at the table where nothing may be prepared.
    pub(super) async fn dry_look(&self, link: &Link) -> Result<Option<Row>, Hitch> {
        let seen = self.look(link, true).await?;
        // What is going to be refused for what was seen is refused in those words.
        if seen.as_ref().is_some_and(|row| self.judge(row).is_ok()) {
            // Says what preparing would have said, executes nothing and leaves nothing.
            let explain = format!("EXPLAIN {}", link.insert);
            let token = (&"" as _, Type::TEXT);
            link.client.query_typed(&explain, &[token]).await?;
        }
        Ok(seen)
    }

    async fn look(&self, link: &Link, look: bool) -> Result<Option<Row>, Error> {
        if !look {
            return Ok(None);
        }
        let params = [
            (&self.table as _, Type::TEXT),
            (&self.column as _, Type::TEXT),
        ];
        let rows = link.client.query_typed(LOOK, &params).await?;
        Ok(rows.into_iter().next())
    }

    /// True if Pgpool-II is at the other end: it passes the mark on, and a backend that dies, or a
    /// failover, is not the connection's own. It answers this statement itself; a server logs an error.
    /// So a server is asked only if it sees the connection come from another port, that is through an
    /// address translation or a proxy, and once.
    async fn is_pgpool(&self, link: &Link) -> bool {
        let place = link.host.place();
        let known = |map: &HashMap<String, bool>| map.get(&place).copied();
        if let Some(known) = self.pgpools.lock().ok().and_then(|map| known(&map)) {
            return known;
        }
        let answer = link.client.simple_query("SHOW pool_version").await;
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

    async fn cluster(&self, link: &Link) -> Cluster {
        if !self.has_several_hosts() {
            return Cluster::Only;
        }
        let rows = link.client.query_typed(CLUSTER, &[]).await;
        let number = rows.ok().and_then(|rows| rows.first()?.try_get(0).ok());
        number.map_or(Cluster::Hidden, Cluster::Known)
    }
}

/// A timeout as the server's settings have it: zero is none, and so nothing else may become zero.
fn milliseconds(timeout: Duration) -> i32 {
    if timeout.is_zero() {
        return 0;
    }
    i32::try_from(timeout.as_millis()).map_or(i32::MAX, |most| most.max(1))
}

fn is_unprepared(error: &Error) -> bool {
    error
        .as_db_error()
        .is_some_and(|db| class_of(db.code().code(), true, None) == Class::Unprepared)
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
