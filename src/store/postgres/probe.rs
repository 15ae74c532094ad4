//! Would a value be seen if it had been stored? Triggers, rules and row level security may hide or
//! change what is inserted. So it is inserted, looked for, and taken back.

use tokio_postgres::Error;
use tokio_postgres::error::SqlState;

use super::super::sqlstate::{Class, class_of};
use super::link::{Link, is_error};

/// Refused because of a row that is there.
const OCCUPIED: [SqlState; 2] = [SqlState::UNIQUE_VIOLATION, SqlState::EXCLUSION_VIOLATION];

/// What became of a value that was tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::store) enum Probe {
    /// It is seen as soon as it is there.
    Seen,
    /// It is not seen although it is there.
    Hidden,
    /// The database takes it as little now as it did before.
    Refused,
}

/// Tries `value` with the query `sql`, in a transaction that is rolled back.
///
/// # Errors
/// Where the connection was lost, or the server does not say.
pub(in crate::store) async fn probe(link: &Link, sql: &str, value: &str) -> Result<Probe, Error> {
    link.begin().await?;
    let probe = attempt(link, sql, value).await;
    link.roll_back().await?;
    probe
}

async fn attempt(link: &Link, sql: &str, value: &str) -> Result<Probe, Error> {
    match link.insert(value).await {
        Ok(0) => return Ok(Probe::Refused),
        Ok(_) => {}
        Err(error) => {
            let Some(db) = error.as_db_error().filter(|db| is_error(db)) else {
                return Err(error);
            };
            return match class_of(db.code().code(), true, db.routine()) {
                // It is refused because it is there.
                Class::Rejected if OCCUPIED.contains(db.code()) => Ok(Probe::Hidden),
                Class::Rejected => Ok(Probe::Refused),
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
