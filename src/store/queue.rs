//! The queue of pages from which writers claim tokens; a pump per job fills it.
//!
//! A claim that is dropped reports its remaining tokens as not sent. So no exit path, not even a
//! panic, loses a token.

use std::collections::VecDeque;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio_util::sync::{CancellationToken, DropGuard};
use tracing::Instrument as _;

use crate::error::Error;
use crate::pipeline::channel::{self, OutcomeSender, OutcomeStream, PageStream, wait_until};
use crate::pipeline::receipts::ReceiptLog;
use crate::pipeline::token::{Detail, Outcome, Page, Status, Token};
use crate::runtime::clock::Clock;
use crate::runtime::shutdown::Shutdown;
use crate::store::page_spans::PageSpans;

/// The most outcomes of a job that are reserved or unread; bounds the tokens sent ahead of a reader.
const CAPACITY: usize = 4096;
/// The most tokens in a claim.
const MAX_CLAIM: usize = 32;
/// How long the pump still waits for pages after an abort.
const ABORT_GRACE: Duration = Duration::from_secs(1);

/// Why the store ended early, and the status of the remaining tokens.
pub(super) struct StoreEnd {
    /// The status of the remaining tokens.
    pub(super) status: Status,
    /// The detail of each of them.
    pub(super) detail: Arc<Detail>,
    /// The error of the run.
    pub(super) error: Error,
}

/// One call of `store`, shared by its tokens.
pub(super) struct StoreJob {
    sender: OutcomeSender<Error>,
    /// Set by the pump when no further tokens of this job may be sent.
    stopping: AtomicBool,
    /// Set by the pump when the job's run is aborted before the store.
    aborted: AtomicBool,
    end: Arc<OnceLock<StoreEnd>>,
    /// Cancelled when the last claim and the last token in flight have dropped the job.
    done: CancellationToken,
    _done: DropGuard,
    /// The page spans, if traces are on.
    pages: Option<PageSpans>,
}

impl StoreJob {
    fn new(
        sender: OutcomeSender<Error>,
        end: &Arc<OnceLock<StoreEnd>>,
        pages: Option<PageSpans>,
    ) -> Arc<Self> {
        let done = CancellationToken::new();
        Arc::new(Self {
            sender,
            stopping: AtomicBool::new(false),
            aborted: AtomicBool::new(false),
            end: Arc::clone(end),
            _done: done.clone().drop_guard(),
            done,
            pages,
        })
    }

    /// Returns true if no further tokens of this job may be sent.
    pub(super) fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Relaxed) || self.end.get().is_some()
    }

    /// Returns true if the job's run does not wait for its tokens in flight any more.
    pub(super) fn is_aborted(&self) -> bool {
        self.aborted.load(Ordering::Relaxed)
    }

    /// Sets the error that ends its stream; only the first one counts.
    pub(super) fn set_error(&self, error: &Error) {
        self.sender.fail(error.clone());
    }

    /// Reports an outcome.
    pub(super) fn report(&self, outcome: Outcome) {
        if let Some(pages) = &self.pages {
            pages.settle(&outcome);
        }
        self.sender.send([outcome]);
    }

    /// Reports tokens that will not be sent.
    fn report_unsent(&self, page: &Page) {
        let (status, detail) = match self.end.get() {
            Some(end) => {
                self.sender.fail(end.error.clone());
                (end.status, Arc::clone(&end.detail))
            }
            None => (Status::NotAttempted, Detail::reason("the run was stopped")),
        };
        for token in page.iter() {
            self.report(Outcome::unsent(token, status, Some(Arc::clone(&detail))));
        }
    }
}

/// Some tokens of a job that were not sent yet: a queued page, or the part that a writer claimed.
pub(super) struct Claim {
    /// The job of the tokens.
    pub(super) job: Arc<StoreJob>,
    page: Page,
}

impl Claim {
    /// Takes the next token; the caller must report its outcome.
    pub(super) fn next_token(&mut self) -> Option<Token> {
        self.page.take_first()
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        if !self.page.is_empty() {
            self.job.report_unsent(&self.page);
        }
    }
}

/// The queue of pages from the pumps to the writers.
pub(super) struct Queue {
    state: Mutex<QueueState>,
    /// Notified when a claim may succeed that failed before.
    claimable: Arc<Notify>,
    /// Notified when tokens were claimed.
    claimed: Notify,
    /// Notified when a page was queued.
    page_arrived: Notify,
    /// The receipts that wait to be written.
    pub(super) receipts: Arc<ReceiptLog>,
    /// Stops the store; a run that has the store alone stops it too.
    pub(super) shutdown: Shutdown,
    /// The clock of the store.
    pub(super) clock: Arc<dyn Clock>,
    /// The job of tokens whose run does not wait for them any more.
    abandoned: Arc<StoreJob>,
    /// Counts how often a job was stopped or aborted.
    job_stops: watch::Sender<u64>,
    /// Cancelled when `end` is set.
    failed: CancellationToken,
    closed: CancellationToken,
    end: Arc<OnceLock<StoreEnd>>,
    /// Cancelled when replies are not waited for any more.
    giving_up: CancellationToken,
    /// Why the tokens in flight stay unknown then.
    unknown_because: OnceLock<&'static str>,
    /// Twice the number of writers, so that each gets a part of a small page.
    shares: usize,
    wake_interval: Duration,
}

#[derive(Default)]
struct QueueState {
    pages: VecDeque<Claim>,
    is_closed: bool,
}

impl Queue {
    /// Creates an empty queue for at most `writers` writers.
    ///
    /// A job's reader is woken at most once per `wake_interval`.
    pub(super) fn new(
        writers: usize,
        wake_interval: Duration,
        shutdown: Shutdown,
        clock: Arc<dyn Clock>,
    ) -> Arc<Self> {
        let end = Arc::default();
        // Its reader is gone, so its outcomes are dropped.
        let (sender, ..) = channel::outcomes(0, wake_interval, Arc::default());
        Arc::new(Self {
            abandoned: StoreJob::new(sender, &end, None),
            job_stops: watch::Sender::default(),
            state: Mutex::default(),
            claimable: Arc::default(),
            claimed: Notify::new(),
            page_arrived: Notify::new(),
            receipts: Arc::default(),
            shutdown,
            clock,
            failed: CancellationToken::new(),
            closed: CancellationToken::new(),
            end,
            giving_up: CancellationToken::new(),
            unknown_because: OnceLock::new(),
            shares: (writers * 2).max(2),
            wake_interval,
        })
    }

    /// Stores the tokens of `pages`, on the current tokio runtime, until `run` stops; returns their outcomes.
    pub(super) fn store(
        self: &Arc<Self>,
        pages: PageStream<Error>,
        run: &Shutdown,
        spans: Option<PageSpans>,
    ) -> OutcomeStream<Error> {
        let space = Arc::clone(&self.claimable);
        let (sender, outcomes, stop) = channel::outcomes(CAPACITY, self.wake_interval, space);
        let job = StoreJob::new(sender, &self.end, spans);
        let stops = JobStops {
            stream: stop,
            run: run.clone(),
        };
        tokio::spawn(pump(Arc::clone(self), job, stops, pages).in_current_span());
        outcomes
    }

    /// Returns the job of tokens whose run does not wait for them any more.
    pub(super) fn abandoned(&self) -> &Arc<StoreJob> {
        &self.abandoned
    }

    /// Returns a receiver that changes when a job was stopped or aborted.
    pub(super) fn job_stops(&self) -> watch::Receiver<u64> {
        self.job_stops.subscribe()
    }

    /// Returns true if the store has ended, so that it stores no further token.
    pub(super) fn has_ended(&self) -> bool {
        self.end.get().is_some() || self.closed.is_cancelled()
    }

    fn state(&self) -> MutexGuard<'_, QueueState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Claims the next tokens of the first job whose reader keeps up.
    pub(super) fn try_claim(&self) -> Option<Claim> {
        let mut state = self.state();
        for index in 0..state.pages.len() {
            let queued = &mut state.pages[index];
            let size = (queued.page.len() / self.shares).clamp(1, MAX_CLAIM);
            let size = queued.job.sender.try_reserve(size);
            if size == 0 {
                continue;
            }
            let claim = Claim {
                job: Arc::clone(&queued.job),
                page: queued.page.split_to(size),
            };
            if queued.page.is_empty() {
                state.pages.remove(index);
            }
            drop(state);
            self.claimed.notify_waiters();
            return Some(claim);
        }
        None
    }

    /// Waits for tokens to claim; `None` once the queue is closed and empty.
    pub(super) async fn claim(&self) -> Option<Claim> {
        wait_until(&self.claimable, || {
            if let Some(claim) = self.try_claim() {
                return Some(Some(claim));
            }
            let state = self.state();
            (state.is_closed && state.pages.is_empty()).then_some(None)
        })
        .await
    }

    /// Puts a claim back that could not be sent.
    pub(super) fn put_back(&self, claim: Claim) {
        claim.job.sender.release(claim.page.len());
        self.state().pages.push_front(claim);
        self.claimable.notify_waiters();
    }

    /// Queues a page.
    fn push(&self, job: &Arc<StoreJob>, page: Page) {
        let job = Arc::clone(job);
        self.state().pages.push_back(Claim { job, page });
        self.page_arrived.notify_one();
        self.claimable.notify_waiters();
    }

    /// Returns the number of queued tokens that satisfy `of_job`.
    fn count(&self, of_job: impl Fn(&Arc<StoreJob>) -> bool) -> usize {
        let state = self.state();
        let pages = state.pages.iter().filter(|queued| of_job(&queued.job));
        pages.map(|queued| queued.page.len()).sum()
    }

    /// Returns the number of tokens that no writer has claimed.
    pub(super) fn pending(&self) -> usize {
        self.count(|_| true)
    }

    /// Waits until few tokens of `job` are left, so that the next page keeps the writers busy.
    async fn has_room(&self, job: &Arc<StoreJob>) {
        wait_until(&self.claimed, || {
            let queued = self.count(|other| Arc::ptr_eq(other, job));
            (queued < self.shares).then_some(())
        })
        .await;
    }

    /// Waits until a page has arrived since the last call.
    pub(super) async fn page_arrived(&self) {
        self.page_arrived.notified().await;
    }

    /// Ends the store for every job; only the first end counts.
    ///
    /// The caller must also set the error of its own job, whose tokens may all be sent already.
    pub(super) fn fail_all(&self, end: StoreEnd) {
        let _ = self.end.set(end);
        self.failed.cancel();
        self.close();
    }

    /// Ends the store for every job without waiting for replies.
    ///
    /// The tokens in flight stay unknown because of `reason`.
    pub(super) fn give_up(&self, end: StoreEnd, reason: &'static str) {
        let _ = self.unknown_because.set(reason);
        self.fail_all(end);
        self.giving_up.cancel();
    }

    /// Returns the token that is cancelled when replies are not waited for any more.
    pub(super) fn giving_up(&self) -> &CancellationToken {
        &self.giving_up
    }

    /// Returns the error of a store that gave up, and why its tokens in flight stay unknown.
    pub(super) fn given_up(&self) -> Option<(&Error, &'static str)> {
        let reason = self.unknown_because.get()?;
        Some((&self.end.get()?.error, reason))
    }

    /// Returns the token that is cancelled when the queue is closed.
    pub(super) fn closed(&self) -> &CancellationToken {
        &self.closed
    }

    /// Closes the queue; queued tokens can still be claimed.
    pub(super) fn close(&self) {
        self.state().is_closed = true;
        self.closed.cancel();
        self.claimable.notify_waiters();
    }

    /// Drops all queued pages, which report their tokens.
    pub(super) fn clear(&self) {
        self.discard(|_| true);
    }

    fn discard(&self, of_job: impl Fn(&Claim) -> bool) {
        let mut state = self.state();
        let (dropped, kept) = std::mem::take(&mut state.pages)
            .into_iter()
            .partition::<VecDeque<Claim>, _>(of_job);
        state.pages = kept;
        drop(state);
        drop(dropped);
        self.claimable.notify_waiters();
    }

    /// Stops a job and reports its queued tokens.
    fn stop(&self, job: &Arc<StoreJob>) {
        job.stopping.store(true, Ordering::Relaxed);
        self.discard(|queued| Arc::ptr_eq(&queued.job, job));
        self.job_stops.send_modify(|count| *count += 1);
    }

    /// Waits until nothing new may be sent: stream, run or store stopped, or store ended.
    async fn interrupted(&self, stops: &JobStops) {
        tokio::select! {
            () = stops.stream.cancelled() => {}
            () = stops.run.stopping().cancelled() => {}
            () = self.shutdown.stopping().cancelled() => {}
            () = self.failed.cancelled() => {}
        }
    }

    /// Makes the writers report the tokens of a job that are in flight, without waiting for the replies.
    fn abort(&self, job: &StoreJob) {
        job.aborted.store(true, Ordering::Relaxed);
        self.job_stops.send_modify(|count| *count += 1);
    }
}

/// What ends a job early.
struct JobStops {
    /// Cancelled when the reader wants no more tokens sent.
    stream: CancellationToken,
    /// Stops the run.
    run: Shutdown,
}

/// Queues pages until they end or nothing more may be sent.
///
/// Tokens that arrive after that are reported as not sent.
async fn pump(
    queue: Arc<Queue>,
    job: Arc<StoreJob>,
    stops: JobStops,
    mut pages: PageStream<Error>,
) {
    // A weak reference can still stop the job without keeping it alive.
    let (done, weak) = (job.done.clone(), Arc::downgrade(&job));
    if queue_pages(&queue, &job, &stops, &mut pages)
        .await
        .is_some()
    {
        // All pages are queued.
        drop(job);
        tokio::select! {
            biased;
            () = done.cancelled() => return,
            () = queue.interrupted(&stops) => {
                if let Some(job) = weak.upgrade() {
                    queue.stop(&job);
                }
            }
        }
    } else {
        report_rest(&queue, job, &stops.run, pages).await;
    }
    tokio::select! {
        biased;
        () = done.cancelled() => {}
        () = stops.run.aborting().cancelled() => {
            if let Some(job) = weak.upgrade() {
                queue.abort(&job);
            }
        }
    }
}

/// Stops the job, and reports the tokens that still arrive as not sent.
async fn report_rest(
    queue: &Queue,
    job: Arc<StoreJob>,
    run: &Shutdown,
    mut pages: PageStream<Error>,
) {
    queue.stop(&job);
    if let Some(end) = queue.end.get() {
        job.sender.fail(end.error.clone());
    }
    pages.stop();
    let rest = async {
        while let Some(result) = pages.next().await {
            match result {
                Ok(page) => job.report_unsent(&page),
                Err(error) => job.sender.fail(error),
            }
        }
    };
    let abort_grace = async {
        tokio::select! {
            () = run.aborting().cancelled() => {}
            () = queue.shutdown.aborting().cancelled() => {}
        }
        queue
            .clock
            .sleep_until(queue.clock.now() + ABORT_GRACE)
            .await;
    };
    tokio::select! {
        biased;
        () = rest => {}
        () = abort_grace => {}
    }
}

/// Queues the pages; returns `None` if it was interrupted before they ended.
async fn queue_pages(
    queue: &Queue,
    job: &Arc<StoreJob>,
    stops: &JobStops,
    pages: &mut PageStream<Error>,
) -> Option<()> {
    let mut interrupted = pin!(queue.interrupted(stops));
    loop {
        let next = async {
            queue.has_room(job).await;
            pages.next().await
        };
        let next = tokio::select! {
            biased;
            () = &mut interrupted => return None,
            next = next => next,
        };
        match next {
            None => return Some(()),
            Some(Ok(page)) => {
                if let Some(pages) = &job.pages {
                    pages.begin(&page);
                }
                queue.push(job, page);
            }
            Some(Err(error)) => job.sender.fail(error),
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
    use crate::error::exit::Cause;
    use crate::pipeline::token::TokenDefect;
    use crate::runtime::clock::SystemClock;

    fn queue(writers: usize, shutdown: Shutdown) -> Arc<Queue> {
        Queue::new(writers, Duration::ZERO, shutdown, Arc::new(SystemClock))
    }

    fn page(count: usize) -> Page {
        Page::from_texts((0..count).map(|_| ("aa", None)))
    }

    async fn collect(mut stream: OutcomeStream<Error>) -> (Vec<Outcome>, Option<Error>) {
        let (mut all, mut failure) = (Vec::new(), None);
        while let Some(next) = stream.next().await {
            match next {
                Ok(batch) => all.extend(batch),
                Err(error) => failure = Some(error),
            }
        }
        (all, failure)
    }

    #[tokio::test]
    async fn writers_share_a_page() {
        let queue = queue(2, Shutdown::new());
        let defect = Some(TokenDefect::ControlCharacter);
        let page = Page::from_texts([("aa", None), ("b\tb", defect), ("cc", None)]);
        let stream = queue.store(PageStream::ready([page]), &Shutdown::new(), None);
        let mut texts = Vec::new();
        for _ in 0..3 {
            let mut claim = queue.claim().await.unwrap();
            texts.push(claim.next_token().unwrap().as_str().to_owned());
            assert!(claim.next_token().is_none());
        }
        assert_eq!(texts, ["aa", "b\tb", "cc"]);
        queue.close();
        assert!(queue.claim().await.is_none());
        let (all, error) = collect(stream).await;
        assert_eq!((all.len(), error), (0, None), "the claims' owner reports");
    }

    #[tokio::test]
    async fn claim_reports_its_tokens_when_dropped() {
        let queue = queue(1, Shutdown::new());
        let stream = queue.store(PageStream::ready([page(40)]), &Shutdown::new(), None);
        let mut claim = queue.claim().await.unwrap();
        let _token = claim.next_token();
        queue.put_back(claim);
        queue.close();
        while let Some(claim) = queue.claim().await {
            drop(claim);
        }
        let (all, _) = collect(stream).await;
        assert_eq!(all.len(), 39);
        assert!(all.iter().all(|o| o.status == Status::NotAttempted));
    }

    #[tokio::test]
    async fn tokens_are_claimed_only_while_the_reader_keeps_up() {
        let queue = queue(1, Shutdown::new());
        let slow = queue.store(
            PageStream::ready([page(2 * CAPACITY)]),
            &Shutdown::new(),
            None,
        );
        let mut claimed = 0;
        while claimed < CAPACITY {
            let mut claim = queue.claim().await.unwrap();
            while let Some(token) = claim.next_token() {
                claimed += 1;
                claim
                    .job
                    .report(Outcome::unsent(token, Status::Rejected, None));
            }
        }
        assert!(queue.try_claim().is_none());
        let _other = queue.store(PageStream::ready([page(1)]), &Shutdown::new(), None);
        let claim = queue.claim().await.unwrap();
        assert_eq!(claim.page.len(), 1, "another job is not blocked");
        drop(slow);
        assert!(queue.try_claim().is_some());
    }

    #[tokio::test]
    async fn queued_and_later_tokens_fail_when_the_store_ends() {
        let queue = queue(1, Shutdown::new());
        let stream = queue.store(
            PageStream::ready([page(1000), page(1000)]),
            &Shutdown::new(),
            None,
        );
        let claim = queue.claim().await.unwrap();
        queue.fail_all(StoreEnd {
            status: Status::Failed,
            detail: Detail::reason("gone"),
            error: Error::of(ErrorKind::DbConnect, "gone"),
        });
        drop(claim);
        let (all, error) = collect(stream).await;
        assert_eq!(all.len(), 2000);
        assert!(all.iter().all(|o| o.status == Status::Failed));
        assert_eq!(error.unwrap().message, "gone");
        let (late, error) =
            collect(queue.store(PageStream::ready([page(3)]), &Shutdown::new(), None)).await;
        assert_eq!((late.len(), late[0].status), (3, Status::Failed));
        assert!(error.is_some());
    }

    #[tokio::test]
    async fn queued_tokens_are_not_sent_when_run_stops_after_last_page() {
        let shutdown = Shutdown::new();
        let queue = queue(1, shutdown.clone());
        let stream = queue.store(PageStream::ready([page(64)]), &Shutdown::new(), None);
        queue.page_arrived().await;
        shutdown.stop_for(Cause::Deadline);
        let (all, _) = collect(stream).await;
        assert_eq!(all.len(), 64);
        assert!(all.iter().all(|o| o.status == Status::NotAttempted));
    }
}
