//! Looks up which tokens were stored: those in doubt, which were sent before the connection was lost,
//! and those that were committed without a row.
//!
//! A token in doubt must not be reported or sent again on a guess. First a fence: the old backend is
//! terminated and seen to be gone, so it cannot commit later. Then one look-up of the rows that only
//! this run can have written. It proves something only on tables on which nothing changes, hides or
//! removes rows. What cannot be proved stays `unknown`.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;
use tokio_postgres::Error as PostgresError;

use crate::pipeline::token::Token;
use crate::store::connection::{ConnectionLost, Found, LookUpResult, UNCONFIRMED};
use crate::store::in_flight::InDoubtSet;
use crate::store::in_flight_log::{InFlightLog, SnapshotInterval};
use crate::store::postgres::classify::is_error;
use crate::store::postgres::connector::Lookup;
use crate::store::postgres::raw_connection::{Backend, FenceResult, RawConnection};
use crate::store::postgres::xid_horizon::{LookUpScope, XidHorizon};

/// The longest wait for the old backend's end.
pub(super) const FENCE_TIMEOUT: Duration = Duration::from_secs(10);
/// The interval of the checks for its end.
pub(super) const FENCE_POLL_INTERVAL: Duration = Duration::from_millis(20);

/// Something removed, hid or changed rows that were stored.
const ROWS_MISSING: &str = "the connection was lost, and the table no longer shows what was stored";

/// What a look-up needs to know about a lost connection.
pub(in crate::store) struct LostSession {
    /// The backend; `None` if a pooler hides it.
    pub(super) backend: Option<Backend>,
    pub(super) horizon: XidHorizon,
    /// True if the server was inside another client's transaction, which that client may still
    /// commit.
    pub(super) had_open_transaction: bool,
}

/// Looks up, over a new connection, which tokens of a lost one were stored.
///
/// Cancel safe if the connection is not used afterwards.
///
/// # Errors
/// If the new connection was lost.
pub(super) async fn in_doubt(
    set: &InDoubtSet<LostSession>,
    connection: &RawConnection,
    lookup: &Lookup,
    log: &InFlightLog,
) -> Result<LookUpResult, ConnectionLost> {
    match look_up_rows(set, connection, lookup, log).await {
        Ok(rows) => {
            let values = set.tokens.iter().map(|it| it.token.as_str());
            let reason = "the connection was lost, and another one stored the same value";
            Ok(LookUpResult::Found(assign(values, rows, reason)))
        }
        Err(LookupObstacle::Unprovable(reason)) => Ok(LookUpResult::Unprovable(reason)),
        Err(LookupObstacle::Lost) => Err(ConnectionLost),
    }
}

/// Looks up tokens whose INSERT committed with a row count of 0: a trigger or rule skipped or
/// redirected the row.
pub(super) async fn rowless(
    tokens: &[Token],
    scope: LookUpScope,
    connection: &RawConnection,
    lookup: &Lookup,
    log: &InFlightLog,
) -> Result<Vec<Found>, PostgresError> {
    let lookup_tick = log.tick();
    let values: Vec<&str> = tokens.iter().map(Token::as_str).collect();
    let counts = connection
        .count_rows(&lookup.sql, &values, Some(scope.xid))
        .await?;
    let rows = subtract_other_rows(&values, scope.snapshot, &counts, log, lookup_tick);
    let reason = "another connection stored an equal row";
    Ok(assign(values, rows.unwrap_or_default(), reason))
}

/// Assigns rows to tokens. Equal values are interchangeable; the rest of uncertain rows leaves tokens
/// unknown for `reason`.
fn assign<'a>(
    values: impl IntoIterator<Item = &'a str>,
    mut rows: HashMap<String, FoundRows>,
    reason: &'static str,
) -> Vec<Found> {
    let assign = |value| match rows.get_mut(value) {
        Some(rows) if rows.stored > 0 => {
            rows.stored -= 1;
            Found::Stored
        }
        Some(rows) if rows.uncertain == 0 => Found::Absent,
        Some(rows) => {
            rows.uncertain -= 1;
            Found::Unknown(reason)
        }
        None => Found::Unknown(reason),
    };
    values.into_iter().map(assign).collect()
}

/// How many tokens of one value the lost connection stored.
///
/// If other connections store the same value, the writer of a row is not always certain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct FoundRows {
    /// The number that is certainly stored.
    stored: u32,
    /// The number that may be stored.
    uncertain: u32,
}

impl FoundRows {
    /// Compares `in_doubt` tokens with `seen` rows, of which between `least` and `most` belong to
    /// other connections.
    fn new(in_doubt: u32, seen: u32, (least, most): (u32, u32)) -> Self {
        let stored = seen.saturating_sub(most).min(in_doubt);
        let possible = match seen.checked_sub(least) {
            Some(possible) => possible.min(in_doubt),
            // Rows were removed: a missing one proves nothing.
            None => in_doubt,
        };
        Self {
            stored,
            uncertain: possible - stored,
        }
    }

    fn is_any_stored(self) -> bool {
        self.stored > 0
    }
}

fn unprovable(reason: &str) -> LookupObstacle {
    LookupObstacle::Unprovable(reason.to_owned())
}

enum LookupObstacle {
    Lost,
    Unprovable(String),
}

impl From<ConnectionLost> for LookupObstacle {
    fn from(_: ConnectionLost) -> Self {
        Self::Lost
    }
}

async fn look_up_rows(
    set: &InDoubtSet<LostSession>,
    connection: &RawConnection,
    lookup: &Lookup,
    log: &InFlightLog,
) -> Result<HashMap<String, FoundRows>, LookupObstacle> {
    let (Some(old), Some(_)) = (&set.session.backend, connection.backend()) else {
        return Err(unprovable(
            "the connection was lost, and tokens cannot be looked up behind a pooler",
        ));
    };
    if connection.is_other_database(old) {
        return Err(unprovable(
            "the connection was lost, and the current host belongs to another database",
        ));
    }
    match fence(old, connection, lookup.control_timeout).await? {
        FenceResult::Gone => {}
        FenceResult::Ending => {
            return Err(unprovable(
                "the connection was lost, and its backend could not be terminated",
            ));
        }
        FenceResult::AwaitingStandby => return Err(unprovable(UNCONFIRMED)),
    }
    // Only after the fence: an unknown token must not be committed after the report.
    if set.session.had_open_transaction {
        return Err(unprovable(
            "the server was inside another client's transaction, whose outcome is not known",
        ));
    }
    if let Some(reason) = lookup.unavailable_reason() {
        return Err(LookupObstacle::Unprovable(reason));
    }
    let mut controls: HashMap<&str, i64> = HashMap::new();
    for token in &set.session.horizon.acknowledged {
        *controls.entry(token.as_str()).or_default() += 1;
    }
    let in_doubt: Vec<&str> = set.tokens.iter().map(|f| f.token.as_str()).collect();
    let mut values = in_doubt.clone();
    values.extend(controls.keys());
    let lookup_tick = log.tick();
    let scope = set.session.horizon.scope();
    let horizon = Some(scope.xid);
    let counts = lookup_reply(connection.count_rows(&lookup.sql, &values, horizon), lookup).await?;
    // If rows are removed at once, a missing row proves nothing.
    let is_shown = |(value, least): (&&str, &i64)| counts.get(*value) >= Some(least);
    if !controls.iter().all(is_shown) || !shows_recent(connection, lookup, log).await? {
        return Err(unprovable(ROWS_MISSING));
    }
    let rows = subtract_other_rows(&in_doubt, scope.snapshot, &counts, log, lookup_tick)?;
    if lookup.has_standbys
        && rows.values().any(|rows| rows.is_any_stored())
        && !connection.confirm_commits(lookup.confirm_timeout).await?
    {
        return Err(unprovable(UNCONFIRMED));
    }
    Ok(rows)
}

/// Returns true if the table shows the tokens that were stored last.
async fn shows_recent(
    connection: &RawConnection,
    lookup: &Lookup,
    log: &InFlightLog,
) -> Result<bool, LookupObstacle> {
    let recent = log.recent();
    let values: Vec<&str> = recent.iter().map(Token::as_str).collect();
    if values.is_empty() {
        return Ok(true);
    }
    let counts = lookup_reply(connection.count_rows(&lookup.sql, &values, None), lookup).await?;
    Ok(values.iter().all(|value| counts.contains_key(*value)))
}

/// Waits for the reply to a query of the table.
async fn lookup_reply<T>(
    query: impl Future<Output = Result<T, PostgresError>>,
    lookup: &Lookup,
) -> Result<T, LookupObstacle> {
    match tokio::time::timeout(lookup.query_timeout, query).await {
        Ok(Ok(reply)) => Ok(reply),
        Ok(Err(error)) if error.as_db_error().is_some_and(is_error) => {
            let code = error.code().map(tokio_postgres::error::SqlState::code);
            tracing::debug!(code, "look-up failed");
            Err(unprovable(
                "the connection was lost, and the table could not be looked up",
            ))
        }
        Ok(Err(_)) | Err(_) => Err(LookupObstacle::Lost),
    }
}

/// Terminates the old backend and waits until it is gone.
///
/// A restarted server has no earlier backends.
async fn fence(
    old: &Backend,
    connection: &RawConnection,
    control_timeout: Duration,
) -> Result<FenceResult, LookupObstacle> {
    let give_up_at = Instant::now() + FENCE_TIMEOUT;
    loop {
        match tokio::time::timeout(control_timeout, connection.end_backend(old)).await {
            Ok(Ok(FenceResult::Gone)) => return Ok(FenceResult::Gone),
            Ok(Ok(state)) if Instant::now() >= give_up_at => return Ok(state),
            Ok(Ok(_)) => tokio::time::sleep(FENCE_POLL_INTERVAL).await,
            Ok(Err(error)) if error.as_db_error().is_some_and(is_error) => {
                return Ok(FenceResult::Ending);
            }
            Ok(Err(_)) | Err(_) => return Err(LookupObstacle::Lost),
        }
    }
}

/// Subtracts the rows that other connections wrote or may have written.
fn subtract_other_rows(
    tokens: &[&str],
    horizon: SnapshotInterval,
    counts: &HashMap<String, i64>,
    log: &InFlightLog,
    lookup_tick: u64,
) -> Result<HashMap<String, FoundRows>, LookupObstacle> {
    let mut in_doubt: HashMap<&str, u32> = HashMap::new();
    for value in tokens {
        *in_doubt.entry(value).or_default() += 1;
    }
    in_doubt.into_iter()
        .map(|(value, in_doubt)| {
            let Some((least, most)) = log.stored_since(value, horizon, lookup_tick) else {
                return Err(unprovable(
                    "the connection was lost, and too many tokens were stored since to identify its \
                     rows",
                ));
            };
            let seen = counts.get(value).copied().unwrap_or(0);
            let seen = u32::try_from(seen).unwrap_or(u32::MAX);
            let others_in_flight = log.count_in_flight(value).saturating_sub(in_doubt);
            Ok((
                value.to_owned(),
                FoundRows::new(in_doubt, seen, (least, most + others_in_flight)),
            ))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_of_other_connections_are_subtracted() {
        let rows = |stored, uncertain| FoundRows { stored, uncertain };
        // No other connection stored this value.
        assert_eq!(FoundRows::new(1, 0, (0, 0)), rows(0, 0));
        assert_eq!(FoundRows::new(1, 1, (0, 0)), rows(1, 0));
        // Others certainly stored it too.
        assert_eq!(FoundRows::new(2, 3, (2, 2)), rows(1, 0));
        // Another may have: one row is uncertain; none and two are certain.
        assert_eq!(FoundRows::new(1, 1, (0, 1)), rows(0, 1));
        assert_eq!(FoundRows::new(1, 0, (0, 1)), rows(0, 0));
        assert_eq!(FoundRows::new(1, 2, (0, 1)), rows(1, 0));
        // Fewer than others stored: rows were removed.
        assert_eq!(FoundRows::new(1, 0, (1, 1)), rows(0, 1));
    }
}
