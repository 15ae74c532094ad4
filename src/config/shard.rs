//! Shards: several runs that share one SIZE, written `I/N` with I from 0. The parts of all shards add
//! up to SIZE, and no two differ by more than one.

use std::fmt;

/// One of several runs that share a SIZE.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shard {
    index: u64,
    count: u64,
}

impl Default for Shard {
    /// Returns the only shard, 0/1.
    fn default() -> Self {
        Self { index: 0, count: 1 }
    }
}

impl Shard {
    /// Returns shard `index`, from 0, of `count`, or `None` if it does not exist.
    pub fn new(index: u64, count: u64) -> Option<Self> {
        (index < count).then_some(Self { index, count })
    }

    /// Returns its index, from 0.
    pub fn index(self) -> u64 {
        self.index
    }

    /// Returns true if there are no other shards.
    pub fn is_only(self) -> bool {
        self.count == 1
    }

    /// Returns the number of shards.
    pub fn count(self) -> u64 {
        self.count
    }

    /// Returns this shard's part of `size`. The first shards take one more if `size` does not divide.
    pub fn part(self, size: u64) -> u64 {
        size / self.count + u64::from(self.index < size % self.count)
    }

    /// Returns the sum of the parts of the shards before this one.
    pub fn offset(self, size: u64) -> u64 {
        size / self.count * self.index + self.index.min(size % self.count)
    }
}

impl fmt::Display for Shard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.index, self.count)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::cli::value::ShardArg;

    #[test]
    fn parts_are_contiguous_and_add_up_to_size() {
        for size in [1, 2, 3, 10, 1_000_003, i64::MAX.unsigned_abs()] {
            for count in [1, 2, 3, 7, 64] {
                let mut next = 0;
                for index in 0..count {
                    let shard = Shard::new(index, count).unwrap();
                    assert_eq!(shard.offset(size), next, "{shard} of {size}");
                    next += shard.part(size);
                }
                assert_eq!(next, size);
            }
        }
    }

    #[test]
    fn parts_differ_by_at_most_one() {
        let parts: Vec<u64> = (0..4).map(|i| Shard::new(i, 4).unwrap().part(10)).collect();
        assert_eq!(parts, [3, 3, 2, 2]);
    }

    #[test]
    fn nonexistent_shard_is_rejected() {
        assert_eq!(Shard::new(4, 4), None);
        for text in [
            "4/4", "1/0", "/0", "1", "1/", "-1/4", "a/b", "1/2/3", " 1/2",
        ] {
            assert!(text.parse::<ShardArg>().is_err(), "{text}");
        }
        let expected = ShardArg {
            index: Some(3),
            count: 4,
        };
        assert_eq!("3/4".parse::<ShardArg>().unwrap(), expected);
        assert_eq!("/4".parse::<ShardArg>().unwrap().index, None);
    }
}
