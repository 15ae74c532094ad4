//! What earlier processes of the same run received or settled, so that a fetch neither requests nor delivers
//! it again.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::Ordering;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::fetch::paging::PageSender;
use crate::fetch::request::RequestScope;
use crate::fetch::{Fetcher, SourceAnswer};
use crate::journal::UnansweredRequest;
use crate::pipeline::numbers::Numbers;
use crate::pipeline::positions::PositionSet;
use crate::pipeline::token::{Page, Token};

/// What earlier processes of a run left, by its receipts and its journal.
#[derive(Debug, Default)]
pub struct Continuation {
    /// The number of tokens that count towards SIZE without being requested or delivered.
    pub done: u64,
    /// The positions whose tokens are dropped from the answers to repeated requests.
    pub settled: PositionSet,
    /// The next attempt of each position whose earlier attempts are impossible.
    pub attempts: HashMap<u64, u16>,
    /// The tokens that were received and are not settled.
    pub pages: VecDeque<Page>,
    /// The requests that have no complete answer, in order of sending.
    pub unanswered: VecDeque<UnansweredRequest>,
    /// The number of the last request.
    pub last_request: u64,
}

impl Continuation {
    /// Returns the page without settled tokens, and with the attempts of the others; `None` if nothing
    /// changes.
    fn remaining(&self, page: &Page) -> Option<Page> {
        if self.settled.is_empty() && self.attempts.is_empty() {
            return None;
        }
        let is_open = |token: &Token| !self.settled.contains(token.receipt.position);
        let mut tokens: Vec<Token> = page.iter().filter(is_open).collect();
        for token in &mut tokens {
            if let Some(attempt) = self.attempts.get(&token.receipt.position) {
                token.receipt.attempt = token.receipt.attempt.max(*attempt);
            }
        }
        Some(Page::from_tokens(&tokens))
    }
}

impl Fetcher {
    /// Sets what earlier processes of the run left; `before` has the numbers of the tokens that they settled.
    pub fn set_continuation(&mut self, mut continuation: Continuation, before: &Numbers) {
        let own = self.numbers();
        *self.lock_numbers() = own.merged(before);
        let pages = std::mem::take(&mut continuation.pages).into_iter();
        let pages = pages.map(|page| continuation.remaining(&page).unwrap_or(page));
        continuation.pages = pages.collect();
        *self.last_request.get_mut() = continuation.last_request;
        self.continuation = Mutex::new(continuation);
    }

    fn lock_continuation(&self) -> MutexGuard<'_, Continuation> {
        self.continuation
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Drops tokens from an answer that an earlier process settled.
    pub(super) fn drop_settled(&self, answer: &mut SourceAnswer) {
        let Some(remaining) = self.lock_continuation().remaining(&answer.page) else {
            return;
        };
        answer.settled_before = (answer.page.len() - remaining.len()) as u64;
        answer.page = remaining;
        self.lock_numbers().received -= answer.settled_before;
    }

    /// Takes up to `size` tokens that earlier processes settled; returns how many are left to fetch.
    fn without_done(&self, size: u64) -> u64 {
        self.asked.store(true, Ordering::Relaxed);
        let done = &mut self.lock_continuation().done;
        let taken = size.min(*done);
        *done -= taken;
        size - taken
    }

    /// Takes the next received page that was not settled, of at most `size` tokens.
    fn take_received_page(&self, size: u64) -> Option<Page> {
        let mut continuation = self.lock_continuation();
        let first = continuation.pages.front_mut().filter(|_| size > 0)?;
        let page = first.split_to(usize::try_from(size).unwrap_or(usize::MAX));
        if first.is_empty() {
            continuation.pages.pop_front();
        }
        self.lock_numbers().received += page.len() as u64;
        Some(page)
    }

    /// Takes the next request that has no complete answer, if it fits into `size` tokens.
    fn take_unanswered(&self, size: u64) -> Option<UnansweredRequest> {
        let unanswered = &mut self.lock_continuation().unanswered;
        let fits = unanswered
            .front()
            .is_some_and(|first| first.unseen() <= size);
        fits.then(|| unanswered.pop_front()).flatten()
    }

    /// Sends what earlier processes of the run received and did not settle, and repeats their unanswered
    /// requests. Returns how many of `size` tokens are left to request; `None` if the fetch has ended.
    pub(super) async fn send_received(
        &self,
        size: u64,
        scope: &RequestScope,
        pages: &PageSender,
    ) -> Option<u64> {
        let mut left = self.without_done(size);
        while let Some(page) = self.take_received_page(left) {
            left -= page.len() as u64;
            pages.send(Ok(page)).await.ok()?;
        }
        while let Some(request) = self.take_unanswered(left) {
            let Some(answer) = self.repeat(&request, scope).await else {
                if self.shutdown.stopping().is_cancelled() {
                    self.set_fell_short();
                }
                return None;
            };
            // Settled tokens count as done already.
            left = left.saturating_sub(answer.page.len() as u64);
            if !answer.page.is_empty() {
                pages.send(Ok(answer.page)).await.ok()?;
            }
            if let Some(error) = answer.error {
                self.set_fell_short();
                let _ = pages.send(Err(error)).await;
                return None;
            }
        }
        Some(left)
    }

    /// Returns the answer to one request for `size` tokens, or a page that an earlier process received.
    pub(super) async fn next_answer(&self, size: u64, scope: &RequestScope) -> SourceAnswer {
        let left = self.without_done(size);
        let mut answer = if let Some(page) = self.take_received_page(left) {
            SourceAnswer {
                page,
                ..SourceAnswer::empty()
            }
        } else if let Some(request) = self.take_unanswered(left) {
            let repeated = self.repeat(&request, scope).await;
            SourceAnswer {
                settled_before: 0,
                ..repeated.unwrap_or_else(SourceAnswer::empty)
            }
        } else if left > 0 {
            self.request_alone(left, scope).await
        } else {
            SourceAnswer::empty()
        };
        answer.settled_before += size - left;
        answer
    }
}
