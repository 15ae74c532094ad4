//! Fetches the pages of one `fetch`: several requests are under way at a time, short deliveries are
//! topped up, and pages are fetched ahead of the consumer.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::pin;
use std::sync::atomic::Ordering;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::error::Error;
use crate::fetch::admission::Slot;
use crate::fetch::error::{short_supply, with_totals};
use crate::fetch::remainder::{Remainder, Reservation};
use crate::fetch::request::RequestScope;
use crate::fetch::{FetchPlan, Fetcher, MAX_EMPTY_REQUESTS, SourceAnswer};
use crate::pipeline::channel::PageResult;
use crate::pipeline::token::Page;

/// The number of pages that are fetched ahead at least.
const PAGES_AHEAD: usize = 2;

pub(super) type PageSender = mpsc::Sender<PageResult<Error>>;

impl Fetcher {
    /// Sends the pages of a fetch, and after the last one its error.
    pub(super) async fn fetch_pages(
        &self,
        size: u64,
        plan: FetchPlan,
        stop: &CancellationToken,
        pages: &PageSender,
    ) {
        let scope = RequestScope::new(plan.retries, stop.clone());
        let Some(size) = self.send_received(size, &scope, pages).await else {
            return;
        };
        // A short answer of an input does not mean that it has no more tokens.
        let top_up = plan.top_up || !self.is_remote();
        let paging = Paging {
            fetcher: self,
            scope: &scope,
            remainder: Remainder::new(size, plan.page_size, top_up),
            top_up,
            started: 0,
            answered: 0,
            empty_answers: 0,
            ready: ReadyPages::default(),
            end: None,
            has_all: false,
            is_closed: false,
        };
        paging.run(pages).await;
    }
}

/// One call of `fetch`.
struct Paging<'a> {
    fetcher: &'a Fetcher,
    scope: &'a RequestScope,
    remainder: Remainder,
    top_up: bool,
    /// The number of requests that were sent, and of those that were answered.
    started: u64,
    answered: u64,
    /// The number of empty answers in a row, in order of arrival.
    empty_answers: u32,
    ready: ReadyPages,
    /// Why no further request is sent, if not for the size.
    end: Option<FetchEnd>,
    /// True after the last token of an open-ended input.
    has_all: bool,
    /// True if the consumer is gone.
    is_closed: bool,
}

/// Why a fetch ends before it has all tokens.
enum FetchEnd {
    /// A request failed.
    Failed(Error),
    /// The source has no more tokens.
    Dry,
    /// The input has no more tokens; for an open-ended one this completes the fetch.
    Complete,
}

/// A request with its answer.
struct AnsweredRequest {
    /// Its index among those of this fetch, in order of sending.
    index: u64,
    reservation: Reservation,
    answer: SourceAnswer,
}

/// The answered pages that the consumer has not taken, in order of delivery.
#[derive(Default)]
struct ReadyPages {
    pages: BTreeMap<u64, Page>,
    /// The key of the next page to deliver.
    next: u64,
}

impl ReadyPages {
    fn has_next(&self) -> bool {
        self.pages.contains_key(&self.next)
    }

    fn pop(&mut self) -> Option<Page> {
        let page = self.pages.remove(&self.next)?;
        self.next += 1;
        Some(page)
    }
}

impl<'a> Paging<'a> {
    async fn run(mut self, pages: &PageSender) {
        let mut under_way = FuturesUnordered::new();
        loop {
            let mut changed = pin!(self.fetcher.changed.notified());
            // From here on no change is missed.
            changed.as_mut().enable();
            let unread = self.ready.pages.len() + pages.max_capacity() - pages.capacity();
            let next = self.next(under_way.len(), unread);
            if next.is_none() && under_way.is_empty() && self.ready.pages.is_empty() {
                break;
            }
            tokio::select! {
                biased;
                Some(answered) = under_way.next() => self.receive(answered),
                // Also notices when the consumer takes a page.
                permit = pages.reserve(), if self.ready.has_next() || pages.capacity() == 0 => {
                    match (permit, self.ready.pop()) {
                        (Ok(permit), Some(page)) => permit.send(Ok(page)),
                        (Ok(_), None) => {}
                        (Err(_), _) => self.close(),
                    }
                }
                slot = self.fetcher.admission(), if next.is_some() => {
                    under_way.extend(next.map(|next| self.send(next, slot)));
                }
                () = self.stopped(), if !self.is_stopped() => {}
                () = changed => {}
            }
        }
        self.finish(pages).await;
    }

    /// Returns the next request, if one may be sent now; `unread` pages wait for the consumer.
    fn next(&self, under_way: usize, unread: usize) -> Option<Reservation> {
        let limit = if self.fetcher.is_remote() {
            self.fetcher.lock_throttle().limit()
        } else {
            1
        };
        let has_room = under_way < limit && under_way + unread < limit.max(PAGES_AHEAD);
        // While one request waits to be repeated, the source gets no new ones.
        let may_send = has_room
            && self.end.is_none()
            && !self.is_stopped()
            && self.scope.waiting.load(Ordering::Relaxed) == 0;
        may_send.then(|| self.remainder.next()).flatten()
    }

    fn is_stopped(&self) -> bool {
        let shutdown = self.fetcher.shutdown.stopping();
        self.is_closed || self.scope.stop.is_cancelled() || shutdown.is_cancelled()
    }

    async fn stopped(&self) {
        tokio::select! {
            () = self.scope.stop.cancelled() => {}
            () = self.fetcher.shutdown.stopping().cancelled() => {}
        }
    }

    /// Starts a request for a part of the remainder.
    fn send(
        &mut self,
        reservation: Reservation,
        slot: Slot<'a>,
    ) -> impl Future<Output = AnsweredRequest> + use<'a> {
        self.remainder.reserve(reservation);
        let index = self.started;
        self.started += 1;
        let (fetcher, scope) = (self.fetcher, self.scope);
        if reservation.is_top_up && fetcher.is_remote() {
            fetcher.lock_numbers().top_ups += 1;
        }
        async move {
            AnsweredRequest {
                index,
                reservation,
                answer: fetcher.request(slot, reservation.count, scope).await,
            }
        }
    }

    fn receive(&mut self, answered: AnsweredRequest) {
        let AnsweredRequest {
            index,
            reservation,
            answer,
        } = answered;
        let received = answer.received();
        self.remainder.settle(reservation, received);
        self.empty_answers = if received == 0 {
            self.empty_answers + 1
        } else {
            0
        };
        let key = if self.fetcher.delivers_in_order {
            index
        } else {
            self.answered
        };
        self.answered += 1;
        if !self.is_closed {
            self.ready.pages.insert(key, answer.page);
        }
        self.has_all |= answer.ended && self.fetcher.is_open_ended();
        let end = match answer.error {
            Some(error) => Some(FetchEnd::Failed(error)),
            None if self.empty_answers == MAX_EMPTY_REQUESTS && self.top_up => Some(FetchEnd::Dry),
            None => answer.ended.then_some(FetchEnd::Complete),
        };
        if let Some(end) = end {
            self.end.get_or_insert(end);
            self.scope.failed.cancel();
        }
    }

    /// Drops the pages of a consumer that is gone.
    fn close(&mut self) {
        self.is_closed = true;
        self.ready.pages.clear();
    }

    async fn finish(self, pages: &PageSender) {
        let (size, received) = (self.remainder.size(), self.remainder.received());
        let fetcher = self.fetcher;
        let error = match self.end {
            Some(FetchEnd::Failed(error)) => {
                with_totals(error, size, received, fetcher.source.kind())
            }
            Some(FetchEnd::Dry) => short_supply(size, received),
            Some(FetchEnd::Complete) => return,
            None => {
                // If the script stopped the stream, the source did not fall short.
                let is_stopping = fetcher.shutdown.stopping().is_cancelled();
                let stopped_by_script = self.scope.stop.is_cancelled() && !is_stopping;
                if received < size && !stopped_by_script {
                    fetcher.set_fell_short();
                }
                return;
            }
        };
        if !self.has_all {
            fetcher.set_fell_short();
        }
        let _ = pages.send(Err(error)).await;
    }
}
