//! Outcomes are batched: waking the reader costs as much as a token.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::pipeline::token::Outcome;

/// How long outcomes wait for others. The first ones after a pause are sent at once.
const COALESCE_FOR: Duration = Duration::from_millis(1);

/// Batches the outcomes of all connections for one reader.
#[derive(Default)]
pub(super) struct Coalescer(Mutex<CoalescerState>);

#[derive(Default)]
struct CoalescerState {
    outcomes: Vec<Outcome>,
    /// When the last batch was sent.
    last_sent: Option<Instant>,
    /// True if a flush is scheduled.
    is_flush_scheduled: bool,
}

/// What the caller must do after adding outcomes.
pub(super) enum Coalesced {
    /// Send these outcomes now.
    SendNow(Vec<Outcome>),
    /// Call [`Coalescer::take`] at this instant.
    FlushAt(Instant),
    /// Nothing: a flush is scheduled.
    Scheduled,
}

impl Coalescer {
    /// Adds outcomes, and returns what to do with the batch.
    pub(super) fn add(&self, outcomes: Vec<Outcome>, now: Instant) -> Coalesced {
        let mut state = self.lock();
        let due = state
            .last_sent
            .map_or(now, |last_sent| last_sent + COALESCE_FOR);
        if now < due {
            state.outcomes.extend(outcomes);
            return if std::mem::replace(&mut state.is_flush_scheduled, true) {
                Coalesced::Scheduled
            } else {
                Coalesced::FlushAt(due)
            };
        }
        state.last_sent = Some(now);
        if state.outcomes.is_empty() {
            return Coalesced::SendNow(outcomes);
        }
        state.outcomes.extend(outcomes);
        Coalesced::SendNow(std::mem::take(&mut state.outcomes))
    }

    /// Takes the batch.
    pub(super) fn take(&self, now: Instant) -> Vec<Outcome> {
        let mut state = self.lock();
        state.is_flush_scheduled = false;
        if !state.outcomes.is_empty() {
            state.last_sent = Some(now);
        }
        std::mem::take(&mut state.outcomes)
    }

    fn lock(&self) -> MutexGuard<'_, CoalescerState> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::token::{Page, Status};

    fn outcome(text: &str) -> Vec<Outcome> {
        let page = Page::from_texts([(text, None)]);
        let outcome = |token| Outcome::unsent(token, Status::Rejected, None);
        page.iter().map(outcome).collect()
    }

    fn texts(outcomes: &[Outcome]) -> Vec<&str> {
        outcomes.iter().map(|o| o.token.as_str()).collect()
    }

    #[test]
    fn first_outcome_is_sent_at_once_and_later_ones_are_batched() {
        let (coalescer, start) = (Coalescer::default(), Instant::now());
        let at = |micros| start + Duration::from_micros(micros);
        let first = coalescer.add(outcome("aa"), at(0));
        assert!(matches!(first, Coalesced::SendNow(all) if texts(&all) == ["aa"]));
        let second = coalescer.add(outcome("bb"), at(100));
        assert!(matches!(second, Coalesced::FlushAt(due) if due == start + COALESCE_FOR));
        let third = coalescer.add(outcome("cc"), at(200));
        assert!(matches!(third, Coalesced::Scheduled));
        // Outcomes that are added after the interval take the whole batch.
        let fourth = coalescer.add(outcome("dd"), at(1000));
        assert!(matches!(fourth, Coalesced::SendNow(all) if texts(&all) == ["bb", "cc", "dd"]));
        assert!(coalescer.take(at(1100)).is_empty());
        let fifth = coalescer.add(outcome("ee"), at(1200));
        assert!(matches!(fifth, Coalesced::FlushAt(due) if due == at(1000) + COALESCE_FOR));
        assert_eq!(texts(&coalescer.take(at(2000))), ["ee"]);
    }
}
