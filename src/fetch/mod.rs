//! Fetching: pages of tokens from the source until as many are there as were asked for, topping up
//! short deliveries, one page ahead of whoever takes them.

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

use crate::error::{ErrorKind, Fault};
use crate::fetch::error::{out_of_requests, out_of_retries, short_supply, told_to_wait, within};
use crate::fetch::retry::RetryDecision;
pub use crate::fetch::source::{AnswerFuture, SourceAnswer, SourceKind, TokenSource};
pub use crate::fetch::source_stats::SourceStats;
use crate::journal::Journal;
use crate::pipeline::channel::{PageResult, PageStream};
use crate::pipeline::token::{Page, Token};
use crate::runtime::clock::Clock;
use crate::runtime::shutdown::Shutdown;

/// So many requests in a row that bring nothing mean that the source has run dry.
const DRY_REQUESTS: u32 = 3;

/// Within which limits tokens are fetched; validated.
#[derive(Clone, Debug)]
pub struct FetchLimits {
    /// The longest that one request may take, its body included.
    pub timeout: Duration,
    /// The longest that connecting may take, TLS included.
    pub connect_timeout: Duration,
    /// The most tokens to ask for in one request, at least 1.
    pub page_size: u64,
    /// How often a request that was certainly not served is sent again.
    pub retries: u32,
    /// The largest answer that is read, in bytes.
    pub max_body: u64,
    /// The longest token that is taken, in bytes.
    pub max_token: usize,
    /// The most requests of a run.
    pub max_requests: Option<u64>,
    /// True to ask again for what a short delivery left out.
    pub top_up: bool,
    /// True to repeat requests too that the source may have served, at the risk of tokens that are
    /// issued and never seen.
    pub repeat_served: bool,
}

/// How one fetch pages; what a script may set for each.
#[derive(Clone, Copy, Debug)]
pub struct FetchPlan {
    /// The most tokens to ask for in one request, at least 1.
    pub page_size: u64,
    /// How often a request that was certainly not served is sent again.
    pub retries: u32,
    /// True to ask again for what a short delivery left out.
    pub top_up: bool,
}

/// The source, ready to be asked.
pub struct Fetcher {
    source: Box<dyn TokenSource>,
    limits: FetchLimits,
    shutdown: Shutdown,
    clock: Arc<dyn Clock>,
    deadline: Option<Instant>,
    /// Until when a source that cannot be reached is waited for, as long as it never was reached.
    wait_until: Option<Instant>,
    journal: Option<Journal>,
    /// True once the source answered anything.
    reached: AtomicBool,
    stats: SourceStats,
}

impl Fetcher {
    /// A fetcher that asks `source`, within `limits`.
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

    /// Waits until `instant` for a source that cannot be reached at the start.
    pub fn wait_until(&mut self, instant: Instant) {
        self.wait_until = Some(instant);
    }

    /// Writes each page to `journal` before anybody gets it.
    pub fn keep_journal(&mut self, journal: Journal) {
        self.journal = Some(journal);
    }

    /// The plan that the configuration sets.
    pub fn plan(&self) -> FetchPlan {
        FetchPlan {
            page_size: self.limits.page_size,
            retries: self.limits.retries,
            top_up: self.limits.top_up,
        }
    }

    /// True where all that an input holds is asked for, however much that is.
    pub fn is_open_ended(&self) -> bool {
        self.source.nature() == SourceKind::Holder { open_ended: true }
    }

    fn is_issuer(&self) -> bool {
        self.source.nature() == SourceKind::Issuer
    }

    /// The longest token that is taken, in bytes.
    pub fn max_token(&self) -> usize {
        self.limits.max_token
    }

    /// The longest wait that is worth beginning: what the deadline leaves, or a few minutes.
    pub fn longest_wait(&self) -> Duration {
        self.left().unwrap_or(retry::LONGEST_WAIT)
    }

    /// What the deadline leaves.
    fn left(&self) -> Option<Duration> {
        self.deadline
            .map(|deadline| deadline.saturating_duration_since(self.clock.now()))
    }

    /// What was asked of the source so far.
    pub fn stats(&self) -> &SourceStats {
        &self.stats
    }

    /// `size` tokens in pages. Nothing is sent before the first page is asked for; then the next
    /// page is fetched while the last one is used, two pages ahead at the most.
    pub fn stream(self: &Arc<Self>, size: u64, plan: FetchPlan) -> PageStream<Fault> {
        let fetcher = Arc::clone(self);
        PageStream::lazy(move |stop| {
            let (sender, receiver) = mpsc::channel(1);
            tokio::spawn(async move { fetcher.deliver(size, plan, &stop, &sender).await });
            receiver
        })
    }

    /// The tokens of one request, possibly fewer than `size`; nothing is sent before they are
    /// asked for.
    pub fn once(self: &Arc<Self>, size: u64, retries: u32) -> PageStream<Fault> {
        let fetcher = Arc::clone(self);
        PageStream::lazy(move |stop| {
            let (sender, receiver) = mpsc::channel(2);
            tokio::spawn(async move {
                let mut answer = fetcher.ask(size, retries, &stop).await;
                // The end of an input is none for whoever gets its last tokens by it.
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

    async fn deliver(
        &self,
        size: u64,
        plan: FetchPlan,
        stop: &CancellationToken,
        pages: &mpsc::Sender<PageResult<Fault>>,
    ) {
        let mut received = 0;
        let mut asked = 0;
        let mut dry = 0;
        // What a holder gives at a time says nothing of what it has.
        let top_up = plan.top_up || !self.is_issuer();
        loop {
            let open = size - if top_up { received } else { asked };
            if open == 0 {
                break;
            }
            if stop.is_cancelled() || self.shutdown.stopping().is_cancelled() {
                break;
            }
            let count = open.min(plan.page_size);
            // All of it was asked for before.
            if asked >= size && self.is_issuer() {
                self.stats.top_ups.fetch_add(1, Ordering::Relaxed);
            }
            let answer = self.ask(count, plan.retries, stop).await;
            let came = answer.page.len() as u64;
            received += came;
            asked += count;
            dry = if came == 0 { dry + 1 } else { 0 };
            let has_all = answer.ended && self.is_open_ended();
            let fault = answer
                .fault
                .map(|fault| within(fault, size, received, self.is_issuer()));
            let fault = fault
                .or_else(|| (dry == DRY_REQUESTS && top_up).then(|| short_supply(size, received)));
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
                // Its end is no fault, or there would have been one: all of it was asked for.
                return;
            }
        }
        // A script that breaks off its loop asked for less; that is not the source's fault.
        let let_go = stop.is_cancelled() && !self.shutdown.stopping().is_cancelled();
        if received < size && !let_go {
            self.stats.fell_short.store(true, Ordering::Relaxed);
        }
    }

    /// One request, repeated within the rules. Where one is repeated that brought a part, that part
    /// is kept, and the rest is asked for.
    async fn ask(&self, count: u64, retries: u32, stop: &CancellationToken) -> SourceAnswer {
        let mut kept: Vec<Token> = Vec::new();
        let mut answer = self.ask_for_the_rest(count, retries, stop, &mut kept).await;
        if !kept.is_empty() {
            kept.extend(answer.page.iter());
            answer.page = Page::from_tokens(&kept);
        }
        answer
    }

    async fn ask_for_the_rest(
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
            tracing::debug!(kind = fault.kind.as_str(), failures, "request failed");
            let waits = self.waits_for_the_start(fault);
            let rules = retry::RetryLimits {
                // Without end while the source is waited for at the start.
                retries: if waits { u32::MAX } else { retries },
                spent: self.stats.repeated(),
                left: self.left(),
            };
            match retry::decide(fault, failures, &rules, self.clock.jitter()) {
                RetryDecision::After(wait) => {
                    if !waits {
                        self.stats.repeated.fetch_add(1, Ordering::Relaxed);
                    }
                    tracing::info!(?wait, kind = fault.kind.as_str(), "asking again");
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
                RetryDecision::TooLong(wait) => return told_to_wait(answer, wait),
            }
        }
    }

    /// True while a source that never was reached is waited for.
    fn waits_for_the_start(&self, fault: &Fault) -> bool {
        let waiting = self
            .wait_until
            .is_some_and(|until| self.clock.now() < until);
        let first = !self.reached.load(Ordering::Relaxed);
        waiting && first && fault.kind == ErrorKind::HttpConnect
    }

    /// One request. That of an issuer is counted, and stopping lets it finish, for its tokens may be
    /// issued already; only aborting gives it up.
    async fn send(&self, count: u64) -> SourceAnswer {
        if !self.is_issuer() {
            let answer = tokio::select! {
                biased;
                () = self.shutdown.stopping().cancelled() => SourceAnswer::nothing(),
                answer = self.source.request(count) => answer,
            };
            return self.take_in(answer).await;
        }
        let sent = self.stats.requests.fetch_add(1, Ordering::Relaxed);
        if self.limits.max_requests.is_some_and(|most| sent >= most) {
            self.stats.requests.fetch_sub(1, Ordering::Relaxed);
            return SourceAnswer::failed(out_of_requests(sent, count));
        }
        let mut answer = tokio::select! {
            biased;
            answer = self.source.request(count) => answer,
            () = self.shutdown.aborting().cancelled() => SourceAnswer::failed(Fault::new(
                ErrorKind::HttpTimeout,
                "the run was stopped before the token source answered",
            )),
        };
        if !matches!(&answer.fault, Some(fault) if fault.kind == ErrorKind::HttpConnect) {
            self.reached.store(true, Ordering::Relaxed);
        }
        let came = answer.page.len() as u64;
        if let Some(fault) = &mut answer.fault
            && retry::may_have_been_served(fault)
        {
            let unseen = count.saturating_sub(came);
            self.stats.unseen.fetch_add(unseen, Ordering::Relaxed);
            // For a script's `retry` too.
            fault.retryable |= self.limits.repeat_served;
        }
        self.take_in(answer).await
    }

    /// Counts what came, and has it in the journal before anybody gets it.
    async fn take_in(&self, answer: SourceAnswer) -> SourceAnswer {
        let came = answer.page.len() as u64;
        self.stats.received.fetch_add(came, Ordering::Relaxed);
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
