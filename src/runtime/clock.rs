//! How time passes for a run: for whoever waits, asks what time it is, or draws how long to wait.
//! A run has the machine's clock; a pipeline test has one of its own, on which waits take no time.

use std::future::Future;
use std::pin::Pin;
use std::time::{Duration, Instant};

use tokio::runtime::Handle;

/// A wait under way.
pub type SleepFuture = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Held by a thread beside the runtime's as long as it works for the run.
pub trait BusyGuard: Send {
    /// Called by the thread before it does anything.
    fn begin(&self) {}
}

impl BusyGuard for () {}

/// What makes time pass.
pub trait Clock: Send + Sync {
    /// What time it is.
    fn now(&self) -> Instant;

    /// Waits because somebody wants time to pass.
    fn sleep(&self, time: Duration) -> SleepFuture;

    /// Resolves at `instant`; nobody holds anything up for it.
    fn at(&self, instant: Instant) -> SleepFuture;

    /// A number from 0.0 to 1.0 that says how much of its longest a wait by chance takes.
    fn jitter(&self) -> f64;

    /// Says that a thread beside the runtime's is about to work, until it drops the value. What it
    /// waits for, it waits for by [`Clock::block_on`].
    fn busy(&self) -> Box<dyn BusyGuard>;

    /// Blocks the calling thread, which is not the runtime's, until `future` is done or the clock
    /// has given up on the whole run.
    fn block_on(&self, runtime: &Handle, future: Pin<&mut dyn Future<Output = ()>>);
}

/// The machine's clock.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Instant {
        Instant::now()
    }

    fn sleep(&self, time: Duration) -> SleepFuture {
        Box::pin(tokio::time::sleep(time))
    }

    fn at(&self, instant: Instant) -> SleepFuture {
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
