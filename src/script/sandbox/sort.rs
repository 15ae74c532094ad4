//! Sorts with a script's comparison, which may throw, be stopped or be inconsistent.
//!
//! The first error ends the sort. An inconsistent comparison gives an unspecified order.

use rhai::{Array, Dynamic, FnPtr, NativeCallContext};

use crate::error::{Error, ErrorKind};
use crate::script::native::{NativeResult, thrown};

/// Returns the values in the order of `comparer`; the sort is stable.
///
/// A negative number or `true` means that the first argument comes first.
pub fn sorted(
    context: &NativeCallContext,
    values: &Array,
    comparer: &FnPtr,
) -> NativeResult<Array> {
    let mut comes_first = |first: &Dynamic, second: &Dynamic| {
        let result = call(context, comparer, first, second)?;
        if let Ok(is_first) = result.as_bool() {
            return Ok(is_first);
        }
        let order = result.as_int().map_err(|_| invalid_comparer())?;
        Ok(order <= 0)
    };
    merge_sort(values.clone(), &mut comes_first)
}

/// Returns the values without those that `comparer` finds equal to the one before.
pub fn deduplicated(
    context: &NativeCallContext,
    values: &Array,
    comparer: &FnPtr,
) -> NativeResult<Array> {
    let mut kept = Array::new();
    for value in values {
        let is_equal = match kept.last() {
            Some(last) => call(context, comparer, last, value)?.as_bool(),
            None => Ok(false),
        };
        if !is_equal.map_err(|_| invalid_comparer())? {
            kept.push(value.clone());
        }
    }
    Ok(kept)
}

fn call(
    context: &NativeCallContext,
    comparer: &FnPtr,
    first: &Dynamic,
    second: &Dynamic,
) -> NativeResult<Dynamic> {
    comparer.call_within_context(context, (first.clone(), second.clone()))
}

fn invalid_comparer() -> Box<rhai::EvalAltResult> {
    let expected = "a closure that returns a whole number or a bool";
    let kind = ErrorKind::InvalidArgument {
        argument: "comparer".to_owned(),
        expected: expected.to_owned(),
    };
    thrown(Error::of(kind, format!("`comparer` must be {expected}")))
}

/// Sorts by merging.
///
/// The sort of Rust's standard library cannot return an error and may panic on an inconsistent order.
fn merge_sort(
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
