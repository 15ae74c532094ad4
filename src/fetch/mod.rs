//! Fetches pages of tokens from the source until the requested number is complete.
//!
//! `paging` decides what to request, `throttle` when, and `request` sends one request with its
//! repetitions.

mod admission;
mod attempts;
pub mod continuation;
pub mod demo;
mod document;
pub mod error;
pub mod http;
pub mod input;
mod json;
pub mod lines;
mod paging;
mod remainder;
mod request;
pub mod retry;
mod source;
#[cfg(test)]
mod tests;
pub mod throttle;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, mpsc};

use crate::error::Error;
use crate::fetch::continuation::Continuation;
use crate::fetch::request::RequestScope;
pub use crate::fetch::source::{
    AnswerFuture, SourceAnswer, SourceKind, SourceRequest, TokenSource,
};
use crate::fetch::throttle::Throttle;
use crate::journal::Journal;
use crate::pipeline::channel::PageStream;
use crate::pipeline::concurrency::Concurrency;
use crate::pipeline::numbers::Numbers;
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

/// How the requests of a run are sent; validated.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RequestSettings {
    /// How many requests may be under way at a time.
    pub concurrency: Concurrency,
    /// The least time between two requests.
    pub interval: Duration,
    /// The header of a request's idempotency key, in lower case, if the source honours one.
    pub idempotency_header: Option<String>,
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
    throttle: Mutex<Throttle>,
    /// Notified when a request may be sent that could not before.
    changed: Notify,
    /// The number of the last request.
    last_request: AtomicU64,
    /// True once the source gave other tokens for the same idempotency key.
    ignores_keys: AtomicBool,
    /// The beginning of each idempotency key, which identifies the run.
    key_prefix: String,
    /// True to deliver pages in order of their requests, not of arrival.
    delivers_in_order: bool,
    fell_short: AtomicBool,
    /// What earlier processes of the run left.
    continuation: Mutex<Continuation>,
    /// The number of tokens read from an input so far.
    lines_read: AtomicU64,
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
        let throttle = throttle(&RequestSettings::default(), &limits);
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
            throttle: Mutex::new(throttle),
            changed: Notify::new(),
            last_request: AtomicU64::new(0),
            ignores_keys: AtomicBool::new(false),
            key_prefix: String::new(),
            delivers_in_order: false,
            fell_short: AtomicBool::new(false),
            continuation: Mutex::default(),
            lines_read: AtomicU64::new(0),
        }
    }

    /// Sets until when to wait for a source that cannot be reached at the start.
    pub fn wait_until(&mut self, instant: Instant) {
        self.wait_until = Some(instant);
    }

    /// Sets how requests are sent.
    pub fn set_requests(&mut self, settings: &RequestSettings) {
        self.throttle = Mutex::new(throttle(settings, &self.limits));
    }

    /// Sets what idempotency keys begin with; it must identify the run and its shard.
    pub fn set_key_prefix(&mut self, prefix: String) {
        self.key_prefix = prefix;
    }

    /// Delivers pages in order of their requests instead of arrival.
    pub fn deliver_in_order(&mut self) {
        self.delivers_in_order = true;
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

    /// Returns true if requests have idempotency keys.
    pub fn sends_keys(&self) -> bool {
        self.source.sends_keys()
    }

    /// Returns true if the source is an input, whose tokens are the same each time.
    pub fn is_local(&self) -> bool {
        !self.is_remote()
    }

    /// Returns the numbers of requests and of received tokens.
    pub fn numbers(&self) -> Numbers {
        *self.lock_numbers()
    }

    fn lock_numbers(&self) -> MutexGuard<'_, Numbers> {
        self.numbers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock_throttle(&self) -> MutexGuard<'_, Throttle> {
        self.throttle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns true if a fetch ended with fewer tokens than requested.
    pub fn fell_short(&self) -> bool {
        self.fell_short.load(Ordering::Relaxed)
    }

    fn set_fell_short(&self) {
        self.fell_short.store(true, Ordering::Relaxed);
    }

    /// Returns `size` tokens in pages.
    ///
    /// The first request is sent when the first page is requested. Then pages are fetched ahead, at
    /// most two, or as many as requests may be under way if those are more.
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
                let scope = RequestScope::new(retries, stop);
                let mut answer = fetcher.next_answer(size, &scope).await;
                // The end of an input is not an error if this answer holds its last tokens.
                if answer.ended && !answer.page.is_empty() {
                    answer.error = None;
                }
                if answer.received() < size && !fetcher.is_open_ended() {
                    fetcher.set_fell_short();
                }
                let _ = sender.send(Ok(answer.page)).await;
                if let Some(error) = answer.error {
                    let _ = sender.send(Err(error)).await;
                }
            });
            receiver
        })
    }
}

fn throttle(settings: &RequestSettings, limits: &FetchLimits) -> Throttle {
    Throttle::new(settings.concurrency, settings.interval, limits.timeout)
}
