//! The limits of a script. A script that exceeds a limit, or whose run is stopped, is terminated.
//!
//! No script can catch the termination or crash the process: the kernel's count limits memory, and a
//! nesting limit keeps recursion into values within the stack.

pub(crate) mod depth;
pub mod memory;
pub(crate) mod overrides;
pub mod resolver;
pub(crate) mod sort;

use std::cell::Cell;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use rhai::{
    AST, Dynamic, Engine, EvalAltResult, EvalContext, LexError, ParseError, Position, Scope, Token,
};

use crate::runtime::platform::coarse_nanos;
use crate::runtime::shutdown::Shutdown;
use crate::script::native::check_length;
pub use crate::script::sandbox::memory::MemoryMeter;
use crate::script::texts::ScriptTexts;

/// The constant of scripts that holds SIZE.
const SIZE: &str = "SIZE";
use crate::script::caught::CatchNames;

/// The maximum depth of nested function calls.
pub const MAX_CALL_LEVELS: usize = 64;
/// The maximum depth of expressions: in the script, and in a function.
pub const MAX_EXPRESSION_DEPTHS: (usize, usize) = (64, 32);
/// The maximum number of functions in a script or module, closures included.
pub const MAX_FUNCTIONS: usize = 256;
/// The maximum number of imports in a run.
pub const MAX_MODULES: usize = 32;
/// The maximum number of variables in scope.
pub const MAX_VARIABLES: usize = 1000;
/// The maximum depth of nested values.
pub const MAX_NESTING: usize = 1000;

/// The maximum time to compile a script or module.
const MAX_COMPILE_TIME: Duration = Duration::from_secs(5);
/// The number of tokens of a text between two looks at the clock.
const TOKENS_BETWEEN_CHECKS: u64 = 64;

/// The number of operations between two measurements of nesting: the minimum, and the maximum for
/// large values.
const OPERATIONS_BETWEEN_MEASUREMENTS: (u64, u64) = (1024, 16 * 1024);

/// The number of operations without a variable after which a script that nests `this` is terminated.
///
/// The engine shows `this` only when a variable is read, so its nesting cannot be measured until then.
/// Each operation adds at most one level.
const OPERATIONS_WITHOUT_VARIABLE: u64 = 20_000;

/// The operation limit of the line closure per line, after the script has ended.
const LINE_CLOSURE_OPERATIONS: u64 = 1_000_000;

/// Sets the limits that the engine enforces.
///
/// The engine's limits of strings, arrays and maps stay off. It would sum all items of an array after
/// each `push`. [`watch`] and the overrides limit strings and memory instead.
pub fn apply(engine: &mut Engine) {
    engine
        .set_max_call_levels(MAX_CALL_LEVELS)
        .set_max_expr_depths(MAX_EXPRESSION_DEPTHS.0, MAX_EXPRESSION_DEPTHS.1)
        .set_max_functions(MAX_FUNCTIONS)
        .set_max_modules(MAX_MODULES)
        .set_max_variables(MAX_VARIABLES);
    limit_compiling(engine, None);
}

thread_local! {
    /// When the thread began to compile a text.
    static COMPILING_SINCE: Cell<Option<Instant>> = const { Cell::new(None) };
}

/// Compiles `text` within [`MAX_COMPILE_TIME`].
pub fn compile(engine: &Engine, scope: &Scope, text: &str) -> Result<AST, ParseError> {
    COMPILING_SINCE.set(Some(Instant::now()));
    engine.compile_with_scope(scope, text)
}

/// Ends a compilation that takes too long, or whose run is being stopped.
fn limit_compiling(engine: &mut Engine, shutdown: Option<Shutdown>) {
    let tokens = AtomicU64::new(0);
    #[allow(
        deprecated,
        reason = "the engine marks this function as unstable, not as obsolete"
    )]
    engine.on_parse_token(move |token, _, _| {
        let count = tokens.fetch_add(1, Ordering::Relaxed);
        if !count.is_multiple_of(TOKENS_BETWEEN_CHECKS) {
            return token;
        }
        let has_timed_out = COMPILING_SINCE
            .get()
            .is_some_and(|since| since.elapsed() > MAX_COMPILE_TIME);
        let is_stopping = shutdown
            .as_ref()
            .is_some_and(|it| it.stopping().is_cancelled());
        if has_timed_out || is_stopping {
            let message = format!(
                "it takes longer than {} seconds to compile",
                MAX_COMPILE_TIME.as_secs()
            );
            return Token::LexError(LexError::Runtime(message).into());
        }
        token
    });
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
    /// The text of an array or map would be longer than a string may be.
    Text,
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

/// Terminates the script when the run is stopped or the script exceeds a limit.
///
/// `size` is the value of SIZE inside functions. `stopped` is why the script was terminated. Errors in
/// the variables that catch them get their `kind` when the script reads them.
pub fn watch(
    engine: &mut Engine,
    shutdown: Shutdown,
    memory: Arc<MemoryMeter>,
    stopped: Arc<OnceLock<StopReason>>,
    texts: ScriptTexts,
    size: Dynamic,
) {
    limit_compiling(engine, Some(shutdown.clone()));
    let catch_names = texts.catch_names();
    let nesting = Arc::new(NestingMeter {
        operations: AtomicU64::new(0),
        due: AtomicU64::new(0),
        texts,
    });
    watch_variables(
        engine,
        Arc::clone(&nesting),
        Arc::clone(&stopped),
        catch_names,
        size,
    );
    let ticks = CoarseClock::default();
    engine.on_progress(move |_| {
        // Once terminated, every further operation fails: some functions of the engine discard errors.
        let stop = if let Some(stop) = stopped.get() {
            *stop
        } else if nesting.count_operation() {
            StopReason::Nesting
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

/// Counts operations between two measurements of nesting. A script has one thread.
struct NestingMeter {
    operations: AtomicU64,
    /// The operation from which on the next variable starts a measurement.
    due: AtomicU64,
    texts: ScriptTexts,
}

impl NestingMeter {
    /// Counts an operation; returns true if `this` may be nested too deeply by now.
    fn count_operation(&self) -> bool {
        let count = self.operations.load(Ordering::Relaxed) + 1;
        self.operations.store(count, Ordering::Relaxed);
        if count <= self.due.load(Ordering::Relaxed) + OPERATIONS_WITHOUT_VARIABLE {
            return false;
        }
        self.due.store(count, Ordering::Relaxed);
        self.texts.nest_this()
    }

    /// Measures all variables if it is due; returns false if one is nested too deeply.
    fn check(&self, context: &EvalContext) -> bool {
        let now = self.operations.load(Ordering::Relaxed);
        if now < self.due.load(Ordering::Relaxed) {
            return true;
        }
        let values = context.scope().iter_raw().map(|(_, _, value)| value);
        let measured = depth::measure(values.chain(context.this_ptr()), MAX_NESTING);
        let (least, most) = OPERATIONS_BETWEEN_MEASUREMENTS;
        let count = measured.map_or(0, u64::from);
        self.due
            .store(now + count.clamp(least, most), Ordering::Relaxed);
        measured.is_some()
    }
}

/// Returns the length of a string, and 0 for another value or for one that is being changed.
fn text_length(value: &Dynamic) -> usize {
    let length = |value: &Dynamic| value.as_immutable_string_ref().map_or(0, |text| text.len());
    if value.is_shared() {
        let inner = value.read_lock::<Dynamic>();
        inner.map_or(0, |inner| length(&inner))
    } else {
        length(value)
    }
}

/// Limits each variable that is read, completes caught errors, and resolves SIZE inside functions.
fn watch_variables(
    engine: &mut Engine,
    nesting: Arc<NestingMeter>,
    stopped: Arc<OnceLock<StopReason>>,
    catch_names: Arc<CatchNames>,
    size: Dynamic,
) {
    #[allow(
        deprecated,
        reason = "the engine marks this function as unstable, not as obsolete"
    )]
    engine.on_var(move |name, index, mut context| {
        catch_names.complete(name, context.scope_mut());
        if !nesting.check(&context) {
            return Err(stopped.get_or_init(|| StopReason::Nesting).error());
        }
        // An index counts from the last variable; 0 is a variable that must be searched by name.
        let mut variables = context.scope().iter_raw();
        let value = match index.checked_sub(1) {
            Some(at) => variables.nth(at),
            None => variables.find(|(known, ..)| *known == name),
        };
        let Some((_, _, value)) = value else {
            return Ok((name == SIZE).then(|| size.clone()));
        };
        check_length(text_length(value))?;
        Ok(None)
    });
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_exceeded_when_process_has_grown() {
        let memory = MemoryMeter::start(8 * 1024 * 1024, None);
        assert!(!memory.is_exceeded());
        let grown = vec![1_u8; 64 * 1024 * 1024];
        assert!(memory.is_exceeded());
        assert_eq!(grown[grown.len() / 2], 1);
    }

    #[test]
    fn stop_reason_is_found_in_its_error() {
        for stop in [StopReason::Stopped, StopReason::Memory, StopReason::Text] {
            assert_eq!(StopReason::of(&stop.error()), Some(stop));
        }
        assert_eq!(StopReason::of(&"other".into()), None);
    }
}
