//! Sets of positions of a run, kept as ranges: the tokens of a request have consecutive positions.

use serde::ser::{Serialize, Serializer};

/// The number of ranges that are kept before they are merged for the first time.
const FIRST_MERGE: usize = 4096;

/// A set of positions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PositionSet {
    /// Inclusive ranges in ascending order, which neither overlap nor touch.
    ranges: Vec<(u64, u64)>,
}

impl PositionSet {
    /// Returns the number of positions.
    pub fn len(&self) -> u64 {
        let lengths = self.ranges.iter().map(|(first, last)| last - first + 1);
        lengths.fold(0, u64::saturating_add)
    }

    /// Returns true if it has no position.
    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// Returns true if the set has the position.
    pub fn contains(&self, position: u64) -> bool {
        let after = self.ranges.partition_point(|(first, _)| *first <= position);
        after > 0 && position <= self.ranges[after - 1].1
    }

    /// Adds a position that is higher than all others.
    pub fn push(&mut self, position: u64) {
        match self.ranges.last_mut() {
            Some((_, last)) if *last + 1 == position => *last = position,
            _ => self.ranges.push((position, position)),
        }
    }

    /// Returns the positions in ascending order.
    pub fn iter(&self) -> impl Iterator<Item = u64> {
        self.ranges.iter().flat_map(|&(first, last)| first..=last)
    }

    /// Returns the positions of both sets.
    #[must_use]
    pub fn union(&self, other: &Self) -> Self {
        let mut builder = PositionSetBuilder::default();
        for (first, last) in self.ranges.iter().chain(&other.ranges) {
            builder.add(*first, *last);
        }
        builder.build()
    }

    /// Returns the positions that `other` does not have.
    pub fn difference(&self, other: &Self) -> Self {
        let mut ranges = Vec::new();
        let mut others = other.ranges.iter().copied().peekable();
        for &(first, last) in &self.ranges {
            let mut next = Some(first);
            while let Some(start) = next.filter(|start| *start <= last) {
                while others.next_if(|(_, end)| *end < start).is_some() {}
                match others.peek() {
                    Some(&(begin, end)) if begin <= start => next = end.checked_add(1),
                    Some(&(begin, _)) if begin <= last => {
                        ranges.push((start, begin - 1));
                        next = Some(begin);
                    }
                    _ => {
                        ranges.push((start, last));
                        next = None;
                    }
                }
            }
        }
        Self { ranges }
    }
}

impl Serialize for PositionSet {
    /// Writes an array of numbers, without building it in memory.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.iter())
    }
}

impl FromIterator<u64> for PositionSet {
    fn from_iter<I: IntoIterator<Item = u64>>(positions: I) -> Self {
        let mut builder = PositionSetBuilder::default();
        for position in positions {
            builder.add(position, position);
        }
        builder.build()
    }
}

/// Builds a set from positions in any order, also repeated ones.
#[derive(Debug)]
pub struct PositionSetBuilder {
    ranges: Vec<(u64, u64)>,
    /// The number of ranges at which they are merged.
    next_merge: usize,
}

impl Default for PositionSetBuilder {
    fn default() -> Self {
        Self {
            ranges: Vec::new(),
            next_merge: FIRST_MERGE,
        }
    }
}

impl PositionSetBuilder {
    /// Adds the positions from `first` to `last`; none if `last` is smaller.
    pub fn add(&mut self, first: u64, last: u64) {
        if last < first {
            return;
        }
        if let Some(range) = self.ranges.last_mut()
            && range.0 <= first
            && first <= range.1.saturating_add(1)
        {
            range.1 = range.1.max(last);
            return;
        }
        self.ranges.push((first, last));
        if self.ranges.len() >= self.next_merge {
            self.merge();
            self.next_merge = FIRST_MERGE.max(2 * self.ranges.len());
        }
    }

    /// Sorts the ranges, and merges those that overlap or touch.
    fn merge(&mut self) {
        self.ranges.sort_unstable();
        self.ranges.dedup_by(|next, range| {
            let touches = next.0 <= range.1.saturating_add(1);
            if touches {
                range.1 = range.1.max(next.1);
            }
            touches
        });
    }

    /// Returns the set.
    pub fn build(mut self) -> PositionSet {
        self.merge();
        PositionSet {
            ranges: self.ranges,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn set(positions: &[u64]) -> PositionSet {
        positions.iter().copied().collect()
    }

    #[test]
    fn positions_in_any_order_become_ranges() {
        let set = set(&[5, 3, 4, 9, 3, 1]);
        assert_eq!(set.ranges, [(1, 1), (3, 5), (9, 9)]);
        assert_eq!(set.len(), 5);
        assert_eq!(set.iter().collect::<Vec<_>>(), [1, 3, 4, 5, 9]);
    }

    #[test]
    fn set_has_what_was_pushed() {
        let all = [1, 2, 3, 7, 8, 4_294_967_297];
        let mut set = PositionSet::default();
        assert!(set.is_empty() && !set.contains(0));
        for position in all {
            set.push(position);
        }
        assert_eq!((set.len(), set.ranges.len()), (6, 3));
        for position in (0..12).chain([4_294_967_296, 4_294_967_297, 4_294_967_298]) {
            assert_eq!(
                set.contains(position),
                all.contains(&position),
                "{position}"
            );
        }
    }

    #[test]
    fn ranges_may_reach_the_largest_position() {
        let mut builder = PositionSetBuilder::default();
        builder.add(u64::MAX - 1, u64::MAX);
        builder.add(u64::MAX, u64::MAX);
        builder.add(2, 1);
        let all = builder.build();
        assert_eq!(all.ranges, [(u64::MAX - 1, u64::MAX)]);
        assert!(all.difference(&all).is_empty());
        assert_eq!(all.difference(&set(&[u64::MAX])).len(), 1);
    }

    #[test]
    fn builder_merges_before_it_grows_without_limit() {
        let mut builder = PositionSetBuilder::default();
        // Two writers whose tokens alternate.
        for position in 0..100_000 {
            builder.add(position * 2, position * 2);
            builder.add(1_000_000 + position, 1_000_000 + position);
        }
        for position in 0..100_000 {
            builder.add(position * 2 + 1, position * 2 + 1);
        }
        assert!(
            builder.ranges.len() <= 2 * 100_001,
            "{}",
            builder.ranges.len()
        );
        assert_eq!(
            builder.build().ranges,
            [(0, 199_999), (1_000_000, 1_099_999)]
        );
    }

    #[test]
    fn difference_and_union_equal_those_of_sets() {
        for seed in 0..200 {
            let mut random = fastrand::Rng::with_seed(seed);
            let mut positions = || -> Vec<u64> {
                let count = random.usize(..30);
                (0..count).map(|_| random.u64(..40)).collect()
            };
            let (one, other) = (positions(), positions());
            let difference = set(&one).difference(&set(&other));
            let union = set(&one).union(&set(&other));
            let one: BTreeSet<u64> = one.into_iter().collect();
            let other: BTreeSet<u64> = other.into_iter().collect();
            let expected: Vec<u64> = one.difference(&other).copied().collect();
            assert_eq!(difference.iter().collect::<Vec<_>>(), expected, "{seed}");
            assert_eq!(union.iter().collect::<BTreeSet<u64>>(), &one | &other);
            let mut sorted = difference.ranges.clone();
            sorted.sort_unstable();
            assert_eq!(sorted, difference.ranges);
        }
    }
}
