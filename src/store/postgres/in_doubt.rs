//! Resolves in-doubt tokens: sent, but the connection was lost before the reply.
//!
//! Each may have been committed or not, so it must not be reported or sent again on a guess. First
//! a fence: the old backend is terminated and seen to be gone, so it cannot commit later. Then one
//! look-up of the rows that only this run can have written. It proves something only on tables on
//! which nothing changes, hides or removes rows. What cannot be proved stays `unknown`.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::pipeline::token::{Detail, Outcome, Status, Token};
use crate::store::outcome_batch::OutcomeBatch;
use crate::store::postgres::classify::is_error;
use crate::store::postgres::connection::{Backend, Connection, FenceResult};
use crate::store::postgres::connector::Lookup;
use crate::store::postgres::inflight::{InFlightLog, SnapshotInterval};
use crate::store::postgres::xid_horizon::XidHorizon;
use crate::store::queue::StoreJob;

/// The longest wait for the old backend's end.
pub(in crate::store) const FENCE_TIMEOUT: Duration = Duration::from_secs(10);
/// The interval of the checks for its end.
pub(in crate::store) const FENCE_POLL_INTERVAL: Duration = Duration::from_millis(20);

/// A token that was sent and has no reply yet.
pub(in crate::store) struct InFlight {
    /// The token.
    pub(in crate::store) token: Token,
    /// The job that the token belongs to.
    pub(in crate::store) job: Arc<StoreJob>,
    /// When it was last sent.
    pub(in crate::store) sent_at: Instant,
    /// The same as a tick of [`InFlightLog`].
    pub(in crate::store) sent_tick: u64,
    /// How often this store sent it.
    pub(in crate::store) tries: u32,
    /// When a sequence first produced a key that is taken.
    pub(in crate::store) key_taken_since: Option<Instant>,
}

impl InFlight {
    /// Records in `log` that the token is resolved, or stays unknown.
    pub(in crate::store) fn mark_settled(&self, log: &InFlightLog, stored: bool) {
        log.record_settled(self.token.as_str(), self.sent_tick, stored);
    }

    /// Returns the token's outcome and its job.
    pub(in crate::store) fn into_outcome(
        self,
        status: Status,
        detail: Option<Arc<Detail>>,
    ) -> (Arc<StoreJob>, Outcome) {
        let outcome = Outcome {
            elapsed: self.sent_at.elapsed(),
            token: self.token,
            status,
            detail,
        };
        (self.job, outcome)
    }
}

/// The in-doubt tokens of a lost connection, and what resolving them needs.
pub(in crate::store) struct InDoubtSet {
    /// The tokens, in the order in which they were sent.
    pub(in crate::store) tokens: Vec<InFlight>,
    /// The lost connection's horizon.
    pub(in crate::store) horizon: XidHorizon,
    /// True if the server was inside another client's transaction, which that client may still
    /// commit.
    pub(in crate::store) had_open_transaction: bool,
    /// Why the connection was lost, for tokens that stay unknown.
    pub(in crate::store) close_reason: Option<String>,
}

/// Reports every token as `unknown` for `reason`.
pub(in crate::store) fn give_up(
    tokens: impl IntoIterator<Item = InFlight>,
    log: &InFlightLog,
    reason: &str,
    message: Option<String>,
) {
    let detail = Arc::new(Detail {
        reason: Some(reason.to_owned()),
        message,
        ..Detail::default()
    });
    let mut batch = OutcomeBatch::default();
    for in_flight in tokens {
        in_flight.mark_settled(log, false);
        let (job, outcome) = in_flight.into_outcome(Status::Unknown, Some(Arc::clone(&detail)));
        batch.push(&job, outcome);
    }
}

/// The result of a look-up for in-doubt tokens.
pub(in crate::store) enum Resolution {
    /// How many tokens of each value the lost connection stored.
    Rows(HashMap<String, FoundRows>),
    /// The look-up proves nothing, for this reason.
    Unprovable(String),
}

/// How many tokens of one value the lost connection stored.
///
/// If other connections store the same value, the writer of a row is not always certain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::store) struct FoundRows {
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

/// The new connection was lost too.
pub(in crate::store) struct ConnectionLost;

/// Something removed, hid or changed rows that were stored.
const ROWS_MISSING: &str = "the connection was lost, and the table no longer shows what was stored";
/// The commit waits, or waited, for a standby.
pub(in crate::store) const UNCONFIRMED: &str =
    "committed on the primary, not confirmed by its synchronous standby";

fn unprovable(reason: &str) -> LookupObstacle {
    LookupObstacle::Unprovable(reason.to_owned())
}

enum LookupObstacle {
    Lost,
    Unprovable(String),
}

/// Looks up, over a new connection, which of the tokens were stored.
///
/// Cancel safe if the connection is not used afterwards.
///
/// # Errors
/// If the new connection was lost.
pub(in crate::store) async fn look_up(
    set: &InDoubtSet,
    connection: &Connection,
    lookup: &Lookup,
    log: &InFlightLog,
) -> Result<Resolution, ConnectionLost> {
    match look_up_rows(set, connection, lookup, log).await {
        Ok(rows) => Ok(Resolution::Rows(rows)),
        Err(LookupObstacle::Unprovable(reason)) => Ok(Resolution::Unprovable(reason)),
        Err(LookupObstacle::Lost) => Err(ConnectionLost),
    }
}

async fn look_up_rows(
    set: &InDoubtSet,
    connection: &Connection,
    lookup: &Lookup,
    log: &InFlightLog,
) -> Result<HashMap<String, FoundRows>, LookupObstacle> {
    let (Some(old), Some(_)) = (&set.horizon.backend, connection.backend()) else {
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
    if set.had_open_transaction {
        return Err(unprovable(
            "the server was inside another client's transaction, whose outcome is not known",
        ));
    }
    if let Some(reason) = lookup.unavailable_reason() {
        return Err(LookupObstacle::Unprovable(reason));
    }
    let mut controls: HashMap<&str, i64> = HashMap::new();
    for token in &set.horizon.acknowledged {
        *controls.entry(token.as_str()).or_default() += 1;
    }
    let mut values: Vec<&str> = set.tokens.iter().map(|f| f.token.as_str()).collect();
    values.extend(controls.keys());
    let lookup_tick = log.tick();
    let horizon = Some(set.horizon.xid);
    let counts = lookup_reply(connection.count_rows(&lookup.sql, &values, horizon), lookup).await?;
    // If rows are removed at once, a missing row proves nothing.
    let is_shown = |(value, least): (&&str, &i64)| counts.get(*value) >= Some(least);
    if !controls.iter().all(is_shown) || !shows_recent(connection, lookup, log).await? {
        return Err(unprovable(ROWS_MISSING));
    }
    let rows = subtract_other_rows(&set.tokens, set.horizon.snapshot, &counts, log, lookup_tick)?;
    if lookup.has_standbys
        && rows.values().any(|rows| rows.is_any_stored())
        && !confirmed(connection, lookup).await?
    {
        return Err(unprovable(UNCONFIRMED));
    }
    Ok(rows)
}

/// Returns true if the table shows the tokens that were stored last.
async fn shows_recent(
    connection: &Connection,
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

/// Waits until the standbys have the rows that a look-up saw.
async fn confirmed(connection: &Connection, lookup: &Lookup) -> Result<bool, LookupObstacle> {
    match tokio::time::timeout(lookup.confirm_timeout, connection.confirm_commits()).await {
        Ok(Ok(is_confirmed)) => Ok(is_confirmed),
        Ok(Err(_)) => Err(LookupObstacle::Lost),
        Err(_) => Ok(false),
    }
}

/// Waits for the reply to a query of the table.
async fn lookup_reply<T>(
    query: impl Future<Output = Result<T, tokio_postgres::Error>>,
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
    connection: &Connection,
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
    tokens: &[InFlight],
    horizon: SnapshotInterval,
    counts: &HashMap<String, i64>,
    log: &InFlightLog,
    lookup_tick: u64,
) -> Result<HashMap<String, FoundRows>, LookupObstacle> {
    let mut in_doubt: HashMap<&str, u32> = HashMap::new();
    for in_flight in tokens {
        *in_doubt.entry(in_flight.token.as_str()).or_default() += 1;
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

/// Tokens whose INSERT committed with a row count of 0: a trigger or rule skipped or redirected the
/// row.
pub(in crate::store) struct RowlessCommits {
    pub(in crate::store) tokens: Vec<InFlight>,
    /// No transaction of these tokens has a lower XID.
    pub(in crate::store) xid: i64,
    /// When that XID was queried.
    pub(in crate::store) snapshot: SnapshotInterval,
    /// The tick at which the look-up was sent.
    pub(in crate::store) lookup_tick: u64,
}

/// Reports tokens without a row after a look-up: `stored` if a new row is visible, else `rejected`.
pub(in crate::store) fn settle_rowless(
    rowless: RowlessCommits,
    counts: &HashMap<String, i64>,
    log: &InFlightLog,
    no_row_detail: &Arc<Detail>,
) {
    let RowlessCommits {
        tokens,
        snapshot,
        lookup_tick,
        ..
    } = rowless;
    let rows = subtract_other_rows(&tokens, snapshot, counts, log, lookup_tick);
    let mut rows = rows.unwrap_or_default();
    let mut batch = OutcomeBatch::default();
    let mut uncertain = Vec::new();
    for in_flight in tokens {
        let (status, detail) = match rows.get_mut(in_flight.token.as_str()) {
            Some(rows) if rows.stored > 0 => {
                rows.stored -= 1;
                (Status::Stored, None)
            }
            Some(rows) if rows.uncertain == 0 => {
                (Status::Rejected, Some(Arc::clone(no_row_detail)))
            }
            Some(rows) => {
                rows.uncertain -= 1;
                uncertain.push(in_flight);
                continue;
            }
            None => {
                uncertain.push(in_flight);
                continue;
            }
        };
        in_flight.mark_settled(log, status == Status::Stored);
        let (job, outcome) = in_flight.into_outcome(status, detail);
        batch.push(&job, outcome);
    }
    drop(batch);
    give_up(
        uncertain,
        log,
        "another connection stored an equal row",
        None,
    );
}

/// Logs how in-doubt tokens were resolved.
pub(in crate::store) fn log_resolution(in_doubt: usize, stored: usize, absent: usize) {
    let unknown = in_doubt - stored - absent;
    tracing::debug!(
        in_doubt,
        stored,
        absent,
        unknown,
        "in-doubt tokens processed"
    );
}

/// Reports found tokens as `stored` and uncertain ones as `unknown`.
///
/// Returns the rest, which is certainly not stored. Equal values are interchangeable.
pub(in crate::store) fn settle(
    set: InDoubtSet,
    found: Resolution,
    log: &InFlightLog,
) -> Vec<InFlight> {
    let in_doubt = set.tokens.len();
    let mut rows = match found {
        Resolution::Rows(rows) => rows,
        Resolution::Unprovable(reason) => {
            tracing::warn!(
                tokens = in_doubt,
                reason,
                "in-doubt tokens cannot be resolved"
            );
            log_resolution(in_doubt, 0, 0);
            give_up(set.tokens, log, &reason, set.close_reason);
            return Vec::new();
        }
    };
    let mut batch = OutcomeBatch::default();
    let mut absent = Vec::new();
    let mut uncertain = Vec::new();
    for in_flight in set.tokens {
        match rows.get_mut(in_flight.token.as_str()) {
            Some(rows) if rows.stored > 0 => {
                rows.stored -= 1;
                in_flight.mark_settled(log, true);
                let (job, outcome) = in_flight.into_outcome(Status::Stored, None);
                batch.push(&job, outcome);
            }
            Some(rows) if rows.uncertain == 0 => {
                in_flight.mark_settled(log, false);
                absent.push(in_flight);
            }
            Some(rows) => {
                rows.uncertain -= 1;
                uncertain.push(in_flight);
            }
            None => uncertain.push(in_flight),
        }
    }
    drop(batch);
    let known = in_doubt - uncertain.len();
    log_resolution(in_doubt, known - absent.len(), absent.len());
    give_up(
        uncertain,
        log,
        "the connection was lost, and another one stored the same value",
        set.close_reason,
    );
    absent
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
