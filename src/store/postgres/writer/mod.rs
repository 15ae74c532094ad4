//! Sends INSERTs over one connection: takes chunks, keeps up to `pipeline` INSERTs in flight, and
//! reports each reply.
//!
//! A server replies in order, so the requests form a queue.

mod settle;

use std::collections::VecDeque;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::error::Error;
use crate::pipeline::token::{Detail, Outcome, Status, Token};
use crate::store::outcome_batch::OutcomeBatch;
use crate::store::postgres::connection::Connection;
use crate::store::postgres::connector::reply_timeout;
use crate::store::postgres::in_doubt::{self, InDoubtSet, InFlight, RowlessCommits, UNCONFIRMED};
use crate::store::postgres::inflight::SnapshotInterval;
use crate::store::postgres::replies::{PendingReplies, ServerReply};
use crate::store::postgres::retry_set::{
    CloseReason, Orphans, RetryToken, WriterStart, retry_lost, sleep_until_due,
};
use crate::store::postgres::shared::PoolShared;
use crate::store::postgres::xid_horizon::XidHorizon;
use crate::store::queue::{Chunk, StoreJob};
use crate::store::sqlstate::{DetailCache, scrub};

/// A request to the server, in the order of the replies.
enum PendingRequest {
    /// An INSERT.
    Insert(InFlight),
    /// A query of the XID horizon, sent at this tick.
    Horizon(u64),
    /// A look-up of tokens that were committed without a row.
    Rowless(RowlessCommits),
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

/// The number of tokens without a row in one look-up.
const ROWLESS_BATCH: usize = 256;

/// A writer's state: the requests in flight and the tokens to send.
struct Writer {
    shared: Arc<PoolShared>,
    chunk: Option<Chunk>,
    requests: VecDeque<PendingRequest>,
    waiting: Vec<RetryToken>,
    /// Tokens that were committed without a row, to be looked up.
    rowless: Option<RowlessCommits>,
    horizon: XidHorizon,
    /// The most INSERTs in flight on a direct connection.
    pipeline: usize,
    batch: OutcomeBatch,
    details: DetailCache,
    no_row_detail: Arc<Detail>,
    /// True once the server was found read-only or a reply was incomplete: nothing more is sent,
    /// and the connection ends after the outstanding replies.
    is_draining: bool,
    /// Why the connection was lost.
    close_reason: Option<String>,
}

/// Runs until the queue is closed and empty, or the connection is lost.
///
/// Without a `start` it makes an additional connection.
pub(super) async fn run(shared: Arc<PoolShared>, start: Option<WriterStart>) -> CloseReason {
    let Some(start) = (match start {
        Some(start) => Some(start),
        None => WriterStart::connect_extra(&shared).await,
    }) else {
        return CloseReason::Unconnected;
    };
    let connection = start.connection;
    let snapshot = SnapshotInterval {
        from: start.snapshot_from,
        to: shared.in_flight_log.tick(),
    };
    let horizon = XidHorizon::new(&connection, snapshot);
    let mut writer = Writer {
        pipeline: shared
            .pipeline
            .unwrap_or_else(|| pipeline_for(connection.round_trip)),
        shared,
        chunk: start.chunk,
        requests: VecDeque::new(),
        waiting: start.waiting,
        rowless: None,
        horizon,
        batch: OutcomeBatch::default(),
        details: DetailCache::default(),
        no_row_detail: Detail::reason(
            "the database stored no row: a trigger or rule skipped or redirected it",
        ),
        is_draining: false,
        close_reason: None,
    };
    let lost = writer.work(&connection).await;
    if let Some(fault) = writer.shared.unconfirmed_fault.get().cloned() {
        writer.give_up(&fault);
        return CloseReason::Finished;
    }
    if writer.shared.queue.shutdown.aborting().is_cancelled() {
        writer.abort();
        return CloseReason::Finished;
    }
    writer.batch.flush();
    if lost {
        return CloseReason::Lost(Box::new(writer.orphans(connection.had_open_transaction())));
    }
    connection.close().await;
    CloseReason::Finished
}

/// Returns how many requests in flight keep a connection with this round trip busy.
///
/// More would only delay each token and put more of them in doubt on a loss.
fn pipeline_for(round_trip: Duration) -> usize {
    // 16 keep a nearby server busy. A distant one needs enough for a whole round trip.
    const MIN: usize = 16;
    const MAX: usize = 128;
    const PER_MILLISECOND: usize = 16;
    let milliseconds = usize::try_from(round_trip.as_millis()).unwrap_or(MAX);
    milliseconds.saturating_mul(PER_MILLISECOND).clamp(MIN, MAX)
}

impl Writer {
    /// Returns true if the connection was lost.
    async fn work(&mut self, connection: &Connection) -> bool {
        let shared = Arc::clone(&self.shared);
        let queue = &shared.queue;
        let reply_timeout = reply_timeout(shared.statement_timeout);
        let mut aborting = pin!(queue.shutdown.aborting().cancelled());
        let mut giving_up = pin!(shared.giving_up.cancelled());
        let mut timer = pin!(tokio::time::sleep(reply_timeout));
        let mut last_reply = Instant::now();
        let mut replies = PendingReplies::with_capacity(self.pipeline);
        let mut closed = false;
        loop {
            if replies.is_empty() {
                last_reply = Instant::now();
            }
            self.send_tokens(connection, &mut replies);
            let idle = replies.is_empty();
            if self.is_draining && idle {
                return true;
            }
            if closed && idle && self.chunk.is_none() && !self.has_unsettled() {
                return false;
            }
            let due = self.waiting.iter().map(|waiting| waiting.due).min();
            let has_room = self.has_room(replies.len());
            tokio::select! {
                biased;
                () = &mut aborting => return false,
                () = &mut giving_up => return false,
                reply = replies.next(), if !idle => {
                    last_reply = Instant::now();
                    let mut next = Some(reply);
                    while let Some(reply) = next {
                        if !self.handle_reply(connection, reply) {
                            return true;
                        }
                        next = replies.try_next();
                    }
                    self.batch.flush_coalesced();
                }
                chunk = queue.chunks.recv(), if has_room && !closed && self.chunk.is_none() => match chunk {
                    Ok(chunk) => {
                        queue.mark_taken(&chunk);
                        self.chunk = Some(chunk);
                    }
                    Err(_) => closed = true,
                },
                // Before due tokens: on a closed connection they would stay due for ever.
                () = connection.ended(), if idle => return true,
                () = sleep_until_due(due), if has_room && due.is_some() => {}
                () = &mut timer, if !idle => {
                    if last_reply.elapsed() >= reply_timeout {
                        self.close_reason = Some("the server stopped responding".to_owned());
                        return true;
                    }
                    timer.as_mut().reset(last_reply + reply_timeout);
                }
            }
        }
    }

    /// Returns how many INSERTs may be in flight: 1 behind a pooler.
    ///
    /// PgBouncer before 1.21 may assign a server to the next client while replies to the last one
    /// are outstanding.
    fn pipeline(&self) -> usize {
        match self.horizon.backend {
            Some(_) => self.pipeline,
            None => 1,
        }
    }

    /// Returns true if enough of the pipeline is free.
    ///
    /// One write for a quarter of the pipeline costs far fewer system calls than a write per reply,
    /// and the rest keeps the server busy.
    fn has_room(&self, in_flight: usize) -> bool {
        let pipeline = self.pipeline();
        !self.is_draining && in_flight + (pipeline / 4).max(1) <= pipeline
    }

    /// Sends tokens until the pipeline is full.
    fn send_tokens<'a>(&mut self, connection: &'a Connection, replies: &mut PendingReplies<'a>) {
        self.is_draining |= replies.is_empty() && connection.awaits_reply();
        self.look_up_rowless(connection, replies);
        if !self.has_room(replies.len()) {
            return;
        }
        while replies.len() < self.pipeline() && !connection.is_closed() {
            let Some(NextToken {
                mut token,
                job,
                tries,
                key_taken_since,
            }) = self.next_token()
            else {
                break;
            };
            if self.horizon.is_due(replies.is_empty()) {
                self.requests
                    .push_back(PendingRequest::Horizon(self.shared.in_flight_log.tick()));
                replies.push(async { connection.query_horizon().await.map(ServerReply::Horizon) });
            }
            token.attempts = token.attempts.saturating_add(1);
            let sent_tick = self.shared.in_flight_log.record_sent(token.as_str());
            let text = token.clone();
            let dry_run = self.shared.dry_run;
            replies.push(async move {
                let rows = if dry_run {
                    connection.insert_and_roll_back(text.as_str()).await
                } else {
                    connection.insert(text.as_str()).await
                };
                rows.map(ServerReply::Rows)
            });
            self.requests.push_back(PendingRequest::Insert(InFlight {
                token,
                job,
                sent_at: Instant::now(),
                sent_tick,
                tries: tries + 1,
                key_taken_since,
            }));
        }
        self.batch.flush_coalesced();
    }

    /// Looks up tokens without a row if there are enough, or nothing else is in flight.
    fn look_up_rowless<'a>(
        &mut self,
        connection: &'a Connection,
        replies: &mut PendingReplies<'a>,
    ) {
        let is_due = |rowless: &mut RowlessCommits| {
            rowless.tokens.len() >= ROWLESS_BATCH || replies.is_empty()
        };
        let Some(mut rowless) = self.rowless.take_if(is_due) else {
            return;
        };
        if connection.is_closed() {
            self.rowless = Some(rowless);
            return;
        }
        rowless.lookup_tick = self.shared.in_flight_log.tick();
        let values: Vec<Token> = rowless.tokens.iter().map(|it| it.token.clone()).collect();
        let (sql, xid) = (self.shared.lookup.sql.clone(), rowless.xid);
        replies.push(async move {
            let values: Vec<&str> = values.iter().map(Token::as_str).collect();
            connection
                .count_rows(&sql, &values, Some(xid))
                .await
                .map(ServerReply::Counts)
        });
        self.requests.push_back(PendingRequest::Rowless(rowless));
    }

    /// Returns true if this writer holds tokens that are neither in flight nor settled.
    fn has_unsettled(&self) -> bool {
        !self.waiting.is_empty() || self.rowless.is_some()
    }

    /// Returns the next token to send.
    fn next_token(&mut self) -> Option<NextToken> {
        loop {
            if let Some(RetryToken {
                in_flight, detail, ..
            }) = self.take_due()
            {
                if in_flight.job.is_stopping() {
                    self.settle(in_flight, Status::Failed, Some(detail));
                    continue;
                }
                return Some(NextToken {
                    token: in_flight.token,
                    job: in_flight.job,
                    tries: in_flight.tries,
                    key_taken_since: in_flight.key_taken_since,
                });
            }
            if let Some(chunk) = &mut self.chunk
                && !chunk.job.is_stopping()
                && let Some(token) = chunk.take()
            {
                let job = Arc::clone(&chunk.job);
                if let Some(loss) = self.shared.length_limit.loss(token.as_str()) {
                    let detail = Detail::reason(loss);
                    let outcome = Outcome::unsent(token, Status::Rejected, Some(detail));
                    self.batch.push(&job, outcome);
                    continue;
                }
                return Some(NextToken {
                    token,
                    job,
                    tries: 0,
                    key_taken_since: None,
                });
            }
            // A chunk that may not be sent any more reports its tokens on drop.
            self.chunk = None;
            let chunk = self.shared.queue.chunks.try_recv().ok()?;
            self.shared.queue.mark_taken(&chunk);
            self.chunk = Some(chunk);
        }
    }

    /// Takes a waiting token that is due or whose job is stopping.
    fn take_due(&mut self) -> Option<RetryToken> {
        if self.waiting.is_empty() {
            return None;
        }
        let now = Instant::now();
        let index = self
            .waiting
            .iter()
            .position(|waiting| waiting.due <= now || waiting.in_flight.job.is_stopping())?;
        Some(self.waiting.remove(index))
    }

    /// Reports the outcome of a token.
    fn settle(&mut self, in_flight: InFlight, status: Status, detail: Option<Arc<Detail>>) {
        let (job, outcome) = in_flight.into_outcome(status, detail);
        self.batch.push(&job, outcome);
    }

    /// Returns the unsettled tokens after the connection was lost.
    fn orphans(mut self, had_open_transaction: bool) -> Orphans {
        if let Some(chunk) = self.chunk.take() {
            self.shared.queue.requeue(chunk);
        }
        let (mut tokens, close_reason) = (self.take_in_flight(), self.take_close_reason());
        let mut waiting = std::mem::take(&mut self.waiting);
        if self.shared.dry_run {
            // A dry run commits nothing, so nothing is in doubt.
            for in_flight in &tokens {
                in_flight.mark_settled(&self.shared.in_flight_log, false);
            }
            waiting.extend(retry_lost(std::mem::take(&mut tokens)));
        }
        let in_doubt = (!tokens.is_empty()).then_some(InDoubtSet {
            tokens,
            horizon: self.horizon.clone(),
            had_open_transaction,
            close_reason,
        });
        Orphans { in_doubt, waiting }
    }

    /// Reports every token at once, without waiting.
    fn abort(&mut self) {
        self.abandon_in_flight("the run was aborted before the database answered");
        self.chunk = None;
        self.shared.queue.close();
        self.shared.queue.clear();
    }

    /// Reports every token because no standby confirms commits.
    ///
    /// The server continues with what it received; its waits are not interrupted.
    fn give_up(&mut self, fault: &Error) {
        self.batch.flush();
        let tokens = self.take_in_flight();
        for in_flight in &tokens {
            in_flight.job.set_fault(fault);
        }
        in_doubt::give_up(tokens, &self.shared.in_flight_log, UNCONFIRMED, None);
        self.waiting.drain(..).for_each(RetryToken::fail);
        self.chunk = None;
    }

    fn take_in_flight(&mut self) -> Vec<InFlight> {
        let tokens = self.requests.drain(..).flat_map(|request| match request {
            PendingRequest::Insert(in_flight) => vec![in_flight],
            PendingRequest::Horizon(_) => Vec::new(),
            PendingRequest::Rowless(rowless) => rowless.tokens,
        });
        tokens
            .chain(self.rowless.take().into_iter().flat_map(|it| it.tokens))
            .collect()
    }

    fn take_close_reason(&mut self) -> Option<String> {
        self.close_reason.take().map(|why| scrub(&why, "", &[]))
    }

    fn abandon_in_flight(&mut self, reason: &str) {
        self.batch.flush();
        let (tokens, message) = (self.take_in_flight(), self.take_close_reason());
        in_doubt::give_up(tokens, &self.shared.in_flight_log, reason, message);
        self.waiting.drain(..).for_each(RetryToken::fail);
    }
}

impl Drop for Writer {
    /// Reports the tokens in flight, also if the writer panics or is dropped.
    fn drop(&mut self) {
        self.abandon_in_flight("the connection was lost before the database answered");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pipeline_grows_with_round_trip() {
        let after = |milliseconds| pipeline_for(Duration::from_millis(milliseconds));
        assert_eq!([0, 1, 2, 5, 20, 400].map(after), [16, 16, 32, 80, 128, 128]);
        assert_eq!(pipeline_for(Duration::MAX), 128);
    }
}
