//! Looks up, for a replay, which tokens an earlier process stored.

use std::collections::HashMap;

use tokio::time::{Instant, timeout};
use tokio_postgres::Error as PostgresError;

use crate::error::{Error, ErrorKind};
use crate::pipeline::identifier::quote_identifier;
use crate::store::connection::UNCONFIRMED;
use crate::store::postgres::classify::is_error;
use crate::store::postgres::look_up::{FENCE_POLL_INTERVAL, FENCE_TIMEOUT};
use crate::store::postgres::raw_connection::{Backend, FenceResult, RawConnection};
use crate::store::postgres::shared::PostgresShared;
use crate::store::recheck_denied;

/// The number of values in one query.
const VALUES_PER_QUERY: usize = 5_000;

/// Terminates the run's other connections, then counts the rows of each value.
///
/// Refuses a table on which a look-up proves nothing.
pub(super) async fn recheck(
    shared: &PostgresShared,
    first_backend: Option<&Backend>,
    values: &[String],
    horizon: Option<i64>,
) -> Result<HashMap<String, u64>, Error> {
    let mut counts = HashMap::new();
    let lookup = &shared.lookup;
    if !lookup.may_look_up {
        let column = quote_identifier(&shared.connector.column);
        return Err(recheck_denied("the role may not read the column and xmin")
            .hint(shared.connector.grant(&format!("SELECT ({column}, xmin)"))));
    }
    if let Some(reason) = lookup.obstacle {
        return Err(recheck_denied(reason));
    }
    let connection = shared.connector.connect().await?;
    let (Some(first_backend), Some(_)) = (first_backend, connection.backend()) else {
        return Err(recheck_denied(
            "behind a pooler, remaining connections of the run cannot be found",
        )
        .hint("replay over a direct connection"));
    };
    let refused = |error: PostgresError| match error.as_db_error().filter(|db| is_error(db)) {
        Some(db) => {
            let code = db.code().code();
            recheck_denied(&format!("the database refuses the look-up ({code})"))
        }
        None => shared.connector.refusal(&connection.host, &error),
    };
    let fenced = fence(&connection, &shared.connector.run_name, first_backend);
    // The fence has its own limit; only an unresponsive server exceeds this one.
    let fenced = timeout(FENCE_TIMEOUT + lookup.control_timeout, fenced).await;
    match fenced.map_err(|_| stopped_responding())?.map_err(refused)? {
        FenceResult::Gone => {}
        FenceResult::Ending => {
            return Err(recheck_denied(
                "a connection of the run is still open and cannot be terminated",
            ));
        }
        FenceResult::AwaitingStandby => return Err(recheck_denied(UNCONFIRMED)),
    }
    for batch in values.chunks(VALUES_PER_QUERY) {
        let batch: Vec<&str> = batch.iter().map(String::as_str).collect();
        let found = connection.count_rows(&lookup.sql, &batch, horizon);
        let found = timeout(lookup.query_timeout, found).await;
        let found = found.map_err(|_| stopped_responding())?.map_err(refused)?;
        counts.extend(
            found
                .into_iter()
                .map(|(value, count)| (value, u64::try_from(count).unwrap_or(0))),
        );
    }
    if lookup.has_standbys && !counts.is_empty() {
        let confirmed = connection.confirm_commits(lookup.confirm_timeout).await;
        if !matches!(confirmed, Ok(true)) {
            return Err(recheck_denied(UNCONFIRMED));
        }
    }
    connection.close().await;
    Ok(counts)
}

async fn fence(
    connection: &RawConnection,
    application_name: &str,
    first_backend: &Backend,
) -> Result<FenceResult, PostgresError> {
    let give_up_at = Instant::now() + FENCE_TIMEOUT;
    loop {
        match connection
            .end_others(application_name, first_backend.pid)
            .await?
        {
            FenceResult::Gone => return Ok(FenceResult::Gone),
            state if Instant::now() >= give_up_at => return Ok(state),
            _ => tokio::time::sleep(FENCE_POLL_INTERVAL).await,
        }
    }
}

fn stopped_responding() -> Error {
    Error::of(
        ErrorKind::DbConnect,
        "the database stopped responding while the replay looked up what was stored before",
    )
    .hint("nothing was sent: replay again once it answers")
}
