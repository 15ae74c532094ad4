//! What this run has in flight and what was acknowledged lately, by value: whoever finds a row in
//! the table must know whether another connection of this run wrote it.
//!
//! Values are kept as hashes, and acknowledgements only as far back as some connection's horizon,
//! so that memory stays flat.

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasher, RandomState};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// So many acknowledgements are remembered; a connection whose horizon is older cannot resolve its
/// doubts. Each connection moves its horizon long before.
const MOST: usize = 65_536;

/// Shared by the connections of a store.
#[derive(Default)]
pub(crate) struct Sent {
    hasher: RandomState,
    book: Mutex<Book>,
}

#[derive(Default)]
struct Book {
    in_flight: HashMap<u64, u32>,
    acknowledged: VecDeque<u64>,
    /// The number of the first acknowledgement that is remembered.
    first: u64,
}

impl Sent {
    /// A token is being sent.
    pub(crate) fn sending(&self, value: &str) {
        let hash = self.hash(value);
        *self.book().in_flight.entry(hash).or_default() += 1;
    }

    /// A token's fate is known, or will never be.
    pub(crate) fn landed(&self, value: &str, stored: bool) {
        let hash = self.hash(value);
        let mut book = self.book();
        if let Some(count) = book.in_flight.get_mut(&hash) {
            *count -= 1;
            if *count == 0 {
                book.in_flight.remove(&hash);
            }
        }
        if stored {
            if book.acknowledged.len() == MOST {
                book.acknowledged.pop_front();
                book.first += 1;
            }
            book.acknowledged.push_back(hash);
        }
    }

    /// How many tokens of this value are in flight.
    pub(crate) fn in_flight(&self, value: &str) -> u32 {
        let hash = self.hash(value);
        self.book().in_flight.get(&hash).copied().unwrap_or(0)
    }

    /// The number of the next acknowledgement.
    pub(crate) fn mark(&self) -> u64 {
        let book = self.book();
        book.first + book.acknowledged.len() as u64
    }

    /// How many tokens of this value were acknowledged since `mark`; `None` where that is too long
    /// ago.
    pub(crate) fn acknowledged(&self, value: &str, mark: u64) -> Option<u32> {
        let hash = self.hash(value);
        let book = self.book();
        let skipped = usize::try_from(mark.checked_sub(book.first)?).ok()?;
        let found = book.acknowledged.iter().skip(skipped);
        u32::try_from(found.filter(|other| **other == hash).count()).ok()
    }

    fn hash(&self, value: &str) -> u64 {
        self.hasher.hash_one(value)
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_values_are_counted_since_a_mark() {
        let sent = Sent::default();
        for _ in 0..3 {
            sent.sending("aa");
        }
        sent.landed("aa", true);
        let mark = sent.mark();
        sent.landed("aa", true);
        assert_eq!(sent.in_flight("aa"), 1);
        assert_eq!(sent.acknowledged("aa", 0), Some(2));
        assert_eq!(sent.acknowledged("aa", mark), Some(1));
        sent.landed("aa", false);
        assert_eq!(sent.in_flight("aa"), 0);
        assert_eq!(sent.acknowledged("aa", mark), Some(1));
    }

    #[test]
    fn what_is_too_long_ago_is_not_guessed() {
        let sent = Sent::default();
        for _ in 0..=MOST {
            sent.sending("aa");
            sent.landed("aa", true);
        }
        assert_eq!(sent.acknowledged("aa", 0), None);
        assert_eq!(sent.book().acknowledged.len(), MOST);
    }
}
