//! Reads how many connections a role can still make.

use tokio_postgres::{Client, Error};

use crate::store::sqlstate::ConnectionLimit;

/// Queries the free connections of the server, the role and the database, the last two if they have
/// a limit.
///
/// The run's own connections count as free. The server checks the limits of the login role.
const SQL: &str = "SELECT \
     current_setting('max_connections')::int8 - CASE WHEN rolsuper THEN 0 ELSE \
     current_setting('superuser_reserved_connections')::int8 \
     + coalesce(current_setting('reserved_connections', true)::int8, 0) END - of_server, \
     CASE WHEN rolconnlimit >= 0 AND NOT rolsuper THEN rolconnlimit - of_role END, \
     CASE WHEN datconnlimit >= 0 AND NOT rolsuper THEN datconnlimit - of_database END \
     FROM pg_roles r, pg_database d, LATERAL (SELECT count(*) AS of_server, \
     count(*) FILTER (WHERE usesysid = r.oid) AS of_role, \
     count(*) FILTER (WHERE datid = d.oid) AS of_database FROM pg_stat_get_activity(NULL) \
     WHERE datid IS NOT NULL AND (usesysid <> r.oid \
     OR application_name IS DISTINCT FROM current_setting('application_name'))) AS used \
     WHERE rolname = session_user AND datname = current_database()";

/// Queries how many connections the role can use, those of this run included, and what limits them.
///
/// Returns `None` if the server does not tell. The number is negative if others use reserved
/// connections.
pub(super) async fn free_connections(
    client: &Client,
) -> Result<Option<(i64, ConnectionLimit)>, Error> {
    let rows = client.query_typed(SQL, &[]).await?;
    let Some(row) = rows.first() else {
        return Ok(None);
    };
    let limits = [
        (row.try_get(0)?, ConnectionLimit::Server),
        (row.try_get(1)?, ConnectionLimit::Role),
        (row.try_get(2)?, ConnectionLimit::Database),
    ];
    let limits = limits
        .into_iter()
        .filter_map(|(free, limit): (Option<i64>, _)| Some((free?, limit)));
    Ok(limits.min_by_key(|(free, _)| *free))
}
