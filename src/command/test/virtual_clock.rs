//! The virtual clock of a pipeline test. When everything waits, time advances to the next alarm. So an
//! hour takes no real time, concurrent waits end in order, and deadlines are exact.
//!
//! The runtime's thread and the script's thread take turns: each runs until it waits. So the results of
//! a test are deterministic.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};

use tokio::runtime::Handle;

use crate::error::{Error, ErrorKind};
use crate::runtime::clock::{BusyGuard, Clock, SleepFuture};
use crate::runtime::shutdown::Shutdown;

/// The real time to end a run that was stopped for exceeding its limit.
const STOP_LIMIT: Duration = Duration::from_secs(5);

/// Maximum duration of a sleep; prevents overflow.
const MAX_SLEEP: Duration = Duration::from_hours(24 * 365 * 30);

/// The reason to end a run that does not end by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Overrun {
    /// It exceeded the limit of real time.
    RealTime,
    /// Everything waits, and no alarm is set.
    Deadlock,
}

/// The state of the script's thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ThreadState {
    /// It has not started, or has ended.
    Absent,
    /// It runs.
    Running,
    /// It waits for an event.
    Waiting,
    /// Its event has occurred, and it waits for its turn.
    Woken,
}

struct ClockState {
    now: Instant,
    slept: Duration,
    /// Wakers by time and order of creation.
    alarms: BTreeMap<(Instant, u64), Waker>,
    next: u64,
    script: ThreadState,
    /// True if the script was woken during its turn.
    is_script_woken: bool,
    /// Wakes the runtime's thread.
    runtime: Option<Waker>,
    shutdown: Option<Shutdown>,
    /// The end of the real time limit.
    limit: Instant,
    overrun: Option<Overrun>,
    /// True once the run is abandoned.
    is_abandoned: bool,
}

/// A virtual clock. Clones share the state.
#[derive(Clone)]
pub struct VirtualClock(Arc<ClockShared>);

struct ClockShared {
    state: Mutex<ClockState>,
    turn_changed: Condvar,
}

impl ClockShared {
    fn state(&self) -> MutexGuard<'_, ClockState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Blocks the script's thread until its turn; returns false if the run is abandoned.
    fn wait_for_turn(&self, state: MutexGuard<'_, ClockState>) -> bool {
        self.turn_changed.notify_all();
        let waits =
            |state: &mut ClockState| state.script != ThreadState::Running && !state.is_abandoned;
        let turned = self.turn_changed.wait_while(state, waits);
        !turned.unwrap_or_else(PoisonError::into_inner).is_abandoned
    }

    fn wake_runtime(&self) {
        let waker = self.state().runtime.clone();
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

impl VirtualClock {
    /// Creates a clock that ends its run after `limit` of real time.
    pub fn new(limit: Duration) -> Self {
        let now = Instant::now();
        Self(Arc::new(ClockShared {
            state: Mutex::new(ClockState {
                now,
                slept: Duration::ZERO,
                alarms: BTreeMap::new(),
                next: 0,
                script: ThreadState::Absent,
                is_script_woken: false,
                runtime: None,
                shutdown: None,
                limit: now + limit,
                overrun: None,
                is_abandoned: false,
            }),
            turn_changed: Condvar::new(),
        }))
    }

    /// Sets the handle that stops a run after an overrun.
    pub fn stop_with(&self, shutdown: Shutdown) {
        self.0.state().shutdown = Some(shutdown);
    }

    /// Returns the sum of all sleeps.
    pub fn slept(&self) -> Duration {
        self.0.state().slept
    }

    /// Returns why the run did not end by itself.
    pub fn overrun(&self) -> Option<Overrun> {
        self.0.state().overrun
    }

    /// Polls a run on the runtime's thread; returns `None` if it is abandoned.
    pub async fn drive<T>(&self, run: impl Future<Output = T>) -> Option<T> {
        let mut run = std::pin::pin!(run);
        std::future::poll_fn(|context| {
            let mut state = self.0.state();
            state.runtime = Some(context.waker().clone());
            if state.is_abandoned {
                return Poll::Ready(None);
            }
            drop(state);
            run.as_mut().poll(context).map(Some)
        })
        .await
    }

    /// Resolves when everything else waits.
    pub fn when_idle(&self) -> SleepFuture {
        let mut alarm = self.alarm(self.now(), None);
        alarm.is_eager = false;
        Box::pin(alarm)
    }

    /// Gives the script its turn, or advances time. The runtime's thread calls it when idle.
    pub fn idle(&self) {
        loop {
            let mut state = self.0.state();
            if state.is_abandoned {
                return;
            }
            if Instant::now() >= state.limit {
                let is_running = state.script == ThreadState::Running;
                drop(state);
                self.end(Overrun::RealTime);
                if is_running {
                    continue;
                }
                return;
            }
            match state.script {
                ThreadState::Running | ThreadState::Woken => {
                    state.script = ThreadState::Running;
                    self.0.turn_changed.notify_all();
                    if self.wait_for_script(state) {
                        // The runtime polls the tasks that the script woke.
                        return self.0.wake_runtime();
                    }
                }
                ThreadState::Waiting | ThreadState::Absent => {
                    if advance(state) {
                        return self.0.wake_runtime();
                    }
                    return self.end(Overrun::Deadlock);
                }
            }
        }
    }

    /// Blocks until the script waits; returns false if the real time limit expires first.
    fn wait_for_script(&self, state: MutexGuard<'_, ClockState>) -> bool {
        let left = state.limit.saturating_duration_since(Instant::now());
        let is_running = |state: &mut ClockState| state.script == ThreadState::Running;
        let waited = self
            .0
            .turn_changed
            .wait_timeout_while(state, left, is_running);
        let (state, waited) = waited.unwrap_or_else(PoisonError::into_inner);
        drop(state);
        !waited.timed_out()
    }

    /// Stops the run at the first call, and abandons it at the second.
    fn end(&self, why: Overrun) {
        let mut state = self.0.state();
        if state.overrun.is_some() {
            state.is_abandoned = true;
            drop(state);
            self.0.turn_changed.notify_all();
            return self.0.wake_runtime();
        }
        state.overrun = Some(why);
        state.limit = Instant::now() + STOP_LIMIT;
        let shutdown = state.shutdown.clone();
        drop(state);
        if let Some(shutdown) = shutdown {
            shutdown.stop_because(Error::of(
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
            key: None,
            is_eager: true,
        }
    }
}

/// Advances time to the next alarm; returns false if no alarm is left.
fn advance(mut state: MutexGuard<'_, ClockState>) -> bool {
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
        Box::pin(self.alarm(now + time.min(MAX_SLEEP), Some(now)))
    }

    fn sleep_until(&self, instant: Instant) -> SleepFuture {
        Box::pin(self.alarm(instant, None))
    }

    /// Returns the maximum, so that random waits are deterministic.
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
            self.0.state().is_script_woken = false;
            if future.as_mut().poll(&mut context).is_ready() {
                return;
            }
            let mut state = self.0.state();
            state.script = if state.is_script_woken {
                ThreadState::Woken
            } else {
                ThreadState::Waiting
            };
            if !self.0.wait_for_turn(state) {
                return;
            }
        }
    }
}

/// Held by the script's thread while it exists.
struct TurnGuard(Arc<ClockShared>);

impl BusyGuard for TurnGuard {
    fn begin(&self) {
        self.0.wait_for_turn(self.0.state());
    }
}

impl Drop for TurnGuard {
    fn drop(&mut self) {
        self.0.state().script = ThreadState::Absent;
        self.0.turn_changed.notify_all();
    }
}

/// Wakes the script's thread.
struct ScriptWaker(Arc<ClockShared>);

impl Wake for ScriptWaker {
    fn wake(self: Arc<Self>) {
        let mut state = self.0.state();
        state.is_script_woken = true;
        if state.script == ThreadState::Waiting {
            state.script = ThreadState::Woken;
        }
    }
}

/// A wait on a virtual clock.
struct VirtualSleep {
    clock: Arc<ClockShared>,
    at: Instant,
    /// The start of a sleep; `None` for a wait that does not count as sleep.
    since: Option<Instant>,
    /// The key of its alarm.
    key: Option<(Instant, u64)>,
    /// True to resolve at once when the time is reached, even if tasks are ready.
    is_eager: bool,
}

impl Future for VirtualSleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let clock = Arc::clone(&self.clock);
        let mut state = clock.state();
        let is_due = self.key.is_some_and(|key| !state.alarms.contains_key(&key));
        if is_due || self.is_eager && state.now >= self.at {
            return Poll::Ready(());
        }
        let key = self.key.unwrap_or((self.at.max(state.now), state.next));
        state.next = state.next.max(key.1 + 1);
        let replaced = state.alarms.insert(key, context.waker().clone());
        drop(state);
        // Dropped without the lock: a waker may own the last reference to a task with other alarms.
        drop(replaced);
        self.key = Some(key);
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
        let waker = self.key.and_then(|key| state.alarms.remove(&key));
        drop(state);
        drop(waker);
    }
}

#[cfg(test)]
mod tests {
    use tokio::runtime::Builder;

    use super::*;

    const HOUR: Duration = Duration::from_hours(1);

    /// Drives `run` on a runtime that calls [`VirtualClock::idle`].
    fn driven<T>(clock: &VirtualClock, run: impl Future<Output = T>) -> Option<T> {
        let idle = clock.clone();
        let runtime = Builder::new_current_thread()
            .on_thread_park(move || idle.idle())
            .build();
        runtime.unwrap().block_on(clock.drive(run))
    }

    #[test]
    fn waits_end_in_order_without_real_time() {
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
        assert_eq!(clock.now() - began, HOUR * 3, "the waits are concurrent");
        assert_eq!(clock.slept(), HOUR * 6);
    }

    #[test]
    fn cancelled_sleep_counts_until_cancellation() {
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
    fn time_does_not_advance_while_script_runs() {
        let clock = VirtualClock::new(Duration::from_mins(1));
        let (sender, receiver) = tokio::sync::oneshot::channel();
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
                let _ = sender.send((worked, script.now() - before));
                drop(busy);
            });
            alarm.await;
            receiver.await.unwrap()
        });
        assert_eq!(seen, Some((Duration::ZERO, HOUR * 2)));
    }

    #[test]
    fn run_is_abandoned_when_nothing_can_wake_it() {
        let clock = VirtualClock::new(Duration::from_mins(1));
        let shutdown = Shutdown::new();
        clock.stop_with(shutdown.clone());
        let stopped = driven(&clock, shutdown.stopping().cancelled());
        assert_eq!(
            (stopped, clock.overrun()),
            (Some(()), Some(Overrun::Deadlock))
        );
        let ended = driven(&clock, std::future::pending::<()>());
        assert_eq!(ended, None);
    }
}
