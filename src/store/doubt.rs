//! Tokens in doubt: sent, but the connection died before the answer.
//!
//! Each of them may have been committed or not, so none may be called stored or failed, or be sent
//! again, on a guess. First the fence: the old backend is ended and seen to be gone, so that nothing
//! can be committed late. Then one look-up of the rows that only this run can have written. What
//! cannot be proved stays `unknown`.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::job::Job;
use super::outbox::Batch;
use super::postgres::connect::Lookup;
use super::postgres::horizon::Horizon;
use super::postgres::link::{Backend, Link, is_error};
use super::postgres::probe::{Probe, probe};
use super::postgres::sent::Sent;
use crate::token::{Detail, Outcome, Status, Token};

/// How long the end of the old backend is waited for.
pub(super) const FENCE: Duration = Duration::from_secs(10);
/// How often it is looked for.
pub(super) const GLANCE: Duration = Duration::from_millis(20);

/// A token that was sent and not yet answered for.
pub(super) struct Flight {
    /// The token.
    pub(super) token: Token,
    /// Whose it is.
    pub(super) job: Arc<Job>,
    /// When it was (last) sent.
    pub(super) sent: Instant,
    /// The same, as `Sent` has it.
    pub(super) moment: u64,
    /// How often this store sent it.
    pub(super) tries: u32,
}

impl Flight {
    /// Tells `sent` that its fate is known, or will never be.
    pub(super) fn landed(&self, sent: &Sent, stored: bool) {
        sent.landed(self.token.as_str(), self.moment, stored);
    }

    /// Its outcome, and whose it is.
    pub(super) fn land(self, status: Status, detail: Option<Arc<Detail>>) -> (Arc<Job>, Outcome) {
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
pub(super) struct Doubt {
    /// The tokens, in the order in which they were sent.
    pub(super) flights: Vec<Flight>,
    /// What the lost connection knew of itself.
    pub(super) horizon: Horizon,
    /// Why the connection was lost, for those that stay unknown.
    pub(super) farewell: Option<String>,
}

/// Calls every one of them `unknown`, for `reason`.
pub(super) fn give_up(
    flights: impl IntoIterator<Item = Flight>,
    sent: &Sent,
    reason: &str,
    message: Option<String>,
) {
    let detail = Arc::new(Detail {
        reason: Some(reason.to_owned()),
        message,
        ..Detail::default()
    });
    let mut batch = Batch::default();
    for flight in flights {
        flight.landed(sent, false);
        let (job, outcome) = flight.land(Status::Unknown, Some(Arc::clone(&detail)));
        batch.push(&job, outcome);
    }
}

/// What was found out about tokens in doubt.
pub(super) enum Found {
    /// How many tokens of each value the lost connection stored.
    Rows(HashMap<String, Rows>),
    /// It cannot be found out.
    Unprovable(&'static str),
}

/// How many tokens of one value the lost connection stored. Where other connections store the same
/// value, it cannot always be told apart who wrote a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Rows {
    /// So many at least.
    stored: u32,
    /// Neither proved nor disproved.
    open: u32,
}

impl Rows {
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
}

/// The new connection was lost too.
pub(super) struct Lost;

/// Triggers, rules and row level security may hide or change what is inserted.
const NOT_SHOWN: &str = "the connection was lost, and the table does not show what was inserted";

enum Obstacle {
    Lost,
    Unprovable(&'static str),
}

/// Finds out, over a new connection, what became of the tokens. Cancel safe where the link is not
/// used afterwards: what it tries is taken back.
///
/// # Errors
/// Where the new connection was lost on the way.
pub(super) async fn examine(
    doubt: &Doubt,
    link: &Link,
    lookup: &Lookup,
    sent: &Sent,
) -> Result<Found, Lost> {
    match look(doubt, link, lookup, sent).await {
        Ok(rows) => Ok(Found::Rows(rows)),
        Err(Obstacle::Unprovable(reason)) => Ok(Found::Unprovable(reason)),
        Err(Obstacle::Lost) => Err(Lost),
    }
}

async fn look(
    doubt: &Doubt,
    link: &Link,
    lookup: &Lookup,
    sent: &Sent,
) -> Result<HashMap<String, Rows>, Obstacle> {
    let (Some(old), Some(_)) = (&doubt.horizon.backend, link.backend()) else {
        return Err(Obstacle::Unprovable(
            "the connection was lost, and behind a pooler it cannot be found out what it did",
        ));
    };
    if link.is_elsewhere(old) {
        return Err(Obstacle::Unprovable(
            "the connection was lost, and the host that answers now is of another database",
        ));
    }
    if !fence(old, link, lookup.answers_within).await? {
        return Err(Obstacle::Unprovable(
            "the connection was lost, and its backend could not be ended",
        ));
    }
    // Only now: what stays unknown must at least not be committed after the report.
    if !lookup.may_select {
        return Err(Obstacle::Unprovable(
            "the connection was lost, and without SELECT right it cannot be looked up",
        ));
    }
    let control = doubt.horizon.control.as_ref().map(Token::as_str);
    let mut values: Vec<&str> = doubt.flights.iter().map(|f| f.token.as_str()).collect();
    values.extend(control);
    let looked = sent.mark();
    let horizon = Some(doubt.horizon.number);
    let counts = answer(link.count(&lookup.sql, &values, horizon), lookup).await?;
    // Somebody may take rows away as soon as they are there.
    if control.is_some_and(|control| !counts.contains_key(control)) {
        return Err(Obstacle::Unprovable(NOT_SHOWN));
    }
    if !lookup.plain {
        for value in values.iter().filter(|value| !counts.contains_key(**value)) {
            if answer(probe(link, &lookup.sql, value), lookup).await? == Probe::Hidden {
                return Err(Obstacle::Unprovable(NOT_SHOWN));
            }
        }
    }
    ours(doubt, &counts, sent, looked)
}

/// Waits for the answer to a question about the table.
async fn answer<T>(
    question: impl Future<Output = Result<T, tokio_postgres::Error>>,
    lookup: &Lookup,
) -> Result<T, Obstacle> {
    match tokio::time::timeout(lookup.looks_within, question).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(error)) if error.as_db_error().is_some_and(is_error) => {
            let code = error.code().map(tokio_postgres::error::SqlState::code);
            tracing::debug!(code, "look-up failed");
            Err(Obstacle::Unprovable(
                "the connection was lost, and the table could not be looked up",
            ))
        }
        Ok(Err(_)) | Err(_) => Err(Obstacle::Lost),
    }
}

/// Ends the old backend, and waits until it is gone. A server that was restarted has no backends
/// of before.
async fn fence(old: &Backend, link: &Link, answers_within: Duration) -> Result<bool, Obstacle> {
    let give_up_at = Instant::now() + FENCE;
    loop {
        match tokio::time::timeout(answers_within, link.end_backend(old)).await {
            Ok(Ok(true)) => return Ok(true),
            Ok(Ok(false)) if Instant::now() >= give_up_at => return Ok(false),
            Ok(Ok(false)) => tokio::time::sleep(GLANCE).await,
            Ok(Err(error)) if error.as_db_error().is_some_and(is_error) => return Ok(false),
            Ok(Err(_)) | Err(_) => return Err(Obstacle::Lost),
        }
    }
}

/// Takes off what other connections wrote or may have written.
fn ours(
    doubt: &Doubt,
    counts: &HashMap<String, i64>,
    sent: &Sent,
    looked: u64,
) -> Result<HashMap<String, Rows>, Obstacle> {
    let mut own: HashMap<&str, u32> = HashMap::new();
    for flight in &doubt.flights {
        *own.entry(flight.token.as_str()).or_default() += 1;
    }
    own.into_iter()
        .map(|(value, own)| {
            let Some((least, most)) = sent.stored_since(value, doubt.horizon.asked, looked) else {
                return Err(Obstacle::Unprovable(
                    "the connection was lost, and too much was stored since to tell its rows apart",
                ));
            };
            let seen = counts.get(value).copied().unwrap_or(0);
            let seen = u32::try_from(seen).unwrap_or(u32::MAX);
            let elsewhere = sent.in_flight(value).saturating_sub(own);
            Ok((
                value.to_owned(),
                Rows::of(own, seen, (least, most + elsewhere)),
            ))
        })
        .collect()
}

/// Says in numbers what came of a doubt.
pub(super) fn tell(in_doubt: usize, stored: usize, absent: usize) {
    let unknown = in_doubt - stored - absent;
    tracing::debug!(in_doubt, stored, absent, unknown, "a doubt has ended");
}

/// Reports what is in the table as stored and what cannot be told as unknown, and gives the rest
/// back, which is certainly not stored; equal values are interchangeable.
pub(super) fn settle(doubt: Doubt, found: Found, sent: &Sent) -> Vec<Flight> {
    let in_doubt = doubt.flights.len();
    let mut rows = match found {
        Found::Rows(rows) => rows,
        Found::Unprovable(reason) => {
            tracing::warn!(tokens = in_doubt, reason, "the doubt remains");
            tell(in_doubt, 0, 0);
            give_up(doubt.flights, sent, reason, doubt.farewell);
            return Vec::new();
        }
    };
    let mut batch = Batch::default();
    let mut absent = Vec::new();
    let mut open = Vec::new();
    for flight in doubt.flights {
        match rows.get_mut(flight.token.as_str()) {
            Some(rows) if rows.stored > 0 => {
                rows.stored -= 1;
                flight.landed(sent, true);
                let (job, outcome) = flight.land(Status::Stored, None);
                batch.push(&job, outcome);
            }
            Some(rows) if rows.open == 0 => {
                flight.landed(sent, false);
                absent.push(flight);
            }
            Some(rows) => {
                rows.open -= 1;
                open.push(flight);
            }
            None => open.push(flight),
        }
    }
    drop(batch);
    let known = in_doubt - open.len();
    tell(in_doubt, known - absent.len(), absent.len());
    give_up(
        open,
        sent,
        "the connection was lost, and another one stores the same value",
        doubt.farewell,
    );
    absent
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_of_others_are_taken_off_as_far_as_they_are_known() {
        let rows = |stored, open| Rows { stored, open };
        // Alone with its value.
        assert_eq!(Rows::of(1, 0, (0, 0)), rows(0, 0));
        assert_eq!(Rows::of(1, 1, (0, 0)), rows(1, 0));
        // Others stored it too, for certain.
        assert_eq!(Rows::of(2, 3, (2, 2)), rows(1, 0));
        // Perhaps: one row may be anybody's, but no row is nobody's and two are one of each.
        assert_eq!(Rows::of(1, 1, (0, 1)), rows(0, 1));
        assert_eq!(Rows::of(1, 0, (0, 1)), rows(0, 0));
        assert_eq!(Rows::of(1, 2, (0, 1)), rows(1, 0));
        // Fewer than others stored: rows were taken away.
        assert_eq!(Rows::of(1, 0, (1, 1)), rows(0, 1));
    }
}
