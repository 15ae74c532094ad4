//! The look-up of a replay: what did a process that is gone store before it ended?

use std::collections::HashMap;

use tokio::time::{Instant, timeout};
use tokio_postgres::Error;
use tokio_postgres::error::SqlState;

use super::super::doubt::{FENCE, GLANCE};
use super::super::{NOT_SHOWN, cannot_look};
use super::link::{Backend, Link, is_error};
use super::pool::Shared;
use crate::fault::{Fault, Kind};

/// So many values are looked up at a time.
const AT_A_TIME: usize = 5_000;

/// So many values are tried for one that is not refused.
const PROBES: usize = 64;

/// Ends whatever connections of the run are left but `own`, then counts the rows of each value.
/// Where it `must_prove` that a value which is not seen is not there, and something could hide it,
/// one is inserted, looked for and taken back.
pub(super) async fn recheck(
    shared: &Shared,
    own: Option<&Backend>,
    values: &[String],
    must_prove: bool,
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
    let refused = |error| shared.connector.refusal(&link.host, &error);
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
    let mut absent = values
        .iter()
        .map(String::as_str)
        .filter(|value| !counts.contains_key(*value));
    if must_prove && !lookup.plain {
        let absent: Vec<&str> = absent.by_ref().take(PROBES).collect();
        let proved = timeout(lookup.looks_within, are_shown(&link, &lookup.sql, &absent)).await;
        if !proved.map_err(|_| fell_silent())?.map_err(refused)? {
            return Err(cannot_look(NOT_SHOWN));
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

/// True where what is inserted is seen, or all of `absent` are refused: as often as they are sent.
async fn are_shown(link: &Link, sql: &str, absent: &[&str]) -> Result<bool, Error> {
    for value in absent {
        link.begin().await?;
        let probe = probe(link, sql, value).await;
        link.roll_back().await?;
        match probe? {
            Probe::Seen => return Ok(true),
            Probe::Hidden => return Ok(false),
            Probe::Refused => {}
        }
    }
    Ok(true)
}

enum Probe {
    Seen,
    Hidden,
    Refused,
}

async fn probe(link: &Link, sql: &str, value: &str) -> Result<Probe, Error> {
    match link.insert(value).await {
        Ok(0) => return Ok(Probe::Refused),
        Ok(_) => {}
        Err(error) => {
            return match error.as_db_error() {
                // Refused because it is there.
                Some(db)
                    if [SqlState::UNIQUE_VIOLATION, SqlState::EXCLUSION_VIOLATION]
                        .contains(db.code()) =>
                {
                    Ok(Probe::Hidden)
                }
                Some(db) if is_error(db) => Ok(Probe::Refused),
                _ => Err(error),
            };
        }
    }
    let seen = link.count(sql, &[value], Some(link.horizon())).await?;
    Ok(if seen.is_empty() {
        Probe::Hidden
    } else {
        Probe::Seen
    })
}

fn fell_silent() -> Fault {
    Fault::new(
        Kind::DbConnect,
        "the database fell silent while it was looked up what was stored before",
    )
    .hint("nothing was sent: replay again once it answers")
}
