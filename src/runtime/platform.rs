//! What differs between operating systems: Linux has `prctl`, `/proc`, a coarse clock and
//! `TCP_USER_TIMEOUT`; other systems get a portable fallback.

use std::io;
use std::os::fd::AsFd;
use std::time::Duration;

use rustix::process::{Resource, Rlimit, setrlimit};
use rustix::time::{ClockId, clock_gettime};

/// Switches core dumps off and, on Linux, closes `/proc/PID/mem` and `/proc/PID/environ` to every user
/// but root. Both settings hold for this process only.
pub(crate) fn forbid_memory_dumps() -> io::Result<()> {
    let none = Rlimit {
        current: Some(0),
        maximum: Some(0),
    };
    // Both are tried, even if the first fails.
    let limited = setrlimit(Resource::Core, none);
    #[cfg(target_os = "linux")]
    let limited = {
        use rustix::process::{DumpableBehavior, set_dumpable_behavior};
        let hidden = set_dumpable_behavior(DumpableBehavior::NotDumpable);
        limited.and(hidden)
    };
    limited.map_err(io::Error::from)
}

/// Creates a file without a name, in memory if the system has such files.
pub(crate) fn memory_file() -> io::Result<std::fs::File> {
    #[cfg(target_os = "linux")]
    let file = {
        use rustix::fs::{MemfdFlags, memfd_create};
        memfd_create("tokens", MemfdFlags::CLOEXEC).map(std::fs::File::from)?
    };
    #[cfg(not(target_os = "linux"))]
    let file = tempfile::tempfile()?;
    Ok(file)
}

/// Reads how many bytes of memory the process occupies.
#[derive(Debug)]
pub(crate) struct ResidentMemory {
    #[cfg(target_os = "linux")]
    statm: std::fs::File,
}

impl ResidentMemory {
    /// Opens the kernel's count; `None` if the system has none that is cheap to read.
    pub(crate) fn open() -> Option<Self> {
        #[cfg(target_os = "linux")]
        let memory = std::fs::File::open("/proc/self/statm")
            .ok()
            .map(|statm| Self { statm });
        #[cfg(not(target_os = "linux"))]
        let memory = None;
        memory
    }

    /// Returns the bytes that the process occupies now.
    #[cfg(target_os = "linux")]
    pub(crate) fn bytes(&self) -> Option<u64> {
        use std::os::unix::fs::FileExt as _;
        let mut text = [0; 128];
        let length = self.statm.read_at(&mut text, 0).ok()?;
        let text = std::str::from_utf8(&text[..length]).ok()?;
        let pages: u64 = text.split(' ').nth(1)?.parse().ok()?;
        Some(pages * rustix::param::page_size() as u64)
    }

    /// Returns `None`: no count is known.
    #[cfg(not(target_os = "linux"))]
    #[allow(clippy::unused_self, reason = "the signature is that of Linux")]
    pub(crate) fn bytes(&self) -> Option<u64> {
        None
    }
}

/// Returns the signals that the process ignores, as a set of bits; the lowest one is signal 1.
///
/// Elsewhere than on Linux it is unknown, and the set is empty.
pub(crate) fn ignored_signals() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    ignored
        .and_then(|bits| u64::from_str_radix(bits.trim(), 16).ok())
        .unwrap_or_default()
}

/// Returns a monotonic time in nanoseconds that advances every few milliseconds and is cheap to read.
pub(crate) fn coarse_nanos() -> i64 {
    #[cfg(target_os = "linux")]
    let now = clock_gettime(ClockId::MonotonicCoarse);
    #[cfg(not(target_os = "linux"))]
    let now = {
        const STEP: i64 = 4_000_000;
        let mut now = clock_gettime(ClockId::Monotonic);
        now.tv_nsec -= now.tv_nsec % STEP;
        now
    };
    now.tv_sec
        .wrapping_mul(1_000_000_000)
        .wrapping_add(now.tv_nsec)
}

#[cfg(target_os = "linux")]
mod options {
    use nix::{libc, setsockopt_impl, sockopt_impl};

    sockopt_impl!(
        /// The received bytes from which a socket counts as readable.
        ReceiveThreshold,
        SetOnly,
        libc::SOL_SOCKET,
        libc::SO_RCVLOWAT,
        usize
    );
}

/// Wakes the reader of a TCP connection only when this many bytes have arrived, at least 1, or when the
/// connection ends. If they have arrived already, wakes it now.
///
/// # Errors
/// If the system has no such threshold, as systems other than Linux.
#[allow(unused_variables, reason = "only Linux has the option")]
pub(crate) fn set_receive_threshold(stream: impl AsFd, bytes: usize) -> io::Result<()> {
    #[cfg(target_os = "linux")]
    {
        nix::sys::socket::setsockopt(&stream, options::ReceiveThreshold, &bytes)?;
        Ok(())
    }
    #[cfg(not(target_os = "linux"))]
    Err(io::ErrorKind::Unsupported.into())
}

/// Ends a TCP connection whose data stays unacknowledged for this long. Elsewhere than on Linux the
/// keepalive probes alone detect a silent peer.
#[allow(unused_variables, reason = "only Linux has the option")]
pub(crate) fn set_unacknowledged_timeout(stream: impl AsFd, limit: Duration) -> io::Result<()> {
    #[cfg(target_os = "linux")]
    {
        let limit = u32::try_from(limit.as_millis()).unwrap_or(u32::MAX);
        rustix::net::sockopt::set_tcp_user_timeout(&stream, limit)?;
    }
    Ok(())
}
