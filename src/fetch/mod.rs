//! Fetches pages of tokens from the source until the requested number is complete. It tops up short
//! deliveries and fetches one page ahead of the consumer.

pub mod demo;
mod document;
pub mod error;
pub mod http;
pub mod input;
mod json;
pub mod lines;
pub mod retry;
mod source;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::error::{Error, ErrorKind};
use crate::fetch::error::{
    out_of_patience, out_of_requests, out_of_retries, short_supply, wait_too_long, with_totals,
};
use crate::fetch::retry::{Pace, RetryDecision};
pub use crate::fetch::source::{AnswerFuture, SourceAnswer, SourceKind, TokenSource};
use crate::journal::Journal;
use crate::pipeline::channel::{PageResult, PageStream};
use crate::pipeline::numbers::Numbers;
use crate::pipeline::token::{Page, Token};
use crate::runtime::clock::{Clock, SleepFuture};
use crate::runtime::shutdown::Shutdown;

/// Number of consecutive empty answers after which the source counts as exhausted.
const MAX_EMPTY_REQUESTS: u32 = 3;

/// The limits of fetching; validated.
#[derive(Clone, Debug)]
pub struct FetchLimits {
    /// Timeout of one request, its body included.
    pub timeout: Duration,
    /// Timeout of connecting, TLS included.
    pub connect_timeout: Duration,
    /// The most tokens per request, at least 1.
    pub page_size: u64,
    /// How often a request is retried that was certainly not served; if `None`, an outage is waited
    /// out for `patience`, and another failure is retried three times.
    pub retries: Option<u32>,
    /// How long an outage of the source is waited out.
    pub patience: Duration,
    /// Limit of an answer's body, in bytes.
    pub max_body: u64,
    /// Limit of a token's length, in bytes.
    pub max_token: usize,
    /// Limit of the run's requests.
    pub max_requests: Option<u64>,
    /// True to request again what a short delivery omitted.
    pub top_up: bool,
    /// True to retry also requests that the source may have served: their tokens may be lost.
    pub repeat_served: bool,
}

/// The paging of one fetch, which a script can set.
#[derive(Clone, Copy, Debug)]
pub struct FetchPlan {
    /// The most tokens per request, at least 1.
    pub page_size: u64,
    /// As in [`FetchLimits`].
    pub retries: Option<u32>,
    /// True to request again what a short delivery omitted.
    pub top_up: bool,
}

/// Fetches tokens from one source.
pub struct Fetcher {
    source: Box<dyn TokenSource>,
    limits: FetchLimits,
    shutdown: Shutdown,
    clock: Arc<dyn Clock>,
    deadline: Option<Instant>,
    /// Until when the run waits for a source that has not been reached yet.
    wait_until: Option<Instant>,
    journal: Option<Journal>,
    /// True once the source has answered.
    reached: AtomicBool,
    /// True once tokens were asked for.
    asked: AtomicBool,
    numbers: Mutex<Numbers>,
    pace: Mutex<Pace>,
    fell_short: AtomicBool,
}

impl Fetcher {
    /// Creates a fetcher that sends requests to `source` within `limits`.
    pub fn new(
        source: Box<dyn TokenSource>,
        limits: FetchLimits,
        shutdown: Shutdown,
        clock: Arc<dyn Clock>,
        deadline: Option<Instant>,
    ) -> Self {
        Self {
            source,
            limits,
            shutdown,
            clock,
            deadline,
            wait_until: None,
            journal: None,
            reached: AtomicBool::new(false),
            asked: AtomicBool::new(false),
            numbers: Mutex::default(),
            pace: Mutex::default(),
            fell_short: AtomicBool::new(false),
        }
    }

    /// Sets until when to wait for a source that cannot be reached at the start.
    pub fn wait_until(&mut self, instant: Instant) {
        self.wait_until = Some(instant);
    }

    /// Sets the journal to which each page is written before it is used.
    pub fn set_journal(&mut self, journal: Journal) {
        self.journal = Some(journal);
    }

    /// Returns the configured plan.
    pub fn plan(&self) -> FetchPlan {
        FetchPlan {
            page_size: self.limits.page_size,
            retries: self.limits.retries,
            top_up: self.limits.top_up,
        }
    }

    /// Returns true if the run takes all tokens of an input.
    pub fn is_open_ended(&self) -> bool {
        self.source.kind() == SourceKind::Local { open_ended: true }
    }

    fn is_remote(&self) -> bool {
        self.source.kind() == SourceKind::Remote
    }

    /// Returns the limit of a token's length, in bytes.
    pub fn max_token(&self) -> usize {
        self.limits.max_token
    }

    /// Returns the longest wait that may be started: the time left, or a few minutes.
    pub fn max_wait(&self) -> Duration {
        self.time_left().unwrap_or(retry::MAX_WAIT)
    }

    /// Returns the time left until the deadline.
    fn time_left(&self) -> Option<Duration> {
        self.deadline
            .map(|deadline| deadline.saturating_duration_since(self.clock.now()))
    }

    /// Returns true once tokens were asked for.
    pub fn was_asked(&self) -> bool {
        self.asked.load(Ordering::Relaxed)
    }

    /// Returns the numbers of requests and of received tokens.
    pub fn numbers(&self) -> Numbers {
        *self.lock_numbers()
    }

    fn lock_numbers(&self) -> MutexGuard<'_, Numbers> {
        self.numbers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock_pace(&self) -> MutexGuard<'_, Pace> {
        self.pace.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns true if a fetch ended with fewer tokens than requested.
    pub fn fell_short(&self) -> bool {
        self.fell_short.load(Ordering::Relaxed)
    }

    /// Returns `size` tokens in pages.
    ///
    /// The first request is sent when the first page is requested. Then pages are fetched ahead, at
    /// most two.
    pub fn stream(self: &Arc<Self>, size: u64, plan: FetchPlan) -> PageStream<Error> {
        let fetcher = Arc::clone(self);
        PageStream::lazy(move |stop| {
            let (sender, receiver) = mpsc::channel(1);
            tokio::spawn(async move { fetcher.fetch_pages(size, plan, &stop, &sender).await });
            receiver
        })
    }

    /// Returns the tokens of one request, possibly fewer than `size`.
    ///
    /// The request is sent when the page is requested.
    pub fn once(self: &Arc<Self>, size: u64, retries: Option<u32>) -> PageStream<Error> {
        let fetcher = Arc::clone(self);
        PageStream::lazy(move |stop| {
            let (sender, receiver) = mpsc::channel(2);
            tokio::spawn(async move {
                let mut answer = fetcher.request(size, retries, &stop).await;
                // The end of an input is not an error if this answer holds its last tokens.
                if answer.ended && !answer.page.is_empty() {
                    answer.error = None;
                }
                if (answer.page.len() as u64) < size && !fetcher.is_open_ended() {
                    fetcher.fell_short.store(true, Ordering::Relaxed);
                }
                let _ = sender.send(Ok(answer.page)).await;
                if let Some(error) = answer.error {
                    let _ = sender.send(Err(error)).await;
                }
            });
            receiver
        })
    }

    async fn fetch_pages(
        &self,
        size: u64,
        plan: FetchPlan,
        stop: &CancellationToken,
        pages: &mpsc::Sender<PageResult<Error>>,
    ) {
        let mut received = 0;
        let mut requested = 0;
        let mut empty_answers = 0;
        // A short answer of an input does not mean that it has no more tokens.
        let top_up = plan.top_up || !self.is_remote();
        loop {
            let open = size - if top_up { received } else { requested };
            if open == 0 {
                break;
            }
            if stop.is_cancelled() || self.shutdown.stopping().is_cancelled() {
                break;
            }
            let count = open.min(plan.page_size);
            // All tokens were requested before: this request is a top-up.
            if requested >= size && self.is_remote() {
                self.lock_numbers().top_ups += 1;
            }
            let answer = self.request(count, plan.retries, stop).await;
            let page_len = answer.page.len() as u64;
            received += page_len;
            requested += count;
            empty_answers = if page_len == 0 { empty_answers + 1 } else { 0 };
            let has_all = answer.ended && self.is_open_ended();
            let error = answer
                .error
                .map(|error| with_totals(error, size, received, self.source.kind()));
            let error = error.or_else(|| {
                (empty_answers == MAX_EMPTY_REQUESTS && top_up)
                    .then(|| short_supply(size, received))
            });
            if pages.send(Ok(answer.page)).await.is_err() {
                break;
            }
            if let Some(error) = error {
                if !has_all {
                    self.fell_short.store(true, Ordering::Relaxed);
                }
                let _ = pages.send(Err(error)).await;
                return;
            }
            if answer.ended {
                // The end of an open-ended input completes the fetch.
                return;
            }
        }
        // If the script stopped the stream, the source did not fall short.
        let stopped_by_script = stop.is_cancelled() && !self.shutdown.stopping().is_cancelled();
        if received < size && !stopped_by_script {
            self.fell_short.store(true, Ordering::Relaxed);
        }
    }

    /// Sends one request, with retries. If a failed answer held tokens, they are kept and only the rest
    /// is requested.
    async fn request(
        &self,
        count: u64,
        retries: Option<u32>,
        stop: &CancellationToken,
    ) -> SourceAnswer {
        let mut kept: Vec<Token> = Vec::new();
        let mut answer = self.request_rest(count, retries, stop, &mut kept).await;
        if !kept.is_empty() {
            kept.extend(answer.page.iter());
            answer.page = Page::from_tokens(&kept);
        }
        answer
    }

    async fn request_rest(
        &self,
        count: u64,
        retries: Option<u32>,
        stop: &CancellationToken,
        kept: &mut Vec<Token>,
    ) -> SourceAnswer {
        let mut failures = 0;
        let mut outage_began = None;
        let pause = self.lock_pace().pause;
        if !pause.is_zero()
            && !self
                .sleeps(self.clock.sleep_until(self.clock.now() + pause), stop)
                .await
        {
            return SourceAnswer::empty();
        }
        loop {
            let mut answer = self.send(count - kept.len() as u64).await;
            self.lock_pace().adapt(answer.error.as_ref());
            let Some(error) = &answer.error else {
                return answer;
            };
            failures += 1;
            tracing::debug!(kind = error.kind_name(), failures, "request failed");
            let waits = self.waits_for_startup(error);
            let limits = retry::RetryLimits {
                // Unlimited while the run waits for the source to start.
                retries: if waits { Some(u32::MAX) } else { retries },
                spent: self.numbers().repeated,
                time_left: self.time_left(),
                patience_left: self.is_outage(error).then(|| {
                    let now = self.clock.now();
                    let began = *outage_began.get_or_insert(now);
                    let waited = now.saturating_duration_since(began);
                    self.limits.patience.saturating_sub(waited)
                }),
            };
            match retry::decide(error, failures, &limits, self.clock.jitter()) {
                RetryDecision::After(wait) => {
                    if !waits {
                        self.lock_numbers().repeated += 1;
                    }
                    let millis = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
                    let wait_shown = Duration::from_millis(millis);
                    tracing::info!(
                        wait = ?wait_shown,
                        cause = error.message,
                        "retrying the request"
                    );
                    if !self.sleeps(self.clock.sleep(wait), stop).await {
                        return answer;
                    }
                    kept.extend(answer.page.iter());
                    if kept.len() as u64 == count {
                        answer.page = Page::from_texts([]);
                        answer.error = None;
                        return answer;
                    }
                }
                RetryDecision::GiveUp => return out_of_patience(answer, limits.retries),
                RetryDecision::Spent => return out_of_retries(answer, retries),
                RetryDecision::TooLong(wait) => return wait_too_long(answer, wait),
            }
        }
    }

    /// Waits; returns false if the stream or the run was stopped.
    async fn sleeps(&self, sleep: SleepFuture, stop: &CancellationToken) -> bool {
        tokio::select! {
            biased;
            () = stop.cancelled() => false,
            () = self.shutdown.stopping().cancelled() => false,
            () = sleep => true,
        }
    }

    /// Returns true for a failure that is likely to pass: the source limits its requests, or it was
    /// reached before and cannot be reached now.
    fn is_outage(&self, error: &Error) -> bool {
        let is_lost = self.reached.load(Ordering::Relaxed)
            && error.is_kind(|kind| matches!(kind, ErrorKind::HttpConnect));
        is_lost || retry::is_overload(error)
    }

    /// Returns true while the run waits for a source that has not been reached yet.
    fn waits_for_startup(&self, error: &Error) -> bool {
        let waiting = self
            .wait_until
            .is_some_and(|until| self.clock.now() < until);
        let first = !self.reached.load(Ordering::Relaxed);
        waiting && first && error.kind == Some(ErrorKind::HttpConnect)
    }

    /// Sends one request. A remote one is counted and awaited after a stop, because its tokens may be
    /// issued already; only an abort cancels it.
    async fn send(&self, count: u64) -> SourceAnswer {
        self.asked.store(true, Ordering::Relaxed);
        if !self.is_remote() {
            let answer = tokio::select! {
                biased;
                () = self.shutdown.stopping().cancelled() => SourceAnswer::empty(),
                answer = self.source.request(count) => answer,
            };
            return self.record(answer).await;
        }
        {
            let mut numbers = self.lock_numbers();
            let sent = numbers.requests;
            if self.limits.max_requests.is_some_and(|most| sent >= most) {
                return SourceAnswer::failed(out_of_requests(sent, count));
            }
            numbers.requests += 1;
        }
        let mut answer = tokio::select! {
            biased;
            answer = self.source.request(count) => answer,
            () = self.shutdown.aborting().cancelled() => SourceAnswer::failed(Error::of(
                ErrorKind::HttpTimeout,
                "the run was stopped before the token source answered",
            )),
        };
        if !matches!(&answer.error, Some(error) if error.kind == Some(ErrorKind::HttpConnect)) {
            self.reached.store(true, Ordering::Relaxed);
        }
        let page_len = answer.page.len() as u64;
        if let Some(error) = &mut answer.error
            && retry::may_have_been_served(error)
        {
            let unseen = count.saturating_sub(page_len);
            self.lock_numbers().issued_unseen += unseen;
            // So that `retry` in a script repeats it too.
            error.retryable |= self.limits.repeat_served;
        }
        self.record(answer).await
    }

    /// Counts the answer's tokens and writes them to the journal before they are used.
    async fn record(&self, answer: SourceAnswer) -> SourceAnswer {
        let page_len = answer.page.len() as u64;
        self.lock_numbers().received += page_len;
        if let Some(journal) = &self.journal
            && let Err(error) = journal.received(answer.page.clone()).await
        {
            self.shutdown.stop_because(error);
        }
        self.lock_numbers().surplus += answer.surplus;
        answer
    }
}
