//! Sorting by a script's own comparison, which may throw, be stopped, or contradict itself: the
//! first error ends it, and an order that makes no sense sorts somehow.

use rhai::{Array, Dynamic, FnPtr, NativeCallContext};

use crate::error::{ErrorKind, Fault};
use crate::script::native::{Native, thrown};

/// The values in the order that `comparer` gives them; equal ones keep theirs. Below 0 or `true`
/// means that the first argument comes first.
pub fn sorted(context: &NativeCallContext, values: &Array, comparer: &FnPtr) -> Native<Array> {
    let mut comes_first = |first: &Dynamic, second: &Dynamic| {
        let verdict = call(context, comparer, first, second)?;
        if let Ok(is_first) = verdict.as_bool() {
            return Ok(is_first);
        }
        let order = verdict.as_int().map_err(|_| not_a_verdict())?;
        Ok(order <= 0)
    };
    merge_sort(values.clone(), &mut comes_first)
}

/// The values without those that `comparer` calls equal to the one before.
pub fn deduplicated(
    context: &NativeCallContext,
    values: &Array,
    comparer: &FnPtr,
) -> Native<Array> {
    let mut kept = Array::new();
    for value in values {
        let is_equal = match kept.last() {
            Some(last) => call(context, comparer, last, value)?.as_bool(),
            None => Ok(false),
        };
        if !is_equal.map_err(|_| not_a_verdict())? {
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
) -> Native<Dynamic> {
    comparer.call_within_context(context, (first.clone(), second.clone()))
}

fn not_a_verdict() -> Box<rhai::EvalAltResult> {
    let expected = "a closure that gives a whole number or a bool";
    let kind = ErrorKind::InvalidArgument {
        argument: "comparer".to_owned(),
        expected: expected.to_owned(),
    };
    thrown(Fault::new(kind, format!("`comparer` must be {expected}")))
}

/// The standard library's sort must not be left by an error, and may panic where the order
/// contradicts itself.
fn merge_sort(
    mut values: Array,
    comes_first: &mut impl FnMut(&Dynamic, &Dynamic) -> Native<bool>,
) -> Native<Array> {
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
    fn values_are_sorted_and_equal_ones_keep_their_order() {
        assert_eq!(sort([], 1), [0_i64; 0]);
        assert_eq!(sort([3, 1, 2, 5, 4], 1), [1, 2, 3, 4, 5]);
        assert_eq!(sort([25, 13, 21, 11, 29, 12], 10), [13, 11, 12, 25, 21, 29]);
        let many: Vec<i64> = (0..1000).map(|n| n * 7919 % 1000).collect();
        let sorted: Vec<i64> = (0..1000).collect();
        assert_eq!(sort(many, 1), sorted);
    }

    #[test]
    fn the_first_error_ends_it() {
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
