//! How deeply values lie in each other. What the engine does to a value it does to those within it,
//! one stack frame deeper each time; a chain of a million would overflow the stack.

use std::collections::HashMap;

use rhai::{Dynamic, FnPtr};

/// Counts the values, if none lies deeper than `most` in others.
pub fn measure<'a>(values: impl IntoIterator<Item = &'a Dynamic>, most: usize) -> Option<u32> {
    let mut measure = DepthMeter {
        shared: HashMap::new(),
        most,
        count: 0,
    };
    for value in values {
        measure.depth(value, 0)?;
    }
    Some(measure.count)
}

struct DepthMeter {
    /// The depth of each value that closures share, by its address; 0 while it is being measured,
    /// for it may hold itself.
    shared: HashMap<*const Dynamic, usize>,
    most: usize,
    count: u32,
}

impl DepthMeter {
    /// How deep the values within `value` go, which lies `above` others itself.
    fn depth(&mut self, value: &Dynamic, above: usize) -> Option<usize> {
        self.count = self.count.saturating_add(1);
        if above > self.most {
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
        // What is being changed right now is measured next time.
        let Some(inner) = value.read_lock::<Dynamic>() else {
            return Some(0);
        };
        let address = std::ptr::from_ref(&*inner);
        if let Some(&depth) = self.shared.get(&address) {
            return (above + depth <= self.most).then_some(depth);
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

    fn made_by(script: &str) -> Dynamic {
        rhai::Engine::new().eval(script).unwrap()
    }

    #[test]
    fn the_deepest_value_counts() {
        for script in [
            "let a = 1; for i in 0..10 { a = [a]; } a",
            "let a = 1; for i in 0..10 { a = #{x: 0, a: a}; } a",
            "let f = || 1; for i in 0..10 { let g = f; f = || g.call(); } f",
            "let f = Fn(\"x\"); for i in 0..10 { f = f.curry(f); } f",
        ] {
            let value = made_by(script);
            assert!(measure([&value], 11).is_some(), "{script}");
            assert!(measure([&value], 9).is_none(), "{script}");
        }
    }

    #[test]
    fn a_chain_is_measured_whole_though_its_links_are_at_hand_too() {
        let chain = made_by(
            "let all = []; let f = || 1; for i in 0..50 { let g = f; f = || g.call(); all.push(f); } all",
        );
        assert!(measure([&chain], 60).is_some());
        assert!(measure([&chain], 40).is_none());
    }

    #[test]
    fn a_closure_that_holds_itself_ends() {
        let value = made_by("let f = (); f = |n| if n > 0 { f.call(n - 1) }; [f, f]");
        assert!(measure([&value], 10).is_some());
    }

    #[test]
    fn what_two_closures_share_is_measured_once() {
        let value = made_by(
            "let f = || 1; for i in 0..40 { let g = f; let h = f; f = || g.call() + h.call(); } f",
        );
        assert!(measure([&value], 100).unwrap() < 1000);
    }
}
