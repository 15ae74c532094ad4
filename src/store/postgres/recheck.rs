//! The look-up of a replay: what did a process that is gone store before it ended?

use std::collections::HashMap;

use tokio::time::{Instant, timeout};
use tokio_postgres::Error;

use super::super::doubt::{FENCE, GLANCE};
use super::super::{NOT_SHOWN, cannot_look};
use super::link::{Backend, Link, is_error};
use super::pool::Shared;
use super::probe::{Probe, probe};
use crate::fault::{Fault, Kind};

/// So many values are looked up at a time.
const AT_A_TIME: usize = 5_000;

/// Ends whatever connections of the run are left but `own`, then counts the rows of each value.
/// Where something could hide or change what is inserted, it tries each value that is not seen.
pub(super) async fn recheck(
    shared: &Shared,
    own: Option<&Backend>,
    values: &[String],
    horizon: Option<i64>,
) -> Result<HashMap<String, u64>, Fault> {
    let mut counts = HashMap::new();
    if !shared.lookup.may_select {
        return Err(cannot_look("the role may not read the table")
            .hint("GRANT SELECT on the column, so that a replay can see what was stored"));
    }
    let link = shared.connector.link().await?;
    let (Some(own), Some(_)) = (own, link.backend()) else {
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
        None => shared.connector.refusal(&link.host, &error),
    };
    let lookup = &shared.lookup;
    let ended = fence(&link, &shared.connector.application, own);
    // The fence is given up by itself; only a server that fell silent keeps it longer.
    let ended = timeout(FENCE + lookup.answers_within, ended).await;
    if !ended.map_err(|_| fell_silent())?.map_err(refused)? {
        return Err(cannot_look(
            "a connection of the run is left and cannot be ended",
        ));
    }
    for part in values.chunks(AT_A_TIME) {
        let part: Vec<&str> = part.iter().map(String::as_str).collect();
        let found = link.count(&lookup.sql, &part, horizon);
        let found = timeout(lookup.looks_within, found).await;
        let found = found.map_err(|_| fell_silent())?.map_err(refused)?;
        counts.extend(
            found
                .into_iter()
                .map(|(value, count)| (value, u64::try_from(count).unwrap_or(0))),
        );
    }
    if !lookup.plain {
        for value in values.iter().filter(|value| !counts.contains_key(*value)) {
            let probe = timeout(lookup.looks_within, probe(&link, &lookup.sql, value)).await;
            if probe.map_err(|_| fell_silent())?.map_err(refused)? == Probe::Hidden {
                return Err(cannot_look(NOT_SHOWN));
            }
        }
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

fn fell_silent() -> Fault {
    Fault::new(
        Kind::DbConnect,
        "the database fell silent while it was looked up what was stored before",
    )
    .hint("nothing was sent: replay again once it answers")
}
