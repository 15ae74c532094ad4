//! The limits of a script, and the watch that ends one which passes them or whose run is being
//! stopped. No script can catch that, and none can bring the process down: memory is measured as
//! the kernel counts it, and values cannot lie in each other so deeply that dropping them
//! overflows the stack.

pub(crate) mod depth;
pub(crate) mod overrides;
pub mod resolver;
pub(crate) mod sort;

use crate::runtime::platform::{ResidentMemory, coarse_nanos};
use std::sync::atomic::{AtomicI64, AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};

use rhai::{Dynamic, Engine, EvalAltResult, Position};

use crate::pipeline::token::largest_page;
use crate::runtime::shutdown::Shutdown;

/// How deeply functions may call each other.
pub const CALL_LEVELS: usize = 64;
/// How deeply expressions may be nested: in the script, and in a function of it.
pub const EXPRESSION_DEPTHS: (usize, usize) = (64, 32);
/// The bytes of a string, and of all strings in one value together.
pub const STRING: usize = 1024 * 1024;
/// The values in an array, those of arrays within it included; the bytes of a blob. The engine
/// counts them anew at each call, so that larger ones would be too slow to be of use.
pub const ARRAY: usize = 100_000;
/// The entries of a map, those of maps within it included.
pub const MAP: usize = 100_000;
/// The functions of a script or module, closures included.
pub const FUNCTIONS: usize = 256;
/// The modules of a run.
pub const MODULES: usize = 32;
/// The variables at a time.
pub const VARIABLES: usize = 1000;
/// How deeply values may lie in each other.
pub const NESTING: usize = 1000;

/// So many pages like the largest one may be under way between source, script and database.
const PAGES_UNDER_WAY: u64 = 8;

/// After so many looks at a variable all of them are measured; after at most so many where they are
/// large.
const MEASURE_AFTER: (u32, u32) = (1024, 16 * 1024);

/// So many operations may wording one line take after the script ended.
const LAST_OPERATIONS: u64 = 1_000_000;

/// Sets what the engine itself watches over.
pub fn apply(engine: &mut Engine) {
    engine
        .set_max_call_levels(CALL_LEVELS)
        .set_max_expr_depths(EXPRESSION_DEPTHS.0, EXPRESSION_DEPTHS.1)
        .set_max_string_size(STRING)
        .set_max_array_size(ARRAY)
        .set_max_map_size(MAP)
        .set_max_functions(FUNCTIONS)
        .set_max_modules(MODULES)
        .set_max_variables(VARIABLES);
}

/// Why a script was ended from within.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopReason {
    /// The run is being stopped.
    Asked,
    /// The process has grown too much.
    Memory,
    /// Values lie in each other too deeply.
    Nesting,
    /// Wording a line took too long after the script had ended.
    LastWords,
}

impl StopReason {
    /// The error that ends the script.
    pub fn error(self) -> Box<EvalAltResult> {
        EvalAltResult::ErrorTerminated(Dynamic::from(self), Position::NONE).into()
    }

    /// Why the script was ended, if it was.
    pub fn of(error: &EvalAltResult) -> Option<Self> {
        match error {
            EvalAltResult::ErrorTerminated(token, _) => token.clone().try_cast(),
            _ => None,
        }
    }
}

/// Measures how much the process has grown since the script began.
#[derive(Debug)]
pub struct MemoryMeter {
    /// The kernel's count; `None` if it cannot be read.
    process: Option<ResidentMemory>,
    at_start: u64,
    most: u64,
}

impl MemoryMeter {
    /// Begins to measure; `most` bytes of growth are allowed, beyond the pages under way.
    pub fn begin(most: u64) -> Self {
        let mut memory = Self {
            process: ResidentMemory::open(),
            at_start: 0,
            most,
        };
        memory.at_start = memory.resident().unwrap_or_default();
        if memory.at_start == 0 {
            tracing::warn!("without /proc the memory that a script takes is not limited");
        }
        memory
    }

    /// True where the process has grown too much.
    pub fn is_over(&self) -> bool {
        let under_way = PAGES_UNDER_WAY * largest_page() as u64;
        let allowed = self.at_start + self.most + under_way;
        self.resident().is_some_and(|resident| resident > allowed)
    }

    /// What the process holds now, in bytes.
    fn resident(&self) -> Option<u64> {
        self.process.as_ref()?.bytes()
    }
}

/// Ends the script when the run is being stopped or the memory is used up.
pub fn watch(engine: &mut Engine, shutdown: Shutdown, memory: Arc<MemoryMeter>) {
    let ticks = CoarseClock::default();
    // Once stopped, every operation is refused at once: some functions of the engine keep errors to
    // themselves and go on.
    let stopped: Arc<OnceLock<StopReason>> = Arc::default();
    measure_nesting(engine, Arc::clone(&stopped));
    engine.on_progress(move |_| {
        let stop = if let Some(stop) = stopped.get() {
            *stop
        } else if !ticks.has_passed() {
            return None;
        } else if shutdown.stopping().is_cancelled() {
            StopReason::Asked
        } else if memory.is_over() {
            StopReason::Memory
        } else {
            return None;
        };
        Some(Dynamic::from(*stopped.get_or_init(|| stop)))
    });
}

/// Ends the wording of a line that is written after the script ended, when it takes too many
/// operations, too much memory, or when `is_late` says so.
pub fn watch_last_words(
    engine: &mut Engine,
    memory: Arc<MemoryMeter>,
    is_late: impl Fn() -> bool + Send + Sync + 'static,
) {
    let ticks = CoarseClock::default();
    engine.on_progress(move |count| {
        let is_over =
            count > LAST_OPERATIONS || ticks.has_passed() && (is_late() || memory.is_over());
        is_over.then(|| Dynamic::from(StopReason::LastWords))
    });
}

/// A clock that is all but free to read and moves on every few milliseconds, so that what costs
/// more is looked at that often, and between two looks a script cannot do much.
#[derive(Default)]
struct CoarseClock(AtomicI64);

impl CoarseClock {
    fn has_passed(&self) -> bool {
        let now = coarse_nanos();
        // A script has one thread.
        let passed = now != self.0.load(Ordering::Relaxed);
        if passed {
            self.0.store(now, Ordering::Relaxed);
        }
        passed
    }
}

/// Measures now and then how deeply the variables' values lie in each other. A script cannot nest
/// values much deeper in between, for each step takes a look at a variable.
fn measure_nesting(engine: &mut Engine, stopped: Arc<OnceLock<StopReason>>) {
    let left = AtomicU32::new(MEASURE_AFTER.0);
    #[allow(
        deprecated,
        reason = "the engine marks this call as one that may change, not as one that will go"
    )]
    engine.on_var(move |_, _, context| {
        let looks = left.load(Ordering::Relaxed);
        if looks > 0 {
            left.store(looks - 1, Ordering::Relaxed);
            return Ok(None);
        }
        let values = context.scope().iter_raw().map(|(_, _, value)| value);
        let measured = depth::measure(values.chain(context.this_ptr()), NESTING);
        let Some(count) = measured else {
            return Err(stopped.get_or_init(|| StopReason::Nesting).error());
        };
        left.store(
            count.clamp(MEASURE_AFTER.0, MEASURE_AFTER.1),
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
    fn memory_is_over_when_the_process_has_grown() {
        let memory = MemoryMeter::begin(8 * 1024 * 1024);
        assert!(!memory.is_over());
        let grown = vec![1_u8; 64 * 1024 * 1024];
        assert!(memory.is_over());
        assert_eq!(grown[grown.len() / 2], 1);
    }

    #[test]
    fn a_stop_is_found_in_the_error_that_it_makes() {
        for stop in [StopReason::Asked, StopReason::Memory, StopReason::Nesting] {
            assert_eq!(StopReason::of(&stop.error()), Some(stop));
        }
        assert_eq!(StopReason::of(&"other".into()), None);
    }
}
