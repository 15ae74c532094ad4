//! One connection at work: it takes chunks, keeps up to `pipeline` INSERTs in flight, and reports
//! each answer.
//!
//! A server answers in the order in which it was asked. So the ledger of what is in flight is a
//! queue, and only the foremost answer is ever waited for.

use std::collections::VecDeque;
use std::pin::pin;
use std::sync::Arc;

use tokio::time::Instant;
use tokio_postgres::error::DbError;

use super::super::doubt::{self, Doubt, Flight};
use super::super::job::{Batch, Chunk, Job, Verdict};
use super::super::sqlstate::{Class, Details, Said, TRIES, class_of, pause, scrub};
use super::answers::{Answer, Answers, Reply};
use super::connect::silence;
use super::handover::{End, Remains, Start, Waiting, until};
use super::horizon::Horizon;
use super::link::{Link, is_error};
use super::pool::Shared;
use super::refusal::every_insert_denied;
use super::sent::Span;
use crate::token::{Detail, Status, Token};

/// What is asked of the server, in the order in which it answers.
enum Asked {
    /// An INSERT.
    Insert(Flight),
    /// The horizon; at that moment.
    Horizon(u64),
}

/// The lane's books: what was sent, and what is to be sent.
struct Lane {
    shared: Arc<Shared>,
    chunk: Option<Chunk>,
    ledger: VecDeque<Asked>,
    waiting: Vec<Waiting>,
    horizon: Horizon,
    batch: Batch,
    details: Details,
    no_row: Arc<Detail>,
    /// True once the server was found to take no writes: nothing more is sent to it, and the
    /// connection is given up when it has answered what was.
    leaving: bool,
    /// Why the connection was lost.
    farewell: Option<String>,
}

/// Works until the queue is closed and empty, or the connection is lost. Without a `start` it makes
/// a connection of its own.
pub(super) async fn run(shared: Arc<Shared>, start: Option<Start>) -> End {
    let Some(start) = (match start {
        Some(start) => Some(start),
        None => Start::extra(&shared).await,
    }) else {
        return End::Unconnected;
    };
    let link = start.link;
    let asked = Span {
        from: start.since,
        to: shared.sent.mark(),
    };
    let horizon = Horizon::new(&link, asked);
    let mut lane = Lane {
        shared,
        chunk: start.chunk,
        ledger: VecDeque::new(),
        waiting: start.waiting,
        horizon,
        batch: Batch::default(),
        details: Details::default(),
        no_row: Detail::reason("the database stored no row: a trigger or a rule skipped it"),
        leaving: false,
        farewell: None,
    };
    let lost = lane.work(&link).await;
    if lane.shared.queue.halt.aborting().is_cancelled() {
        lane.abort();
        return End::Finished;
    }
    lane.batch.flush();
    if lost {
        return End::Lost(Box::new(lane.remains()));
    }
    link.close().await;
    End::Finished
}

impl Lane {
    /// True where it ends because the connection was lost.
    async fn work(&mut self, link: &Link) -> bool {
        let shared = Arc::clone(&self.shared);
        let queue = &shared.queue;
        let silence = silence(shared.statement_timeout);
        let mut aborting = pin!(queue.halt.aborting().cancelled());
        let mut timer = pin!(tokio::time::sleep(silence));
        let mut heard = Instant::now();
        let mut answers = Answers::with_capacity(shared.pipeline);
        let mut closed = false;
        loop {
            if answers.is_empty() {
                heard = Instant::now();
            }
            self.fill(link, &mut answers);
            let idle = answers.is_empty();
            if self.leaving && idle {
                return true;
            }
            if closed && idle && self.chunk.is_none() && self.waiting.is_empty() {
                return false;
            }
            let due = self.waiting.iter().map(|waiting| waiting.due).min();
            let room = self.has_room(answers.len());
            tokio::select! {
                biased;
                () = &mut aborting => return false,
                answer = answers.foremost(), if !idle => {
                    heard = Instant::now();
                    let mut next = Some(answer);
                    while let Some(answer) = next {
                        if !self.answered(link, answer) {
                            return true;
                        }
                        next = answers.arrived();
                    }
                    self.batch.flush();
                }
                chunk = queue.inbox.recv(), if room && !closed && self.chunk.is_none() => match chunk {
                    Ok(chunk) => {
                        queue.taken(&chunk);
                        self.chunk = Some(chunk);
                    }
                    Err(_) => closed = true,
                },
                // Before what is due: on a connection that has ended it would stay due for ever.
                () = link.ended(), if idle => return true,
                () = until(due), if room && due.is_some() => {}
                () = &mut timer, if !idle => {
                    if heard.elapsed() >= silence {
                        self.farewell = Some("the server fell silent".to_owned());
                        return true;
                    }
                    timer.as_mut().reset(heard + silence);
                }
            }
        }
    }

    /// True where it pays to send: a quarter of the pipeline in one write costs both sides far
    /// fewer calls than a write for each answer, and the rest keeps the server busy meanwhile.
    fn has_room(&self, in_flight: usize) -> bool {
        let pipeline = self.shared.pipeline;
        !self.leaving && in_flight + (pipeline / 4).max(1) <= pipeline
    }

    /// Sends as many tokens as there is room for.
    fn fill<'a>(&mut self, link: &'a Link, answers: &mut Answers<'a>) {
        if !self.has_room(answers.len()) {
            return;
        }
        while answers.len() < self.shared.pipeline && !link.is_closed() {
            let Some((mut token, job, tries)) = self.next_token() else {
                break;
            };
            if self.horizon.is_due(answers.is_empty()) {
                self.ledger
                    .push_back(Asked::Horizon(self.shared.sent.mark()));
                answers.ask(async { link.ask_horizon().await.map(Reply::Horizon) });
            }
            token.attempts = token.attempts.saturating_add(1);
            let moment = self.shared.sent.sending(token.as_str());
            let text = token.clone();
            answers.ask(async move { link.insert(text.as_str()).await.map(Reply::Rows) });
            self.ledger.push_back(Asked::Insert(Flight {
                token,
                job,
                sent: Instant::now(),
                moment,
                tries: tries + 1,
            }));
        }
        self.batch.flush();
    }

    /// The next token to send, whose it is, and how often it was sent.
    fn next_token(&mut self) -> Option<(Token, Arc<Job>, u32)> {
        loop {
            if let Some(Waiting { flight, detail, .. }) = self.due() {
                if flight.job.is_stopping() {
                    self.land(flight, Status::Failed, Some(detail));
                    continue;
                }
                return Some((flight.token, flight.job, flight.tries));
            }
            if let Some(chunk) = &mut self.chunk
                && !chunk.job.is_stopping()
                && let Some(token) = chunk.take()
            {
                return Some((token, Arc::clone(&chunk.job), 0));
            }
            // A chunk that may not be sent any more reports itself when it is dropped.
            self.chunk = None;
            let chunk = self.shared.queue.inbox.try_recv().ok()?;
            self.shared.queue.taken(&chunk);
            self.chunk = Some(chunk);
        }
    }

    /// A waiting token whose time has come, or whose job waits for nothing.
    fn due(&mut self) -> Option<Waiting> {
        if self.waiting.is_empty() {
            return None;
        }
        let now = Instant::now();
        let index = self
            .waiting
            .iter()
            .position(|waiting| waiting.due <= now || waiting.flight.job.is_stopping())?;
        Some(self.waiting.remove(index))
    }

    /// Reports what became of a token whose answer has come.
    fn land(&mut self, flight: Flight, status: Status, detail: Option<Arc<Detail>>) {
        let (job, outcome) = flight.land(status, detail);
        self.batch.push(&job, outcome);
    }

    /// Books the answer to what was asked foremost; false where it says that the connection is
    /// lost.
    fn answered(&mut self, link: &Link, answer: Answer) -> bool {
        let flight = match self.ledger.pop_front() {
            None => return false,
            Some(Asked::Horizon(since)) => return self.horizon_moved(since, answer),
            Some(Asked::Insert(flight)) => flight,
        };
        let error = match answer {
            Ok(Reply::Rows(0)) => {
                flight.landed(&self.shared.sent, false);
                let detail = Arc::clone(&self.no_row);
                self.land(flight, Status::Rejected, Some(detail));
                return true;
            }
            Ok(_) => {
                flight.landed(&self.shared.sent, true);
                self.horizon.control = Some(flight.token.clone());
                self.land(flight, Status::Stored, None);
                return true;
            }
            Err(error) => error,
        };
        let Some(db) = error.as_db_error() else {
            self.farewell = crate::fault::chain(&error).pop();
            self.ledger.push_front(Asked::Insert(flight));
            return false;
        };
        self.judged(link, flight, db)
    }

    fn horizon_moved(&mut self, since: u64, answer: Answer) -> bool {
        match answer {
            Ok(Reply::Horizon(number)) => {
                let to = self.shared.sent.mark();
                self.horizon.move_to(number, Span { from: since, to });
            }
            Ok(Reply::Rows(_)) => {}
            // The older horizon still holds.
            Err(error) => return error.as_db_error().is_some_and(is_error),
        }
        true
    }

    /// Books the server's verdict on a token; false where it concerns the connection.
    fn judged(&mut self, link: &Link, flight: Flight, db: &DbError) -> bool {
        let code = db.code().code();
        let detail = self.details.of(
            &Said {
                code,
                constraint: db.constraint(),
                message: db.message(),
                names: [db.constraint(), db.table(), db.column(), db.datatype()],
            },
            flight.token.as_str(),
        );
        let class = class_of(code, is_error(db), db.routine());
        if class != Class::Doubt {
            flight.landed(&self.shared.sent, false);
        }
        match class {
            Class::Rejected => self.land(flight, Status::Rejected, Some(detail)),
            Class::Retry if flight.tries < TRIES && !flight.job.is_stopping() => {
                self.waiting.push(Waiting {
                    due: Instant::now() + pause(flight.tries, fastrand::f64()),
                    flight,
                    detail,
                });
            }
            Class::Unprepared if flight.tries < TRIES => {
                link.unprepare();
                self.waiting.push(Waiting::now(flight, detail));
            }
            Class::ReadOnly if flight.tries < TRIES && !flight.job.is_stopping() => {
                self.leaving = true;
                self.waiting.push(Waiting::now(flight, detail));
            }
            Class::Failed | Class::ReadOnly | Class::Retry | Class::Unprepared => {
                self.land(flight, Status::Failed, Some(detail));
            }
            Class::Denied => {
                let verdict = Verdict {
                    status: Status::NotAttempted,
                    fault: every_insert_denied(code, detail.message.as_deref().unwrap_or_default()),
                    detail: Arc::clone(&detail),
                };
                flight.job.tell(&verdict.fault);
                self.shared.queue.condemn(verdict);
                self.land(flight, Status::Failed, Some(detail));
            }
            Class::Doubt if is_error(db) => {
                self.batch.flush();
                let message = detail.message.clone();
                let reason = "the database says that it does not know";
                doubt::give_up([flight], &self.shared.sent, reason, message);
            }
            Class::Doubt => {
                self.farewell = Some(format!("{} ({code})", db.message()));
                self.ledger.push_front(Asked::Insert(flight));
                return false;
            }
        }
        true
    }

    /// What the lane leaves to others after its connection was lost.
    fn remains(mut self) -> Remains {
        if let Some(chunk) = self.chunk.take() {
            self.shared.queue.give_back(chunk);
        }
        let (flights, farewell) = (self.take_flights(), self.take_farewell());
        let doubt = (!flights.is_empty()).then_some(Doubt {
            flights,
            horizon: self.horizon.clone(),
            farewell,
        });
        Remains {
            doubt,
            waiting: std::mem::take(&mut self.waiting),
        }
    }

    /// Accounts for everything at once, for nothing may be waited for.
    fn abort(&mut self) {
        self.drop_flights("the run was aborted before the answer came");
        self.chunk = None;
        self.shared.queue.close();
        self.shared.queue.clear();
    }

    fn take_flights(&mut self) -> Vec<Flight> {
        let flights = self.ledger.drain(..).filter_map(|asked| match asked {
            Asked::Insert(flight) => Some(flight),
            Asked::Horizon(_) => None,
        });
        flights.collect()
    }

    fn take_farewell(&mut self) -> Option<String> {
        self.farewell.take().map(|why| scrub(&why, "", &[]))
    }

    fn drop_flights(&mut self, reason: &str) {
        self.batch.flush();
        let (flights, message) = (self.take_flights(), self.take_farewell());
        doubt::give_up(flights, &self.shared.sent, reason, message);
        self.waiting.drain(..).for_each(Waiting::fail);
    }
}

impl Drop for Lane {
    /// Even a lane that panics or is dropped in mid-flight accounts for what it holds.
    fn drop(&mut self) {
        self.drop_flights("the connection was lost before the answer came");
    }
}
