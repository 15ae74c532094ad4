//! A time limit for the whole test process, which finds a test that hangs.
//!
//! libtest has no time limit, but it names each test that has run for a minute. So this module aborts
//! the process long after the last test should have finished.

use std::io::Write as _;
use std::sync::Once;
use std::thread;
use std::time::Duration;

/// Ten times the duration of all tests on two busy cores, including an image build.
const LIMIT: Duration = Duration::from_mins(25);

static STARTED: Once = Once::new();

/// Starts the time limit; helpers that start something a test waits for call it.
pub fn start() {
    STARTED.call_once(|| {
        thread::spawn(|| {
            thread::park_timeout(LIMIT);
            let threads = thread_names().join(", ");
            // Not `eprintln!`, which libtest captures.
            let _ = writeln!(
                std::io::stderr(),
                "\nthe tests did not finish within {LIMIT:?}; running threads (names truncated): {threads}"
            );
            std::process::abort();
        });
    });
}

/// The names of all threads; the thread of a test has the start of the test's name.
fn thread_names() -> Vec<String> {
    let threads = std::fs::read_dir("/proc/self/task").into_iter().flatten();
    let name = |thread: std::fs::DirEntry| std::fs::read_to_string(thread.path().join("comm"));
    let names = threads.flatten().filter_map(|thread| name(thread).ok());
    names.map(|name| name.trim().to_owned()).collect()
}
