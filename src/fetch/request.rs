//! Sends one request to the source, with its repetitions, and records what arrives: in the numbers of the
//! run, and in the journal before it is used.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::error::{Error, ErrorKind};
use crate::fetch::admission::Slot;
use crate::fetch::error::{out_of_patience, out_of_requests, out_of_retries, wait_too_long};
use crate::fetch::retry::{self, RetryDecision};
use crate::fetch::throttle::Reply;
use crate::fetch::{Fetcher, SourceAnswer};
use crate::pipeline::token::{Page, Token, largest_page};

/// What the requests of one stream share.
pub(super) struct RequestScope {
    /// As in [`crate::fetch::FetchLimits`].
    retries: Option<u32>,
    /// Cancelled when the consumer stops the stream.
    pub stop: CancellationToken,
    /// Cancelled when another request of the stream has failed.
    pub failed: CancellationToken,
    /// The number of requests that wait to be repeated.
    pub waiting: AtomicUsize,
}

impl RequestScope {
    pub(super) fn new(retries: Option<u32>, stop: CancellationToken) -> Self {
        Self {
            retries,
            stop,
            failed: CancellationToken::new(),
            waiting: AtomicUsize::new(0),
        }
    }
}

/// A request, whose repetitions have the same number.
struct Request {
    /// Its number in the run, from 1, in order of sending.
    number: u64,
    /// The number of tokens.
    count: u64,
    /// The tokens of failed answers.
    kept: Vec<Token>,
}

impl Request {
    /// Returns the number of tokens that have not arrived.
    fn missing(&self) -> u64 {
        self.count - self.kept.len() as u64
    }
}

impl Fetcher {
    /// Sends one request, with retries. If a failed answer held tokens, they are kept and only the rest
    /// is requested.
    pub(super) async fn request(
        &self,
        slot: Slot<'_>,
        count: u64,
        scope: &RequestScope,
    ) -> SourceAnswer {
        let mut request = Request {
            number: self.last_request.fetch_add(1, Ordering::Relaxed) + 1,
            count,
            kept: Vec::new(),
        };
        let mut answer = self.send_until_settled(slot, &mut request, scope).await;
        if !request.kept.is_empty() {
            request.kept.extend(answer.page.iter());
            answer.page = Page::from_tokens(&request.kept);
        }
        answer
    }

    /// Sends one request as [`Self::request`] does, as soon as it is admitted.
    pub(super) async fn request_alone(&self, count: u64, scope: &RequestScope) -> SourceAnswer {
        let slot = tokio::select! {
            biased;
            slot = self.admission() => slot,
            () = self.stopped(scope) => return SourceAnswer::empty(),
        };
        self.request(slot, count, scope).await
    }

    /// Waits until the stream or the run is stopped.
    async fn stopped(&self, scope: &RequestScope) {
        tokio::select! {
            () = scope.stop.cancelled() => {}
            () = scope.failed.cancelled() => {}
            () = self.shutdown.stopping().cancelled() => {}
        }
    }

    async fn send_until_settled<'a>(
        &'a self,
        mut slot: Slot<'a>,
        request: &mut Request,
        scope: &RequestScope,
    ) -> SourceAnswer {
        let retries = scope.retries;
        let mut failures = 0;
        let mut outage_began = None;
        loop {
            let mut answer = self.send(slot, request).await;
            let Some(error) = &answer.error else {
                return answer;
            };
            failures += 1;
            tracing::debug!(
                request = request.number,
                kind = error.kind_name(),
                failures,
                "request failed"
            );
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
            let wait = match retry::decide(error, failures, &limits, self.clock.jitter()) {
                RetryDecision::After(wait) => wait,
                RetryDecision::GiveUp => return out_of_patience(answer, limits.retries),
                RetryDecision::Spent => return out_of_retries(answer, retries),
                RetryDecision::TooLong(wait) => return wait_too_long(answer, wait),
            };
            if !waits {
                self.lock_numbers().repeated += 1;
            }
            let millis = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
            tracing::info!(
                wait = ?Duration::from_millis(millis),
                cause = error.message,
                "retrying the request"
            );
            match self.wait_to_repeat(wait, scope).await {
                Some(admitted) => slot = admitted,
                None => return answer,
            }
            request.kept.extend(answer.page.iter());
            if request.missing() == 0 {
                answer.page = Page::from_texts([]);
                answer.error = None;
                return answer;
            }
        }
    }

    /// Waits until a request may be repeated; returns `None` if the stream or the run was stopped.
    async fn wait_to_repeat(&self, wait: Duration, scope: &RequestScope) -> Option<Slot<'_>> {
        scope.waiting.fetch_add(1, Ordering::Relaxed);
        let admitted = async {
            self.clock.sleep(wait).await;
            self.admission().await
        };
        let slot = tokio::select! {
            biased;
            () = self.stopped(scope) => None,
            slot = admitted => Some(slot),
        };
        scope.waiting.fetch_sub(1, Ordering::Relaxed);
        self.changed.notify_waiters();
        slot
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
    async fn send(&self, slot: Slot<'_>, request: &Request) -> SourceAnswer {
        let count = request.missing();
        self.asked.store(true, Ordering::Relaxed);
        if !self.is_remote() {
            let answer = tokio::select! {
                biased;
                () = self.shutdown.stopping().cancelled() => SourceAnswer::empty(),
                answer = self.source.request(count) => answer,
            };
            return self.record(request, answer).await;
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
        let answered = Reply::Answered {
            requested: count,
            largest_page: largest_page(),
        };
        let error = answer.error.as_ref();
        slot.end(error.map_or(answered, Reply::of_error));
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
        self.record(request, answer).await
    }

    /// Counts the answer's tokens and writes them to the journal before they are used.
    async fn record(&self, request: &Request, answer: SourceAnswer) -> SourceAnswer {
        let page_len = answer.page.len() as u64;
        self.lock_numbers().received += page_len;
        if let Some(journal) = &self.journal
            && let Err(error) = journal.received(answer.page.clone(), request.number).await
        {
            self.shutdown.stop_because(error);
        }
        self.lock_numbers().surplus += answer.surplus;
        answer
    }
}
