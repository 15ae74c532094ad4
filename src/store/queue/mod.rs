//! The queue from which connections take chunks of pages; the pump fills it.
//!
//! A chunk that is dropped reports its remaining tokens as not sent. So no exit path, not even a
//! panic, loses a token.

mod pump;

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::error::Error;
use crate::pipeline::channel::OutcomeSender;
use crate::pipeline::token::{Detail, Outcome, Status, Token};
use crate::runtime::clock::Clock;
use crate::runtime::shutdown::Shutdown;
use crate::store::coalesce::{Coalesced, Coalescer};
use crate::store::page_spans::PageSpans;
pub(super) use crate::store::queue::pump::pump;

/// Maximum number of reserved outcomes per job; bounds queued and unread tokens.
pub(super) const CREDIT: usize = 4096;

/// Why the store ended early, and the status of the remaining tokens.
pub(super) struct StoreEnd {
    /// The status of the remaining tokens.
    pub(super) status: Status,
    /// The detail of each of them.
    pub(super) detail: Arc<Detail>,
    /// The fault of the run.
    pub(super) fault: Error,
}

/// One call of `store`, shared with its chunks.
pub(super) struct StoreJob {
    sender: OutcomeSender<Error>,
    /// Set by the pump when no further tokens of this job may be sent.
    stopping: AtomicBool,
    end: Arc<OnceLock<StoreEnd>>,
    /// Cancelled when the last chunk and the last token in flight have dropped the job.
    done: CancellationToken,
    _done: DropGuard,
    coalescer: Coalescer,
    /// The page spans, if traces are on.
    pages: Option<PageSpans>,
}

impl Drop for StoreJob {
    /// Sends batched outcomes if their flush never ran, because the runtime is gone.
    fn drop(&mut self) {
        self.send(self.coalescer.take(Instant::now()));
    }
}

impl StoreJob {
    fn stop(&self) {
        self.stopping.store(true, Ordering::Relaxed);
    }

    /// Returns true if no further tokens of this job may be sent.
    pub(super) fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Relaxed) || self.end.get().is_some()
    }

    /// Sets the fault that ends its stream; only the first one counts.
    pub(super) fn set_fault(&self, fault: &Error) {
        self.sender.fail(fault.clone());
    }

    /// Sends outcomes at once.
    pub(super) fn send(&self, outcomes: Vec<Outcome>) {
        if let Some(pages) = &self.pages {
            pages.settle(&outcomes);
        }
        self.sender.send(outcomes);
    }

    /// Sends outcomes batched with those that follow shortly.
    pub(super) fn send_coalesced(self: &Arc<Self>, outcomes: Vec<Outcome>) {
        match self.coalescer.add(outcomes, Instant::now()) {
            Coalesced::SendNow(all) => self.send(all),
            Coalesced::FlushAt(due) => {
                let job = Arc::clone(self);
                tokio::spawn(async move {
                    tokio::time::sleep_until(due).await;
                    job.send(job.coalescer.take(Instant::now()));
                });
            }
            Coalesced::Scheduled => {}
        }
    }

    /// Reports tokens that will not be sent.
    fn report_unsent(&self, tokens: impl Iterator<Item = Token>) {
        let (status, detail) = match self.end.get() {
            Some(end) => {
                self.sender.fail(end.fault.clone());
                (end.status, Arc::clone(&end.detail))
            }
            None => (Status::NotAttempted, Detail::reason("the run was stopped")),
        };
        self.send(
            tokens
                .map(|token| Outcome::unsent(token, status, Some(Arc::clone(&detail))))
                .collect(),
        );
    }
}

/// Some tokens of a job, sent by one connection.
pub(super) struct Chunk {
    /// The job of the tokens.
    pub(super) job: Arc<StoreJob>,
    tokens: std::vec::IntoIter<Token>,
}

impl Chunk {
    /// Takes the next token; the caller must report its outcome.
    pub(super) fn take(&mut self) -> Option<Token> {
        self.tokens.next()
    }

    /// Returns the number of tokens left.
    pub(super) fn len(&self) -> usize {
        self.tokens.len()
    }
}

impl Drop for Chunk {
    fn drop(&mut self) {
        if self.tokens.len() > 0 {
            let tokens = std::mem::take(&mut self.tokens);
            self.job.report_unsent(tokens);
        }
    }
}

/// The queue of chunks from the pumps to the connections.
pub(super) struct Queue {
    sender: async_channel::Sender<Chunk>,
    /// The receiver of chunks.
    pub(super) chunks: async_channel::Receiver<Chunk>,
    /// The run's shutdown handle.
    pub(super) shutdown: Shutdown,
    clock: Arc<dyn Clock>,
    /// Cancelled when `end` is set.
    failed: CancellationToken,
    closed: CancellationToken,
    end: Arc<OnceLock<StoreEnd>>,
    /// Number of tokens that no connection has taken yet.
    pending: AtomicUsize,
    page_arrived: Notify,
    connections: usize,
}

impl Queue {
    /// Creates an empty queue for `connections` consumers.
    pub(super) fn new(connections: usize, shutdown: Shutdown, clock: Arc<dyn Clock>) -> Arc<Self> {
        let (sender, chunks) = async_channel::bounded((connections * 2).max(4));
        Arc::new(Self {
            sender,
            chunks,
            shutdown,
            clock,
            failed: CancellationToken::new(),
            closed: CancellationToken::new(),
            end: Arc::new(OnceLock::new()),
            pending: AtomicUsize::new(0),
            page_arrived: Notify::new(),
            connections,
        })
    }

    /// Creates a job that sends its outcomes to `sender` and counts them in `pages`.
    pub(super) fn job(
        &self,
        sender: OutcomeSender<Error>,
        pages: Option<PageSpans>,
    ) -> Arc<StoreJob> {
        let done = CancellationToken::new();
        Arc::new(StoreJob {
            sender,
            stopping: AtomicBool::new(false),
            end: Arc::clone(&self.end),
            _done: done.clone().drop_guard(),
            done,
            coalescer: Coalescer::default(),
            pages,
        })
    }

    /// Ends the store for every job; only the first end counts.
    ///
    /// The caller must also set the fault of its own job, whose tokens may all be sent already.
    pub(super) fn fail_all(&self, end: StoreEnd) {
        let _ = self.end.set(end);
        self.failed.cancel();
        self.close();
    }

    /// Returns the token that is cancelled when the queue is closed.
    pub(super) fn closed(&self) -> &CancellationToken {
        &self.closed
    }

    /// Closes the queue; queued chunks can still be taken.
    pub(super) fn close(&self) {
        self.sender.close();
        self.closed.cancel();
    }

    /// Drops queued chunks, which report their tokens.
    pub(super) fn clear(&self) {
        while let Ok(chunk) = self.chunks.try_recv() {
            self.mark_taken(&chunk);
        }
    }

    fn clear_if_stopped(&self) {
        if self.shutdown.stopping().is_cancelled() || self.failed.is_cancelled() {
            self.clear();
        }
    }

    /// Puts a chunk back that could not be sent.
    pub(super) fn requeue(&self, chunk: Chunk) {
        self.pending.fetch_add(chunk.len(), Ordering::Relaxed);
        let sender = self.sender.clone();
        tokio::spawn(async move { sender.send(chunk).await });
    }

    /// Subtracts a chunk from the pending tokens; call it after taking a chunk.
    pub(super) fn mark_taken(&self, chunk: &Chunk) {
        let _ = self
            .pending
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |pending| {
                Some(pending.saturating_sub(chunk.len()))
            });
    }

    /// Returns the number of tokens that no connection has taken.
    pub(super) fn pending(&self) -> usize {
        self.pending.load(Ordering::Relaxed)
    }

    /// Waits until a page has arrived since the last call.
    pub(super) async fn page_arrived(&self) {
        self.page_arrived.notified().await;
    }

    /// Waits until nothing new may be sent: stream stopped, run stopped or store ended.
    async fn interrupted(&self, stop: &CancellationToken) {
        tokio::select! {
            () = stop.cancelled() => {}
            () = self.shutdown.stopping().cancelled() => {}
            () = self.failed.cancelled() => {}
        }
    }
}

/// Closes and clears the queue when its consumer ends, even by a panic.
pub(super) struct ConsumerGuard(pub(super) Arc<Queue>);

impl Drop for ConsumerGuard {
    fn drop(&mut self) {
        self.0.close();
        self.0.clear();
    }
}

/// Closes the queue when its producer ends; consumers then end once it is empty.
pub(super) struct ProducerGuard(pub(super) Arc<Queue>);

impl Drop for ProducerGuard {
    fn drop(&mut self) {
        self.0.close();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;
    use crate::pipeline::channel::{OutcomeStream, PageStream, outcomes};
    use crate::pipeline::token::{Page, TokenDefect};
    use crate::runtime::clock::SystemClock;

    fn start(queue: &Arc<Queue>, pages: PageStream<Error>) -> OutcomeStream<Error> {
        let (sender, stream, stop) = outcomes(CREDIT);
        tokio::spawn(pump(
            Arc::clone(queue),
            queue.job(sender, None),
            stop,
            pages,
        ));
        stream
    }

    fn page(count: usize) -> Page {
        Page::from_texts((0..count).map(|_| ("aa", None)))
    }

    async fn collect(mut stream: OutcomeStream<Error>) -> (Vec<Outcome>, Option<Error>) {
        let (mut all, mut fault) = (Vec::new(), None);
        while let Some(next) = stream.next().await {
            match next {
                Ok(batch) => all.extend(batch),
                Err(error) => fault = Some(error),
            }
        }
        (all, fault)
    }

    #[tokio::test]
    async fn page_is_split_into_chunks_and_invalid_tokens_are_rejected() {
        let queue = Queue::new(2, Shutdown::new(), Arc::new(SystemClock));
        let page = Page::from_texts([("aa", None), ("b\tb", Some(TokenDefect::ControlCharacter))]);
        let stream = start(&queue, PageStream::ready([page]));
        let mut chunk = queue.chunks.recv().await.unwrap();
        assert_eq!(chunk.take().unwrap().as_str(), "aa");
        assert_eq!(chunk.len(), 0);
        drop(chunk);
        let (all, fault) = collect(stream).await;
        assert_eq!((all.len(), fault), (1, None));
        assert_eq!(all[0].status, Status::Rejected);
    }

    #[tokio::test]
    async fn chunk_reports_its_tokens_when_dropped() {
        let queue = Queue::new(1, Shutdown::new(), Arc::new(SystemClock));
        let stream = start(&queue, PageStream::ready([page(40)]));
        let mut chunk = queue.chunks.recv().await.unwrap();
        let _token = chunk.take();
        drop(chunk);
        queue.chunks.recv().await.unwrap();
        let (all, _) = collect(stream).await;
        assert_eq!(all.len(), 39);
        assert!(all.iter().all(|o| o.status == Status::NotAttempted));
    }

    #[tokio::test]
    async fn queued_and_later_tokens_fail_when_the_store_ends() {
        let queue = Queue::new(1, Shutdown::new(), Arc::new(SystemClock));
        let stream = start(&queue, PageStream::ready([page(1000), page(1000)]));
        let chunk = queue.chunks.recv().await.unwrap();
        queue.fail_all(StoreEnd {
            status: Status::Failed,
            detail: Detail::reason("gone"),
            fault: Error::of(ErrorKind::DbConnect, "gone"),
        });
        drop(chunk);
        let (all, fault) = collect(stream).await;
        assert_eq!(all.len(), 2000);
        assert!(all.iter().all(|o| o.status == Status::Failed));
        assert_eq!(fault.unwrap().message, "gone");
        let (late, fault) = collect(start(&queue, PageStream::ready([page(3)]))).await;
        assert_eq!((late.len(), late[0].status), (3, Status::Failed));
        assert!(fault.is_some());
    }

    #[tokio::test]
    async fn queued_tokens_are_not_sent_when_run_stops_after_last_page() {
        let shutdown = Shutdown::new();
        let queue = Queue::new(1, shutdown.clone(), Arc::new(SystemClock));
        let stream = start(&queue, PageStream::ready([page(64)]));
        while queue.chunks.len() < 2 {
            tokio::task::yield_now().await;
        }
        shutdown.stop_for(crate::error::exit::Cause::Deadline);
        let (all, _) = collect(stream).await;
        assert_eq!(all.len(), 64);
        assert!(all.iter().all(|o| o.status == Status::NotAttempted));
    }

    #[tokio::test]
    async fn coalesced_outcomes_arrive_when_job_is_dropped() {
        let queue = Queue::new(
            1,
            Shutdown::new(),
            Arc::new(crate::runtime::clock::SystemClock),
        );
        let (sender, mut stream, _stop) = outcomes::<Error>(CREDIT);
        let job = queue.job(sender, None);
        for text in ["aa", "bb"] {
            let page = Page::from_texts([(text, None)]);
            let outcome = |token| Outcome::unsent(token, Status::Rejected, None);
            job.send_coalesced(page.iter().map(outcome).collect());
        }
        drop(job);
        let mut all = Vec::new();
        while let Some(Ok(batch)) = stream.next().await {
            all.extend(batch);
        }
        let texts: Vec<&str> = all.iter().map(|outcome| outcome.token.as_str()).collect();
        assert_eq!(texts, ["aa", "bb"]);
    }
}
