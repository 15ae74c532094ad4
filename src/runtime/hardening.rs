//! What keeps the process's memory to itself: it holds tokens and a password, and neither may be left
//! behind in a file when it crashes, nor be read by another process of the same user.

use std::io;

use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};

/// Switches core dumps off, also those that the system hands to a collector, and closes
/// `/proc/PID/mem` and `/proc/PID/environ` to everyone but root. Both hold for this process alone: it
/// starts no other.
pub fn up() -> io::Result<()> {
    let none = Rlimit {
        current: Some(0),
        maximum: Some(0),
    };
    // Both are tried, whatever becomes of the first.
    let limited = setrlimit(Resource::Core, none);
    let hidden = set_dumpable_behavior(DumpableBehavior::NotDumpable);
    limited.and(hidden).map_err(io::Error::from)
}
