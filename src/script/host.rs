//! The host behind a script's primitives: what they work on, how they wait, and where a stream goes
//! that the script let go of. Nothing that was received can get lost here: a stream that is dropped
//! before its end comes back as abandoned, and the end of the run drains it.

use crate::script::native::{Native, lock};
use std::collections::{BTreeMap, VecDeque};
use std::future::Future;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, Weak};

use rhai::{EvalAltResult, NativeCallContext};
use tokio::runtime::Handle;

use crate::error::Fault;
use crate::fetch::Fetcher;
use crate::pipeline::channel::{OutcomeStream, PageStream};
use crate::pipeline::token::{Outcome, Tally};
use crate::report::fail_on::Condition;
use crate::report::ledger::Ledger;
use crate::runtime::clock::Clock;
use crate::runtime::shutdown::Shutdown;
use crate::script::api::emit_files::Emitter;
use crate::script::api::formatter::LineFormatter;
use crate::script::sandbox::{MemoryMeter, StopReason};
use crate::store::Store;

/// So many streams that the script let go of may wait to be booked.
const MOST_ABANDONED: usize = 1000;

/// A stream that the script let go of.
pub enum AbandonedStream {
    /// Tokens that were not stored.
    Pages(PageStream<Fault>),
    /// Outcomes that were not reported; the first ones are here already.
    Outcomes(VecDeque<Outcome>, Option<OutcomeStream<Fault>>),
}

/// A stream that a script may still hold when it ends.
pub trait HeldStream: Send + Sync {
    /// Gives the rest of the stream back to the host.
    fn abandon(&self);
}

/// What a run's script works with.
pub struct ScriptHost {
    runtime: Handle,
    clock: Arc<dyn Clock>,
    shutdown: Shutdown,
    size: u64,
    fetcher: Arc<Fetcher>,
    store: Arc<Store>,
    ledger: Mutex<Ledger>,
    fail_on: Vec<Condition>,
    emitter: Mutex<Emitter>,
    environment: BTreeMap<String, String>,
    abandoned: Mutex<VecDeque<AbandonedStream>>,
    live: Mutex<HeldStreams>,
    unreported: Mutex<Option<Fault>>,
    chosen_exit: Mutex<Option<u8>>,
    formatter: Mutex<Option<LineFormatter>>,
    ended: AtomicBool,
    memory: OnceLock<Arc<MemoryMeter>>,
}

/// The streams that the script may still hold. Values that hold each other are never dropped, so
/// the end of the run must be able to find them.
#[derive(Default)]
struct HeldStreams {
    tokens: Vec<Weak<dyn HeldStream>>,
    outcomes: Vec<Weak<dyn HeldStream>>,
}

/// What a [`ScriptHost`] is made of.
pub struct HostParts {
    /// The runtime on which fetching and storing go on; another thread must be driving it.
    pub runtime: Handle,
    /// The run's clock.
    pub clock: Arc<dyn Clock>,
    /// The run's stop switch.
    pub shutdown: Shutdown,
    /// SIZE.
    pub size: u64,
    /// The source.
    pub fetcher: Arc<Fetcher>,
    /// The database.
    pub store: Arc<Store>,
    /// The books.
    pub ledger: Ledger,
    /// Under which a run that completed fails all the same.
    pub fail_on: Vec<Condition>,
    /// The files of `emit`.
    pub emitter: Emitter,
    /// The environment variables that scripts may read.
    pub environment: BTreeMap<String, String>,
}

impl ScriptHost {
    /// A host for one run.
    pub fn new(parts: HostParts) -> Arc<Self> {
        Arc::new(Self {
            runtime: parts.runtime,
            clock: parts.clock,
            shutdown: parts.shutdown,
            size: parts.size,
            fetcher: parts.fetcher,
            store: parts.store,
            ledger: Mutex::new(parts.ledger),
            fail_on: parts.fail_on,
            emitter: Mutex::new(parts.emitter),
            environment: parts.environment,
            abandoned: Mutex::default(),
            live: Mutex::default(),
            unreported: Mutex::default(),
            chosen_exit: Mutex::default(),
            formatter: Mutex::default(),
            ended: AtomicBool::new(false),
            memory: OnceLock::new(),
        })
    }

    /// The host of the script that calls. A closure that words the last lines after the script has
    /// ended can begin nothing: nobody would account for it.
    pub fn of(context: &NativeCallContext) -> Native<Arc<Self>> {
        let host = Self::of_line(context)?;
        if host.ended.load(Ordering::Relaxed) {
            return Err("the script has ended: a line's wording can begin nothing".into());
        }
        Ok(host)
    }

    /// The same for what a line's wording may do.
    pub fn of_line(context: &NativeCallContext) -> Native<Arc<Self>> {
        context
            .tag()
            .and_then(|tag| tag.clone().try_cast::<Arc<Self>>())
            .ok_or_else(|| "the primitives work only inside a run".into())
    }

    /// Lets the script begin nothing more.
    pub fn end(&self) {
        self.ended.store(true, Ordering::Relaxed);
    }

    /// The run's clock.
    pub fn clock(&self) -> &dyn Clock {
        &*self.clock
    }

    /// Lets what a native piles up count, too.
    pub fn measure(&self, memory: Arc<MemoryMeter>) {
        let _ = self.memory.set(memory);
    }

    /// Ends a native that piles up more than the memory allows.
    pub fn check_memory(&self) -> Native<()> {
        let is_over = self.memory.get().is_some_and(|memory| memory.is_over());
        if is_over {
            Err(StopReason::Memory.error())
        } else {
            Ok(())
        }
    }

    /// The run's stop switch.
    pub fn shutdown(&self) -> &Shutdown {
        &self.shutdown
    }

    /// Under which a run that completed fails all the same.
    pub fn fail_on(&self) -> &[Condition] {
        &self.fail_on
    }

    /// SIZE.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// What the summary calls `requested`: SIZE, or what was `received` where SIZE is all of a pipe.
    pub fn requested(&self, received: u64) -> u64 {
        if self.fetcher.is_open_ended() {
            received
        } else {
            self.size
        }
    }

    /// The source.
    pub fn fetcher(&self) -> &Arc<Fetcher> {
        &self.fetcher
    }

    /// The tokens in each state, unless somebody is at the books: it may wait for a reader of the report.
    pub fn try_tally(&self) -> Option<Tally> {
        self.ledger.try_lock().ok().map(|ledger| ledger.tally())
    }

    /// The books.
    pub fn ledger(&self) -> MutexGuard<'_, Ledger> {
        lock(&self.ledger)
    }

    /// The files of `emit`.
    pub fn emitter(&self) -> MutexGuard<'_, Emitter> {
        lock(&self.emitter)
    }

    /// The environment variables that scripts may read.
    pub fn environment(&self) -> &BTreeMap<String, String> {
        &self.environment
    }

    /// Starts storing.
    pub fn store(&self, pages: PageStream<Fault>) -> OutcomeStream<Fault> {
        let _guard = self.runtime.enter();
        self.store.store(pages)
    }

    /// Turns every token of `pages` into an outcome by `judge`, without sending one.
    pub fn judge(
        &self,
        pages: PageStream<Fault>,
        judge: impl Fn(crate::pipeline::token::Token) -> Outcome + Send + 'static,
    ) -> OutcomeStream<Fault> {
        let _guard = self.runtime.enter();
        crate::pipeline::channel::judged(pages, judge)
    }

    /// Waits for `future`; a stopped run ends the wait at once, and the script with it.
    pub fn wait<T>(&self, future: impl Future<Output = T>) -> Native<T> {
        self.block_on(async {
            tokio::select! {
                biased;
                () = self.shutdown.stopping().cancelled() => None,
                value = future => Some(value),
            }
        })
        .flatten()
        .ok_or_else(terminated)
    }

    /// Waits for `future` although the run is being stopped; whoever it waits for must heed
    /// [`Shutdown::aborting`].
    pub fn wait_to_the_end<T>(&self, future: impl Future<Output = Option<T>>) -> Option<T> {
        self.block_on(future).flatten()
    }

    /// `None` where the clock gave up.
    fn block_on<T>(&self, future: impl Future<Output = T>) -> Option<T> {
        let mut value = None;
        {
            let done = pin!(async { value = Some(future.await) });
            self.clock.block_on(&self.runtime, done);
        }
        value
    }

    /// Takes back a stream that the script let go of. Outcomes that wait already are booked now, so
    /// that a script which never looks at what it stores does not pile them up; one that lets go of
    /// more than the store keeps up with waits for the oldest.
    pub fn abandon(&self, stream: AbandonedStream) {
        let mut abandoned = lock(&self.abandoned);
        let outcomes = |stream: &AbandonedStream| matches!(stream, AbandonedStream::Outcomes(..));
        match stream {
            AbandonedStream::Pages(_) => abandoned.push_back(stream),
            // Before the pages, which are looked at only in the end.
            AbandonedStream::Outcomes(..) => {
                let at = abandoned.partition_point(outcomes);
                abandoned.insert(at, stream);
            }
        }
        while let Some(AbandonedStream::Outcomes(ready, stream)) = abandoned.front_mut() {
            self.book(ready.drain(..));
            let Some(open) = stream else {
                abandoned.pop_front();
                continue;
            };
            while let Some(batch) = open.try_next() {
                self.book(batch);
            }
            if open.is_done() {
                if let Some(fault) = open.take_fault() {
                    self.unreported(fault);
                }
                abandoned.pop_front();
                continue;
            }
            if abandoned.partition_point(outcomes) <= MOST_ABANDONED {
                break;
            }
            let Some(AbandonedStream::Outcomes(_, Some(open))) = abandoned.front_mut() else {
                break;
            };
            match self.wait(open.next()) {
                Ok(Some(Ok(batch))) => self.book(batch),
                Ok(Some(Err(fault))) => self.unreported(fault),
                Ok(None) => {}
                Err(_) => break,
            }
        }
    }

    /// Books what nobody words. A report that cannot be written is remembered by the ledger.
    fn book(&self, outcomes: impl IntoIterator<Item = Outcome>) {
        let mut ledger = self.ledger();
        for outcome in outcomes {
            let _ = ledger.record(outcome, None);
        }
    }

    /// The next stream that the script let go of.
    pub fn next_abandoned(&self) -> Option<AbandonedStream> {
        lock(&self.abandoned).pop_front()
    }

    /// Remembers a stream that a script holds.
    pub fn watch_tokens(&self, cell: Weak<dyn HeldStream>) {
        watch(&mut lock(&self.live).tokens, cell);
    }

    /// Remembers a stream that a script holds.
    pub fn watch_outcomes(&self, cell: Weak<dyn HeldStream>) {
        watch(&mut lock(&self.live).outcomes, cell);
    }

    /// Takes back every stream that is still held somewhere.
    pub fn abandon_all(&self) {
        let HeldStreams { tokens, outcomes } = std::mem::take(&mut *lock(&self.live));
        for cell in outcomes.iter().filter_map(Weak::upgrade) {
            cell.abandon();
        }
        for cell in tokens.iter().filter_map(Weak::upgrade) {
            cell.abandon();
        }
    }

    /// Remembers a fault that no script statement heard of; the run fails with the first one.
    pub fn unreported(&self, fault: Fault) {
        lock(&self.unreported).get_or_insert(fault);
    }

    /// The first fault that no script statement heard of.
    pub fn take_unreported(&self) -> Option<Fault> {
        lock(&self.unreported).take()
    }

    /// Sets the exit code that the script chose.
    pub fn choose_exit(&self, code: u8) {
        *lock(&self.chosen_exit) = Some(code);
    }

    /// The exit code that the script chose.
    pub fn chosen_exit(&self) -> Option<u8> {
        *lock(&self.chosen_exit)
    }

    /// Remembers the script's wording of a line, for what is written after it ended.
    pub fn set_formatter(&self, formatter: LineFormatter) {
        *lock(&self.formatter) = Some(formatter);
    }

    /// The script's wording of a line. It holds the host, which must not hold it to the end.
    pub fn take_formatter(&self) -> Option<LineFormatter> {
        lock(&self.formatter).take()
    }
}

/// Adds a cell and, now and then, forgets those that are gone.
fn watch(cells: &mut Vec<Weak<dyn HeldStream>>, cell: Weak<dyn HeldStream>) {
    if cells.len() == cells.capacity() {
        cells.retain(|cell| cell.strong_count() > 0);
    }
    cells.push(cell);
}

/// The error that ends a script whose run is being stopped; `try` cannot catch it.
pub fn terminated() -> Box<EvalAltResult> {
    StopReason::Asked.error()
}
