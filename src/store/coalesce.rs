//! Outcomes on their way out of the store: each wake-up of their reader costs as much as a token, so
//! they travel in state.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::pipeline::token::Outcome;

/// How long outcomes wait for state. The first after a pause goes at once.
const COALESCE_FOR: Duration = Duration::from_millis(1);

/// What all connections gather for one reader.
#[derive(Default)]
pub(super) struct Coalescer(Mutex<CoalescerState>);

#[derive(Default)]
struct CoalescerState {
    outcomes: Vec<Outcome>,
    /// When the last ones left.
    left: Option<Instant>,
    /// True where somebody will come for them.
    is_awaited: bool,
}

/// What is to be done with outcomes that were added.
pub(super) enum Coalesced {
    /// These are to be sent now.
    Now(Vec<Outcome>),
    /// What was gathered is to be taken then.
    At(Instant),
    /// It will be.
    Pending,
}

impl Coalescer {
    /// Adds outcomes.
    pub(super) fn add(&self, outcomes: Vec<Outcome>, now: Instant) -> Coalesced {
        let mut state = self.lock();
        let due = state.left.map_or(now, |left| left + COALESCE_FOR);
        if now < due {
            state.outcomes.extend(outcomes);
            return if std::mem::replace(&mut state.is_awaited, true) {
                Coalesced::Pending
            } else {
                Coalesced::At(due)
            };
        }
        state.left = Some(now);
        if state.outcomes.is_empty() {
            return Coalesced::Now(outcomes);
        }
        state.outcomes.extend(outcomes);
        Coalesced::Now(std::mem::take(&mut state.outcomes))
    }

    /// What there is.
    pub(super) fn take(&self, now: Instant) -> Vec<Outcome> {
        let mut state = self.lock();
        state.is_awaited = false;
        if !state.outcomes.is_empty() {
            state.left = Some(now);
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
    fn the_first_goes_at_once_and_the_next_wait_for_company() {
        let (coalescer, start) = (Coalescer::default(), Instant::now());
        let at = |micros| start + Duration::from_micros(micros);
        let first = coalescer.add(outcome("aa"), at(0));
        assert!(matches!(first, Coalesced::Now(all) if texts(&all) == ["aa"]));
        let second = coalescer.add(outcome("bb"), at(100));
        assert!(matches!(second, Coalesced::At(due) if due == start + COALESCE_FOR));
        let third = coalescer.add(outcome("cc"), at(200));
        assert!(matches!(third, Coalesced::Pending));
        // Whoever comes when the moment is over takes all along, and leaves nothing to be taken.
        let fourth = coalescer.add(outcome("dd"), at(1000));
        assert!(matches!(fourth, Coalesced::Now(all) if texts(&all) == ["bb", "cc", "dd"]));
        assert!(coalescer.take(at(1100)).is_empty());
        let fifth = coalescer.add(outcome("ee"), at(1200));
        assert!(matches!(fifth, Coalesced::At(due) if due == at(1000) + COALESCE_FOR));
        assert_eq!(texts(&coalescer.take(at(2000))), ["ee"]);
    }
}
