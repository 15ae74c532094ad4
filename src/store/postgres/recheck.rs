//! The look-up of a replay: what did a process that is gone store before it ended?

use std::collections::HashMap;

use tokio::time::Instant;
use tokio_postgres::Error;

use super::super::doubt::{FENCE, GLANCE};
use super::link::{Backend, Link};
use super::pool::Shared;
use crate::fault::{Fault, Kind};

/// So many values are looked up at a time.
const AT_A_TIME: usize = 5_000;

/// Ends whatever connections of the run are left but `own`, then counts the rows of each value.
pub(super) async fn recheck(
    shared: &Shared,
    own: Option<&Backend>,
    values: &[String],
    horizon: Option<i64>,
) -> Result<HashMap<String, u64>, Fault> {
    let mut counts = HashMap::new();
    if values.is_empty() {
        return Ok(counts);
    }
    if !shared.lookup.may_select {
        return Err(cannot("42501", "the role may not read the table")
            .hint("GRANT SELECT on the column, so that a replay can see what was stored"));
    }
    let link = shared.connector.link().await?;
    let (Some(own), Some(_)) = (own, link.backend()) else {
        return Err(cannot(
            "08000",
            "behind a pooler it cannot be seen which connections are left of the run",
        )
        .hint("replay over a direct connection"));
    };
    let ended = fence(&link, &shared.connector.application, own).await;
    if !ended.map_err(|error| shared.connector.refusal(&link.host, &error))? {
        return Err(cannot(
            "08000",
            "a connection of the run is left and cannot be ended",
        ));
    }
    for part in values.chunks(AT_A_TIME) {
        let part: Vec<&str> = part.iter().map(String::as_str).collect();
        let found = link.count(&shared.lookup.sql, &part, horizon).await;
        let found = found.map_err(|error| shared.connector.refusal(&link.host, &error))?;
        let found = found.into_iter();
        counts.extend(found.map(|(value, count)| (value, u64::try_from(count).unwrap_or(0))));
    }
    link.close().await;
    Ok(counts)
}

async fn fence(link: &Link, application: &str, own: &Backend) -> Result<bool, Error> {
    let give_up_at = Instant::now() + FENCE;
    while !link.end_others(application, own.pid).await? {
        if Instant::now() >= give_up_at {
            return Ok(false);
        }
        tokio::time::sleep(GLANCE).await;
    }
    Ok(true)
}

fn cannot(sqlstate: &str, why: &str) -> Fault {
    Fault::new(
        Kind::DbDenied {
            sqlstate: sqlstate.to_owned(),
        },
        "it cannot be looked up what was stored before",
    )
    .cause(why)
}
