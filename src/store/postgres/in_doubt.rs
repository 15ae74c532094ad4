//! Tokens in doubt: sent, but the connection died before the answer.
//!
//! Each of them may have been committed or not, so none may be called stored or failed, or be sent
//! again, on a guess. First the fence: the old backend is ended and seen to be gone, so that nothing
//! can be committed late. Then one look-up of the rows that only this run can have written; it proves
//! something only on tables where nothing can change, hide or remove a row. What cannot be proved stays
//! `unknown`.

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

/// How long the end of the old backend is waited for.
pub(in crate::store) const FENCE: Duration = Duration::from_secs(10);
/// How often it is looked for.
pub(in crate::store) const GLANCE: Duration = Duration::from_millis(20);

/// A token that was sent and not yet answered for.
pub(in crate::store) struct InFlight {
    /// The token.
    pub(in crate::store) token: Token,
    /// Whose it is.
    pub(in crate::store) job: Arc<StoreJob>,
    /// When it was (last) sent.
    pub(in crate::store) sent: Instant,
    /// The same, as `InFlightLog` has it.
    pub(in crate::store) moment: u64,
    /// How often this store sent it.
    pub(in crate::store) tries: u32,
    /// When its key was first found to be taken, because a sequence is behind the rows.
    pub(in crate::store) taken_since: Option<Instant>,
}

impl InFlight {
    /// Tells `sent` that its fate is known, or will never be.
    pub(in crate::store) fn settled(&self, sent: &InFlightLog, stored: bool) {
        sent.settled(self.token.as_str(), self.moment, stored);
    }

    /// Its outcome, and whose it is.
    pub(in crate::store) fn settle(
        self,
        status: Status,
        detail: Option<Arc<Detail>>,
    ) -> (Arc<StoreJob>, Outcome) {
        let outcome = Outcome {
            elapsed: self.sent.elapsed(),
            token: self.token,
            status,
            detail,
        };
        (self.job, outcome)
    }
}

/// What a lost connection leaves in doubt, and what is needed to find out.
pub(in crate::store) struct InDoubtSet {
    /// The tokens, in the order in which they were sent.
    pub(in crate::store) in_flights: Vec<InFlight>,
    /// What the lost connection knew of itself.
    pub(in crate::store) horizon: XidHorizon,
    /// True if the server handed over a transaction that was not this connection's: its end is not
    /// known, and another client may commit it.
    pub(in crate::store) had_open_transaction: bool,
    /// Why the connection was lost, for those that stay unknown.
    pub(in crate::store) close_reason: Option<String>,
}

/// Calls every one of them `unknown`, for `reason`.
pub(in crate::store) fn give_up(
    in_flights: impl IntoIterator<Item = InFlight>,
    sent: &InFlightLog,
    reason: &str,
    message: Option<String>,
) {
    let detail = Arc::new(Detail {
        reason: Some(reason.to_owned()),
        message,
        ..Detail::default()
    });
    let mut batch = OutcomeBatch::default();
    for in_flight in in_flights {
        in_flight.settled(sent, false);
        let (job, outcome) = in_flight.settle(Status::Unknown, Some(Arc::clone(&detail)));
        batch.push(&job, outcome);
    }
}

/// What was found out about tokens in doubt.
pub(in crate::store) enum Resolution {
    /// How many tokens of each value the lost connection stored.
    Rows(HashMap<String, FoundRows>),
    /// It cannot be found out.
    Unprovable(String),
}

/// How many tokens of one value the lost connection stored. Where other connections store the same
/// value, it cannot always be told apart who wrote a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::store) struct FoundRows {
    /// So many at least.
    stored: u32,
    /// Neither proved nor disproved.
    open: u32,
}

impl FoundRows {
    /// Of `own` tokens in doubt, where `seen` rows are in the table and between `least` and `most`
    /// of them are those of others.
    fn of(own: u32, seen: u32, (least, most): (u32, u32)) -> Self {
        let stored = seen.saturating_sub(most).min(own);
        let possible = match seen.checked_sub(least) {
            Some(possible) => possible.min(own),
            // Rows were taken away: nothing is proved by one that is missing.
            None => own,
        };
        Self {
            stored,
            open: possible - stored,
        }
    }

    fn has_any(self) -> bool {
        self.stored > 0
    }
}

/// The new connection was lost too.
pub(in crate::store) struct ConnectionLost;

/// Something removed, hid or changed rows that were stored.
const NOT_SHOWN: &str = "the connection was lost, and the table no longer shows what was stored";
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

/// Finds out, over a new connection, what became of the tokens. Cancel safe where the link is not
/// used afterwards: what it tries is taken back.
///
/// # Errors
/// Where the new connection was lost on the way.
pub(in crate::store) async fn examine(
    doubt: &InDoubtSet,
    connection: &Connection,
    lookup: &Lookup,
    sent: &InFlightLog,
) -> Result<Resolution, ConnectionLost> {
    match look(doubt, connection, lookup, sent).await {
        Ok(rows) => Ok(Resolution::Rows(rows)),
        Err(LookupObstacle::Unprovable(reason)) => Ok(Resolution::Unprovable(reason)),
        Err(LookupObstacle::Lost) => Err(ConnectionLost),
    }
}

async fn look(
    doubt: &InDoubtSet,
    connection: &Connection,
    lookup: &Lookup,
    sent: &InFlightLog,
) -> Result<HashMap<String, FoundRows>, LookupObstacle> {
    let (Some(old), Some(_)) = (&doubt.horizon.backend, connection.backend()) else {
        return Err(unprovable(
            "the connection was lost, and behind a pooler it cannot be found out what it did",
        ));
    };
    if connection.is_elsewhere(old) {
        return Err(unprovable(
            "the connection was lost, and the host that answers now is of another database",
        ));
    }
    match fence(old, connection, lookup.answers_within).await? {
        FenceResult::Gone => {}
        FenceResult::Ending => {
            return Err(unprovable(
                "the connection was lost, and its backend could not be ended",
            ));
        }
        FenceResult::Waiting => return Err(unprovable(UNCONFIRMED)),
    }
    // Only now: what stays unknown must at least not be committed after the report.
    if doubt.had_open_transaction {
        return Err(unprovable(
            "the server was inside a transaction that is not this run's, and its end is not known",
        ));
    }
    if let Some(reason) = lookup.obstacle() {
        return Err(LookupObstacle::Unprovable(reason));
    }
    let mut controls: HashMap<&str, i64> = HashMap::new();
    for token in &doubt.horizon.acknowledged {
        *controls.entry(token.as_str()).or_default() += 1;
    }
    let mut values: Vec<&str> = doubt.in_flights.iter().map(|f| f.token.as_str()).collect();
    values.extend(controls.keys());
    let looked = sent.mark();
    let horizon = Some(doubt.horizon.number);
    let counts = answer(connection.count(&lookup.sql, &values, horizon), lookup).await?;
    // Rows that are taken away as soon as they are there prove nothing when they are missing.
    let is_shown = |(value, least): (&&str, &i64)| counts.get(*value) >= Some(least);
    if !controls.iter().all(is_shown) || !shows_recent(connection, lookup, sent).await? {
        return Err(unprovable(NOT_SHOWN));
    }
    let rows = ours(
        &doubt.in_flights,
        doubt.horizon.asked,
        &counts,
        sent,
        looked,
    )?;
    if lookup.has_standbys
        && rows.values().any(|rows| rows.has_any())
        && !confirmed(connection, lookup).await?
    {
        return Err(unprovable(UNCONFIRMED));
    }
    Ok(rows)
}

/// True if the table shows what all connections of the run stored last.
async fn shows_recent(
    connection: &Connection,
    lookup: &Lookup,
    sent: &InFlightLog,
) -> Result<bool, LookupObstacle> {
    let recent = sent.recent();
    let values: Vec<&str> = recent.iter().map(Token::as_str).collect();
    if values.is_empty() {
        return Ok(true);
    }
    let counts = answer(connection.count(&lookup.sql, &values, None), lookup).await?;
    Ok(values.iter().all(|value| counts.contains_key(*value)))
}

/// Waits until standbys have what a look-up saw.
async fn confirmed(connection: &Connection, lookup: &Lookup) -> Result<bool, LookupObstacle> {
    match tokio::time::timeout(lookup.confirms_within, connection.confirm()).await {
        Ok(Ok(is_confirmed)) => Ok(is_confirmed),
        Ok(Err(_)) => Err(LookupObstacle::Lost),
        Err(_) => Ok(false),
    }
}

/// Waits for the answer to a question about the table.
async fn answer<T>(
    question: impl Future<Output = Result<T, tokio_postgres::Error>>,
    lookup: &Lookup,
) -> Result<T, LookupObstacle> {
    match tokio::time::timeout(lookup.looks_within, question).await {
        Ok(Ok(answer)) => Ok(answer),
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

/// Ends the old backend, and waits until it is gone. A server that was restarted has no backends
/// of before.
async fn fence(
    old: &Backend,
    connection: &Connection,
    answers_within: Duration,
) -> Result<FenceResult, LookupObstacle> {
    let give_up_at = Instant::now() + FENCE;
    loop {
        match tokio::time::timeout(answers_within, connection.end_backend(old)).await {
            Ok(Ok(FenceResult::Gone)) => return Ok(FenceResult::Gone),
            Ok(Ok(state)) if Instant::now() >= give_up_at => return Ok(state),
            Ok(Ok(_)) => tokio::time::sleep(GLANCE).await,
            Ok(Err(error)) if error.as_db_error().is_some_and(is_error) => {
                return Ok(FenceResult::Ending);
            }
            Ok(Err(_)) | Err(_) => return Err(LookupObstacle::Lost),
        }
    }
}

/// Takes off what other connections wrote or may have written.
fn ours(
    in_flights: &[InFlight],
    horizon: SnapshotInterval,
    counts: &HashMap<String, i64>,
    sent: &InFlightLog,
    looked: u64,
) -> Result<HashMap<String, FoundRows>, LookupObstacle> {
    let mut own: HashMap<&str, u32> = HashMap::new();
    for in_flight in in_flights {
        *own.entry(in_flight.token.as_str()).or_default() += 1;
    }
    own.into_iter()
        .map(|(value, own)| {
            let Some((least, most)) = sent.stored_since(value, horizon, looked) else {
                return Err(unprovable(
                    "the connection was lost, and too much was stored since to tell its rows apart",
                ));
            };
            let seen = counts.get(value).copied().unwrap_or(0);
            let seen = u32::try_from(seen).unwrap_or(u32::MAX);
            let elsewhere = sent.in_flight(value).saturating_sub(own);
            Ok((
                value.to_owned(),
                FoundRows::of(own, seen, (least, most + elsewhere)),
            ))
        })
        .collect()
}

/// Tokens whose INSERT was committed without a row under the table's name: a trigger or a rule skipped
/// it, or stored it elsewhere.
pub(in crate::store) struct RowlessCommits {
    pub(in crate::store) in_flights: Vec<InFlight>,
    /// No transaction of theirs has an older number.
    pub(in crate::store) number: i64,
    /// When that number was asked for and when the answer came.
    pub(in crate::store) asked: SnapshotInterval,
    /// When the look-up was sent.
    pub(in crate::store) looked: u64,
}

/// Reports what a look-up saw of tokens without a row: those that are visible and new are `stored`, the
/// others `rejected`.
pub(in crate::store) fn settle_rowless(
    rowless: RowlessCommits,
    counts: &HashMap<String, i64>,
    sent: &InFlightLog,
    not_visible: &Arc<Detail>,
) {
    let RowlessCommits {
        in_flights,
        asked,
        looked,
        ..
    } = rowless;
    let rows = ours(&in_flights, asked, counts, sent, looked);
    let mut rows = rows.unwrap_or_default();
    let mut batch = OutcomeBatch::default();
    let mut open = Vec::new();
    for in_flight in in_flights {
        let (status, detail) = match rows.get_mut(in_flight.token.as_str()) {
            Some(rows) if rows.stored > 0 => {
                rows.stored -= 1;
                (Status::Stored, None)
            }
            Some(rows) if rows.open == 0 => (Status::Rejected, Some(Arc::clone(not_visible))),
            Some(rows) => {
                rows.open -= 1;
                open.push(in_flight);
                continue;
            }
            None => {
                open.push(in_flight);
                continue;
            }
        };
        in_flight.settled(sent, status == Status::Stored);
        let (job, outcome) = in_flight.settle(status, detail);
        batch.push(&job, outcome);
    }
    drop(batch);
    give_up(open, sent, "an equal row cannot be told apart", None);
}

/// Says in numbers what came of a doubt.
pub(in crate::store) fn tell(in_doubt: usize, stored: usize, absent: usize) {
    let unknown = in_doubt - stored - absent;
    tracing::debug!(in_doubt, stored, absent, unknown, "a doubt has ended");
}

/// Reports what is in the table as stored and what cannot be told as unknown, and gives the rest
/// back, which is certainly not stored; equal values are interchangeable.
pub(in crate::store) fn settle(
    doubt: InDoubtSet,
    found: Resolution,
    sent: &InFlightLog,
) -> Vec<InFlight> {
    let in_doubt = doubt.in_flights.len();
    let mut rows = match found {
        Resolution::Rows(rows) => rows,
        Resolution::Unprovable(reason) => {
            tracing::warn!(tokens = in_doubt, reason, "the doubt remains");
            tell(in_doubt, 0, 0);
            give_up(doubt.in_flights, sent, &reason, doubt.close_reason);
            return Vec::new();
        }
    };
    let mut batch = OutcomeBatch::default();
    let mut absent = Vec::new();
    let mut open = Vec::new();
    for in_flight in doubt.in_flights {
        match rows.get_mut(in_flight.token.as_str()) {
            Some(rows) if rows.stored > 0 => {
                rows.stored -= 1;
                in_flight.settled(sent, true);
                let (job, outcome) = in_flight.settle(Status::Stored, None);
                batch.push(&job, outcome);
            }
            Some(rows) if rows.open == 0 => {
                in_flight.settled(sent, false);
                absent.push(in_flight);
            }
            Some(rows) => {
                rows.open -= 1;
                open.push(in_flight);
            }
            None => open.push(in_flight),
        }
    }
    drop(batch);
    let known = in_doubt - open.len();
    tell(in_doubt, known - absent.len(), absent.len());
    give_up(
        open,
        sent,
        "the connection was lost, and another one stores the same value",
        doubt.close_reason,
    );
    absent
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_of_others_are_taken_off_as_far_as_they_are_known() {
        let rows = |stored, open| FoundRows { stored, open };
        // Alone with its value.
        assert_eq!(FoundRows::of(1, 0, (0, 0)), rows(0, 0));
        assert_eq!(FoundRows::of(1, 1, (0, 0)), rows(1, 0));
        // Others stored it too, for certain.
        assert_eq!(FoundRows::of(2, 3, (2, 2)), rows(1, 0));
        // Perhaps: one row may be anybody's, but no row is nobody's and two are one of each.
        assert_eq!(FoundRows::of(1, 1, (0, 1)), rows(0, 1));
        assert_eq!(FoundRows::of(1, 0, (0, 1)), rows(0, 0));
        assert_eq!(FoundRows::of(1, 2, (0, 1)), rows(1, 0));
        // Fewer than others stored: rows were taken away.
        assert_eq!(FoundRows::of(1, 0, (1, 1)), rows(0, 1));
    }
}
