//! The limits of a script. A script that exceeds a limit, or whose run is stopped, is terminated.
//!
//! No script can catch the termination or crash the process: the kernel's count limits memory, and a
//! nesting limit keeps recursion into values within the stack.

pub(crate) mod depth;
pub(crate) mod overrides;
pub mod resolver;
pub(crate) mod sort;

use std::sync::atomic::{AtomicI64, AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};

use rhai::{Dynamic, Engine, EvalAltResult, Position};

use crate::pipeline::token::largest_page;
use crate::runtime::platform::{ResidentMemory, coarse_nanos};
use crate::runtime::shutdown::Shutdown;
use crate::script::caught::CatchNames;

/// The maximum depth of nested function calls.
pub const MAX_CALL_LEVELS: usize = 64;
/// The maximum depth of expressions: in the script, and in a function.
pub const MAX_EXPRESSION_DEPTHS: (usize, usize) = (64, 32);
/// The maximum size of a string in bytes, and of all strings in one value together.
pub const MAX_STRING_SIZE: usize = 1024 * 1024;
/// The maximum number of values in an array with its nested arrays, and of bytes in a blob.
///
/// The engine counts them at each call, so larger arrays would be too slow.
pub const MAX_ARRAY_SIZE: usize = 100_000;
/// The maximum number of entries in a map with its nested maps.
pub const MAX_MAP_SIZE: usize = 100_000;
/// The maximum number of functions in a script or module, closures included.
pub const MAX_FUNCTIONS: usize = 256;
/// The maximum number of imports in a run.
pub const MAX_MODULES: usize = 32;
/// The maximum number of variables in scope.
pub const MAX_VARIABLES: usize = 1000;
/// The maximum depth of nested values.
pub const MAX_NESTING: usize = 1000;

/// The number of pages, each as large as the largest, that do not count as script memory.
///
/// They are in transit between source, script and database.
const PAGES_IN_TRANSIT: u64 = 8;

/// The number of variable lookups between two measurements: the minimum, and the maximum for large
/// values.
const LOOKUPS_BETWEEN_MEASUREMENTS: (u32, u32) = (1024, 16 * 1024);

/// The operation limit of the line closure per line, after the script has ended.
const LINE_CLOSURE_OPERATIONS: u64 = 1_000_000;

/// Sets the limits that the engine enforces.
pub fn apply(engine: &mut Engine) {
    engine
        .set_max_call_levels(MAX_CALL_LEVELS)
        .set_max_expr_depths(MAX_EXPRESSION_DEPTHS.0, MAX_EXPRESSION_DEPTHS.1)
        .set_max_string_size(MAX_STRING_SIZE)
        .set_max_array_size(MAX_ARRAY_SIZE)
        .set_max_map_size(MAX_MAP_SIZE)
        .set_max_functions(MAX_FUNCTIONS)
        .set_max_modules(MAX_MODULES)
        .set_max_variables(MAX_VARIABLES);
}

/// Why a script was terminated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopReason {
    /// The run is being stopped.
    Stopped,
    /// The process has grown too much.
    Memory,
    /// Values are nested too deeply.
    Nesting,
    /// The line closure exceeded its limits after the script had ended.
    LineClosure,
}

impl StopReason {
    /// Returns the error that terminates the script.
    pub fn error(self) -> Box<EvalAltResult> {
        EvalAltResult::ErrorTerminated(Dynamic::from(self), Position::NONE).into()
    }

    /// Returns the reason if the error terminated the script.
    pub fn of(error: &EvalAltResult) -> Option<Self> {
        match error {
            EvalAltResult::ErrorTerminated(token, _) => token.clone().try_cast(),
            _ => None,
        }
    }
}

/// Measures how much the process has grown since the script started.
#[derive(Debug)]
pub struct MemoryMeter {
    /// The kernel's count; `None` if it cannot be read.
    process: Option<ResidentMemory>,
    at_start: u64,
    max_growth: u64,
}

impl MemoryMeter {
    /// Starts to measure. `max_growth` bytes are allowed, besides the pages in transit.
    pub fn start(max_growth: u64) -> Self {
        let mut memory = Self {
            process: ResidentMemory::open(),
            at_start: 0,
            max_growth,
        };
        memory.at_start = memory.resident().unwrap_or_default();
        if memory.at_start == 0 {
            tracing::warn!("cannot read /proc/self/statm: the memory of the script is not limited");
        }
        memory
    }

    /// Returns true if the process has grown too much.
    pub fn is_exceeded(&self) -> bool {
        let in_transit = PAGES_IN_TRANSIT * largest_page() as u64;
        let allowed = self.at_start + self.max_growth + in_transit;
        self.resident().is_some_and(|resident| resident > allowed)
    }

    /// Returns the resident memory of the process in bytes.
    fn resident(&self) -> Option<u64> {
        self.process.as_ref()?.bytes()
    }
}

/// Terminates the script when the run is stopped or the script exceeds a limit.
///
/// Errors in the variables `catch_names` get their `kind` when the script reads them.
pub fn watch(
    engine: &mut Engine,
    shutdown: Shutdown,
    memory: Arc<MemoryMeter>,
    catch_names: Arc<CatchNames>,
) {
    let ticks = CoarseClock::default();
    // Once terminated, every further operation fails: some functions of the engine discard errors.
    let stopped: Arc<OnceLock<StopReason>> = Arc::default();
    watch_variables(engine, Arc::clone(&stopped), catch_names);
    engine.on_progress(move |_| {
        let stop = if let Some(stop) = stopped.get() {
            *stop
        } else if !ticks.has_ticked() {
            return None;
        } else if shutdown.stopping().is_cancelled() {
            StopReason::Stopped
        } else if memory.is_exceeded() {
            StopReason::Memory
        } else {
            return None;
        };
        Some(Dynamic::from(*stopped.get_or_init(|| stop)))
    });
}

/// Limits the line closure after the script has ended: operations, memory and `has_timed_out`.
pub fn watch_line_closure(
    engine: &mut Engine,
    memory: Arc<MemoryMeter>,
    has_timed_out: impl Fn() -> bool + Send + Sync + 'static,
) {
    let ticks = CoarseClock::default();
    engine.on_progress(move |count| {
        let is_exceeded = count > LINE_CLOSURE_OPERATIONS
            || ticks.has_ticked() && (has_timed_out() || memory.is_exceeded());
        is_exceeded.then(|| Dynamic::from(StopReason::LineClosure))
    });
}

/// A coarse clock that is cheap to read and ticks every few milliseconds.
///
/// Expensive checks run once per tick.
#[derive(Default)]
struct CoarseClock(AtomicI64);

impl CoarseClock {
    /// Returns true if the clock has ticked since the last call.
    fn has_ticked(&self) -> bool {
        let now = coarse_nanos();
        // A script has one thread.
        let ticked = now != self.0.load(Ordering::Relaxed);
        if ticked {
            self.0.store(now, Ordering::Relaxed);
        }
        ticked
    }
}

/// Measures the nesting of all variables after a number of variable lookups, and completes the
/// errors that a script reads.
///
/// Each nesting step needs a lookup, so values cannot become much deeper in between.
fn watch_variables(
    engine: &mut Engine,
    stopped: Arc<OnceLock<StopReason>>,
    catch_names: Arc<CatchNames>,
) {
    let left = AtomicU32::new(LOOKUPS_BETWEEN_MEASUREMENTS.0);
    #[allow(
        deprecated,
        reason = "the engine marks this function as unstable, not as obsolete"
    )]
    engine.on_var(move |name, _, mut context| {
        catch_names.complete(name, context.scope_mut());
        let lookups = left.load(Ordering::Relaxed);
        if lookups > 0 {
            left.store(lookups - 1, Ordering::Relaxed);
            return Ok(None);
        }
        let values = context.scope().iter_raw().map(|(_, _, value)| value);
        let measured = depth::measure(values.chain(context.this_ptr()), MAX_NESTING);
        let Some(count) = measured else {
            return Err(stopped.get_or_init(|| StopReason::Nesting).error());
        };
        left.store(
            count.clamp(
                LOOKUPS_BETWEEN_MEASUREMENTS.0,
                LOOKUPS_BETWEEN_MEASUREMENTS.1,
            ),
            Ordering::Relaxed,
        );
        Ok(None)
    });
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_exceeded_when_process_has_grown() {
        let memory = MemoryMeter::start(8 * 1024 * 1024);
        assert!(!memory.is_exceeded());
        let grown = vec![1_u8; 64 * 1024 * 1024];
        assert!(memory.is_exceeded());
        assert_eq!(grown[grown.len() / 2], 1);
    }

    #[test]
    fn stop_reason_is_found_in_its_error() {
        for stop in [StopReason::Stopped, StopReason::Memory, StopReason::Nesting] {
            assert_eq!(StopReason::of(&stop.error()), Some(stop));
        }
        assert_eq!(StopReason::of(&"other".into()), None);
    }
}
