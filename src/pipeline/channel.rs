//! The two channels of the pipeline: pages from `fetch` to `store`, and outcomes from `store` to
//! `report`. Both are bounded, so a slow stage applies backpressure to the previous ones, and both
//! end with the error that ended them.

use std::collections::VecDeque;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::runtime::Handle;
use tokio::sync::{Notify, mpsc};
use tokio_util::sync::CancellationToken;

use crate::pipeline::token::{Outcome, Page, Token};

/// An item of a page stream: a page, or the error that ended the stream.
pub type PageResult<E> = Result<Page, E>;

type StartFetch<E> = Box<dyn FnOnce(CancellationToken) -> mpsc::Receiver<PageResult<E>> + Send>;

enum PageFeed<E> {
    /// No further pages.
    Closed,
    /// Starts when the first page is requested.
    Lazy(StartFetch<E>),
    /// Started.
    Open(mpsc::Receiver<PageResult<E>>),
}

/// A single-pass stream of pages, in order. Fetching starts at the first [`PageStream::next`].
pub struct PageStream<E> {
    ready: VecDeque<Page>,
    incoming: PageFeed<E>,
    stop: CancellationToken,
}

impl<E> PageStream<E> {
    /// Creates a stream of pages that exist already.
    pub fn ready(pages: impl IntoIterator<Item = Page>) -> Self {
        Self {
            ready: pages.into_iter().collect(),
            incoming: PageFeed::Closed,
            stop: CancellationToken::new(),
        }
    }

    /// Creates a stream that calls `start` when its first page is requested.
    ///
    /// When the token that `start` gets is cancelled, the task behind the receiver must not send new
    /// requests, but must still deliver what it receives.
    pub fn lazy(
        start: impl FnOnce(CancellationToken) -> mpsc::Receiver<PageResult<E>> + Send + 'static,
    ) -> Self {
        Self {
            ready: VecDeque::new(),
            incoming: PageFeed::Lazy(Box::new(start)),
            stop: CancellationToken::new(),
        }
    }

    /// Returns the next page with tokens, or the error that ended the stream. Cancel safe.
    pub async fn next(&mut self) -> Option<PageResult<E>> {
        while let Some(page) = self.ready.pop_front() {
            if !page.is_empty() {
                return Some(Ok(page));
            }
        }
        if let PageFeed::Lazy(_) = self.incoming
            && let PageFeed::Lazy(start) = std::mem::replace(&mut self.incoming, PageFeed::Closed)
        {
            self.incoming = PageFeed::Open(start(self.stop.clone()));
        }
        let PageFeed::Open(receiver) = &mut self.incoming else {
            return None;
        };
        loop {
            match receiver.recv().await {
                Some(Ok(page)) if page.is_empty() => {}
                Some(result) => return Some(result),
                None => {
                    self.incoming = PageFeed::Closed;
                    return None;
                }
            }
        }
    }

    /// Returns the number of tokens left, if all of them exist already.
    pub fn known_len(&self) -> Option<usize> {
        match self.incoming {
            PageFeed::Closed => Some(self.ready.iter().map(Page::len).sum()),
            PageFeed::Lazy(_) | PageFeed::Open(_) => None,
        }
    }

    /// Puts the rest of a page back to the front of the stream.
    pub fn put_back(&mut self, page: Page) {
        self.ready.push_front(page);
    }

    /// Stops fetching. Pages in flight still arrive through [`PageStream::next`].
    pub fn stop(&mut self) {
        self.stop.cancel();
        if matches!(self.incoming, PageFeed::Lazy(_)) {
            self.incoming = PageFeed::Closed;
        }
    }
}

/// How long the reader of outcomes is not woken again: waking it costs as much as a token.
pub const WAKE_INTERVAL: Duration = Duration::from_millis(1);

/// The outcomes between the writers of a job and its reader, who takes all of them at once.
struct OutcomeBuffer<E> {
    state: Mutex<BufferState<E>>,
    /// Notified when the reader should take outcomes.
    arrived: Notify,
    /// Notified when outcomes were taken, if a reservation failed before.
    space: Arc<Notify>,
    wake_interval: Duration,
}

struct BufferState<E> {
    outcomes: Vec<Outcome>,
    /// Number of outcomes that are reserved or in the buffer.
    reserved: usize,
    capacity: usize,
    /// True if a reservation failed since the last outcomes were taken.
    is_starved: bool,
    has_sender: bool,
    has_reader: bool,
    error: Option<E>,
    /// When the reader may be woken next.
    next_wake: Instant,
    wake_task: WakeTask,
}

/// Whether a task will wake the reader at `next_wake`.
#[derive(Clone, Copy, PartialEq, Eq)]
enum WakeTask {
    None,
    Scheduled,
}

impl<E> OutcomeBuffer<E> {
    fn state(&self) -> MutexGuard<'_, BufferState<E>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wake(&self, mut state: MutexGuard<'_, BufferState<E>>) {
        state.next_wake = Instant::now() + self.wake_interval;
        drop(state);
        self.arrived.notify_waiters();
    }

    /// Takes all outcomes and frees their capacity.
    fn take(&self, mut state: MutexGuard<'_, BufferState<E>>) -> Vec<Outcome> {
        let outcomes = std::mem::take(&mut state.outcomes);
        state.reserved = state.reserved.saturating_sub(outcomes.len());
        let is_starved = std::mem::take(&mut state.is_starved);
        drop(state);
        if is_starved {
            self.space.notify_waiters();
        }
        outcomes
    }
}

/// The sender of an [`OutcomeStream`]; the stream ends when it is dropped.
pub struct OutcomeSender<E: Send + 'static>(Arc<OutcomeBuffer<E>>);

impl<E: Send + 'static> OutcomeSender<E> {
    /// Reserves capacity for up to `count` outcomes and returns for how many; all if the reader is
    /// gone.
    ///
    /// Reserve before a token is sent to the database: sending its outcome then never blocks, and an
    /// unread store does not block another one.
    pub fn try_reserve(&self, count: usize) -> usize {
        let mut state = self.0.state();
        if !state.has_reader {
            return count;
        }
        let reserved = count.min(state.capacity.saturating_sub(state.reserved));
        state.reserved += reserved;
        state.is_starved |= reserved < count;
        reserved
    }

    /// Waits until at least one outcome can be reserved, up to `count`.
    async fn reserve(&self, count: usize) -> usize {
        wait_until(&self.0.space, || match self.try_reserve(count) {
            0 => None,
            reserved => Some(reserved),
        })
        .await
    }

    /// Frees reserved capacity that is not needed.
    pub fn release(&self, count: usize) {
        let mut state = self.0.state();
        state.reserved = state.reserved.saturating_sub(count);
    }

    /// Sends outcomes, in the order in which they became known. Never blocks.
    pub fn send(&self, outcomes: impl IntoIterator<Item = Outcome>) {
        let mut state = self.0.state();
        if !state.has_reader {
            return;
        }
        state.outcomes.extend(outcomes);
        let due = state.next_wake;
        // A database that blocks its runtime also delays the task, so do not rely on it.
        if Instant::now() >= due {
            return self.0.wake(state);
        }
        if state.wake_task == WakeTask::Scheduled {
            return;
        }
        let Ok(runtime) = Handle::try_current() else {
            // The runtime is gone.
            return self.0.wake(state);
        };
        state.wake_task = WakeTask::Scheduled;
        drop(state);
        let buffer = Arc::clone(&self.0);
        runtime.spawn(async move {
            tokio::time::sleep_until(due.into()).await;
            let mut state = buffer.state();
            state.wake_task = WakeTask::None;
            buffer.wake(state);
        });
    }

    /// Sets the error with which the stream ends after its last outcome; only the first one counts.
    pub fn fail(&self, error: E) {
        self.0.state().error.get_or_insert(error);
    }
}

impl<E: Send + 'static> Drop for OutcomeSender<E> {
    fn drop(&mut self) {
        let mut state = self.0.state();
        state.has_sender = false;
        self.0.wake(state);
    }
}

/// A single-pass stream of batches of outcomes.
pub struct OutcomeStream<E> {
    buffer: Arc<OutcomeBuffer<E>>,
    stop: CancellationToken,
}

/// Creates an outcome stream with its sender and a cancellation token.
///
/// At most `capacity` outcomes are reserved at a time; `space` is notified when more can be. The
/// reader is woken at most once per `wake_interval`. The token is cancelled when the receiver stops
/// the stream.
pub fn outcomes<E: Send + 'static>(
    capacity: usize,
    wake_interval: Duration,
    space: Arc<Notify>,
) -> (OutcomeSender<E>, OutcomeStream<E>, CancellationToken) {
    let buffer = Arc::new(OutcomeBuffer {
        state: Mutex::new(BufferState {
            outcomes: Vec::new(),
            reserved: 0,
            capacity,
            is_starved: false,
            has_sender: true,
            has_reader: true,
            error: None,
            next_wake: Instant::now(),
            wake_task: WakeTask::None,
        }),
        arrived: Notify::new(),
        space,
        wake_interval,
    });
    let stop = CancellationToken::new();
    let stream = OutcomeStream {
        buffer: Arc::clone(&buffer),
        stop: stop.clone(),
    };
    (OutcomeSender(buffer), stream, stop)
}

/// Maps each token to an outcome, without a database; must be called within a runtime.
pub fn map_to_outcomes<E: Send + 'static>(
    mut pages: PageStream<E>,
    outcome_of: impl Fn(Token) -> Outcome + Send + 'static,
) -> OutcomeStream<E> {
    /// Number of outcomes that are sent together.
    const BATCH: usize = 256;
    let (sender, stream, stop) = outcomes(16 * BATCH, Duration::ZERO, Arc::default());
    tokio::spawn(async move {
        loop {
            let page = tokio::select! {
                biased;
                () = stop.cancelled() => {
                    pages.stop();
                    pages.next().await
                }
                page = pages.next() => page,
            };
            match page {
                None => break,
                Some(Err(error)) => sender.fail(error),
                Some(Ok(mut page)) => {
                    while !page.is_empty() {
                        let count = sender.reserve(BATCH.min(page.len())).await;
                        sender.send(page.split_to(count).iter().map(&outcome_of));
                    }
                }
            }
        }
    });
    stream
}

impl<E> OutcomeStream<E> {
    /// Returns the next outcomes, or after the last ones the stream's error. Cancel safe.
    pub async fn next(&mut self) -> Option<Result<Vec<Outcome>, E>> {
        wait_until(&self.buffer.arrived, || {
            let mut state = self.buffer.state();
            if !state.outcomes.is_empty() {
                return Some(Some(Ok(self.buffer.take(state))));
            }
            (!state.has_sender).then(|| state.error.take().map(Err))
        })
        .await
    }

    /// Returns outcomes that have arrived, without waiting.
    pub fn try_next(&mut self) -> Option<Vec<Outcome>> {
        let state = self.buffer.state();
        (!state.outcomes.is_empty()).then(|| self.buffer.take(state))
    }

    /// Returns true if the stream has ended.
    pub fn is_done(&self) -> bool {
        let state = self.buffer.state();
        !state.has_sender && state.outcomes.is_empty()
    }

    /// Stops sending tokens. The outcomes of all received tokens still arrive.
    pub fn stop(&self) {
        self.stop.cancel();
    }

    /// Takes the error that ended the stream.
    pub fn take_error(&self) -> Option<E> {
        self.buffer.state().error.take()
    }
}

impl<E> Drop for OutcomeStream<E> {
    /// Frees all capacity, so that senders do not wait for a reader.
    fn drop(&mut self) {
        self.buffer.state().has_reader = false;
        self.buffer.space.notify_waiters();
    }
}

/// Waits until `attempt` returns a value; it is called now and after each notification.
pub async fn wait_until<T>(notify: &Notify, mut attempt: impl FnMut() -> Option<T>) -> T {
    loop {
        let mut notified = pin!(notify.notified());
        // From here on no notification is missed.
        notified.as_mut().enable();
        if let Some(value) = attempt() {
            return value;
        }
        notified.await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::token::{Page, Status};

    fn outcome(text: &str) -> Outcome {
        Outcome::unsent(Token::new(text, None), Status::Rejected, None)
    }

    fn texts(outcomes: &[Outcome]) -> Vec<&str> {
        outcomes.iter().map(|it| it.token.as_str()).collect()
    }

    #[tokio::test]
    async fn reader_gets_first_outcome_at_once_and_later_ones_together() {
        let (sender, mut stream, _) = outcomes::<()>(16, Duration::from_hours(1), Arc::default());
        let read = tokio::spawn(async move {
            let first = stream.next().await.unwrap().unwrap();
            let rest = stream.next().await.unwrap().unwrap();
            (first, rest, stream.next().await.is_none())
        });
        tokio::task::yield_now().await;
        sender.send([outcome("aa")]);
        tokio::task::yield_now().await;
        sender.send([outcome("bb")]);
        sender.send([outcome("cc")]);
        drop(sender);
        let (first, rest, is_end) = read.await.unwrap();
        assert_eq!(
            (texts(&first), texts(&rest)),
            (vec!["aa"], vec!["bb", "cc"])
        );
        assert!(is_end);
    }

    #[tokio::test]
    async fn capacity_is_reserved_until_reader_takes_outcomes() {
        let space = Arc::new(Notify::new());
        let (sender, mut stream, _) = outcomes::<()>(3, Duration::ZERO, Arc::clone(&space));
        assert_eq!((sender.try_reserve(2), sender.try_reserve(2)), (2, 1));
        assert_eq!(sender.try_reserve(1), 0);
        sender.send([outcome("aa"), outcome("bb")]);
        assert_eq!(sender.try_reserve(1), 0, "unread outcomes occupy capacity");
        let freed = space.notified();
        assert_eq!(stream.try_next().unwrap().len(), 2);
        freed.await;
        assert_eq!(sender.try_reserve(9), 2);
        drop(stream);
        assert_eq!(sender.try_reserve(9), 9, "nothing is kept for a reader");
    }

    #[tokio::test]
    async fn error_follows_the_last_outcome() {
        let (sender, mut stream, _) = outcomes(16, Duration::ZERO, Arc::default());
        sender.fail("first");
        sender.fail("second");
        sender.send([outcome("aa")]);
        assert!(!stream.is_done());
        drop(sender);
        assert_eq!(stream.next().await.unwrap().unwrap().len(), 1);
        assert_eq!(stream.next().await.unwrap().unwrap_err(), "first");
        assert!(stream.next().await.is_none() && stream.is_done());
    }

    #[tokio::test]
    async fn mapped_tokens_arrive_although_reader_is_slow() {
        let page = Page::from_texts((0..10_000).map(|_| ("aa", None)));
        let mut stream = map_to_outcomes(PageStream::<()>::ready([page]), |token| {
            Outcome::unsent(token, Status::Rejected, None)
        });
        let mut count = 0;
        while let Some(batch) = stream.next().await {
            count += batch.unwrap().len();
        }
        assert_eq!(count, 10_000);
    }
}
