//! The report of a run, as any number of readers follow it: in memory with a bound, or in a file.
//!
//! In memory, the writer waits for a reader that is far behind: that slows the run's own source, and nothing
//! else. A reader that makes no progress for a minute is dropped.

use std::collections::{HashMap, VecDeque};
use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::FileExt as _;
use std::pin::pin;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::Notify;

use crate::runtime::shutdown::Shutdown;

/// The bytes of a report in memory that its readers may be behind, and that stay for a new reader.
const WINDOW: usize = 1 << 20;
/// The bytes that are written together, and read together from a file.
const CHUNK: usize = 32 << 10;
/// How long the writer waits for a reader that makes no progress.
const STALLED: Duration = Duration::from_mins(1);
/// How often a waiting writer looks whether its run was aborted.
const WAKE_INTERVAL: Duration = Duration::from_millis(50);
/// The rejections that are shown while a run goes on.
const SHOWN_REJECTIONS: usize = 10;
/// How a line about a rejected token differs from others. Strings escape the quotation mark.
const REJECTED: &[u8] = br#""status":"rejected""#;

/// The report of a run.
pub(super) struct ReportLog {
    state: Mutex<LogState>,
    /// Notified when lines were written, or the report has ended.
    changed: Notify,
    /// Notified when a reader has made progress.
    freed: Condvar,
}

struct LogState {
    content: Content,
    /// The number of complete lines.
    lines: u64,
    has_ended: bool,
    /// True if a part could not be written, so that the report is incomplete.
    has_failed: bool,
    readers: HashMap<u64, ReaderPlace>,
    next_reader: u64,
    /// The last lines about rejected tokens, newest first.
    rejections: VecDeque<Bytes>,
}

enum Content {
    Memory {
        chunks: VecDeque<Chunk>,
        bytes: usize,
    },
    File {
        file: Arc<File>,
        length: u64,
        /// The first line of each written part, and its offset.
        marks: Vec<(u64, u64)>,
    },
}

/// Some complete lines.
struct Chunk {
    first: u64,
    lines: u64,
    bytes: Bytes,
}

/// Where a reader is.
struct ReaderPlace {
    line: u64,
    moved_at: Instant,
}

/// The lines that a reader needs are gone.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct LinesGone;

impl ReportLog {
    /// Creates a report in memory.
    pub fn in_memory() -> Arc<Self> {
        Self::with(Content::Memory {
            chunks: VecDeque::new(),
            bytes: 0,
        })
    }

    /// Creates a report in an empty file, which is open for reading and writing.
    pub fn in_file(file: File) -> Arc<Self> {
        Self::with(Content::File {
            file: Arc::new(file),
            length: 0,
            marks: Vec::new(),
        })
    }

    /// Opens the complete report in a file.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn of_file(file: File) -> io::Result<Arc<Self>> {
        let log = Self::in_file(file);
        {
            let mut state = log.state();
            let LogState { content, lines, .. } = &mut *state;
            if let Content::File {
                file,
                length,
                marks,
            } = content
            {
                let mut buffer = vec![0; CHUNK];
                loop {
                    let count = file.read_at(&mut buffer, *length)?;
                    if count == 0 {
                        break;
                    }
                    // The parts begin anywhere; a mark is only set at the beginning of a line.
                    if *length == 0 {
                        marks.push((0, 0));
                    }
                    *lines += count_lines(&buffer[..count]);
                    *length += count as u64;
                }
            }
            state.has_ended = true;
        }
        Ok(log)
    }

    fn with(content: Content) -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::new(LogState {
                content,
                lines: 0,
                has_ended: false,
                has_failed: false,
                readers: HashMap::new(),
                next_reader: 0,
                rejections: VecDeque::new(),
            }),
            changed: Notify::new(),
            freed: Condvar::new(),
        })
    }

    fn state(&self) -> MutexGuard<'_, LogState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the number of complete lines so far.
    pub fn lines(&self) -> u64 {
        self.state().lines
    }

    /// Returns the last lines about rejected tokens, newest first.
    pub fn latest_rejections(&self) -> Vec<Bytes> {
        self.state().rejections.iter().cloned().collect()
    }

    /// Returns the bytes that the report takes in memory.
    pub fn memory(&self) -> usize {
        match &self.state().content {
            Content::Memory { bytes, .. } => *bytes,
            Content::File { .. } => 0,
        }
    }

    /// Starts to read after so many lines.
    ///
    /// # Errors
    /// If these lines are gone, or if the report has ended and has fewer.
    pub fn read_after(self: &Arc<Self>, line: u64) -> Result<LogReader, LinesGone> {
        let mut state = self.state();
        let oldest = match &state.content {
            Content::Memory { chunks, .. } => {
                chunks.front().map_or(state.lines, |chunk| chunk.first)
            }
            Content::File { .. } => 0,
        };
        if line < oldest || state.has_failed || state.has_ended && line > state.lines {
            return Err(LinesGone);
        }
        let id = state.next_reader;
        state.next_reader += 1;
        let place = ReaderPlace {
            line,
            moved_at: Instant::now(),
        };
        state.readers.insert(id, place);
        Ok(LogReader {
            log: Arc::clone(self),
            id,
            line,
            offset: None,
        })
    }

    /// Returns true if the report is incomplete, because a part could not be written.
    pub fn has_failed(&self) -> bool {
        self.state().has_failed
    }

    /// Marks the report as incomplete: readers get an error after what was written.
    fn fail(&self) {
        self.state().has_failed = true;
        self.changed.notify_waiters();
    }

    /// Ends the report: readers end after its last line.
    pub fn end(&self) {
        self.state().has_ended = true;
        self.changed.notify_waiters();
    }

    /// Forgets the lines that no reader needs.
    pub fn forget(&self) {
        let mut state = self.state();
        let needed = state.oldest_needed();
        state.rejections.clear();
        if let Content::Memory { chunks, bytes } = &mut state.content {
            while let Some(chunk) = chunks.pop_front_if(|chunk| chunk.first + chunk.lines <= needed)
            {
                *bytes -= chunk.bytes.len();
            }
        }
    }

    /// Appends complete lines; waits for readers that are far behind, unless the run is aborted.
    fn append(&self, bytes: &[u8], shutdown: &Shutdown) -> io::Result<()> {
        let lines = count_lines(bytes);
        let mut state = self.state();
        while !state.make_room(shutdown.aborting().is_cancelled()) {
            let waited = self.freed.wait_timeout(state, WAKE_INTERVAL);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        let first = state.lines;
        let LogState { content, .. } = &mut *state;
        match content {
            Content::Memory {
                chunks,
                bytes: total,
            } => {
                *total += bytes.len();
                chunks.push_back(Chunk {
                    first,
                    lines,
                    bytes: Bytes::copy_from_slice(bytes),
                });
            }
            Content::File {
                file,
                length,
                marks,
            } => {
                file.write_all_at(bytes, *length)?;
                marks.push((first, *length));
                *length += bytes.len() as u64;
            }
        }
        state.lines += lines;
        state.remember_rejections(bytes);
        drop(state);
        self.changed.notify_waiters();
        Ok(())
    }
}

impl LogState {
    /// Returns the first line that a reader still needs; the number of lines if none does.
    fn oldest_needed(&self) -> u64 {
        let places = self.readers.values().map(|place| place.line);
        places.min().unwrap_or(self.lines)
    }

    /// Drops what is beyond the window; returns false if a reader needs it and makes progress.
    fn make_room(&mut self, is_aborting: bool) -> bool {
        loop {
            let needed = self.oldest_needed();
            let Content::Memory { chunks, bytes } = &mut self.content else {
                return true;
            };
            let Some(front) = chunks.front().filter(|_| *bytes > WINDOW) else {
                return true;
            };
            let end = front.first + front.lines;
            if end <= needed {
                *bytes -= front.bytes.len();
                chunks.pop_front();
                continue;
            }
            let now = Instant::now();
            let is_stalled = |place: &ReaderPlace| {
                place.line < end && (is_aborting || now - place.moved_at > STALLED)
            };
            let before = self.readers.len();
            self.readers.retain(|_, place| !is_stalled(place));
            if self.readers.len() == before {
                return false;
            }
        }
    }

    fn remember_rejections(&mut self, bytes: &[u8]) {
        let lines = bytes.rsplit(|byte| *byte == b'\n');
        let rejected = lines.filter(|line| find(line, REJECTED));
        let mut newest: Vec<_> = rejected.take(SHOWN_REJECTIONS).collect();
        newest.reverse();
        for line in newest {
            self.rejections.push_front(Bytes::copy_from_slice(line));
        }
        self.rejections.truncate(SHOWN_REJECTIONS);
    }
}

fn find(line: &[u8], part: &[u8]) -> bool {
    line.windows(part.len()).any(|window| window == part)
}

fn count_lines(bytes: &[u8]) -> u64 {
    let mut parts = bytes.split(|byte| *byte == b'\n');
    parts.by_ref().skip(1).count() as u64
}

/// Writes a report to its log, in parts of complete lines.
pub(super) struct LogWriter {
    log: Arc<ReportLog>,
    shutdown: Shutdown,
    buffer: Vec<u8>,
}

impl LogWriter {
    /// Creates the writer of a run that `shutdown` stops.
    pub fn new(log: &Arc<ReportLog>, shutdown: Shutdown) -> Self {
        Self {
            log: Arc::clone(log),
            shutdown,
            buffer: Vec::new(),
        }
    }
}

impl Write for LogWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.buffer.extend_from_slice(bytes);
        if self.buffer.len() >= CHUNK && self.buffer.last() == Some(&b'\n') {
            self.flush()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let written = self.log.append(&self.buffer, &self.shutdown);
        self.buffer.clear();
        written.inspect_err(|_| self.log.fail())
    }
}

impl Drop for LogWriter {
    /// Writes the end of the report.
    fn drop(&mut self) {
        let _ = self.flush();
    }
}

/// A reader of a report.
pub(super) struct LogReader {
    log: Arc<ReportLog>,
    id: u64,
    /// The number of lines that were read.
    line: u64,
    /// The offset of the next line in the file, once it is known.
    offset: Option<u64>,
}

impl LogReader {
    /// Waits for the next lines; `None` after the last one.
    ///
    /// # Errors
    /// If the lines are gone, because this reader made no progress.
    pub async fn next(&mut self) -> Option<Result<Bytes, LinesGone>> {
        loop {
            let log = Arc::clone(&self.log);
            let mut changed = pin!(log.changed.notified());
            // From here on no notification is missed.
            changed.as_mut().enable();
            match self.try_next() {
                Ok(Some(bytes)) => return Some(Ok(bytes)),
                Ok(None) if self.log.has_failed() => return Some(Err(LinesGone)),
                Ok(None) if self.log.state().has_ended => return None,
                Ok(None) => changed.await,
                Err(gone) => return Some(Err(gone)),
            }
        }
    }

    fn try_next(&mut self) -> Result<Option<Bytes>, LinesGone> {
        let mut state = self.log.state();
        if !state.readers.contains_key(&self.id) {
            return Err(LinesGone);
        }
        if self.line >= state.lines {
            return Ok(None);
        }
        let bytes = match &state.content {
            Content::Memory { chunks, .. } => {
                let at = chunks.partition_point(|chunk| chunk.first + chunk.lines <= self.line);
                let chunk = chunks.get(at).ok_or(LinesGone)?;
                let skipped = self.line.checked_sub(chunk.first).ok_or(LinesGone)?;
                chunk.bytes.slice(offset_after(&chunk.bytes, skipped)..)
            }
            Content::File {
                file,
                length,
                marks,
            } => {
                let (file, length) = (Arc::clone(file), *length);
                let offset = match self.offset {
                    Some(offset) => offset,
                    None => offset_of_line(&file, marks, self.line).map_err(|_| LinesGone)?,
                };
                let bytes = read_lines(&file, offset, length).map_err(|_| LinesGone)?;
                self.offset = Some(offset + bytes.len() as u64);
                bytes
            }
        };
        self.line += count_lines(&bytes);
        let place = ReaderPlace {
            line: self.line,
            moved_at: Instant::now(),
        };
        state.readers.insert(self.id, place);
        drop(state);
        self.log.freed.notify_all();
        Ok(Some(bytes))
    }
}

impl Drop for LogReader {
    fn drop(&mut self) {
        self.log.state().readers.remove(&self.id);
        self.log.freed.notify_all();
    }
}

/// Returns the offset after so many lines.
fn offset_after(bytes: &[u8], lines: u64) -> usize {
    let ends = bytes.iter().enumerate().filter(|(_, byte)| **byte == b'\n');
    let last = usize::try_from(lines)
        .ok()
        .and_then(|lines| lines.checked_sub(1));
    last.and_then(|last| ends.map(|(at, _)| at + 1).nth(last))
        .unwrap_or(0)
}

/// Returns the offset of a line in the file.
fn offset_of_line(file: &File, marks: &[(u64, u64)], line: u64) -> io::Result<u64> {
    let at = marks.partition_point(|(first, _)| *first <= line);
    let (first, mut offset) = at.checked_sub(1).map_or((0, 0), |at| marks[at]);
    let mut skipped = line - first;
    let mut buffer = vec![0; CHUNK];
    while skipped > 0 {
        let count = file.read_at(&mut buffer, offset)?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let lines = count_lines(&buffer[..count]);
        if lines >= skipped {
            return Ok(offset + offset_after(&buffer[..count], skipped) as u64);
        }
        skipped -= lines;
        offset += count as u64;
    }
    Ok(offset)
}

/// Reads complete lines from `offset`, at least one; the file is written up to `length`.
fn read_lines(file: &File, offset: u64, length: u64) -> io::Result<Bytes> {
    let mut size = CHUNK;
    loop {
        let left = usize::try_from(length.saturating_sub(offset)).unwrap_or(usize::MAX);
        let mut buffer = vec![0; size.min(left)];
        file.read_exact_at(&mut buffer, offset)?;
        if let Some(end) = buffer.iter().rposition(|byte| *byte == b'\n') {
            buffer.truncate(end + 1);
            return Ok(buffer.into());
        }
        if size >= left {
            return Ok(buffer.into());
        }
        size *= 2;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(log: &Arc<ReportLog>, text: &str) {
        let mut writer = LogWriter::new(log, Shutdown::new());
        writer.write_all(text.as_bytes()).unwrap();
        writer.flush().unwrap();
    }

    async fn rest(mut reader: LogReader) -> String {
        let mut text = String::new();
        while let Some(bytes) = reader.next().await {
            text.push_str(std::str::from_utf8(&bytes.unwrap()).unwrap());
        }
        text
    }

    fn logs() -> [Arc<ReportLog>; 2] {
        [
            ReportLog::in_memory(),
            ReportLog::in_file(tempfile::tempfile().unwrap()),
        ]
    }

    #[tokio::test]
    async fn reader_resumes_after_any_line() {
        for log in logs() {
            write(&log, "a\nb\nc\n");
            write(&log, "d\n");
            log.end();
            for (after, expected) in [(0, "a\nb\nc\nd\n"), (1, "b\nc\nd\n"), (3, "d\n"), (4, "")] {
                assert_eq!(rest(log.read_after(after).unwrap()).await, expected);
            }
            assert_eq!(log.read_after(5).err(), Some(LinesGone));
        }
    }

    #[tokio::test]
    async fn complete_file_is_read_like_the_report_that_wrote_it() {
        let mut file = tempfile::tempfile().unwrap();
        let lines: Vec<String> = (0..20_000).map(|line| line.to_string()).collect();
        let text = lines.join("\n") + "\n";
        file.write_all(text.as_bytes()).unwrap();
        let log = ReportLog::of_file(file).unwrap();
        assert_eq!(log.lines(), 20_000);
        let tail = rest(log.read_after(19_998).unwrap()).await;
        assert_eq!(tail, "19998\n19999\n");
        assert_eq!(rest(log.read_after(0).unwrap()).await, text);
    }

    #[tokio::test]
    async fn writer_waits_for_its_slowest_reader_until_that_leaves() {
        let log = ReportLog::in_memory();
        let slow = log.read_after(0).unwrap();
        let line = "x".repeat(CHUNK - 1) + "\n";
        let written = std::thread::spawn({
            let log = Arc::clone(&log);
            move || {
                for _ in 0..3 * WINDOW / CHUNK {
                    write(&log, &line);
                }
            }
        });
        // The writer stops within a chunk of the window.
        while log.memory() <= WINDOW {
            tokio::task::yield_now().await;
        }
        assert!(!written.is_finished());
        drop(slow);
        written.join().unwrap();
        assert!(log.memory() <= WINDOW + CHUNK);
        assert_eq!(log.read_after(0).err(), Some(LinesGone));
    }

    #[tokio::test]
    async fn aborted_run_does_not_wait_for_a_reader() {
        let log = ReportLog::in_memory();
        let mut slow = log.read_after(0).unwrap();
        let shutdown = Shutdown::new();
        shutdown.abort();
        let mut writer = LogWriter::new(&log, shutdown);
        let line = "x".repeat(CHUNK - 1) + "\n";
        for _ in 0..2 * WINDOW / CHUNK {
            writer.write_all(line.as_bytes()).unwrap();
        }
        assert_eq!(slow.next().await, Some(Err(LinesGone)));
    }

    #[tokio::test]
    async fn report_that_could_not_be_written_does_not_look_complete() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("report");
        File::create(&path).unwrap();
        // Open for reading only, so that nothing can be written.
        let log = ReportLog::in_file(File::open(path).unwrap());
        let mut reader = log.read_after(0).unwrap();
        let mut writer = LogWriter::new(&log, Shutdown::new());
        writer.write_all(b"a\n").unwrap();
        writer.flush().unwrap_err();
        log.end();
        assert_eq!(reader.next().await, Some(Err(LinesGone)));
        assert_eq!(log.read_after(0).err(), Some(LinesGone));
    }

    #[test]
    fn latest_rejections_are_kept() {
        let log = ReportLog::in_memory();
        for number in 0..12 {
            write(
                &log,
                &format!(
                    "{{\"token\":\"{number}\",\"status\":\"rejected\"}}\n{{\"token\":\"s\",\"status\":\"stored\"}}\n"
                ),
            );
        }
        let latest = log.latest_rejections();
        assert_eq!(latest.len(), SHOWN_REJECTIONS);
        assert!(latest[0].starts_with(b"{\"token\":\"11\""));
    }
}
