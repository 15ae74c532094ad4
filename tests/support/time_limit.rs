//! No test may hang for ever: whoever waits for the tests would never learn which one it is.
//!
//! libtest knows no time limit, but it names each test that has run for a minute. So it is enough to
//! end the whole process, long after the last test should have ended.

use std::io::Write as _;
use std::sync::Once;
use std::thread;
use std::time::Duration;

/// Ten times what all tests take on two busy cores; the docker tests build an image in it.
const LIMIT: Duration = Duration::from_mins(25);

static WATCH: Once = Once::new();

/// Sees to it that the process ends; to be called by whatever may be waited for.
pub fn start() {
    WATCH.call_once(|| {
        thread::spawn(|| {
            thread::park_timeout(LIMIT);
            let running = running().join(", ");
            // Not `eprintln!`, which libtest captures.
            let _ = writeln!(
                std::io::stderr(),
                "\nthe tests did not end within {LIMIT:?} and are ended; running (names cut short): {running}"
            );
            std::process::abort();
        });
    });
}

/// The threads' names, which for a test's own are the beginnings of its name.
fn running() -> Vec<String> {
    let threads = std::fs::read_dir("/proc/self/task").into_iter().flatten();
    let name = |thread: std::fs::DirEntry| std::fs::read_to_string(thread.path().join("comm"));
    let names = threads.flatten().filter_map(|thread| name(thread).ok());
    names.map(|name| name.trim().to_owned()).collect()
}
