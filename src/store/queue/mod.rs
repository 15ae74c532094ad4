//! A store under way: the queue from which connections take chunks of pages, and what becomes of a
//! chunk. The pump fills it.
//!
//! A chunk answers for its tokens: dropped with some left, it reports them as never sent. So no
//! way out of this room, a panic included, can lose a token.

mod pump;

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::error::Fault;
use crate::pipeline::channel::OutcomeSender;
use crate::pipeline::token::{Detail, Outcome, Status, Token};
use crate::runtime::clock::Clock;
use crate::runtime::shutdown::Shutdown;
use crate::store::coalesce::{Coalesced, Coalescer};
use crate::store::page_spans::PageSpans;
pub(super) use crate::store::queue::pump::pump;

/// How many outcomes of one job may be booked at a time; bounds what is queued and unread.
pub(super) const CREDIT: usize = 4096;

/// Why the whole store has ended before its time; what is left gets this status.
pub(super) struct StoreEnd {
    /// What the tokens that are left become.
    pub(super) status: Status,
    /// Why, for each of them.
    pub(super) detail: Arc<Detail>,
    /// Why, for the run.
    pub(super) fault: Fault,
}

/// What one call of `store` shares with its chunks.
pub(super) struct StoreJob {
    sender: OutcomeSender<Fault>,
    /// Set by the pump when nothing more of this job may be sent.
    stopping: AtomicBool,
    verdict: Arc<OnceLock<StoreEnd>>,
    /// Cancelled when the last chunk and the last token in flight have let go of the job.
    done: CancellationToken,
    _done: DropGuard,
    coalescer: Coalescer,
    /// Where somebody wants to hear of them.
    pages: Option<PageSpans>,
}

impl Drop for StoreJob {
    /// Where nobody came to send them, because the runtime is gone.
    fn drop(&mut self) {
        self.send(self.coalescer.take(Instant::now()));
    }
}

impl StoreJob {
    fn stop(&self) {
        self.stopping.store(true, Ordering::Relaxed);
    }

    /// True where none of its tokens may be sent any more.
    pub(super) fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Relaxed) || self.verdict.get().is_some()
    }

    /// Says why its stream ends before its time; the first reason counts.
    pub(super) fn tell(&self, fault: &Fault) {
        self.sender.fail(fault.clone());
    }

    /// Hands over outcomes at once.
    pub(super) fn send(&self, outcomes: Vec<Outcome>) {
        if let Some(pages) = &self.pages {
            pages.settle(&outcomes);
        }
        self.sender.send(outcomes);
    }

    /// Hands over outcomes together with those that come right after them.
    pub(super) fn send_soon(self: &Arc<Self>, outcomes: Vec<Outcome>) {
        match self.coalescer.add(outcomes, Instant::now()) {
            Coalesced::Now(all) => self.send(all),
            Coalesced::At(due) => {
                let job = Arc::clone(self);
                tokio::spawn(async move {
                    tokio::time::sleep_until(due).await;
                    job.send(job.coalescer.take(Instant::now()));
                });
            }
            Coalesced::Pending => {}
        }
    }

    /// Reports tokens that will not be sent.
    fn refuse(&self, tokens: impl Iterator<Item = Token>) {
        let (status, detail) = match self.verdict.get() {
            Some(verdict) => {
                self.sender.fail(verdict.fault.clone());
                (verdict.status, Arc::clone(&verdict.detail))
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

/// Some tokens of a job, to be sent by whoever takes it.
pub(super) struct Chunk {
    /// Whose tokens they are.
    pub(super) job: Arc<StoreJob>,
    tokens: std::vec::IntoIter<Token>,
}

impl Chunk {
    /// The next token; from now on the taker answers for it.
    pub(super) fn take(&mut self) -> Option<Token> {
        self.tokens.next()
    }

    /// How many are left.
    pub(super) fn len(&self) -> usize {
        self.tokens.len()
    }
}

impl Drop for Chunk {
    fn drop(&mut self) {
        if self.tokens.len() > 0 {
            let tokens = std::mem::take(&mut self.tokens);
            self.job.refuse(tokens);
        }
    }
}

/// The one way from the pumps to the connections.
pub(super) struct Queue {
    feed: async_channel::Sender<Chunk>,
    /// Where chunks are taken from.
    pub(super) inbox: async_channel::Receiver<Chunk>,
    /// The run's switch.
    pub(super) shutdown: Shutdown,
    clock: Arc<dyn Clock>,
    /// Cancelled together with the setting of the verdict.
    over: CancellationToken,
    closed: CancellationToken,
    verdict: Arc<OnceLock<StoreEnd>>,
    /// Tokens that came and were not yet taken by a connection.
    pending: AtomicUsize,
    more: Notify,
    connections: usize,
}

impl Queue {
    /// An empty queue before `connections` takers.
    pub(super) fn new(connections: usize, shutdown: Shutdown, clock: Arc<dyn Clock>) -> Arc<Self> {
        let (feed, inbox) = async_channel::bounded((connections * 2).max(4));
        Arc::new(Self {
            feed,
            inbox,
            shutdown,
            clock,
            over: CancellationToken::new(),
            closed: CancellationToken::new(),
            verdict: Arc::new(OnceLock::new()),
            pending: AtomicUsize::new(0),
            more: Notify::new(),
            connections,
        })
    }

    /// A job whose outcomes go to `sender`, and are counted in `pages`.
    pub(super) fn job(
        &self,
        sender: OutcomeSender<Fault>,
        pages: Option<PageSpans>,
    ) -> Arc<StoreJob> {
        let done = CancellationToken::new();
        Arc::new(StoreJob {
            sender,
            stopping: AtomicBool::new(false),
            verdict: Arc::clone(&self.verdict),
            _done: done.clone().drop_guard(),
            done,
            coalescer: Coalescer::default(),
            pages,
        })
    }

    /// Ends the store for every job; the first verdict counts. Whoever met it tells its own job,
    /// whose tokens may all be sent already.
    pub(super) fn fail_all(&self, verdict: StoreEnd) {
        let _ = self.verdict.set(verdict);
        self.over.cancel();
        self.close();
    }

    /// Cancelled once no more chunks are taken, at the end or before its time.
    pub(super) fn closed(&self) -> &CancellationToken {
        &self.closed
    }

    /// Takes no more chunks; those inside can still be taken.
    pub(super) fn close(&self) {
        self.feed.close();
        self.closed.cancel();
    }

    /// Drops what is queued, which reports it.
    pub(super) fn clear(&self) {
        while let Ok(chunk) = self.inbox.try_recv() {
            self.taken(&chunk);
        }
    }

    fn clear_if_halted(&self) {
        if self.shutdown.stopping().is_cancelled() || self.over.is_cancelled() {
            self.clear();
        }
    }

    /// Gives back a chunk that could not be sent.
    pub(super) fn give_back(&self, chunk: Chunk) {
        self.pending.fetch_add(chunk.len(), Ordering::Relaxed);
        let feed = self.feed.clone();
        tokio::spawn(async move { feed.send(chunk).await });
    }

    /// To be called by who took a chunk out of the inbox.
    pub(super) fn taken(&self, chunk: &Chunk) {
        let _ = self
            .pending
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |pending| {
                Some(pending.saturating_sub(chunk.len()))
            });
    }

    /// How many tokens wait to be taken.
    pub(super) fn pending(&self) -> usize {
        self.pending.load(Ordering::Relaxed)
    }

    /// Resolves when a page has come since the last call.
    pub(super) async fn more(&self) {
        self.more.notified().await;
    }

    /// Waits until nothing new may be sent, by whatever reason.
    async fn interrupted(&self, stop: &CancellationToken) {
        tokio::select! {
            () = stop.cancelled() => {}
            () = self.shutdown.stopping().cancelled() => {}
            () = self.over.cancelled() => {}
        }
    }
}

/// Held by who takes chunks; when it is gone, even by a panic, nobody waits for it any more.
pub(super) struct ConsumerGuard(pub(super) Arc<Queue>);

impl Drop for ConsumerGuard {
    fn drop(&mut self) {
        self.0.close();
        self.0.clear();
    }
}

/// Held by who feeds the queue; when it is gone, the takers end once the queue is empty.
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

    fn start(queue: &Arc<Queue>, pages: PageStream<Fault>) -> OutcomeStream<Fault> {
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

    async fn collect(mut stream: OutcomeStream<Fault>) -> (Vec<Outcome>, Option<Fault>) {
        let (mut all, mut fault) = (Vec::new(), None);
        while let Some(next) = stream.next().await {
            match next {
                Ok(batch) => all.extend(batch),
                Err(end) => fault = Some(end),
            }
        }
        (all, fault)
    }

    #[tokio::test]
    async fn a_page_is_cut_for_all_connections_and_flawed_tokens_stay_out() {
        let queue = Queue::new(2, Shutdown::new(), Arc::new(SystemClock));
        let page = Page::from_texts([("aa", None), ("b\tb", Some(TokenDefect::ControlCharacter))]);
        let stream = start(&queue, PageStream::ready([page]));
        let mut chunk = queue.inbox.recv().await.unwrap();
        assert_eq!(chunk.take().unwrap().as_str(), "aa");
        assert_eq!(chunk.len(), 0);
        drop(chunk);
        let (all, fault) = collect(stream).await;
        assert_eq!((all.len(), fault), (1, None));
        assert_eq!(all[0].status, Status::Rejected);
    }

    #[tokio::test]
    async fn a_chunk_that_nobody_sends_reports_itself() {
        let queue = Queue::new(1, Shutdown::new(), Arc::new(SystemClock));
        let stream = start(&queue, PageStream::ready([page(40)]));
        let mut chunk = queue.inbox.recv().await.unwrap();
        let _taken = chunk.take();
        drop(chunk);
        queue.inbox.recv().await.unwrap();
        let (all, _) = collect(stream).await;
        assert_eq!(all.len(), 39);
        assert!(all.iter().all(|o| o.status == Status::NotAttempted));
    }

    #[tokio::test]
    async fn a_verdict_reaches_what_is_queued_and_what_still_comes() {
        let queue = Queue::new(1, Shutdown::new(), Arc::new(SystemClock));
        let stream = start(&queue, PageStream::ready([page(1000), page(1000)]));
        let chunk = queue.inbox.recv().await.unwrap();
        queue.fail_all(StoreEnd {
            status: Status::Failed,
            detail: Detail::reason("gone"),
            fault: Fault::new(ErrorKind::DbConnect, "gone"),
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
    async fn a_stop_after_the_last_page_still_reaches_the_queue() {
        let shutdown = Shutdown::new();
        let queue = Queue::new(1, shutdown.clone(), Arc::new(SystemClock));
        let stream = start(&queue, PageStream::ready([page(64)]));
        while queue.inbox.len() < 2 {
            tokio::task::yield_now().await;
        }
        shutdown.stop_for(crate::error::exit::Cause::Deadline);
        let (all, _) = collect(stream).await;
        assert_eq!(all.len(), 64);
        assert!(all.iter().all(|o| o.status == Status::NotAttempted));
    }

    #[tokio::test]
    async fn coalesced_outcomes_arrive_when_the_job_is_dropped() {
        let queue = Queue::new(
            1,
            Shutdown::new(),
            Arc::new(crate::runtime::clock::SystemClock),
        );
        let (sender, mut stream, _stop) = outcomes::<Fault>(CREDIT);
        let job = queue.job(sender, None);
        for text in ["aa", "bb"] {
            let page = Page::from_texts([(text, None)]);
            let outcome = |token| Outcome::unsent(token, Status::Rejected, None);
            job.send_soon(page.iter().map(outcome).collect());
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
