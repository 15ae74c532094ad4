//! Keeps the process's memory private: it holds tokens and a password, which must not be left in a core
//! dump nor be read by another process of the same user.

use std::io;

use crate::runtime::platform::forbid_memory_dumps;

/// Hardens this process; it starts no other.
///
/// # Errors
/// If the system refuses to switch core dumps off.
pub fn harden() -> io::Result<()> {
    forbid_memory_dumps()
}
