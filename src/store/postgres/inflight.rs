//! What this run has in flight and what was stored lately, by value: whoever finds a row in the
//! table must know whether another connection of this run wrote it.
//!
//! Values are kept as hashes, and what was stored only for a while, so that memory stays flat. A
//! clock that ticks at each event tells what came before what.

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasher, RandomState};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::pipeline::token::Token;

/// So many stored tokens are remembered for each connection: a connection whose horizon is older than
/// all of them cannot resolve its doubts. Each moves its horizon several times as often.
const MOST_EACH: usize = 2048;
/// And so many together, whatever is configured: 24 MiB.
const MOST: usize = 1 << 20;

/// So many tokens that were stored last are looked for whenever something is looked up.
const MOST_RECENT: usize = 256;

/// Shared by the connections of a store.
pub(crate) struct InFlightLog {
    hasher: RandomState,
    book: Mutex<InFlightState>,
    /// How many stored tokens are remembered.
    most: usize,
    /// The tokens that were stored last, over all connections: while one of them is missing in the table,
    /// rows are being taken away.
    recent: Mutex<VecDeque<Token>>,
}

#[derive(Default)]
struct InFlightState {
    clock: u64,
    in_flight: HashMap<u64, u32>,
    stored: VecDeque<RecentlyStored>,
    /// When the last one that is no longer remembered was stored.
    forgotten: u64,
}

struct RecentlyStored {
    hash: u64,
    sent: u64,
    known: u64,
}

/// Between these two moments the server looked at its clock.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SnapshotInterval {
    /// Nothing of before is newer.
    pub(crate) from: u64,
    /// Whatever was sent after is newer.
    pub(crate) to: u64,
}

impl InFlightLog {
    /// Of a store with so many connections at most.
    pub(crate) fn of(connections: usize) -> Self {
        Self {
            hasher: RandomState::default(),
            book: Mutex::default(),
            recent: Mutex::default(),
            most: connections.saturating_mul(MOST_EACH).clamp(MOST_EACH, MOST),
        }
    }

    /// A token is being sent; gives the moment.
    pub(crate) fn sending(&self, value: &str) -> u64 {
        let hash = self.hash(value);
        let mut book = self.book();
        *book.in_flight.entry(hash).or_default() += 1;
        book.tick()
    }

    /// The fate of a token that was sent at that moment is known, or will never be.
    pub(crate) fn settled(&self, value: &str, sent: u64, stored: bool) {
        let hash = self.hash(value);
        let mut book = self.book();
        if let Some(count) = book.in_flight.get_mut(&hash) {
            *count -= 1;
            if *count == 0 {
                book.in_flight.remove(&hash);
            }
        }
        let known = book.tick();
        if stored {
            if book.stored.len() == self.most
                && let Some(first) = book.stored.pop_front()
            {
                book.forgotten = first.known;
            }
            book.stored.push_back(RecentlyStored { hash, sent, known });
        }
    }

    /// How many tokens of this value are in flight.
    pub(crate) fn in_flight(&self, value: &str) -> u32 {
        let hash = self.hash(value);
        self.book().in_flight.get(&hash).copied().unwrap_or(0)
    }

    /// A token was acknowledged.
    pub(crate) fn acknowledged(&self, token: &Token) {
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        if recent.len() == MOST_RECENT {
            recent.pop_front();
        }
        recent.push_back(token.clone());
    }

    /// The tokens that were acknowledged last.
    pub(crate) fn recent(&self) -> Vec<Token> {
        let recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        recent.iter().cloned().collect()
    }

    /// True if nothing is in flight.
    pub(crate) fn is_idle(&self) -> bool {
        self.book().in_flight.is_empty()
    }

    /// This moment.
    pub(crate) fn mark(&self) -> u64 {
        self.book().tick()
    }

    /// How many rows of this value, of tokens whose fate is known, a look-up that began at `looked`
    /// can have seen that are newer than `horizon`: at least and at most. `None` where that is too
    /// long ago.
    pub(crate) fn stored_since(
        &self,
        value: &str,
        horizon: SnapshotInterval,
        looked: u64,
    ) -> Option<(u32, u32)> {
        let hash = self.hash(value);
        let book = self.book();
        if book.forgotten > horizon.from {
            return None;
        }
        let (mut least, mut most) = (0, 0);
        let mut newest_first = book.stored.iter().rev();
        while let Some(stored) = newest_first.next()
            && stored.known > horizon.from
        {
            if stored.hash == hash {
                most += 1;
                least += u32::from(stored.sent > horizon.to && stored.known < looked);
            }
        }
        Some((least, most))
    }

    fn hash(&self, value: &str) -> u64 {
        self.hasher.hash_one(value)
    }

    fn book(&self) -> MutexGuard<'_, InFlightState> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl InFlightState {
    fn tick(&mut self) -> u64 {
        self.clock += 1;
        self.clock
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn span(sent: &InFlightLog) -> SnapshotInterval {
        let from = sent.mark();
        let to = sent.mark();
        SnapshotInterval { from, to }
    }

    #[test]
    fn equal_values_are_counted_since_a_horizon() {
        let sent = InFlightLog::of(1);
        let first = span(&sent);
        let moments = [0; 3].map(|_| sent.sending("aa"));
        sent.settled("aa", moments[0], true);
        let second = span(&sent);
        sent.settled("aa", moments[1], true);
        let looked = sent.mark();
        assert_eq!(sent.in_flight("aa"), 1);
        assert_eq!(sent.stored_since("aa", first, looked), Some((2, 2)));
        // Sent before the second horizon: the row may be older or newer.
        assert_eq!(sent.stored_since("aa", second, looked), Some((0, 1)));
        sent.settled("aa", moments[2], false);
        assert_eq!(sent.in_flight("aa"), 0);
        assert_eq!(sent.stored_since("aa", second, looked), Some((0, 1)));
    }

    #[test]
    fn what_became_known_during_the_look_up_may_be_seen_or_not() {
        let sent = InFlightLog::of(1);
        let horizon = span(&sent);
        let moment = sent.sending("aa");
        let looked = sent.mark();
        sent.settled("aa", moment, true);
        assert_eq!(sent.stored_since("aa", horizon, looked), Some((0, 1)));
        assert_eq!(sent.stored_since("bb", horizon, looked), Some((0, 0)));
    }

    #[test]
    fn what_is_too_long_ago_is_not_guessed() {
        let sent = InFlightLog::of(1);
        let horizon = span(&sent);
        for _ in 0..=MOST_EACH {
            let moment = sent.sending("aa");
            sent.settled("aa", moment, true);
        }
        let looked = sent.mark();
        assert_eq!(sent.stored_since("aa", horizon, looked), None);
        assert_eq!(sent.book().stored.len(), MOST_EACH);
        // More connections take longer to come round.
        assert_eq!(InFlightLog::of(100).most, 100 * MOST_EACH);
        assert_eq!(InFlightLog::of(10_000).most, MOST);
    }
}
