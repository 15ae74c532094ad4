//! Sorts with a comparison that may throw or be inconsistent.

use rhai::{Array, Dynamic};

use crate::script::native::NativeResult;

/// Sorts by merging. The sort is stable and ends at the first error.
///
/// The sort of Rust's standard library cannot return an error, and may panic on an inconsistent order,
/// which here gives an unspecified order.
pub fn merge_sort(
    mut values: Array,
    comes_first: &mut impl FnMut(&Dynamic, &Dynamic) -> NativeResult<bool>,
) -> NativeResult<Array> {
    if values.len() < 2 {
        return Ok(values);
    }
    let right = values.split_off(values.len() / 2);
    let mut right = merge_sort(right, comes_first)?.into_iter().peekable();
    let mut left = merge_sort(values, comes_first)?.into_iter().peekable();
    let mut merged = Array::with_capacity(left.len() + right.len());
    while let (Some(first), Some(second)) = (left.peek(), right.peek()) {
        let next = if comes_first(first, second)? {
            left.next()
        } else {
            right.next()
        };
        merged.extend(next);
    }
    merged.extend(left);
    merged.extend(right);
    Ok(merged)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn sort(numbers: impl IntoIterator<Item = i64>, divisor: i64) -> Vec<i64> {
        let mut comes_first = |first: &Dynamic, second: &Dynamic| {
            Ok(first.as_int().unwrap() / divisor <= second.as_int().unwrap() / divisor)
        };
        let values = numbers.into_iter().map(Dynamic::from).collect();
        let sorted = merge_sort(values, &mut comes_first).unwrap();
        sorted.iter().map(|value| value.as_int().unwrap()).collect()
    }

    #[test]
    fn sort_is_stable() {
        assert_eq!(sort([], 1), [0_i64; 0]);
        assert_eq!(sort([3, 1, 2, 5, 4], 1), [1, 2, 3, 4, 5]);
        assert_eq!(sort([25, 13, 21, 11, 29, 12], 10), [13, 11, 12, 25, 21, 29]);
        let many: Vec<i64> = (0..1000).map(|n| n * 7919 % 1000).collect();
        let sorted: Vec<i64> = (0..1000).collect();
        assert_eq!(sort(many, 1), sorted);
    }

    #[test]
    fn sort_ends_at_the_first_error() {
        let mut calls = 0;
        let mut comes_first = |_: &Dynamic, _: &Dynamic| {
            calls += 1;
            Err("no order".into())
        };
        let values = (0..100).map(|n: i64| n.into()).collect();
        assert!(merge_sort(values, &mut comes_first).is_err());
        assert_eq!(calls, 1);
    }
}
