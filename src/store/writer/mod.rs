//! Sends INSERTs over one connection: claims tokens, keeps several INSERTs in flight, and reports each
//! reply. Every database uses this loop.
//!
//! A database replies in order, so the requests form a queue.

mod settle;

use std::collections::VecDeque;
use std::pin::pin;
use std::sync::Arc;
use std::time::Instant;

use crate::error::Error;
use crate::pipeline::receipts::Receipt;
use crate::pipeline::token::{Detail, Outcome, Status, Token, TokenDefect};
use crate::runtime::clock::Clock;
use crate::store::connection::{Connection, Database, Reply, RowlessReply};
use crate::store::in_flight::{InDoubtSet, InFlight, RUN_ABORTED, RetryToken, report_unknown};
use crate::store::orphans::{Orphans, retry_lost};
use crate::store::queue::{Claim, StoreJob};
use crate::store::replies::PendingReplies;
use crate::store::shared::{WorkingWriter, WriterShared};
use crate::store::sqlstate::scrub;

/// The number of tokens without a row in one look-up.
const ROWLESS_BATCH: usize = 256;

/// How a writer ended.
pub(super) enum CloseReason<D: Database> {
    /// The queue is closed and empty, or the run is aborted. Every token was reported.
    Finished,
    /// The connection was lost; its tokens must be resolved.
    Lost(Box<Orphans<D>>),
    /// No connection could be made.
    Unconnected,
    /// Fewer connections are wanted. Every token was reported.
    Surplus,
}

/// A connection that starts work, with the tokens that it takes over.
pub(super) struct WriterStart<C> {
    /// The connection.
    pub(super) connection: C,
    /// The tokens to start with.
    pub(super) claim: Option<Claim>,
    /// Tokens that wait to be sent again.
    pub(super) waiting: Vec<RetryToken>,
}

impl<C: Connection> WriterStart<C> {
    /// Starts without tokens.
    pub(super) fn new(connection: C) -> Self {
        Self {
            connection,
            claim: None,
            waiting: Vec::new(),
        }
    }

    /// Makes an additional connection, if the database allows it and work is left.
    async fn connect_extra<D>(shared: &WriterShared<D>) -> Option<Self>
    where
        D: Database<Connection = C>,
    {
        let attempt = tokio::select! {
            biased;
            () = shared.queue.shutdown.stopping().cancelled() => return None,
            () = shared.queue.closed().cancelled() => return None,
            attempt = shared.database.connect() => attempt,
        };
        attempt
            .inspect_err(|error| {
                tracing::debug!(
                    cause = error.causes.first(),
                    "continuing with fewer connections"
                );
            })
            .ok()
            .map(Self::new)
    }
}

/// A request to the database, in the order of the replies.
enum PendingRequest {
    /// An INSERT.
    Insert(InFlight),
    /// A look-up of tokens that were committed without a row.
    Rowless(Vec<InFlight>),
    /// Receipts that are not written with a token.
    Receipts(Vec<Receipt>),
}

/// The reply to a [`PendingRequest`].
enum WriterReply {
    Insert(Reply),
    Rowless(RowlessReply),
    Receipts(Reply),
}

/// The next token to send.
struct NextToken {
    token: Token,
    job: Arc<StoreJob>,
    /// How often it was sent.
    tries: u32,
    /// When a sequence first produced a key that is taken.
    key_taken_since: Option<Instant>,
}

/// A writer's state: the requests in flight and the tokens to send.
struct Writer<D: Database> {
    shared: Arc<WriterShared<D>>,
    claim: Option<Claim>,
    requests: VecDeque<PendingRequest>,
    waiting: Vec<RetryToken>,
    /// Tokens that were committed without a row, to be looked up.
    rowless: Vec<InFlight>,
    rowless_detail: Arc<Detail>,
    /// The time of the last wake-up.
    now: Instant,
    /// True once the run is being stopped: nothing more is sent.
    is_stopping: bool,
    /// True once the database takes no writes or the connection is used up: nothing more is sent, and
    /// the connection ends after the outstanding replies.
    is_draining: bool,
    /// True once fewer connections are wanted: no more tokens are claimed.
    is_surplus: bool,
    /// Why the connection was lost.
    close_reason: Option<String>,
}

/// Runs until the queue is closed and empty, or the connection is lost.
///
/// Without a `start` it makes an additional connection.
pub(super) async fn run<D: Database>(
    shared: Arc<WriterShared<D>>,
    start: Option<WriterStart<D::Connection>>,
) -> CloseReason<D> {
    let Some(start) = (match start {
        Some(start) => Some(start),
        None => WriterStart::connect_extra(&shared).await,
    }) else {
        return CloseReason::Unconnected;
    };
    let connection = start.connection;
    let mut writer = Writer {
        now: shared.queue.clock.now(),
        shared,
        claim: start.claim,
        requests: VecDeque::new(),
        waiting: start.waiting,
        rowless: Vec::new(),
        rowless_detail: Detail::reason(
            "the database stored no row: a trigger or rule skipped or redirected it",
        ),
        is_stopping: false,
        is_draining: false,
        is_surplus: false,
        close_reason: None,
    };
    let is_lost = writer.work(&connection).await;
    let queue = Arc::clone(&writer.shared.queue);
    if let Some((error, reason)) = queue.given_up() {
        writer.give_up(error, reason);
        return CloseReason::Finished;
    }
    if queue.shutdown.aborting().is_cancelled() {
        writer.abandon(RUN_ABORTED);
        writer.claim = None;
        queue.close();
        queue.clear();
        return CloseReason::Finished;
    }
    if is_lost {
        return CloseReason::Lost(Box::new(writer.orphans(connection.into_session())));
    }
    connection.close().await;
    if writer.is_surplus {
        CloseReason::Surplus
    } else {
        CloseReason::Finished
    }
}

impl<D: Database> Writer<D> {
    /// Returns true if the connection was lost.
    async fn work(&mut self, connection: &D::Connection) -> bool {
        let shared = Arc::clone(&self.shared);
        let (queue, clock) = (&shared.queue, &shared.queue.clock);
        let reply_timeout = shared.database.reply_timeout();
        let mut aborting = pin!(queue.shutdown.aborting().cancelled());
        let mut stopping = pin!(queue.shutdown.stopping().cancelled());
        let mut giving_up = pin!(queue.giving_up().cancelled());
        let mut job_stops = queue.job_stops();
        let mut timer = reply_timeout.map(|limit| clock.sleep_until(self.now + limit));
        let mut last_reply = self.now;
        let mut working = Some(shared.writers.begin_work());
        let mut replies = PendingReplies::with_capacity(self.pipeline(connection));
        let mut is_closed = false;
        loop {
            if replies.is_empty() {
                last_reply = self.now;
            }
            if !self.send_tokens(connection, &mut replies) {
                return true;
            }
            let idle = replies.is_empty();
            if self.is_draining && idle {
                return true;
            }
            if working.as_ref().is_some_and(WorkingWriter::is_surplus) {
                working = None;
                self.is_surplus = true;
            }
            let takes_tokens = !is_closed && !self.is_surplus;
            if !takes_tokens && idle && self.claim.is_none() && !self.has_unsettled() {
                if is_closed && !queue.receipts.is_empty() && !connection.is_closed() {
                    continue;
                }
                return false;
            }
            let due = self.waiting.iter().map(|waiting| waiting.due).min();
            let idle_end = shared
                .idle_limit
                .filter(|_| idle)
                .map(|limit| self.now + limit);
            let has_room = self.has_room(connection, replies.len());
            connection.await_replies(self.replies_until_room(connection, replies.len()));
            tokio::select! {
                biased;
                () = &mut aborting => return false,
                () = &mut giving_up => return false,
                () = &mut stopping, if !self.is_stopping => self.is_stopping = true,
                Ok(()) = job_stops.changed() => self.detach_aborted(),
                reply = replies.next(), if !idle => {
                    self.now = clock.now();
                    last_reply = self.now;
                    let (mut next, mut count) = (Some(reply), 0);
                    while let Some(reply) = next {
                        count += 1;
                        if !self.handle_reply(reply) {
                            return true;
                        }
                        next = replies.try_next();
                    }
                    shared.writers.add_replies(count);
                }
                claim = queue.claim(), if has_room && takes_tokens && self.claim.is_none() => match claim {
                    Some(claim) => self.claim = Some(claim),
                    None => is_closed = true,
                },
                // Before due tokens: on a closed connection they would stay due for ever.
                () = connection.closed(), if idle => return true,
                () = sleep_until(&**clock, due), if has_room && due.is_some() => {}
                // The last connection stays, for the next run.
                () = sleep_until(&**clock, idle_end), if idle_end.is_some() && due.is_none() => {
                    self.is_surplus |= shared.writers.working() > 1;
                }
                () = wait_for(&mut timer), if !idle => {
                    self.now = clock.now();
                    let due = last_reply + reply_timeout.unwrap_or_default();
                    if self.now >= due {
                        self.close_reason = Some("the server stopped responding".to_owned());
                        return true;
                    }
                    timer = Some(clock.sleep_until(due));
                }
            }
            self.now = clock.now();
        }
    }

    /// Returns the most INSERTs in flight.
    fn pipeline(&self, connection: &D::Connection) -> usize {
        connection.pipeline(self.shared.writers.wanted())
    }

    /// Returns true if enough of the pipeline is free.
    ///
    /// One write for a quarter of the pipeline costs far fewer system calls than a write per reply,
    /// and the rest keeps the server busy.
    fn has_room(&self, connection: &D::Connection, in_flight: usize) -> bool {
        !self.is_draining && self.excess(connection, in_flight) == 0
    }

    /// Returns how many replies must arrive before something is sent, at least 1.
    fn replies_until_room(&self, connection: &D::Connection, in_flight: usize) -> usize {
        if self.is_draining {
            return 1;
        }
        self.excess(connection, in_flight).max(1)
    }

    /// Returns how many requests in flight are too many for the next write.
    fn excess(&self, connection: &D::Connection, in_flight: usize) -> usize {
        let pipeline = self.pipeline(connection);
        (in_flight + (pipeline / 4).max(1)).saturating_sub(pipeline)
    }

    /// Sends tokens until the pipeline is full; returns false if the connection is lost.
    fn send_tokens<'a>(
        &mut self,
        connection: &'a D::Connection,
        replies: &mut PendingReplies<'a, WriterReply>,
    ) -> bool {
        let shared = Arc::clone(&self.shared);
        let (shutdown, clock) = (&shared.queue.shutdown, &shared.queue.clock);
        self.is_draining |= replies.is_empty() && connection.is_used_up();
        if !self.look_up_rowless(connection, replies) || !self.write_receipts(connection, replies) {
            return false;
        }
        if !self.has_room(connection, replies.len()) {
            return true;
        }
        self.is_stopping |= shutdown.stopping().is_cancelled();
        while replies.len() < self.pipeline(connection) && !connection.is_closed() {
            let Some(NextToken {
                mut token,
                job,
                tries,
                key_taken_since,
            }) = self.next_token()
            else {
                break;
            };
            token.attempts = token.attempts.saturating_add(1);
            let sent_tick = self.shared.log.record_sent(token.as_str());
            let sent = token.clone();
            self.requests.push_back(PendingRequest::Insert(InFlight {
                token,
                job,
                sent_at: clock.now(),
                sent_tick,
                tries: tries + 1,
                key_taken_since,
            }));
            // Created on the heap, where it is polled: the future is large.
            let reply = async move { WriterReply::Insert(connection.insert(sent).await) };
            if let Some(reply) = replies.push(reply) {
                self.now = clock.now();
                self.is_stopping |= shutdown.stopping().is_cancelled();
                if !self.handle_reply(reply) || !self.look_up_rowless(connection, replies) {
                    return false;
                }
                if self.is_draining || shutdown.aborting().is_cancelled() {
                    return true;
                }
            }
        }
        true
    }

    /// Looks up tokens without a row if there are enough, or nothing else is in flight; returns false
    /// if the connection is lost.
    fn look_up_rowless<'a>(
        &mut self,
        connection: &'a D::Connection,
        replies: &mut PendingReplies<'a, WriterReply>,
    ) -> bool {
        let is_due = self.rowless.len() >= ROWLESS_BATCH || replies.is_empty();
        if self.rowless.is_empty() || !is_due || connection.is_closed() {
            return true;
        }
        let rowless = std::mem::take(&mut self.rowless);
        let tokens = rowless.iter().map(|it| it.token.clone()).collect();
        let reply = connection.look_up_rowless(tokens);
        self.requests.push_back(PendingRequest::Rowless(rowless));
        let reply = replies.push(async { WriterReply::Rowless(reply.await) });
        reply.is_none_or(|reply| self.handle_reply(reply))
    }

    /// Writes waiting receipts if there are enough, or nothing is in flight; returns false if the connection
    /// is lost.
    fn write_receipts<'a>(
        &mut self,
        connection: &'a D::Connection,
        replies: &mut PendingReplies<'a, WriterReply>,
    ) -> bool {
        let is_busy = !replies.is_empty() && self.pipeline(connection) == 1;
        if is_busy || connection.is_closed() || self.is_draining {
            return true;
        }
        let is_due = replies.is_empty() && self.claim.is_none();
        let Some(receipts) = self.shared.queue.receipts.take(is_due) else {
            return true;
        };
        self.requests
            .push_back(PendingRequest::Receipts(receipts.clone()));
        let reply = async move { WriterReply::Receipts(connection.write_receipts(receipts).await) };
        let reply = replies.push(reply);
        reply.is_none_or(|reply| self.handle_reply(reply))
    }

    /// Returns true if this writer holds tokens that are neither in flight nor settled.
    fn has_unsettled(&self) -> bool {
        !self.waiting.is_empty() || !self.rowless.is_empty()
    }

    /// Returns the next token to send; reports those that may not be sent.
    fn next_token(&mut self) -> Option<NextToken> {
        loop {
            if let Some(retry) = self.take_due() {
                if self.is_stopping || retry.in_flight.job.is_stopping() {
                    retry.fail(self.now);
                    continue;
                }
                let in_flight = retry.in_flight;
                return Some(NextToken {
                    token: in_flight.token,
                    job: in_flight.job,
                    tries: in_flight.tries,
                    key_taken_since: in_flight.key_taken_since,
                });
            }
            if let Some(claim) = &mut self.claim
                && !self.is_stopping
                && !claim.job.is_stopping()
                && let Some(token) = claim.next_token()
            {
                let job = Arc::clone(&claim.job);
                let defect = token.defect().map(TokenDefect::reason);
                let refused = defect.or_else(|| self.shared.database.loss(token.as_str()));
                if let Some(reason) = refused {
                    let detail = Some(Detail::reason(reason));
                    job.report(Outcome::unsent(token, Status::Rejected, detail));
                    continue;
                }
                return Some(NextToken {
                    token,
                    job,
                    tries: 0,
                    key_taken_since: None,
                });
            }
            // A claim that may not be sent any more reports its tokens on drop.
            self.claim = None;
            if self.is_surplus {
                return None;
            }
            self.claim = Some(self.shared.queue.try_claim()?);
        }
    }

    /// Reports the tokens of aborted runs, whose replies are then dropped.
    fn detach_aborted(&mut self) {
        let shared = Arc::clone(&self.shared);
        let abandoned = shared.queue.abandoned();
        for request in &mut self.requests {
            match request {
                PendingRequest::Insert(in_flight) => {
                    in_flight.detach_if_aborted(abandoned, self.now);
                }
                PendingRequest::Rowless(rowless) => {
                    for in_flight in rowless {
                        in_flight.detach_if_aborted(abandoned, self.now);
                    }
                }
                PendingRequest::Receipts(_) => {}
            }
        }
        for in_flight in &mut self.rowless {
            in_flight.detach_if_aborted(abandoned, self.now);
        }
    }

    /// Takes a waiting token that is due, or that will not be sent.
    fn take_due(&mut self) -> Option<RetryToken> {
        let (now, is_stopping) = (self.now, self.is_stopping);
        let index = self.waiting.iter().position(|waiting| {
            waiting.due <= now || is_stopping || waiting.in_flight.job.is_stopping()
        })?;
        Some(self.waiting.remove(index))
    }

    /// Returns the unsettled tokens after the connection was lost.
    fn orphans(mut self, session: <D::Connection as Connection>::Session) -> Orphans<D> {
        if let Some(claim) = self.claim.take() {
            self.shared.queue.put_back(claim);
        }
        let (mut tokens, close_reason) = (self.take_in_flight(), self.take_close_reason());
        let mut waiting = std::mem::take(&mut self.waiting);
        if self.shared.is_dry_run {
            // A dry run commits nothing, so nothing is in doubt.
            for in_flight in &tokens {
                in_flight.mark_settled(&self.shared.log, false);
            }
            waiting.extend(retry_lost(std::mem::take(&mut tokens), self.now));
        }
        let in_doubt = (!tokens.is_empty()).then_some(InDoubtSet {
            tokens,
            session,
            close_reason,
        });
        Orphans { in_doubt, waiting }
    }

    /// Reports every token, since replies are not waited for any more.
    fn give_up(&mut self, error: &Error, reason: &str) {
        let tokens = self.take_in_flight();
        for in_flight in &tokens {
            in_flight.job.set_error(error);
        }
        let now = self.shared.queue.clock.now();
        report_unknown(tokens, &self.shared.log, reason, None, now);
        self.abandon(reason);
    }

    fn take_in_flight(&mut self) -> Vec<InFlight> {
        let mut tokens = Vec::new();
        for request in self.requests.drain(..) {
            match request {
                PendingRequest::Insert(in_flight) => tokens.push(in_flight),
                PendingRequest::Rowless(rowless) => tokens.extend(rowless),
                PendingRequest::Receipts(receipts) => self.shared.queue.receipts.put_back(receipts),
            }
        }
        tokens.append(&mut self.rowless);
        tokens
    }

    fn take_close_reason(&mut self) -> Option<String> {
        self.close_reason.take().map(|why| scrub(&why, "", &[]))
    }

    /// Reports the tokens in flight as `unknown` for `reason`, and waiting ones as `failed`.
    fn abandon(&mut self, reason: &str) {
        let (tokens, message) = (self.take_in_flight(), self.take_close_reason());
        let now = self.shared.queue.clock.now();
        report_unknown(tokens, &self.shared.log, reason, message, now);
        for waiting in self.waiting.drain(..) {
            waiting.fail(now);
        }
    }
}

impl<D: Database> Drop for Writer<D> {
    /// Reports the tokens in flight, also if the writer panics or is dropped.
    fn drop(&mut self) {
        self.abandon("the connection was lost before the database answered");
    }
}

/// Waits until `due`; for ever if nothing is due.
async fn sleep_until(clock: &dyn Clock, due: Option<Instant>) {
    match due {
        Some(due) => clock.sleep_until(due).await,
        None => std::future::pending().await,
    }
}

/// Waits for the timer; never ends without one.
async fn wait_for(timer: &mut Option<crate::runtime::clock::SleepFuture>) {
    match timer {
        Some(timer) => timer.await,
        None => std::future::pending().await,
    }
}
