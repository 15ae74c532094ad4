//! Records which tokens are in flight and which were stored recently, across all connections.
//!
//! A look-up needs this to know whether another connection of the run wrote a row. Values are kept
//! as hashes and stored tokens for a limited time, which bounds memory. A logical clock orders the
//! events.

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasher, RandomState};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::pipeline::token::Token;

/// The number of stored tokens remembered per connection.
///
/// A connection whose horizon is older than all of them cannot resolve its tokens. Each connection
/// advances its horizon several times as often.
const MAX_PER_CONNECTION: usize = 2048;
/// The limit for all connections together: 24 MiB.
const MAX_TOTAL: usize = 1 << 20;

/// The number of recently stored tokens that every look-up checks.
const MAX_RECENT: usize = 256;

/// Shared by the connections of a store.
pub(super) struct InFlightLog {
    hasher: RandomState,
    state: Mutex<InFlightState>,
    /// The number of stored tokens that are remembered.
    capacity: usize,
    /// The tokens stored last over all connections: if the table lacks one, rows are being removed.
    recent: Mutex<VecDeque<Token>>,
}

#[derive(Default)]
struct InFlightState {
    clock: u64,
    in_flight: HashMap<u64, u32>,
    stored: VecDeque<RecentlyStored>,
    /// When the newest forgotten token was settled.
    forgotten_until: u64,
}

struct RecentlyStored {
    hash: u64,
    sent_tick: u64,
    settled_tick: u64,
}

/// The ticks between which the server took a snapshot.
#[derive(Clone, Copy, Debug)]
pub(super) struct SnapshotInterval {
    /// A transaction that ended before this tick is older.
    pub(super) from: u64,
    /// A transaction sent after this tick is newer.
    pub(super) to: u64,
}

impl InFlightLog {
    /// Creates the log of a store with at most this many connections.
    pub(super) fn new(connections: usize) -> Self {
        Self {
            hasher: RandomState::default(),
            state: Mutex::default(),
            recent: Mutex::default(),
            capacity: connections
                .saturating_mul(MAX_PER_CONNECTION)
                .clamp(MAX_PER_CONNECTION, MAX_TOTAL),
        }
    }

    /// Records that a token is sent; returns the tick.
    pub(super) fn record_sent(&self, value: &str) -> u64 {
        let hash = self.hash(value);
        let mut state = self.state();
        *state.in_flight.entry(hash).or_default() += 1;
        state.tick()
    }

    /// Records the result of the token sent at this tick; `stored` is false if it stays unknown.
    pub(super) fn record_settled(&self, value: &str, sent_tick: u64, stored: bool) {
        let hash = self.hash(value);
        let mut state = self.state();
        if let Some(count) = state.in_flight.get_mut(&hash) {
            *count -= 1;
            if *count == 0 {
                state.in_flight.remove(&hash);
            }
        }
        let settled_tick = state.tick();
        if stored {
            if state.stored.len() == self.capacity
                && let Some(first) = state.stored.pop_front()
            {
                state.forgotten_until = first.settled_tick;
            }
            state.stored.push_back(RecentlyStored {
                hash,
                sent_tick,
                settled_tick,
            });
        }
    }

    /// Returns how many tokens of this value are in flight.
    pub(super) fn count_in_flight(&self, value: &str) -> u32 {
        let hash = self.hash(value);
        self.state().in_flight.get(&hash).copied().unwrap_or(0)
    }

    /// Records a token that the server acknowledged.
    pub(super) fn record_acknowledged(&self, token: &Token) {
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        if recent.len() == MAX_RECENT {
            recent.pop_front();
        }
        recent.push_back(token.clone());
    }

    /// Returns the tokens that were acknowledged last.
    pub(super) fn recent(&self) -> Vec<Token> {
        let recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        recent.iter().cloned().collect()
    }

    /// Returns true if nothing is in flight.
    pub(super) fn is_idle(&self) -> bool {
        self.state().in_flight.is_empty()
    }

    /// Advances the clock; returns the new tick.
    pub(super) fn tick(&self) -> u64 {
        self.state().tick()
    }

    /// Returns how many rows newer than `horizon` settled tokens of this value can have added to a
    /// look-up that began at `lookup_tick`: minimum and maximum.
    ///
    /// Returns `None` if the log no longer reaches back to `horizon`.
    pub(super) fn stored_since(
        &self,
        value: &str,
        horizon: SnapshotInterval,
        lookup_tick: u64,
    ) -> Option<(u32, u32)> {
        let hash = self.hash(value);
        let state = self.state();
        if state.forgotten_until > horizon.from {
            return None;
        }
        let (mut least, mut most) = (0, 0);
        let mut newest_first = state.stored.iter().rev();
        while let Some(stored) = newest_first.next()
            && stored.settled_tick > horizon.from
        {
            if stored.hash == hash {
                most += 1;
                least +=
                    u32::from(stored.sent_tick > horizon.to && stored.settled_tick < lookup_tick);
            }
        }
        Some((least, most))
    }

    fn hash(&self, value: &str) -> u64 {
        self.hasher.hash_one(value)
    }

    fn state(&self) -> MutexGuard<'_, InFlightState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
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

    fn interval(log: &InFlightLog) -> SnapshotInterval {
        let from = log.tick();
        let to = log.tick();
        SnapshotInterval { from, to }
    }

    #[test]
    fn equal_values_are_counted_since_horizon() {
        let log = InFlightLog::new(1);
        let first = interval(&log);
        let ticks = [0; 3].map(|_| log.record_sent("aa"));
        log.record_settled("aa", ticks[0], true);
        let second = interval(&log);
        log.record_settled("aa", ticks[1], true);
        let lookup_tick = log.tick();
        assert_eq!(log.count_in_flight("aa"), 1);
        assert_eq!(log.stored_since("aa", first, lookup_tick), Some((2, 2)));
        // Sent before the second horizon: the row may be older or newer.
        assert_eq!(log.stored_since("aa", second, lookup_tick), Some((0, 1)));
        log.record_settled("aa", ticks[2], false);
        assert_eq!(log.count_in_flight("aa"), 0);
        assert_eq!(log.stored_since("aa", second, lookup_tick), Some((0, 1)));
    }

    #[test]
    fn token_settled_during_look_up_may_be_visible_or_not() {
        let log = InFlightLog::new(1);
        let horizon = interval(&log);
        let tick = log.record_sent("aa");
        let lookup_tick = log.tick();
        log.record_settled("aa", tick, true);
        assert_eq!(log.stored_since("aa", horizon, lookup_tick), Some((0, 1)));
        assert_eq!(log.stored_since("bb", horizon, lookup_tick), Some((0, 0)));
    }

    #[test]
    fn count_is_refused_when_horizon_is_older_than_log() {
        let log = InFlightLog::new(1);
        let horizon = interval(&log);
        for _ in 0..=MAX_PER_CONNECTION {
            let tick = log.record_sent("aa");
            log.record_settled("aa", tick, true);
        }
        let lookup_tick = log.tick();
        assert_eq!(log.stored_since("aa", horizon, lookup_tick), None);
        assert_eq!(log.state().stored.len(), MAX_PER_CONNECTION);
        // More connections need a longer log.
        assert_eq!(InFlightLog::new(100).capacity, 100 * MAX_PER_CONNECTION);
        assert_eq!(InFlightLog::new(10_000).capacity, MAX_TOTAL);
    }
}
