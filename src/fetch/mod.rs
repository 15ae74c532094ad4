//! Fetches pages of tokens from the source until the requested number is complete. It tops up short
//! deliveries and fetches one page ahead of the consumer.

pub mod demo;
pub mod error;
pub mod http;
pub mod input;
mod json;
pub mod lines;
pub mod retry;
mod source;
mod source_stats;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::error::{Error, ErrorKind};
use crate::fetch::error::{
    out_of_requests, out_of_retries, short_supply, wait_too_long, with_totals,
};
use crate::fetch::retry::RetryDecision;
pub use crate::fetch::source::{AnswerFuture, SourceAnswer, SourceKind, TokenSource};
pub use crate::fetch::source_stats::SourceStats;
use crate::journal::Journal;
use crate::pipeline::channel::{PageResult, PageStream};
use crate::pipeline::token::{Page, Token};
use crate::runtime::clock::Clock;
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
    /// How often a request is retried that was certainly not served.
    pub retries: u32,
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
    /// How often a request is retried that was certainly not served.
    pub retries: u32,
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
    stats: SourceStats,
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
            stats: SourceStats::default(),
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

    /// Returns the counters of requests and tokens.
    pub fn stats(&self) -> &SourceStats {
        &self.stats
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
    pub fn once(self: &Arc<Self>, size: u64, retries: u32) -> PageStream<Error> {
        let fetcher = Arc::clone(self);
        PageStream::lazy(move |stop| {
            let (sender, receiver) = mpsc::channel(2);
            tokio::spawn(async move {
                let mut answer = fetcher.request(size, retries, &stop).await;
                // The end of an input is not a fault if this answer holds its last tokens.
                if answer.ended && !answer.page.is_empty() {
                    answer.fault = None;
                }
                if (answer.page.len() as u64) < size && !fetcher.is_open_ended() {
                    fetcher.stats.fell_short.store(true, Ordering::Relaxed);
                }
                let _ = sender.send(Ok(answer.page)).await;
                if let Some(fault) = answer.fault {
                    let _ = sender.send(Err(fault)).await;
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
                self.stats.top_ups.fetch_add(1, Ordering::Relaxed);
            }
            let answer = self.request(count, plan.retries, stop).await;
            let page_len = answer.page.len() as u64;
            received += page_len;
            requested += count;
            empty_answers = if page_len == 0 { empty_answers + 1 } else { 0 };
            let has_all = answer.ended && self.is_open_ended();
            let fault = answer
                .fault
                .map(|fault| with_totals(fault, size, received, self.is_remote()));
            let fault = fault.or_else(|| {
                (empty_answers == MAX_EMPTY_REQUESTS && top_up)
                    .then(|| short_supply(size, received))
            });
            if pages.send(Ok(answer.page)).await.is_err() {
                break;
            }
            if let Some(fault) = fault {
                if !has_all {
                    self.stats.fell_short.store(true, Ordering::Relaxed);
                }
                let _ = pages.send(Err(fault)).await;
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
            self.stats.fell_short.store(true, Ordering::Relaxed);
        }
    }

    /// Sends one request, with retries. If a failed answer held tokens, they are kept and only the rest
    /// is requested.
    async fn request(&self, count: u64, retries: u32, stop: &CancellationToken) -> SourceAnswer {
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
        retries: u32,
        stop: &CancellationToken,
        kept: &mut Vec<Token>,
    ) -> SourceAnswer {
        let mut failures = 0;
        loop {
            let mut answer = self.send(count - kept.len() as u64).await;
            let Some(fault) = &answer.fault else {
                return answer;
            };
            failures += 1;
            tracing::debug!(kind = fault.kind_name(), failures, "request failed");
            let waits = self.waits_for_startup(fault);
            let limits = retry::RetryLimits {
                // Unlimited while the run waits for the source to start.
                retries: if waits { u32::MAX } else { retries },
                spent: self.stats.repeated(),
                time_left: self.time_left(),
            };
            match retry::decide(fault, failures, &limits, self.clock.jitter()) {
                RetryDecision::After(wait) => {
                    if !waits {
                        self.stats.repeated.fetch_add(1, Ordering::Relaxed);
                    }
                    tracing::info!(?wait, kind = fault.kind_name(), "retrying the request");
                    tokio::select! {
                        biased;
                        () = stop.cancelled() => return answer,
                        () = self.shutdown.stopping().cancelled() => return answer,
                        () = self.clock.sleep(wait) => {}
                    }
                    kept.extend(answer.page.iter());
                    if kept.len() as u64 == count {
                        answer.page = Page::from_texts([]);
                        answer.fault = None;
                        return answer;
                    }
                }
                RetryDecision::GiveUp => return answer,
                RetryDecision::Spent => return out_of_retries(answer, retries),
                RetryDecision::TooLong(wait) => return wait_too_long(answer, wait),
            }
        }
    }

    /// Returns true while the run waits for a source that has not been reached yet.
    fn waits_for_startup(&self, fault: &Error) -> bool {
        let waiting = self
            .wait_until
            .is_some_and(|until| self.clock.now() < until);
        let first = !self.reached.load(Ordering::Relaxed);
        waiting && first && fault.kind == Some(ErrorKind::HttpConnect)
    }

    /// Sends one request. A remote one is counted and awaited after a stop, because its tokens may be
    /// issued already; only an abort cancels it.
    async fn send(&self, count: u64) -> SourceAnswer {
        if !self.is_remote() {
            let answer = tokio::select! {
                biased;
                () = self.shutdown.stopping().cancelled() => SourceAnswer::empty(),
                answer = self.source.request(count) => answer,
            };
            return self.record(answer).await;
        }
        let sent = self.stats.requests.fetch_add(1, Ordering::Relaxed);
        if self.limits.max_requests.is_some_and(|most| sent >= most) {
            self.stats.requests.fetch_sub(1, Ordering::Relaxed);
            return SourceAnswer::failed(out_of_requests(sent, count));
        }
        let mut answer = tokio::select! {
            biased;
            answer = self.source.request(count) => answer,
            () = self.shutdown.aborting().cancelled() => SourceAnswer::failed(Error::of(
                ErrorKind::HttpTimeout,
                "the run was stopped before the token source answered",
            )),
        };
        if !matches!(&answer.fault, Some(fault) if fault.kind == Some(ErrorKind::HttpConnect)) {
            self.reached.store(true, Ordering::Relaxed);
        }
        let page_len = answer.page.len() as u64;
        if let Some(fault) = &mut answer.fault
            && retry::may_have_been_served(fault)
        {
            let unseen = count.saturating_sub(page_len);
            self.stats.unseen.fetch_add(unseen, Ordering::Relaxed);
            // So that `retry` in a script repeats it too.
            fault.retryable |= self.limits.repeat_served;
        }
        self.record(answer).await
    }

    /// Counts the answer's tokens and writes them to the journal before they are used.
    async fn record(&self, answer: SourceAnswer) -> SourceAnswer {
        let page_len = answer.page.len() as u64;
        self.stats.received.fetch_add(page_len, Ordering::Relaxed);
        if let Some(journal) = &self.journal
            && let Err(fault) = journal.received(answer.page.clone()).await
        {
            self.shutdown.stop_because(fault);
        }
        self.stats
            .surplus
            .fetch_add(answer.surplus, Ordering::Relaxed);
        answer
    }
}
