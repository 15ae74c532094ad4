//! The places for runs: so many go on at a time, and so many wait for their turn.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The places for runs.
pub(super) struct Places {
    running: Arc<Semaphore>,
    max_runs: usize,
    queued: Arc<AtomicUsize>,
    max_queued: usize,
}

/// A run's place: now, or in the queue.
pub(super) enum Admission {
    /// The run can begin.
    Now(OwnedSemaphorePermit),
    /// The run waits for its turn.
    Queued(QueuePlace),
}

/// A place in the queue, free again when it is dropped.
pub(super) struct QueuePlace(Arc<AtomicUsize>);

impl Drop for QueuePlace {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Places {
    /// Creates the places for `max_runs` at a time and `max_queued` that wait.
    pub fn new(max_runs: usize, max_queued: usize) -> Self {
        Self {
            running: Arc::new(Semaphore::new(max_runs)),
            max_runs,
            queued: Arc::default(),
            max_queued,
        }
    }

    /// Finds a place for a run; `None` if the queue is full.
    pub fn admit(&self) -> Option<Admission> {
        if let Ok(permit) = Arc::clone(&self.running).try_acquire_owned() {
            return Some(Admission::Now(permit));
        }
        let (order, most) = (Ordering::Relaxed, self.max_queued);
        let next = |queued| (queued < most).then_some(queued + 1);
        let queued = self.queued.fetch_update(order, order, next);
        let place = || Admission::Queued(QueuePlace(Arc::clone(&self.queued)));
        queued.is_ok().then(place)
    }

    /// Waits for a run's turn.
    pub async fn turn(&self, admission: Admission) -> Option<OwnedSemaphorePermit> {
        match admission {
            Admission::Now(permit) => Some(permit),
            Admission::Queued(place) => {
                let permit = Arc::clone(&self.running).acquire_owned().await.ok();
                drop(place);
                permit
            }
        }
    }

    /// Returns how many runs go on, and how many wait.
    pub fn taken(&self) -> (usize, usize) {
        let running = self.max_runs - self.running.available_permits();
        (running, self.queued.load(Ordering::Relaxed))
    }
}
