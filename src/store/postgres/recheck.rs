//! The look-up of a replay: what did a process that is gone store before it ended?

use std::collections::HashMap;

use tokio::time::{Instant, timeout};
use tokio_postgres::Error;

use crate::error::{ErrorKind, Fault};
use crate::store::cannot_look;
use crate::store::identifier::quote_identifier;
use crate::store::postgres::classify::is_error;
use crate::store::postgres::connection::{Backend, Connection, FenceResult};
use crate::store::postgres::in_doubt::{FENCE, GLANCE, UNCONFIRMED};
use crate::store::postgres::shared::PoolShared;

/// So many values are looked up at a time.
const AT_A_TIME: usize = 5_000;

/// Ends whatever connections of the run are left but `own`, then counts the rows of each value.
/// Refuses on a table where a look-up proves nothing.
pub(super) async fn recheck(
    shared: &PoolShared,
    own: Option<&Backend>,
    values: &[String],
    horizon: Option<i64>,
) -> Result<HashMap<String, u64>, Fault> {
    let mut counts = HashMap::new();
    let lookup = &shared.lookup;
    if !lookup.may_look {
        let column = quote_identifier(&shared.connector.column);
        return Err(cannot_look("the role may not read the column and xmin")
            .hint(shared.connector.grant(&format!("SELECT ({column}, xmin)"))));
    }
    if let Some(reason) = lookup.obscured_by {
        return Err(cannot_look(reason));
    }
    let connection = shared.connector.connection().await?;
    let (Some(own), Some(_)) = (own, connection.backend()) else {
        return Err(cannot_look(
            "behind a pooler it cannot be seen which connections are left of the run",
        )
        .hint("replay over a direct connection"));
    };
    let refused = |error: Error| match error.as_db_error().filter(|db| is_error(db)) {
        Some(db) => {
            let code = db.code().code();
            cannot_look(&format!("the database refuses to tell ({code})"))
        }
        None => shared.connector.refusal(&connection.host, &error),
    };
    let ended = fence(&connection, &shared.connector.application, own);
    // The fence is given up by itself; only a server that stopped responding keeps it longer.
    let ended = timeout(FENCE + lookup.answers_within, ended).await;
    match ended.map_err(|_| stopped_responding())?.map_err(refused)? {
        FenceResult::Gone => {}
        FenceResult::Ending => {
            return Err(cannot_look(
                "a connection of the run is left and cannot be ended",
            ));
        }
        FenceResult::Waiting => return Err(cannot_look(UNCONFIRMED)),
    }
    for part in values.chunks(AT_A_TIME) {
        let part: Vec<&str> = part.iter().map(String::as_str).collect();
        let found = connection.count(&lookup.sql, &part, horizon);
        let found = timeout(lookup.looks_within, found).await;
        let found = found.map_err(|_| stopped_responding())?.map_err(refused)?;
        counts.extend(
            found
                .into_iter()
                .map(|(value, count)| (value, u64::try_from(count).unwrap_or(0))),
        );
    }
    if lookup.has_standbys && !counts.is_empty() {
        let confirmed = timeout(lookup.confirms_within, connection.confirm()).await;
        if !matches!(confirmed, Ok(Ok(true))) {
            return Err(cannot_look(UNCONFIRMED));
        }
    }
    connection.close().await;
    Ok(counts)
}

async fn fence(
    connection: &Connection,
    application: &str,
    own: &Backend,
) -> Result<FenceResult, Error> {
    let give_up_at = Instant::now() + FENCE;
    loop {
        match connection.end_others(application, own.pid).await? {
            FenceResult::Gone => return Ok(FenceResult::Gone),
            state if Instant::now() >= give_up_at => return Ok(state),
            _ => tokio::time::sleep(GLANCE).await,
        }
    }
}

fn stopped_responding() -> Fault {
    Fault::new(
        ErrorKind::DbConnect,
        "the database stopped responding while the replay looked up what was stored before",
    )
    .hint("nothing was sent: replay again once it answers")
}
