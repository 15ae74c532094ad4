//! One connection at work: it takes chunks, keeps up to `pipeline` INSERTs in flight, and reports
//! each answer.
//!
//! A server answers in the order in which it was asked. So the ledger of what is in flight is a
//! queue, and only the foremost answer is ever waited for.

mod settle;

use std::collections::VecDeque;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::error::Fault;
use crate::pipeline::token::{Detail, Outcome, Status, Token};
use crate::store::outcome_batch::OutcomeBatch;
use crate::store::postgres::connection::Connection;
use crate::store::postgres::connector::silence;
use crate::store::postgres::in_doubt::{self, InDoubtSet, InFlight, RowlessCommits, UNCONFIRMED};
use crate::store::postgres::inflight::SnapshotInterval;
use crate::store::postgres::replies::{PendingReplies, ServerReply};
use crate::store::postgres::retry_set::{
    CloseReason, Orphans, RetryToken, WriterStart, again, until,
};
use crate::store::postgres::shared::PoolShared;
use crate::store::postgres::xid_horizon::XidHorizon;
use crate::store::queue::{Chunk, StoreJob};
use crate::store::sqlstate::{DetailCache, scrub};

/// What is asked of the server, in the order in which it answers.
enum PendingRequest {
    /// An INSERT.
    Insert(InFlight),
    /// The horizon; at that moment.
    Horizon(u64),
    /// Where the rows of these tokens went.
    Rowless(RowlessCommits),
}

/// A token that is to be sent.
struct NextToken {
    token: Token,
    job: Arc<StoreJob>,
    /// How often it was sent.
    tries: u32,
    /// When its key was first found to be taken.
    taken_since: Option<Instant>,
}

/// So many tokens without a row are looked for together.
const ROWLESS: usize = 256;

/// The lane's books: what was sent, and what is to be sent.
struct Writer {
    shared: Arc<PoolShared>,
    chunk: Option<Chunk>,
    ledger: VecDeque<PendingRequest>,
    waiting: Vec<RetryToken>,
    /// Tokens that were committed without a row, to be looked for.
    rowless: Option<RowlessCommits>,
    horizon: XidHorizon,
    /// How many may be in flight on a connection of one's own.
    pipeline: usize,
    batch: OutcomeBatch,
    details: DetailCache,
    no_row: Arc<Detail>,
    /// True once the server was found to take no writes, or an answer broke off: nothing more is sent
    /// to it, and the connection is given up when it has answered what was.
    leaving: bool,
    /// Why the connection was lost.
    close_reason: Option<String>,
}

/// Works until the queue is closed and empty, or the connection is lost. Without a `start` it makes
/// a connection of its own.
pub(super) async fn run(shared: Arc<PoolShared>, start: Option<WriterStart>) -> CloseReason {
    let Some(start) = (match start {
        Some(start) => Some(start),
        None => WriterStart::extra(&shared).await,
    }) else {
        return CloseReason::Unconnected;
    };
    let connection = start.connection;
    let asked = SnapshotInterval {
        from: start.since,
        to: shared.sent.mark(),
    };
    let horizon = XidHorizon::new(&connection, asked);
    let mut writer = Writer {
        pipeline: shared
            .pipeline
            .unwrap_or_else(|| fitting(connection.round_trip)),
        shared,
        chunk: start.chunk,
        ledger: VecDeque::new(),
        waiting: start.waiting,
        rowless: None,
        horizon,
        batch: OutcomeBatch::default(),
        details: DetailCache::default(),
        no_row: Detail::reason(
            "the database stored no row: a trigger or rule skipped or redirected it",
        ),
        leaving: false,
        close_reason: None,
    };
    let lost = writer.work(&connection).await;
    if let Some(fault) = writer.shared.unconfirmed.get().cloned() {
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

/// How many requests in flight keep a connection busy whose answers take this long on their way.
/// More than that only makes more tokens wait, and more of them are in doubt when it is lost.
fn fitting(round_trip: Duration) -> usize {
    // Near a server that is all the same: it is busy with 16. Far away a round trip must hold what the
    // server gets done meanwhile.
    const LEAST: usize = 16;
    const MOST: usize = 128;
    const PER_MILLISECOND: usize = 16;
    let milliseconds = usize::try_from(round_trip.as_millis()).unwrap_or(MOST);
    milliseconds
        .saturating_mul(PER_MILLISECOND)
        .clamp(LEAST, MOST)
}

impl Writer {
    /// True where it ends because the connection was lost.
    async fn work(&mut self, connection: &Connection) -> bool {
        let shared = Arc::clone(&self.shared);
        let queue = &shared.queue;
        let silence = silence(shared.statement_timeout);
        let mut aborting = pin!(queue.shutdown.aborting().cancelled());
        let mut giving_up = pin!(shared.gives_up.cancelled());
        let mut timer = pin!(tokio::time::sleep(silence));
        let mut heard = Instant::now();
        let mut answers = PendingReplies::with_capacity(self.pipeline);
        let mut closed = false;
        loop {
            if answers.is_empty() {
                heard = Instant::now();
            }
            self.fill(connection, &mut answers);
            let idle = answers.is_empty();
            if self.leaving && idle {
                return true;
            }
            if closed && idle && self.chunk.is_none() && !self.owes() {
                return false;
            }
            let due = self.waiting.iter().map(|waiting| waiting.due).min();
            let length_limit = self.has_room(answers.len());
            tokio::select! {
                biased;
                () = &mut aborting => return false,
                () = &mut giving_up => return false,
                answer = answers.foremost(), if !idle => {
                    heard = Instant::now();
                    let mut next = Some(answer);
                    while let Some(answer) = next {
                        if !self.answered(connection, answer) {
                            return true;
                        }
                        next = answers.arrived();
                    }
                    self.batch.flush_soon();
                }
                chunk = queue.inbox.recv(), if length_limit && !closed && self.chunk.is_none() => match chunk {
                    Ok(chunk) => {
                        queue.taken(&chunk);
                        self.chunk = Some(chunk);
                    }
                    Err(_) => closed = true,
                },
                // Before what is due: on a connection that has ended it would stay due for ever.
                () = connection.ended(), if idle => return true,
                () = until(due), if length_limit && due.is_some() => {}
                () = &mut timer, if !idle => {
                    if heard.elapsed() >= silence {
                        self.close_reason = Some("the server fell silent".to_owned());
                        return true;
                    }
                    timer.as_mut().reset(heard + silence);
                }
            }
        }
    }

    /// How many may be in flight. Behind a pooler it is one: PgBouncer before 1.21 may hand a server
    /// to the next client while it still owes answers to the last, which are then taken for others.
    fn pipeline(&self) -> usize {
        match self.horizon.backend {
            Some(_) => self.pipeline,
            None => 1,
        }
    }

    /// True where it pays to send: a quarter of the pipeline in one write costs both sides far
    /// fewer calls than a write for each answer, and the rest keeps the server busy meanwhile.
    fn has_room(&self, in_flight: usize) -> bool {
        let pipeline = self.pipeline();
        !self.leaving && in_flight + (pipeline / 4).max(1) <= pipeline
    }

    /// Sends as many tokens as there is room for.
    fn fill<'a>(&mut self, connection: &'a Connection, answers: &mut PendingReplies<'a>) {
        self.leaving |= answers.is_empty() && connection.is_unheard();
        self.look_for_rowless(connection, answers);
        if !self.has_room(answers.len()) {
            return;
        }
        while answers.len() < self.pipeline() && !connection.is_closed() {
            let Some(NextToken {
                mut token,
                job,
                tries,
                taken_since,
            }) = self.next_token()
            else {
                break;
            };
            if self.horizon.is_due(answers.is_empty()) {
                self.ledger
                    .push_back(PendingRequest::Horizon(self.shared.sent.mark()));
                answers.ask(async { connection.ask_horizon().await.map(ServerReply::Horizon) });
            }
            token.attempts = token.attempts.saturating_add(1);
            let moment = self.shared.sent.sending(token.as_str());
            let text = token.clone();
            let dry_run = self.shared.dry_run;
            answers.ask(async move {
                let rows = if dry_run {
                    connection.try_out(text.as_str()).await
                } else {
                    connection.insert(text.as_str()).await
                };
                rows.map(ServerReply::Rows)
            });
            self.ledger.push_back(PendingRequest::Insert(InFlight {
                token,
                job,
                sent: Instant::now(),
                moment,
                tries: tries + 1,
                taken_since,
            }));
        }
        self.batch.flush_soon();
    }

    /// Looks for tokens without a row once there are enough of them, or nothing else to wait for.
    fn look_for_rowless<'a>(
        &mut self,
        connection: &'a Connection,
        answers: &mut PendingReplies<'a>,
    ) {
        let is_due = |rowless: &mut RowlessCommits| {
            rowless.in_flights.len() >= ROWLESS || answers.is_empty()
        };
        let Some(mut rowless) = self.rowless.take_if(is_due) else {
            return;
        };
        if connection.is_closed() {
            self.rowless = Some(rowless);
            return;
        }
        rowless.looked = self.shared.sent.mark();
        let values: Vec<Token> = rowless
            .in_flights
            .iter()
            .map(|it| it.token.clone())
            .collect();
        let (sql, number) = (self.shared.lookup.sql.clone(), rowless.number);
        answers.ask(async move {
            let values: Vec<&str> = values.iter().map(Token::as_str).collect();
            connection
                .count(&sql, &values, Some(number))
                .await
                .map(ServerReply::Counts)
        });
        self.ledger.push_back(PendingRequest::Rowless(rowless));
    }

    /// True if tokens of this lane are neither in flight nor settled.
    fn owes(&self) -> bool {
        !self.waiting.is_empty() || self.rowless.is_some()
    }

    /// The next token to send, whose it is, and how often it was sent.
    fn next_token(&mut self) -> Option<NextToken> {
        loop {
            if let Some(RetryToken {
                in_flight, detail, ..
            }) = self.due()
            {
                if in_flight.job.is_stopping() {
                    self.settle(in_flight, Status::Failed, Some(detail));
                    continue;
                }
                return Some(NextToken {
                    token: in_flight.token,
                    job: in_flight.job,
                    tries: in_flight.tries,
                    taken_since: in_flight.taken_since,
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
                    taken_since: None,
                });
            }
            // A chunk that may not be sent any more reports itself when it is dropped.
            self.chunk = None;
            let chunk = self.shared.queue.inbox.try_recv().ok()?;
            self.shared.queue.taken(&chunk);
            self.chunk = Some(chunk);
        }
    }

    /// A waiting token whose time has come, or whose job waits for nothing.
    fn due(&mut self) -> Option<RetryToken> {
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

    /// Reports what became of a token whose answer has come.
    fn settle(&mut self, in_flight: InFlight, status: Status, detail: Option<Arc<Detail>>) {
        let (job, outcome) = in_flight.settle(status, detail);
        self.batch.push(&job, outcome);
    }

    /// What the lane leaves to others after its connection was lost.
    fn orphans(mut self, had_open_transaction: bool) -> Orphans {
        if let Some(chunk) = self.chunk.take() {
            self.shared.queue.give_back(chunk);
        }
        let (mut in_flights, close_reason) = (self.take_flights(), self.take_farewell());
        let mut waiting = std::mem::take(&mut self.waiting);
        if self.shared.dry_run {
            // What would have been taken back is in no doubt.
            for in_flight in &in_flights {
                in_flight.settled(&self.shared.sent, false);
            }
            waiting.extend(again(std::mem::take(&mut in_flights)));
        }
        let doubt = (!in_flights.is_empty()).then_some(InDoubtSet {
            in_flights,
            horizon: self.horizon.clone(),
            had_open_transaction,
            close_reason,
        });
        Orphans { doubt, waiting }
    }

    /// Accounts for everything at once, for nothing may be waited for.
    fn abort(&mut self) {
        self.drop_flights("the run was aborted before the answer came");
        self.chunk = None;
        self.shared.queue.close();
        self.shared.queue.clear();
    }

    /// Accounts for everything because no standby confirms what is committed. The server goes on with
    /// what it was sent, and its waits are not cut short.
    fn give_up(&mut self, fault: &Fault) {
        self.batch.flush();
        let in_flights = self.take_flights();
        for in_flight in &in_flights {
            in_flight.job.tell(fault);
        }
        in_doubt::give_up(in_flights, &self.shared.sent, UNCONFIRMED, None);
        self.waiting.drain(..).for_each(RetryToken::fail);
        self.chunk = None;
    }

    fn take_flights(&mut self) -> Vec<InFlight> {
        let in_flights = self.ledger.drain(..).flat_map(|asked| match asked {
            PendingRequest::Insert(in_flight) => vec![in_flight],
            PendingRequest::Horizon(_) => Vec::new(),
            PendingRequest::Rowless(rowless) => rowless.in_flights,
        });
        in_flights
            .chain(self.rowless.take().into_iter().flat_map(|it| it.in_flights))
            .collect()
    }

    fn take_farewell(&mut self) -> Option<String> {
        self.close_reason.take().map(|why| scrub(&why, "", &[]))
    }

    fn drop_flights(&mut self, reason: &str) {
        self.batch.flush();
        let (in_flights, message) = (self.take_flights(), self.take_farewell());
        in_doubt::give_up(in_flights, &self.shared.sent, reason, message);
        self.waiting.drain(..).for_each(RetryToken::fail);
    }
}

impl Drop for Writer {
    /// Even a lane that panics or is dropped in mid-flight accounts for what it holds.
    fn drop(&mut self) {
        self.drop_flights("the connection was lost before the answer came");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_farther_the_server_the_more_is_in_flight() {
        let after = |milliseconds| fitting(Duration::from_millis(milliseconds));
        assert_eq!([0, 1, 2, 5, 20, 400].map(after), [16, 16, 32, 80, 128, 128]);
        assert_eq!(fitting(Duration::MAX), 128);
    }
}
