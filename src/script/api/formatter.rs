//! The script's own wording of the `text` report's lines, kept for the tokens that are written after
//! the script has ended.

use rhai::{Dynamic, Engine, FnPtr, GlobalRuntimeState, NativeCallContext, Position};

use crate::error::escape::escape_line;
use crate::pipeline::token::Outcome;

/// A closure, and what it could see where it was handed to `report`: functions, imports, constants.
pub struct LineFormatter {
    line: FnPtr,
    seen: GlobalRuntimeState,
}

impl LineFormatter {
    /// The wording of `line` in the call that `context` is of.
    pub fn of(context: &NativeCallContext, line: FnPtr) -> Self {
        let mut seen = context.global_runtime_state().clone();
        // Each line has the limits to itself, however deep in calls the script was.
        (seen.num_operations, seen.level) = (0, 0);
        Self { line, seen }
    }

    /// The line of an outcome; `None` where the closure fails.
    pub fn text(&self, engine: &Engine, outcome: &Outcome) -> Option<String> {
        let context = NativeCallContext::new_with_all_fields(
            engine,
            "report",
            None,
            &self.seen,
            Position::NONE,
        );
        let text = self
            .line
            .call_within_context::<Dynamic>(&context, (outcome.clone(),));
        Some(escape_line(&text.ok()?.to_string()).into_owned())
    }
}
