//! The clock of a pipeline test: time passes only where nobody has anything left to do, and then at
//! once as far as the next wait that ends. So a wait of an hour takes no time, waits that go on
//! together end in the right order, and a deadline comes exactly when it is due.
//!
//! The runtime's thread and the script's take turns: the one goes on until it waits, then the other.
//! That leaves nothing to chance, and a test comes out the same each time.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};

use tokio::runtime::Handle;

use crate::error::{ErrorKind, Fault};
use crate::runtime::clock::{BusyGuard, Clock, SleepFuture};
use crate::runtime::shutdown::Shutdown;

/// So long a run that was stopped for taking too much real time may take to end.
const LAST: Duration = Duration::from_secs(5);

/// The longest wait that is told from one without end: a clock cannot add up more.
const FOREVER: Duration = Duration::from_hours(24 * 365 * 30);

/// Why a run was ended from outside the case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Overrun {
    /// It took too much real time.
    Time,
    /// Everybody waited for somebody else.
    Stuck,
}

/// What the script's thread is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ThreadState {
    /// It has not begun, or has ended.
    Absent,
    /// It is its turn.
    Works,
    /// It waits.
    Waits,
    /// What it waited for has come, and it waits for its turn.
    Woken,
}

struct ClockState {
    now: Instant,
    slept: Duration,
    /// By when they ring and the order in which they were set.
    alarms: BTreeMap<(Instant, u64), Waker>,
    next: u64,
    script: ThreadState,
    /// True where the script's waker was called during its turn.
    is_called: bool,
    /// Wakes the runtime's thread.
    runtime: Option<Waker>,
    shutdown: Option<Shutdown>,
    /// When the real time is up.
    limit: Instant,
    overrun: Option<Overrun>,
    /// True once nothing is waited for any more.
    has_given_up: bool,
}

/// A test's clock. Clones share it.
#[derive(Clone)]
pub struct VirtualClock(Arc<ClockShared>);

struct ClockShared {
    state: Mutex<ClockState>,
    turned: Condvar,
}

impl ClockShared {
    fn state(&self) -> MutexGuard<'_, ClockState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets the runtime go on until it is the script's turn; false where nothing is waited for any
    /// more.
    fn wait_for_turn(&self, state: MutexGuard<'_, ClockState>) -> bool {
        self.turned.notify_all();
        let waits =
            |state: &mut ClockState| state.script != ThreadState::Works && !state.has_given_up;
        let turned = self.turned.wait_while(state, waits);
        !turned.unwrap_or_else(PoisonError::into_inner).has_given_up
    }

    fn wake_runtime(&self) {
        let waker = self.state().runtime.clone();
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

impl VirtualClock {
    /// A clock that ends its run after `limit` of real time.
    pub fn new(limit: Duration) -> Self {
        let now = Instant::now();
        Self(Arc::new(ClockShared {
            state: Mutex::new(ClockState {
                now,
                slept: Duration::ZERO,
                alarms: BTreeMap::new(),
                next: 0,
                script: ThreadState::Absent,
                is_called: false,
                runtime: None,
                shutdown: None,
                limit: now + limit,
                overrun: None,
                has_given_up: false,
            }),
            turned: Condvar::new(),
        }))
    }

    /// Ends the run by this switch where it takes too long.
    pub fn stop_with(&self, shutdown: Shutdown) {
        self.0.state().shutdown = Some(shutdown);
    }

    /// How long was slept, over all who did.
    pub fn slept(&self) -> Duration {
        self.0.state().slept
    }

    /// Why the run was ended from outside the case, if it was.
    pub fn overrun(&self) -> Option<Overrun> {
        self.0.state().overrun
    }

    /// Drives a run on the runtime's thread; `None` where it had to be given up.
    pub async fn drive<T>(&self, run: impl Future<Output = T>) -> Option<T> {
        let mut run = std::pin::pin!(run);
        std::future::poll_fn(|context| {
            let mut state = self.0.state();
            state.runtime = Some(context.waker().clone());
            if state.has_given_up {
                return Poll::Ready(None);
            }
            drop(state);
            run.as_mut().poll(context).map(Some)
        })
        .await
    }

    /// Resolves once nobody has anything else to do.
    pub fn quiet(&self) -> SleepFuture {
        let mut alarm = self.alarm(self.now(), None);
        alarm.is_eager = false;
        Box::pin(alarm)
    }

    /// To be called by the runtime's thread when it has nothing to do: gives the script its turn, or
    /// lets time pass.
    pub fn idle(&self) {
        loop {
            let mut state = self.0.state();
            if state.has_given_up {
                return;
            }
            if Instant::now() >= state.limit {
                let works = state.script == ThreadState::Works;
                drop(state);
                self.end(Overrun::Time);
                if works {
                    continue;
                }
                return;
            }
            match state.script {
                ThreadState::Works | ThreadState::Woken => {
                    state.script = ThreadState::Works;
                    self.0.turned.notify_all();
                    if self.wait_for_script(state) {
                        // What it left to do is looked for.
                        return self.0.wake_runtime();
                    }
                }
                ThreadState::Waits | ThreadState::Absent => {
                    if ring(state) {
                        return self.0.wake_runtime();
                    }
                    return self.end(Overrun::Stuck);
                }
            }
        }
    }

    /// False where the real time is up before the script waits.
    fn wait_for_script(&self, state: MutexGuard<'_, ClockState>) -> bool {
        let left = state.limit.saturating_duration_since(Instant::now());
        let works = |state: &mut ClockState| state.script == ThreadState::Works;
        let waited = self.0.turned.wait_timeout_while(state, left, works);
        let (state, waited) = waited.unwrap_or_else(PoisonError::into_inner);
        drop(state);
        !waited.timed_out()
    }

    /// Stops the run; where that has not ended it in time, gives it up.
    fn end(&self, why: Overrun) {
        let mut state = self.0.state();
        if state.overrun.is_some() {
            state.has_given_up = true;
            drop(state);
            self.0.turned.notify_all();
            return self.0.wake_runtime();
        }
        state.overrun = Some(why);
        state.limit = Instant::now() + LAST;
        let shutdown = state.shutdown.clone();
        drop(state);
        if let Some(shutdown) = shutdown {
            shutdown.stop_because(Fault::new(
                ErrorKind::HttpTimeout,
                "the test case took too long",
            ));
            shutdown.abort();
        }
        self.0.wake_runtime();
    }

    fn alarm(&self, at: Instant, since: Option<Instant>) -> VirtualSleep {
        VirtualSleep {
            clock: Arc::clone(&self.0),
            at,
            since,
            set: None,
            is_eager: true,
        }
    }
}

/// Lets time pass as far as the next alarm; false where none is set.
fn ring(mut state: MutexGuard<'_, ClockState>) -> bool {
    let Some((&(at, _), _)) = state.alarms.first_key_value() else {
        return false;
    };
    state.now = state.now.max(at);
    let later = state.alarms.split_off(&(at, u64::MAX));
    let due = std::mem::replace(&mut state.alarms, later);
    drop(state);
    due.into_values().for_each(Waker::wake);
    true
}

impl Clock for VirtualClock {
    fn now(&self) -> Instant {
        self.0.state().now
    }

    fn sleep(&self, time: Duration) -> SleepFuture {
        let now = self.now();
        Box::pin(self.alarm(now + time.min(FOREVER), Some(now)))
    }

    fn sleep_until(&self, instant: Instant) -> SleepFuture {
        Box::pin(self.alarm(instant, None))
    }

    /// Waits by chance take their longest, so that a test knows them.
    fn jitter(&self) -> f64 {
        1.0
    }

    fn busy(&self) -> Box<dyn BusyGuard> {
        self.0.state().script = ThreadState::Woken;
        Box::new(TurnGuard(Arc::clone(&self.0)))
    }

    fn block_on(&self, runtime: &Handle, mut future: Pin<&mut dyn Future<Output = ()>>) {
        let _guard = runtime.enter();
        let waker = Waker::from(Arc::new(ScriptWaker(Arc::clone(&self.0))));
        let mut context = Context::from_waker(&waker);
        loop {
            self.0.state().is_called = false;
            if future.as_mut().poll(&mut context).is_ready() {
                return;
            }
            let mut state = self.0.state();
            state.script = if state.is_called {
                ThreadState::Woken
            } else {
                ThreadState::Waits
            };
            if !self.0.wait_for_turn(state) {
                return;
            }
        }
    }
}

/// Held by the script's thread until it ends.
struct TurnGuard(Arc<ClockShared>);

impl BusyGuard for TurnGuard {
    fn begin(&self) {
        self.0.wait_for_turn(self.0.state());
    }
}

impl Drop for TurnGuard {
    fn drop(&mut self) {
        self.0.state().script = ThreadState::Absent;
        self.0.turned.notify_all();
    }
}

/// Wakes the script.
struct ScriptWaker(Arc<ClockShared>);

impl Wake for ScriptWaker {
    fn wake(self: Arc<Self>) {
        let mut state = self.0.state();
        state.is_called = true;
        if state.script == ThreadState::Waits {
            state.script = ThreadState::Woken;
        }
    }
}

/// A wait on a test's clock.
struct VirtualSleep {
    clock: Arc<ClockShared>,
    at: Instant,
    /// Since when somebody sleeps; `None` where it only waits for a moment.
    since: Option<Instant>,
    /// Its key among the alarms.
    set: Option<(Instant, u64)>,
    /// True where it is over as soon as its time has come.
    is_eager: bool,
}

impl Future for VirtualSleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let clock = Arc::clone(&self.clock);
        let mut state = clock.state();
        let rang = self.set.is_some_and(|key| !state.alarms.contains_key(&key));
        if rang || self.is_eager && state.now >= self.at {
            return Poll::Ready(());
        }
        let key = self.set.unwrap_or((self.at.max(state.now), state.next));
        state.next = state.next.max(key.1 + 1);
        let before = state.alarms.insert(key, context.waker().clone());
        drop(state);
        // A waker may be the last to hold what waits, which may hold other alarms.
        drop(before);
        self.set = Some(key);
        Poll::Pending
    }
}

impl Drop for VirtualSleep {
    fn drop(&mut self) {
        let mut state = self.clock.state();
        if let Some(since) = self.since {
            let slept = state.now.min(self.at).saturating_duration_since(since);
            state.slept += slept;
        }
        let waker = self.set.and_then(|key| state.alarms.remove(&key));
        drop(state);
        drop(waker);
    }
}

#[cfg(test)]
mod tests {
    use tokio::runtime::Builder;

    use super::*;

    const HOUR: Duration = Duration::from_hours(1);

    /// Drives `run` on a runtime that tells the clock when it has nothing to do.
    fn driven<T>(clock: &VirtualClock, run: impl Future<Output = T>) -> Option<T> {
        let idle = clock.clone();
        let runtime = Builder::new_current_thread()
            .on_thread_park(move || idle.idle())
            .build();
        runtime.unwrap().block_on(clock.drive(run))
    }

    #[test]
    fn waits_end_in_order_and_take_no_time() {
        let clock = VirtualClock::new(Duration::from_mins(1));
        let began = clock.now();
        let order = Arc::new(Mutex::new(Vec::new()));
        let ended = driven(&clock, async {
            let tasks = [3, 1, 2].map(|hours| {
                let (clock, order) = (clock.clone(), Arc::clone(&order));
                tokio::spawn(async move {
                    clock.sleep(HOUR * hours).await;
                    order.lock().unwrap().push(hours);
                })
            });
            for task in tasks {
                task.await.unwrap();
            }
        });
        assert_eq!(ended, Some(()));
        assert_eq!(*order.lock().unwrap(), [1, 2, 3]);
        assert_eq!(clock.now() - began, HOUR * 3, "they go on together");
        assert_eq!(clock.slept(), HOUR * 6);
    }

    #[test]
    fn a_sleep_that_is_cut_short_counts_as_far_as_it_went() {
        let clock = VirtualClock::new(Duration::from_mins(1));
        let deadline = clock.now() + HOUR;
        driven(&clock, async {
            tokio::select! {
                () = clock.sleep(Duration::MAX) => {}
                () = clock.sleep_until(deadline) => {}
            }
        });
        assert_eq!((clock.now(), clock.slept()), (deadline, HOUR));
    }

    #[test]
    fn time_stands_still_while_the_script_works() {
        let clock = VirtualClock::new(Duration::from_mins(1));
        let (tell, told) = tokio::sync::oneshot::channel();
        let seen = driven(&clock, async {
            let alarm = clock.sleep_until(clock.now() + HOUR);
            let (script, runtime) = (clock.clone(), Handle::current());
            let busy = clock.busy();
            std::thread::spawn(move || {
                busy.begin();
                let before = script.now();
                let two = script.sleep(HOUR * 2);
                let worked = script.now() - before;
                script.block_on(&runtime, std::pin::pin!(two));
                let _ = tell.send((worked, script.now() - before));
                drop(busy);
            });
            alarm.await;
            told.await.unwrap()
        });
        assert_eq!(seen, Some((Duration::ZERO, HOUR * 2)));
    }

    #[test]
    fn what_waits_for_nobody_is_given_up() {
        let clock = VirtualClock::new(Duration::from_mins(1));
        let shutdown = Shutdown::new();
        clock.stop_with(shutdown.clone());
        let stopped = driven(&clock, shutdown.stopping().cancelled());
        assert_eq!((stopped, clock.overrun()), (Some(()), Some(Overrun::Stuck)));
        let ended = driven(&clock, std::future::pending::<()>());
        assert_eq!(ended, None);
    }
}
