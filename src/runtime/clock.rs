//! The clock of a run: current time, waits and jitter. A run uses the system clock; a pipeline test
//! uses a virtual one, on which waits take no time.

use std::future::Future;
use std::pin::Pin;
use std::time::{Duration, Instant};

use tokio::runtime::Handle;

/// The future of a wait.
pub type SleepFuture = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Held by a thread outside the runtime while it works for the run.
pub trait BusyGuard: Send {
    /// Called by the thread before it starts to work.
    fn begin(&self) {}
}

impl BusyGuard for () {}

/// A source of time.
pub trait Clock: Send + Sync {
    /// Returns the current time.
    fn now(&self) -> Instant;

    /// Waits for `time`; a virtual clock adds it to the time slept.
    fn sleep(&self, time: Duration) -> SleepFuture;

    /// Waits until `instant`; a virtual clock does not add it to the time slept.
    fn sleep_until(&self, instant: Instant) -> SleepFuture;

    /// Returns a random factor from 0.0 to 1.0 for a wait with full jitter.
    fn jitter(&self) -> f64;

    /// Registers work of a thread outside the runtime, until the guard is dropped.
    ///
    /// That thread must wait only by [`Clock::block_on`].
    fn busy(&self) -> Box<dyn BusyGuard>;

    /// Blocks the calling thread, outside the runtime, until `future` is done or the clock has
    /// cancelled the run.
    fn block_on(&self, runtime: &Handle, future: Pin<&mut dyn Future<Output = ()>>);
}

/// The system clock.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Instant {
        Instant::now()
    }

    fn sleep(&self, time: Duration) -> SleepFuture {
        Box::pin(tokio::time::sleep(time))
    }

    fn sleep_until(&self, instant: Instant) -> SleepFuture {
        Box::pin(tokio::time::sleep_until(instant.into()))
    }

    fn jitter(&self) -> f64 {
        fastrand::f64()
    }

    fn busy(&self) -> Box<dyn BusyGuard> {
        Box::new(())
    }

    fn block_on(&self, runtime: &Handle, future: Pin<&mut dyn Future<Output = ()>>) {
        runtime.block_on(future);
    }
}
