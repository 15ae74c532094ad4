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

use super::job::{Batch, Job};
use super::postgres::connect::Lookup;
use super::postgres::horizon::Horizon;
use super::postgres::link::{Backend, Link, is_error};
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
    /// How often this store sent it.
    pub(super) tries: u32,
}

impl Flight {
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
        sent.landed(flight.token.as_str(), false);
        let (job, outcome) = flight.land(Status::Unknown, Some(Arc::clone(&detail)));
        batch.push(&job, outcome);
    }
}

/// Finds out, over a new connection, what became of the tokens; gives those that are certainly not
/// stored.
///
/// # Errors
/// The doubt as it was, where the new connection was lost on the way.
pub(super) async fn resolve(
    doubt: Doubt,
    link: &Link,
    lookup: &Lookup,
    sent: &Sent,
) -> Result<Vec<Flight>, Doubt> {
    match examine(&doubt, link, lookup, sent).await {
        Ok(counts) => Ok(settle(doubt, &counts, sent)),
        Err(Obstacle::Lost) => Err(doubt),
        Err(Obstacle::Unprovable(reason)) => {
            tracing::warn!(tokens = doubt.flights.len(), reason, "the doubt remains");
            give_up(doubt.flights, sent, reason, doubt.farewell);
            Ok(Vec::new())
        }
    }
}

enum Obstacle {
    /// The new connection was lost too.
    Lost,
    /// It cannot be found out.
    Unprovable(&'static str),
}

/// How many rows of each value only the lost connection can have written; values that another
/// connection has in flight are left out.
async fn examine(
    doubt: &Doubt,
    link: &Link,
    lookup: &Lookup,
    sent: &Sent,
) -> Result<HashMap<String, i64>, Obstacle> {
    let (Some(old), Some(_)) = (&doubt.horizon.backend, link.backend()) else {
        return Err(Obstacle::Unprovable(
            "the connection was lost, and behind a pooler it cannot be found out what it did",
        ));
    };
    if !lookup.may_select {
        return Err(Obstacle::Unprovable(
            "the connection was lost, and without SELECT right it cannot be looked up",
        ));
    }
    if link.is_elsewhere(old) {
        return Err(Obstacle::Unprovable(
            "the connection was lost, and the host that answers now is of another database",
        ));
    }
    if !fence(old, link).await? {
        return Err(Obstacle::Unprovable(
            "the connection was lost, and its backend could not be ended",
        ));
    }
    let control = doubt.horizon.control.as_ref().map(Token::as_str);
    let mut values: Vec<&str> = doubt.flights.iter().map(|f| f.token.as_str()).collect();
    values.extend(control);
    let counts = match link
        .count(&lookup.sql, &values, Some(doubt.horizon.number))
        .await
    {
        Ok(counts) => counts,
        Err(error) if !error.as_db_error().is_some_and(is_error) => return Err(Obstacle::Lost),
        Err(error) => {
            tracing::debug!(
                code = error.code().map(tokio_postgres::error::SqlState::code),
                "look-up failed"
            );
            return Err(Obstacle::Unprovable(
                "the connection was lost, and the table could not be looked up",
            ));
        }
    };
    // Triggers, rules, views and row level security can hide or change what was inserted.
    let seen = control.is_some_and(|control| counts.contains_key(control));
    if !seen && !lookup.plain {
        return Err(Obstacle::Unprovable(
            "the connection was lost, and the table does not show what was inserted",
        ));
    }
    ours(doubt, counts, sent)
}

/// Ends the old backend, and waits until it is gone. A server that was restarted has no backends
/// of before.
async fn fence(old: &Backend, link: &Link) -> Result<bool, Obstacle> {
    let give_up_at = Instant::now() + FENCE;
    loop {
        match link.end_backend(old).await {
            Ok(true) => return Ok(true),
            Ok(false) if Instant::now() >= give_up_at => return Ok(false),
            Ok(false) => tokio::time::sleep(GLANCE).await,
            Err(error) if !error.as_db_error().is_some_and(is_error) => return Err(Obstacle::Lost),
            Err(_) => return Ok(false),
        }
    }
}

/// Takes off what other connections wrote: what they were acknowledged, and, since it cannot be
/// told apart, every value that they have in flight.
fn ours(
    doubt: &Doubt,
    mut counts: HashMap<String, i64>,
    sent: &Sent,
) -> Result<HashMap<String, i64>, Obstacle> {
    let mut own: HashMap<&str, u32> = HashMap::new();
    for flight in &doubt.flights {
        *own.entry(flight.token.as_str()).or_default() += 1;
    }
    for (value, own) in own {
        let Some(acknowledged) = sent.acknowledged(value, doubt.horizon.since) else {
            return Err(Obstacle::Unprovable(
                "the connection was lost, and too much was stored since to tell its rows apart",
            ));
        };
        let count = counts.entry(value.to_owned()).or_default();
        *count -= i64::from(acknowledged);
        if *count < 0 || sent.in_flight(value) > own {
            counts.remove(value);
        }
    }
    Ok(counts)
}

/// Reports what is in the table as stored and gives the rest back; equal values are
/// interchangeable.
fn settle(doubt: Doubt, counts: &HashMap<String, i64>, sent: &Sent) -> Vec<Flight> {
    let mut left = counts.clone();
    let mut batch = Batch::default();
    let mut absent = Vec::new();
    let mut ambiguous = Vec::new();
    for flight in doubt.flights {
        match left.get_mut(flight.token.as_str()) {
            None => ambiguous.push(flight),
            Some(0) => {
                sent.landed(flight.token.as_str(), false);
                absent.push(flight);
            }
            Some(count) => {
                *count -= 1;
                sent.landed(flight.token.as_str(), true);
                let (job, outcome) = flight.land(Status::Stored, None);
                batch.push(&job, outcome);
            }
        }
    }
    drop(batch);
    give_up(
        ambiguous,
        sent,
        "the connection was lost, and another one stores the same value",
        doubt.farewell,
    );
    absent
}
