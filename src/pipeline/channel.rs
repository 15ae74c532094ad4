//! The two channels of the pipeline: pages from `fetch` to `store`, and outcomes from `store` to
//! `report`. Both are bounded, so a slow stage applies backpressure to the previous ones, and both
//! end with the fault that ended them.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{Semaphore, mpsc};
use tokio_util::sync::CancellationToken;

use crate::pipeline::token::{Outcome, Page, Token};

/// An item of a page stream: a page, or the fault that ended the stream.
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

    /// Returns the next page with tokens, or the fault that ended the stream. Cancel safe.
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

/// The sender of an [`OutcomeStream`]; the stream ends when the last clone is dropped.
pub struct OutcomeSender<E> {
    batches: mpsc::UnboundedSender<Vec<Outcome>>,
    credit: Arc<Semaphore>,
    fault: Arc<Mutex<Option<E>>>,
}

impl<E> Clone for OutcomeSender<E> {
    fn clone(&self) -> Self {
        Self {
            batches: self.batches.clone(),
            credit: Arc::clone(&self.credit),
            fault: Arc::clone(&self.fault),
        }
    }
}

impl<E> OutcomeSender<E> {
    /// Reserves capacity for `count` outcomes, and waits until there is enough.
    ///
    /// It returns at once if the receiver is dropped. Reserve before a token is sent to the database:
    /// sending its outcome then never blocks, and an unread store does not block another one.
    pub async fn reserve(&self, count: usize) {
        let count = u32::try_from(count).unwrap_or(u32::MAX);
        if let Ok(permit) = self.credit.acquire_many(count).await {
            permit.forget();
        }
    }

    /// Sends outcomes, in the order in which they became known.
    pub fn send(&self, outcomes: Vec<Outcome>) {
        if !outcomes.is_empty() {
            let _ = self.batches.send(outcomes);
        }
    }

    /// Sets the fault with which the stream ends after its last outcome; only the first one counts.
    pub fn fail(&self, fault: E) {
        let mut slot = self.fault.lock().unwrap_or_else(PoisonError::into_inner);
        slot.get_or_insert(fault);
    }
}

/// A single-pass stream of batches of outcomes.
pub struct OutcomeStream<E> {
    batches: mpsc::UnboundedReceiver<Vec<Outcome>>,
    credit: Arc<Semaphore>,
    fault: Arc<Mutex<Option<E>>>,
    stop: CancellationToken,
}

/// Creates an outcome stream with its sender and a cancellation token.
///
/// At most `capacity` outcomes are reserved at a time. The token is cancelled when the receiver
/// stops the stream.
pub fn outcomes<E>(capacity: usize) -> (OutcomeSender<E>, OutcomeStream<E>, CancellationToken) {
    let (sender, receiver) = mpsc::unbounded_channel();
    let credit = Arc::new(Semaphore::new(capacity));
    let fault = Arc::new(Mutex::new(None));
    let stop = CancellationToken::new();
    (
        OutcomeSender {
            batches: sender,
            credit: Arc::clone(&credit),
            fault: Arc::clone(&fault),
        },
        OutcomeStream {
            batches: receiver,
            credit,
            fault,
            stop: stop.clone(),
        },
        stop,
    )
}

/// Maps each token to an outcome, without a database; must be called within a runtime.
pub fn map_to_outcomes<E: Send + 'static>(
    mut pages: PageStream<E>,
    outcome_of: impl Fn(Token) -> Outcome + Send + 'static,
) -> OutcomeStream<E> {
    /// Number of outcomes that are sent together.
    const BATCH: usize = 256;
    let (sender, stream, stop) = outcomes(16 * BATCH);
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
                Some(Err(fault)) => sender.fail(fault),
                Some(Ok(mut page)) => {
                    while !page.is_empty() {
                        let tokens = page.take(BATCH);
                        sender.reserve(tokens.len()).await;
                        sender.send(tokens.into_iter().map(&outcome_of).collect());
                    }
                }
            }
        }
    });
    stream
}

impl<E> OutcomeStream<E> {
    /// Returns the next outcomes, or after the last ones the stream's fault. Cancel safe.
    pub async fn next(&mut self) -> Option<Result<Vec<Outcome>, E>> {
        match self.batches.recv().await {
            Some(batch) => Some(Ok(self.release(batch))),
            None => self.take_fault().map(Err),
        }
    }

    /// Returns outcomes that have arrived, without waiting.
    pub fn try_next(&mut self) -> Option<Vec<Outcome>> {
        let batch = self.batches.try_recv().ok()?;
        Some(self.release(batch))
    }

    /// Returns true if the stream has ended.
    pub fn is_done(&self) -> bool {
        self.batches.is_closed() && self.batches.is_empty()
    }

    /// Stops sending tokens. The outcomes of all received tokens still arrive.
    pub fn stop(&self) {
        self.stop.cancel();
    }

    fn release(&self, batch: Vec<Outcome>) -> Vec<Outcome> {
        self.credit.add_permits(batch.len());
        batch
    }

    /// Takes the fault that ended the stream.
    pub fn take_fault(&self) -> Option<E> {
        self.fault
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take()
    }
}

impl<E> Drop for OutcomeStream<E> {
    /// Closes the semaphore, so that senders do not wait for capacity.
    fn drop(&mut self) {
        self.credit.close();
    }
}
