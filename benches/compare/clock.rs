//! The monotonic clock of the machine, which all its processes share.

use rustix::time::{ClockId, clock_gettime};

/// Returns the time of the monotonic clock, in nanoseconds.
pub fn monotonic_nanos() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    u64::try_from(now.tv_sec).unwrap_or(0) * 1_000_000_000 + u64::try_from(now.tv_nsec).unwrap_or(0)
}
