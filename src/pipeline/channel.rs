//! The two joints of the pipeline: pages on their way from `fetch` to `store`, and outcomes on
//! their way from `store` to `report`. Each is bounded, so that a slow stage slows the ones before
//! it instead of filling the memory, and each ends with the fault that ended it.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{Semaphore, mpsc};
use tokio_util::sync::CancellationToken;

use crate::pipeline::token::{Outcome, Page, Token};

/// What a fetch task sends: pages, and at the end perhaps the fault that ended it.
pub type PageResult<E> = Result<Page, E>;

type StartFetch<E> = Box<dyn FnOnce(CancellationToken) -> mpsc::Receiver<PageResult<E>> + Send>;

enum PageFeed<E> {
    /// Nothing will come.
    Closed,
    /// Begins when the first page is asked for.
    Lazy(StartFetch<E>),
    /// Under way.
    Open(mpsc::Receiver<PageResult<E>>),
}

/// Pages of tokens, in order, single pass. Nothing is fetched before the first [`PageStream::next`].
pub struct PageStream<E> {
    ready: VecDeque<Page>,
    incoming: PageFeed<E>,
    stop: CancellationToken,
}

impl<E> PageStream<E> {
    /// A stream of pages that are already here.
    pub fn ready(pages: impl IntoIterator<Item = Page>) -> Self {
        Self {
            ready: pages.into_iter().collect(),
            incoming: PageFeed::Closed,
            stop: CancellationToken::new(),
        }
    }

    /// A stream that calls `start` when its first page is asked for. The task behind the receiver
    /// must begin nothing new once the token that `start` gets is cancelled, but must still send
    /// what it then receives.
    pub fn lazy(
        start: impl FnOnce(CancellationToken) -> mpsc::Receiver<PageResult<E>> + Send + 'static,
    ) -> Self {
        Self {
            ready: VecDeque::new(),
            incoming: PageFeed::Lazy(Box::new(start)),
            stop: CancellationToken::new(),
        }
    }

    /// The next page that holds a token, or the fault that ended the stream. Cancel safe.
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

    /// How many tokens are left, where all of them are here already.
    pub fn known_len(&self) -> Option<usize> {
        match self.incoming {
            PageFeed::Closed => Some(self.ready.iter().map(Page::len).sum()),
            PageFeed::Lazy(_) | PageFeed::Open(_) => None,
        }
    }

    /// Gives back the rest of a page; it comes first again.
    pub fn put_back(&mut self, page: Page) {
        self.ready.push_front(page);
    }

    /// Begins nothing new; what is under way still comes through [`PageStream::next`].
    pub fn stop(&mut self) {
        self.stop.cancel();
        if matches!(self.incoming, PageFeed::Lazy(_)) {
            self.incoming = PageFeed::Closed;
        }
    }
}

/// The writing end of an [`OutcomeStream`]; the stream ends when the last clone is dropped.
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
    /// Waits until `count` more outcomes fit, and books them. Never blocks where the stream's
    /// reader has gone. Book before a token is sent to the database, so that sending its outcome
    /// needs no waiting: a store whose outcomes nobody reads then never holds up another one.
    pub async fn book(&self, count: usize) {
        let count = u32::try_from(count).unwrap_or(u32::MAX);
        if let Ok(permit) = self.credit.acquire_many(count).await {
            permit.forget();
        }
    }

    /// Hands over outcomes, in the order in which they became known.
    pub fn send(&self, outcomes: Vec<Outcome>) {
        if !outcomes.is_empty() {
            let _ = self.batches.send(outcomes);
        }
    }

    /// Sets the fault with which the stream ends after its last outcome; the first one counts.
    pub fn fail(&self, fault: E) {
        let mut slot = self.fault.lock().unwrap_or_else(PoisonError::into_inner);
        slot.get_or_insert(fault);
    }
}

/// Outcomes in batches, single pass.
pub struct OutcomeStream<E> {
    batches: mpsc::UnboundedReceiver<Vec<Outcome>>,
    credit: Arc<Semaphore>,
    fault: Arc<Mutex<Option<E>>>,
    stop: CancellationToken,
}

/// The two ends of a stream of outcomes of which at most `capacity` are booked at a time, and the
/// token that is cancelled when its reader wants no more tokens to be sent.
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

/// The outcomes of tokens that are judged here and not sent; must be called within a runtime.
pub fn judged<E: Send + 'static>(
    mut pages: PageStream<E>,
    judge: impl Fn(Token) -> Outcome + Send + 'static,
) -> OutcomeStream<E> {
    /// So many outcomes are handed over at a time.
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
                        sender.book(tokens.len()).await;
                        sender.send(tokens.into_iter().map(&judge).collect());
                    }
                }
            }
        }
    });
    stream
}

impl<E> OutcomeStream<E> {
    /// The next outcomes, or, after the last of them, the fault that ended the stream. Cancel safe.
    pub async fn next(&mut self) -> Option<Result<Vec<Outcome>, E>> {
        match self.batches.recv().await {
            Some(batch) => Some(Ok(self.release(batch))),
            None => self.take_fault().map(Err),
        }
    }

    /// Outcomes that are here already.
    pub fn try_next(&mut self) -> Option<Vec<Outcome>> {
        let batch = self.batches.try_recv().ok()?;
        Some(self.release(batch))
    }

    /// True where nothing more will come.
    pub fn is_done(&self) -> bool {
        self.batches.is_closed() && self.batches.is_empty()
    }

    /// Sends no further token; outcomes of what is under way, and of what will now not be sent,
    /// still come.
    pub fn stop(&self) {
        self.stop.cancel();
    }

    fn release(&self, batch: Vec<Outcome>) -> Vec<Outcome> {
        self.credit.add_permits(batch.len());
        batch
    }

    /// The fault that ended the stream, once.
    pub fn take_fault(&self) -> Option<E> {
        self.fault
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take()
    }
}

impl<E> Drop for OutcomeStream<E> {
    /// Nobody reads any more: nobody waits for room either.
    fn drop(&mut self) {
        self.credit.close();
    }
}
