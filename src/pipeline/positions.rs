//! A set of positions of tokens, in ascending order. Settled tokens are mostly neighbours, so ranges keep a
//! set of millions small.

/// A set of positions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Positions {
    /// The first and the last position of each range, in ascending order, with gaps between the ranges.
    ranges: Vec<(u64, u64)>,
}

impl Positions {
    /// Adds a position that is higher than all others.
    pub fn push(&mut self, position: u64) {
        match self.ranges.last_mut() {
            Some((_, last)) if *last + 1 == position => *last = position,
            _ => self.ranges.push((position, position)),
        }
    }

    /// Returns true if the set has the position.
    pub fn contains(&self, position: u64) -> bool {
        let after = self.ranges.partition_point(|(first, _)| *first <= position);
        after > 0 && position <= self.ranges[after - 1].1
    }

    /// Returns the number of positions.
    pub fn len(&self) -> u64 {
        self.ranges
            .iter()
            .map(|(first, last)| last - first + 1)
            .sum()
    }

    /// Returns true if the set is empty.
    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// Returns the ranges: the first and the last position of each.
    pub fn ranges(&self) -> &[(u64, u64)] {
        &self.ranges
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn set_has_what_was_added() {
        let all = [1, 2, 3, 7, 8, 4_294_967_297];
        let mut set = Positions::default();
        assert!(set.is_empty() && !set.contains(0));
        for position in all {
            set.push(position);
        }
        assert_eq!((set.len(), set.ranges().len()), (6, 3));
        for position in (0..12).chain([4_294_967_296, 4_294_967_297, 4_294_967_298]) {
            assert_eq!(
                set.contains(position),
                all.contains(&position),
                "{position}"
            );
        }
    }
}
