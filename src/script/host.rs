//! The state behind a script's primitives: source, database, ledger, output and waits.
//!
//! No received token is lost: a stream that is dropped before its end is abandoned to the host, and
//! the end of the run drains it.

use std::collections::{BTreeMap, VecDeque};
use std::future::Future;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, Weak};

use rhai::{EvalAltResult, NativeCallContext};
use tokio::runtime::Handle;

use crate::error::Error;
use crate::fetch::Fetcher;
use crate::observe::run_context::RunContext;
use crate::pipeline::channel::{OutcomeStream, PageStream};
use crate::pipeline::numbers::Numbers;
use crate::pipeline::token::Outcome;
use crate::report::fail_on::Condition;
use crate::report::ledger::{Ledger, ShownNumbers};
use crate::runtime::clock::Clock;
use crate::runtime::shutdown::Shutdown;
use crate::script::api::emit_files::Emitter;
use crate::script::api::formatter::LineFormatter;
use crate::script::native::{NativeResult, lock};
use crate::script::sandbox::{MemoryMeter, StopReason};
use crate::store::Store;

/// The number of abandoned outcome streams above which the script waits for the oldest one.
const MAX_ABANDONED: usize = 1000;

/// A stream that the script dropped before its end.
pub enum AbandonedStream {
    /// Tokens that were not stored.
    Pages(PageStream<Error>),
    /// Outcomes that were not reported: those that have arrived, and the rest of the stream.
    Outcomes(VecDeque<Outcome>, Option<OutcomeStream<Error>>),
}

/// A stream that a script may still hold when it ends.
pub trait HeldStream: Send + Sync {
    /// Returns the rest of the stream to the host.
    fn abandon(&self);
}

/// The host of one run's script.
pub struct ScriptHost {
    parts: HostParts,
    abandoned: Mutex<VecDeque<AbandonedStream>>,
    held: Mutex<HeldStreams>,
    unreported: Mutex<Option<Error>>,
    exit_code: Mutex<Option<u8>>,
    formatter: Mutex<Option<LineFormatter>>,
    ended: AtomicBool,
    memory: OnceLock<Arc<MemoryMeter>>,
    script_stop: Arc<OnceLock<StopReason>>,
    /// The numbers of the ledger while that is locked.
    shown: ShownNumbers,
}

/// The streams that the script may still hold.
///
/// Values in a cycle are never dropped, so the end of the run finds their streams here.
#[derive(Default)]
struct HeldStreams {
    tokens: Vec<Weak<dyn HeldStream>>,
    outcomes: Vec<Weak<dyn HeldStream>>,
}

/// The parts of a [`ScriptHost`].
pub struct HostParts {
    /// The runtime that fetches and stores; another thread must drive it.
    pub runtime: Handle,
    /// The clock, start and id of the run.
    pub run_context: RunContext,
    /// Stops the run.
    pub shutdown: Shutdown,
    /// SIZE.
    pub size: u64,
    /// The source.
    pub fetcher: Arc<Fetcher>,
    /// The database.
    pub store: Arc<Store>,
    /// The outcomes of the run.
    pub ledger: Mutex<Ledger>,
    /// The `--fail-on` conditions.
    pub fail_on: Vec<Condition>,
    /// The files of `emit`.
    pub emitter: Mutex<Emitter>,
    /// The environment variables that scripts may read.
    pub environment: BTreeMap<String, String>,
}

impl ScriptHost {
    /// Creates the host of one run.
    pub fn new(parts: HostParts) -> Arc<Self> {
        let shown = lock(&parts.ledger).shown();
        Arc::new(Self {
            shown,
            parts,
            abandoned: Mutex::default(),
            held: Mutex::default(),
            unreported: Mutex::default(),
            exit_code: Mutex::default(),
            formatter: Mutex::default(),
            ended: AtomicBool::new(false),
            memory: OnceLock::new(),
            script_stop: Arc::default(),
        })
    }

    /// Returns the host of the calling script, which must not have ended.
    ///
    /// After the script has ended, its line closure cannot start a stream: nothing would drain it.
    pub fn of_running(context: &NativeCallContext) -> NativeResult<Arc<Self>> {
        let host = Self::of(context)?;
        if host.ended.load(Ordering::Relaxed) {
            return Err("the script has ended: its line closure cannot call this function".into());
        }
        Ok(host)
    }

    /// Returns the host of the calling script, also after the script has ended.
    pub fn of(context: &NativeCallContext) -> NativeResult<Arc<Self>> {
        context
            .tag()
            .and_then(|tag| tag.clone().try_cast::<Arc<Self>>())
            .ok_or_else(|| "the primitives work only inside a run".into())
    }

    /// Marks the script as ended; see [`ScriptHost::of_running`].
    pub fn set_ended(&self) {
        self.ended.store(true, Ordering::Relaxed);
    }

    /// Returns the run's clock.
    pub fn clock(&self) -> &dyn Clock {
        &*self.parts.run_context.clock
    }

    /// Returns the clock, start and id of the run.
    pub fn run_context(&self) -> &RunContext {
        &self.parts.run_context
    }

    /// Sets the meter that [`ScriptHost::check_memory`] reads.
    pub fn set_memory_meter(&self, memory: Arc<MemoryMeter>) {
        let _ = self.memory.set(memory);
    }

    /// Returns an error if the process uses more memory than the script may.
    pub fn check_memory(&self) -> NativeResult<()> {
        let is_exceeded = self.memory.get().is_some_and(|memory| memory.is_exceeded());
        if is_exceeded {
            Err(StopReason::Memory.error())
        } else {
            Ok(())
        }
    }

    /// Returns why the script was terminated; setting it terminates the script.
    pub fn script_stop(&self) -> Arc<OnceLock<StopReason>> {
        Arc::clone(&self.script_stop)
    }

    /// Returns the handle that stops the run.
    pub fn shutdown(&self) -> &Shutdown {
        &self.parts.shutdown
    }

    /// Returns the `--fail-on` conditions.
    pub fn fail_on(&self) -> &[Condition] {
        &self.parts.fail_on
    }

    /// Returns SIZE.
    pub fn size(&self) -> u64 {
        self.parts.size
    }

    /// Returns the numbers of the run so far. `requested` is SIZE, or `received` if SIZE is all of a pipe.
    pub fn numbers(&self) -> Numbers {
        self.numbers_with(&self.ledger())
    }

    /// Returns the numbers of the run so far. Does not block: while another thread has the ledger locked, the
    /// last outcomes are missing.
    pub fn numbers_so_far(&self) -> Numbers {
        match self.parts.ledger.try_lock() {
            Ok(ledger) => self.numbers_with(&ledger),
            Err(_) => self.combined(&lock(&self.shown), 0),
        }
    }

    fn numbers_with(&self, ledger: &Ledger) -> Numbers {
        self.combined(&ledger.numbers(), ledger.created())
    }

    /// Combines the numbers of outcomes with those of the source.
    fn combined(&self, outcomes: &Numbers, created: u64) -> Numbers {
        let fetched = self.parts.fetcher.numbers();
        let received = fetched.received + created;
        Numbers {
            requested: if self.parts.fetcher.is_open_ended() {
                received
            } else {
                self.parts.size
            },
            received,
            ..outcomes.merged(&fetched)
        }
    }

    /// Returns the source.
    pub fn fetcher(&self) -> &Arc<Fetcher> {
        &self.parts.fetcher
    }

    /// Returns the database.
    pub fn store_of_run(&self) -> &Arc<Store> {
        &self.parts.store
    }

    /// Returns the numbers of the ledger; `None` while another thread has it locked.
    ///
    /// Does not block: the holder of the lock may wait for the reader of a report.
    pub fn try_numbers(&self) -> Option<Numbers> {
        self.parts
            .ledger
            .try_lock()
            .ok()
            .map(|ledger| ledger.numbers())
    }

    /// Locks the ledger.
    pub fn ledger(&self) -> MutexGuard<'_, Ledger> {
        lock(&self.parts.ledger)
    }

    /// Locks the emitter of `emit`.
    pub fn emitter(&self) -> MutexGuard<'_, Emitter> {
        lock(&self.parts.emitter)
    }

    /// Returns the environment variables that scripts may read.
    pub fn environment(&self) -> &BTreeMap<String, String> {
        &self.parts.environment
    }

    /// Starts to store the tokens of `pages`.
    pub fn store(&self, pages: PageStream<Error>) -> OutcomeStream<Error> {
        let _guard = self.parts.runtime.enter();
        let tracer = &self.parts.run_context.tracer;
        self.parts.store.store(pages, &self.parts.shutdown, tracer)
    }

    /// Maps every token of `pages` to an outcome without sending it to the database.
    pub fn map_to_outcomes(
        &self,
        pages: PageStream<Error>,
        outcome: impl Fn(crate::pipeline::token::Token) -> Outcome + Send + 'static,
    ) -> OutcomeStream<Error> {
        let _guard = self.parts.runtime.enter();
        crate::pipeline::channel::map_to_outcomes(pages, outcome)
    }

    /// Waits for `future`.
    ///
    /// If the run is being stopped, returns the error that ends the script.
    pub fn wait<T>(&self, future: impl Future<Output = T>) -> NativeResult<T> {
        self.block_on(async {
            tokio::select! {
                biased;
                () = self.parts.shutdown.stopping().cancelled() => None,
                value = future => Some(value),
            }
        })
        .flatten()
        .ok_or_else(terminated)
    }

    /// Waits for `future`, also while the run is being stopped.
    ///
    /// The future must end on [`Shutdown::aborting`].
    pub fn wait_despite_stop<T>(&self, future: impl Future<Output = Option<T>>) -> Option<T> {
        self.block_on(future).flatten()
    }

    /// Returns `None` if a test's clock ended the wait.
    fn block_on<T>(&self, future: impl Future<Output = T>) -> Option<T> {
        let mut value = None;
        {
            let done = pin!(async { value = Some(future.await) });
            self.parts
                .run_context
                .clock
                .block_on(&self.parts.runtime, done);
        }
        value
    }

    /// Takes an abandoned stream and records the outcomes that have arrived.
    ///
    /// Outcomes are recorded early so that a script that never reads them does not accumulate them.
    /// If there are more than `MAX_ABANDONED` outcome streams, waits for the oldest one.
    pub fn abandon(&self, stream: AbandonedStream) {
        let mut abandoned = lock(&self.abandoned);
        let outcomes = |stream: &AbandonedStream| matches!(stream, AbandonedStream::Outcomes(..));
        match stream {
            AbandonedStream::Pages(_) => abandoned.push_back(stream),
            // Before the pages, which are drained only at the end of the run.
            AbandonedStream::Outcomes(..) => {
                let at = abandoned.partition_point(outcomes);
                abandoned.insert(at, stream);
            }
        }
        while let Some(AbandonedStream::Outcomes(ready, stream)) = abandoned.front_mut() {
            self.record_all(ready.drain(..));
            let Some(open) = stream else {
                abandoned.pop_front();
                continue;
            };
            while let Some(batch) = open.try_next() {
                self.record_all(batch);
            }
            if open.is_done() {
                if let Some(error) = open.take_error() {
                    self.record_unreported(error);
                }
                abandoned.pop_front();
                continue;
            }
            if abandoned.partition_point(outcomes) <= MAX_ABANDONED {
                break;
            }
            let Some(AbandonedStream::Outcomes(_, Some(open))) = abandoned.front_mut() else {
                break;
            };
            match self.wait(open.next()) {
                Ok(Some(Ok(batch))) => self.record_all(batch),
                Ok(Some(Err(error))) => self.record_unreported(error),
                Ok(None) => {}
                Err(_) => break,
            }
        }
    }

    /// Records outcomes without a line of the script. The ledger keeps the error of a report.
    fn record_all(&self, outcomes: impl IntoIterator<Item = Outcome>) {
        let mut ledger = self.ledger();
        for outcome in outcomes {
            let _ = ledger.record(outcome, None);
        }
    }

    /// Removes and returns the next abandoned stream.
    pub fn next_abandoned(&self) -> Option<AbandonedStream> {
        lock(&self.abandoned).pop_front()
    }

    /// Tracks a token stream that the script holds.
    pub fn track_tokens(&self, stream: Weak<dyn HeldStream>) {
        track(&mut lock(&self.held).tokens, stream);
    }

    /// Tracks an outcome stream that the script holds.
    pub fn track_outcomes(&self, stream: Weak<dyn HeldStream>) {
        track(&mut lock(&self.held).outcomes, stream);
    }

    /// Abandons every stream that the script still holds.
    pub fn abandon_all(&self) {
        let HeldStreams { tokens, outcomes } = std::mem::take(&mut *lock(&self.held));
        for stream in outcomes.iter().filter_map(Weak::upgrade) {
            stream.abandon();
        }
        for stream in tokens.iter().filter_map(Weak::upgrade) {
            stream.abandon();
        }
    }

    /// Records an error that the script did not see; the run fails with the first one.
    pub fn record_unreported(&self, error: Error) {
        lock(&self.unreported).get_or_insert(error);
    }

    /// Removes and returns the first error that the script did not see.
    pub fn take_unreported(&self) -> Option<Error> {
        lock(&self.unreported).take()
    }

    /// Sets the exit code of the run.
    pub fn set_exit_code(&self, code: u8) {
        *lock(&self.exit_code) = Some(code);
    }

    /// Returns the exit code that the script set.
    pub fn exit_code(&self) -> Option<u8> {
        *lock(&self.exit_code)
    }

    /// Sets the formatter of lines that are written after the script has ended.
    pub fn set_formatter(&self, formatter: LineFormatter) {
        *lock(&self.formatter) = Some(formatter);
    }

    /// Removes and returns the line formatter. It refers to the host, so keeping it makes a cycle.
    pub fn take_formatter(&self) -> Option<LineFormatter> {
        lock(&self.formatter).take()
    }
}

/// Adds a stream; removes dropped streams when the vector is full.
fn track(streams: &mut Vec<Weak<dyn HeldStream>>, stream: Weak<dyn HeldStream>) {
    if streams.len() == streams.capacity() {
        streams.retain(|stream| stream.strong_count() > 0);
    }
    streams.push(stream);
}

/// Returns the error that ends the script of a stopped run; `try` cannot catch it.
pub fn terminated() -> Box<EvalAltResult> {
    StopReason::Stopped.error()
}
