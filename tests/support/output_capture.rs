//! Captures the output of a running process. A test can wait for a part of it.

use std::io::Read;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Instant;

/// The output read so far; a thread fills it.
pub struct OutputCapture {
    shared: Arc<SharedOutput>,
    reader: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct SharedOutput {
    output: Mutex<Output>,
    changed: Condvar,
}

#[derive(Default)]
struct Output {
    bytes: Vec<u8>,
    closed: bool,
}

impl Output {
    fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes).into_owned()
    }
}

impl OutputCapture {
    /// Starts a thread that reads the pipe to its end.
    pub fn read(mut pipe: impl Read + Send + 'static) -> Self {
        let shared = Arc::new(SharedOutput::default());
        let for_reader = Arc::clone(&shared);
        let reader = std::thread::spawn(move || {
            let mut chunk = vec![0; 64 * 1024];
            loop {
                let count = pipe.read(&mut chunk).unwrap_or(0);
                let mut output = for_reader.lock();
                output.bytes.extend_from_slice(&chunk[..count]);
                output.closed = count == 0;
                for_reader.changed.notify_all();
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

    /// The output so far.
    pub fn text(&self) -> String {
        self.shared.lock().text()
    }

    /// Waits until the output satisfies the predicate, and returns it.
    pub fn wait_for(&self, limit: Instant, predicate: impl Fn(&str) -> bool) -> String {
        let mut output = self.shared.lock();
        loop {
            let text = output.text();
            if predicate(&text) {
                return text;
            }
            let remaining = limit.saturating_duration_since(Instant::now());
            assert!(
                !output.closed && !remaining.is_zero(),
                "the expected output did not arrive; output: {text}"
            );
            let woken = self.shared.changed.wait_timeout(output, remaining);
            output = woken.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Waits for the end of the pipe, and returns the whole output.
    pub fn finish(&mut self) -> String {
        let reader = self.reader.take().map(JoinHandle::join);
        assert!(!matches!(reader, Some(Err(_))), "the reader panicked");
        self.text()
    }
}

impl SharedOutput {
    fn lock(&self) -> MutexGuard<'_, Output> {
        self.output.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
