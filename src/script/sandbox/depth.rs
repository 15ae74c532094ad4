//! Measures how deeply values are nested.
//!
//! The engine recurses into nested values, so a chain of a million would overflow the stack.

use std::collections::HashMap;

use rhai::{Dynamic, FnPtr};

/// Counts the values; returns `None` if one is nested more than `max_depth` levels deep.
pub fn measure<'a>(values: impl IntoIterator<Item = &'a Dynamic>, max_depth: usize) -> Option<u32> {
    let mut measure = DepthMeter {
        shared: HashMap::new(),
        max_depth,
        count: 0,
    };
    for value in values {
        measure.depth(value, 0)?;
    }
    Some(measure.count)
}

struct DepthMeter {
    /// The depth of each shared value by its address.
    ///
    /// It is 0 while the value is being measured, because a value can contain itself.
    shared: HashMap<*const Dynamic, usize>,
    max_depth: usize,
    count: u32,
}

impl DepthMeter {
    /// Returns the depth of `value`, which is nested `above` levels deep.
    fn depth(&mut self, value: &Dynamic, above: usize) -> Option<usize> {
        self.count = self.count.saturating_add(1);
        if above > self.max_depth {
            return None;
        }
        if value.is_shared() {
            self.shared_depth(value, above)
        } else if value.is_array() {
            let array = value.as_array_ref().ok();
            array.map_or(Some(0), |array| self.deepest(array.iter(), above))
        } else if value.is_map() {
            let map = value.as_map_ref().ok();
            map.map_or(Some(0), |map| self.deepest(map.values(), above))
        } else if value.is_fnptr() {
            let closure = value.read_lock::<FnPtr>();
            closure.map_or(Some(0), |closure| self.deepest(closure.iter_curry(), above))
        } else {
            Some(0)
        }
    }

    fn deepest<'a>(
        &mut self,
        values: impl Iterator<Item = &'a Dynamic>,
        above: usize,
    ) -> Option<usize> {
        let mut deepest = 0;
        for value in values {
            deepest = deepest.max(1 + self.depth(value, above + 1)?);
        }
        Some(deepest)
    }

    fn shared_depth(&mut self, value: &Dynamic, above: usize) -> Option<usize> {
        // A value that is being changed is measured the next time.
        let Some(inner) = value.read_lock::<Dynamic>() else {
            return Some(0);
        };
        let address = std::ptr::from_ref(&*inner);
        if let Some(&depth) = self.shared.get(&address) {
            return (above + depth <= self.max_depth).then_some(depth);
        }
        self.shared.insert(address, 0);
        let depth = self.depth(&inner, above)?;
        self.shared.insert(address, depth);
        Some(depth)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn eval(script: &str) -> Dynamic {
        rhai::Engine::new().eval(script).unwrap()
    }

    #[test]
    fn measure_fails_when_one_value_is_too_deep() {
        for script in [
            "let a = 1; for i in 0..10 { a = [a]; } a",
            "let a = 1; for i in 0..10 { a = #{x: 0, a: a}; } a",
            "let f = || 1; for i in 0..10 { let g = f; f = || g.call(); } f",
            "let f = Fn(\"x\"); for i in 0..10 { f = f.curry(f); } f",
        ] {
            let value = eval(script);
            assert!(measure([&value], 11).is_some(), "{script}");
            assert!(measure([&value], 9).is_none(), "{script}");
        }
    }

    #[test]
    fn shared_chain_is_measured_to_its_full_depth() {
        let chain = eval(
            "let all = []; let f = || 1; for i in 0..50 { let g = f; f = || g.call(); all.push(f); } all",
        );
        assert!(measure([&chain], 60).is_some());
        assert!(measure([&chain], 40).is_none());
    }

    #[test]
    fn measure_ends_when_closure_contains_itself() {
        let value = eval("let f = (); f = |n| if n > 0 { f.call(n - 1) }; [f, f]");
        assert!(measure([&value], 10).is_some());
    }

    #[test]
    fn shared_values_are_measured_once() {
        let value = eval(
            "let f = || 1; for i in 0..40 { let g = f; let h = f; f = || g.call() + h.call(); } f",
        );
        assert!(measure([&value], 100).unwrap() < 1000);
    }
}
