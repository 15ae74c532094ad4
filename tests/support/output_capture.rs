//! What a process writes, read as it comes, so that a test can wait for a part of it.

use std::io::Read;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Instant;

/// What a pipe has brought so far, filled by a thread of its own.
pub struct OutputCapture {
    shared: Arc<Shared>,
    reader: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    held: Mutex<Held>,
    grown: Condvar,
}

#[derive(Default)]
struct Held {
    bytes: Vec<u8>,
    closed: bool,
}

impl Held {
    fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes).into_owned()
    }
}

impl OutputCapture {
    /// Reads the pipe to its end.
    pub fn read(mut pipe: impl Read + Send + 'static) -> Self {
        let shared = Arc::new(Shared::default());
        let filled = Arc::clone(&shared);
        let reader = std::thread::spawn(move || {
            let mut chunk = vec![0; 64 * 1024];
            loop {
                let count = pipe.read(&mut chunk).unwrap_or(0);
                let mut held = filled.lock();
                held.bytes.extend_from_slice(&chunk[..count]);
                held.closed = count == 0;
                filled.grown.notify_all();
                if count == 0 {
                    return;
                }
            }
        });
        Self {
            shared,
            reader: Some(reader),
        }
    }

    /// What it was so far.
    pub fn text(&self) -> String {
        self.shared.lock().text()
    }

    /// Waits until it satisfies the test, and gives what it was then.
    pub fn wait_for(&self, limit: Instant, what: impl Fn(&str) -> bool) -> String {
        let mut held = self.shared.lock();
        loop {
            let text = held.text();
            if what(&text) {
                return text;
            }
            let left = limit.saturating_duration_since(Instant::now());
            assert!(
                !held.closed && !left.is_zero(),
                "waited in vain; it said: {text}"
            );
            let woken = self.shared.grown.wait_timeout(held, left);
            held = woken.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// All of it, once the other end is closed.
    pub fn finish(&mut self) -> String {
        let reader = self.reader.take().map(JoinHandle::join);
        assert!(!matches!(reader, Some(Err(_))), "the reader panicked");
        self.text()
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
