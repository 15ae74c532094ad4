//! Keeps the script's closure for `text` lines: some outcomes are written after the script has ended.

use rhai::{Dynamic, Engine, FnPtr, GlobalRuntimeState, NativeCallContext, Position};

use crate::error::escape::escape_line;
use crate::pipeline::token::Outcome;

/// A line closure with the engine state at its `report` call: functions, imports, constants.
pub struct LineFormatter {
    line: FnPtr,
    state: GlobalRuntimeState,
}

impl LineFormatter {
    /// Captures the closure `line` with the state of the calling script.
    pub fn of(context: &NativeCallContext, line: FnPtr) -> Self {
        let mut state = context.global_runtime_state().clone();
        // The limits apply to each line, not to the script and the line together.
        (state.num_operations, state.level) = (0, 0);
        Self { line, state }
    }

    /// Returns the line of an outcome; `None` if the closure fails.
    pub fn format(&self, engine: &Engine, outcome: &Outcome) -> Option<String> {
        let context = NativeCallContext::new_with_all_fields(
            engine,
            "report",
            None,
            &self.state,
            Position::NONE,
        );
        let text = self
            .line
            .call_within_context::<Dynamic>(&context, (outcome.clone(),));
        Some(escape_line(&text.ok()?.to_string()).into_owned())
    }
}
