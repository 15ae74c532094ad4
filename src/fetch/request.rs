//! Sends one request to the source, with its repetitions, and records what arrives: in the numbers of the
//! run, and in the journal before it is used.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::error::{Error, ErrorKind};
use crate::fetch::admission::Slot;
use crate::fetch::attempts::Request;
use crate::fetch::error::{
    hint_at_replay, out_of_patience, out_of_requests, out_of_retries, wait_too_long,
};
use crate::fetch::retry::{self, RetryDecision};
use crate::fetch::throttle::Reply;
use crate::fetch::{Fetcher, SourceAnswer, SourceRequest};
use crate::journal::{Journal, ReceivedPage, UnansweredRequest};
use crate::pipeline::token::{Page, largest_page, position};

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

impl Fetcher {
    /// Sends one request, with retries. If a failed answer held tokens, they are kept, and without an
    /// idempotency key only the rest is requested.
    pub(super) async fn request(
        &self,
        slot: Slot<'_>,
        count: u64,
        scope: &RequestScope,
    ) -> SourceAnswer {
        let number = self.last_request.fetch_add(1, Ordering::Relaxed) + 1;
        let sends_keys = self.source.sends_keys();
        let key = sends_keys.then(|| format!("{}-{number}", self.key_prefix));
        let mut request = Request::new(number, count, key);
        if let (Some(journal), Some(key)) = (&self.journal, &request.key)
            && let Err(error) = journal.requested(number, count, key).await
        {
            self.shutdown.stop_because(error);
            return SourceAnswer::empty();
        }
        let mut answer = self.complete(slot, &mut request, scope).await;
        self.drop_settled(&mut answer);
        answer
    }

    /// Repeats a request of an earlier process with its idempotency key; `kept` are the tokens of its
    /// answers. Returns the other ones, or `None` if the run was stopped before.
    pub async fn repeat_alone(&self, earlier: &UnansweredRequest) -> Option<SourceAnswer> {
        let scope = RequestScope::new(self.limits.retries, CancellationToken::new());
        self.repeat(earlier, &scope).await
    }

    /// Repeats a request as [`Self::repeat_alone`] does, as a part of a stream.
    pub(super) async fn repeat(
        &self,
        earlier: &UnansweredRequest,
        scope: &RequestScope,
    ) -> Option<SourceAnswer> {
        let mut request = Request::of_journal(earlier);
        let known = request.kept.len();
        let mut answer = tokio::select! {
            biased;
            () = self.stopped(scope) => return None,
            slot = self.admission() => self.complete(slot, &mut request, scope).await,
        };
        drop(answer.page.split_to(known));
        self.drop_settled(&mut answer);
        Some(answer)
    }

    /// Sends a request until it is settled, and accounts for what may not have arrived.
    async fn complete(
        &self,
        slot: Slot<'_>,
        request: &mut Request,
        scope: &RequestScope,
    ) -> SourceAnswer {
        let mut answer = self.send_until_settled(slot, request, scope).await;
        if request.key.is_some() {
            self.settle_key(request, &mut answer).await;
        }
        if !request.kept.is_empty() {
            request.kept.extend(answer.page.iter());
            answer.page = Page::from_tokens(&request.kept);
        }
        answer
    }

    /// Accounts for the tokens that a key may still bring, and closes the request in the journal if there
    /// are none.
    async fn settle_key(&self, request: &Request, answer: &mut SourceAnswer) {
        let is_repeatable = self.is_repeatable(request, answer);
        match &mut answer.error {
            Some(error) if request.may_be_issued => {
                let unseen = request.unseen(answer.page.len());
                self.lock_numbers().issued_unseen += unseen;
                if is_repeatable {
                    let journal = self.journal.as_ref().map(Journal::path);
                    hint_at_replay(error, journal);
                }
            }
            _ if request.is_closed => {}
            _ => {
                if let Some(journal) = &self.journal
                    && let Err(error) = journal.close_request(request.number).await
                {
                    self.shutdown.stop_because(error);
                }
            }
        }
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
            let is_repeatable = self.is_repeatable(request, &answer);
            let limits = retry::RetryLimits {
                is_repeatable,
                // Unlimited while the run waits for the source to start.
                retries: if waits { Some(u32::MAX) } else { retries },
                spent: self.numbers().repeated,
                time_left: self.time_left(),
                patience_left: (is_repeatable || self.is_outage(error)).then(|| {
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

    /// Returns true if a request may be repeated with its key after this answer.
    fn is_repeatable(&self, request: &Request, answer: &SourceAnswer) -> bool {
        let error = answer.error.as_ref();
        let is_honoured = request.key.is_some() && !self.ignores_keys.load(Ordering::Relaxed);
        is_honoured
            && error.is_some_and(|error| {
                answer.is_incomplete
                    || retry::is_server_error(error)
                    || request.may_be_issued && retry::is_in_progress(error)
            })
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
    async fn send(&self, slot: Slot<'_>, request: &mut Request) -> SourceAnswer {
        let count = request.to_request();
        self.asked.store(true, Ordering::Relaxed);
        if !self.is_remote() {
            let mut answer = tokio::select! {
                biased;
                () = self.shutdown.stopping().cancelled() => SourceAnswer::empty(),
                answer = self.source.request(SourceRequest { count, key: None }) => answer,
            };
            // The lines of the whole input count, however many are read at a time.
            let lines = answer.page.len() as u64;
            let first_line = self.lines_read.fetch_add(lines, Ordering::Relaxed) + 1;
            answer.page.set_first_position(position(1, first_line));
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
        let sent = SourceRequest {
            count,
            key: request.key.as_deref(),
        };
        let mut answer = tokio::select! {
            biased;
            answer = self.source.request(sent) => answer,
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
        // The answer to a key begins anew; any other one continues.
        let first_line = match &request.key {
            Some(_) => 1,
            None => request.kept.len() as u64 + 1,
        };
        let first_position = position(request.number, first_line);
        answer.page.set_first_position(first_position);
        if request.key.is_some() && !request.remove_repeated(&mut answer.page) {
            let known = request.kept.len() as u64;
            answer.page.set_first_position(first_position + known);
            // The source issued other tokens; the rest of the first ones does not arrive any more.
            self.lock_numbers().issued_unseen += request.unseen(0);
            request.key = None;
            if !self.ignores_keys.swap(true, Ordering::Relaxed) {
                tracing::warn!(
                    request = request.number,
                    hint = "remove source.idempotency_header",
                    "the source gave other tokens for the same idempotency key"
                );
            }
        }
        if let Some(error) = &mut answer.error
            && retry::may_have_been_served(error)
        {
            request.may_be_issued = true;
            if request.key.is_none() {
                let unseen = count.saturating_sub(answer.page.len() as u64);
                self.lock_numbers().issued_unseen += unseen;
            }
            // So that `retry` in a script repeats it too.
            error.retryable |= self.limits.repeat_served;
        }
        self.record(request, answer).await
    }

    /// Counts the answer's tokens and writes them to the journal before they are used.
    async fn record(&self, request: &mut Request, answer: SourceAnswer) -> SourceAnswer {
        let page_len = answer.page.len() as u64;
        self.lock_numbers().received += page_len;
        let is_complete = answer.error.is_none();
        if let Some(journal) = &self.journal {
            let received = ReceivedPage {
                page: answer.page.clone(),
                request: request.number,
                is_partial: request.key.is_some() && !is_complete,
            };
            request.is_closed = is_complete && page_len > 0;
            if let Err(error) = journal.received(received).await {
                self.shutdown.stop_because(error);
            }
        }
        self.lock_numbers().surplus += answer.surplus;
        answer
    }
}
