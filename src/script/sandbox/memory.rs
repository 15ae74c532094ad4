//! Limits the memory of scripts: by the growth of the process if it has one run, and by what the script's
//! thread allocates if several runs share the process.

use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use crate::pipeline::token::largest_page;
use crate::runtime::platform::ResidentMemory;

/// The number of pages, each as large as the largest, that do not count as script memory.
///
/// They are in transit between source, script and database.
const PAGES_IN_TRANSIT: u64 = 16;

/// The most bytes of pages in transit that do not count as script memory.
const MAX_IN_TRANSIT: u64 = 128 << 20;

/// Measures how much a script has grown since it started.
#[derive(Debug)]
pub struct MemoryMeter {
    max_growth: u64,
    measure: Measure,
}

#[derive(Debug)]
enum Measure {
    /// The process has one run.
    Process(ProcessGrowth),
    /// Several runs share the process.
    Thread(ThreadGrowth),
}

impl MemoryMeter {
    /// Starts to measure, on the thread of the script. `max_growth` bytes are allowed, besides the pages in
    /// transit. `shared` is what several runs in one process share.
    pub fn start(max_growth: u64, shared: Option<&Arc<SharedMemory>>) -> Self {
        let measure = match shared {
            None => Measure::Process(ProcessGrowth::start()),
            Some(shared) => Measure::Thread(ThreadGrowth::start(shared)),
        };
        Self {
            max_growth,
            measure,
        }
    }

    /// Returns true if the script has grown too much. Called on its thread.
    pub fn is_exceeded(&self) -> bool {
        match &self.measure {
            Measure::Process(process) => process.exceeds(self.max_growth),
            Measure::Thread(thread) => {
                thread.measure() > i64::try_from(self.max_growth).unwrap_or(i64::MAX)
                    || thread.is_largest_of_too_many()
            }
        }
    }
}

/// The growth of the process, as the kernel counts it.
#[derive(Debug)]
struct ProcessGrowth {
    /// `None` if the count cannot be read.
    process: Option<ResidentMemory>,
    at_start: u64,
}

impl ProcessGrowth {
    fn start() -> Self {
        let process = ResidentMemory::open();
        let at_start = process.as_ref().and_then(ResidentMemory::bytes);
        if at_start.is_none() {
            tracing::warn!("cannot read /proc/self/statm: the memory of the script is not limited");
        }
        Self {
            process,
            at_start: at_start.unwrap_or_default(),
        }
    }

    fn exceeds(&self, max_growth: u64) -> bool {
        let in_transit = (PAGES_IN_TRANSIT * largest_page() as u64).min(MAX_IN_TRANSIT);
        let allowed = self
            .at_start
            .saturating_add(max_growth)
            .saturating_add(in_transit);
        let resident = self.process.as_ref().and_then(ResidentMemory::bytes);
        resident.is_some_and(|resident| resident > allowed)
    }
}

/// The growth of what one thread has allocated.
///
/// A script also frees what other threads allocated, such as pages. So it is measured from the lowest count
/// so far.
#[derive(Debug)]
struct ThreadGrowth {
    lowest: AtomicI64,
    growth: Arc<AtomicI64>,
    shared: Arc<SharedMemory>,
}

impl ThreadGrowth {
    fn start(shared: &Arc<SharedMemory>) -> Self {
        let growth = Arc::new(AtomicI64::new(0));
        shared.add(&growth);
        Self {
            lowest: AtomicI64::new(allocated()),
            growth,
            shared: Arc::clone(shared),
        }
    }

    fn measure(&self) -> i64 {
        let allocated = allocated();
        let lowest = self.lowest.load(Ordering::Relaxed).min(allocated);
        self.lowest.store(lowest, Ordering::Relaxed);
        let growth = allocated - lowest;
        self.growth.store(growth, Ordering::Relaxed);
        growth
    }

    fn is_largest_of_too_many(&self) -> bool {
        self.shared.process.exceeds(self.shared.max_growth)
            && self.growth.load(Ordering::Relaxed) >= self.shared.largest()
    }
}

/// Returns how many bytes this thread has allocated, less what it has freed.
fn allocated() -> i64 {
    i64::try_from(alloc_metrics::thread_metrics().allocated_bytes).unwrap_or_default()
}

/// What the scripts in one process share: together they may let it grow by so much. If it grows more, the
/// largest script is terminated.
#[derive(Debug)]
pub struct SharedMemory {
    process: ProcessGrowth,
    max_growth: u64,
    scripts: Mutex<Vec<Weak<AtomicI64>>>,
}

impl SharedMemory {
    /// Starts to measure the process, in which `scripts` of `max_growth` bytes each may run at a time.
    pub fn start(max_growth: u64, scripts: usize) -> Arc<Self> {
        Arc::new(Self {
            process: ProcessGrowth::start(),
            max_growth: max_growth.saturating_mul(scripts as u64),
            scripts: Mutex::default(),
        })
    }

    fn add(&self, growth: &Arc<AtomicI64>) {
        let mut scripts = self.scripts();
        scripts.retain(|script| script.strong_count() > 0);
        scripts.push(Arc::downgrade(growth));
    }

    fn largest(&self) -> i64 {
        let scripts = self.scripts();
        let running = scripts.iter().filter_map(Weak::upgrade);
        let growth = running.map(|growth| growth.load(Ordering::Relaxed));
        growth.max().unwrap_or_default()
    }

    fn scripts(&self) -> MutexGuard<'_, Vec<Weak<AtomicI64>>> {
        self.scripts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_largest_script_is_terminated_when_the_process_grows_too_much() {
        let shared = SharedMemory::start(0, 0);
        let [small, large] = [1, 2].map(|growth| {
            let script = ThreadGrowth::start(&shared);
            script.growth.store(growth, Ordering::Relaxed);
            script
        });
        // The bytes of the pages in transit are allowed, too.
        let process = ProcessGrowth {
            process: None,
            at_start: 0,
        };
        assert!(!process.exceeds(0));
        assert_eq!(shared.largest(), 2);
        drop(large);
        assert_eq!(shared.largest(), 1);
        drop(small);
        assert_eq!(shared.largest(), 0);
    }
}
