//! `Outcomes` as scripts hold them: lazy, single pass, shared by their clones. What a script has not
//! taken when it lets go of one goes back to the host.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use rhai::EvalAltResult;

use crate::error::Fault;
use crate::pipeline::channel::OutcomeStream;
use crate::pipeline::token::{Outcome, Tally};
use crate::report::ledger::EntryId;
use crate::script::api::tokens::Tokens;
use crate::script::host::{AbandonedStream, HeldStream, ScriptHost};
use crate::script::native::{Native, consumed, lock, thrown, used_already};

/// A script's outcomes on their way to the report.
#[derive(Clone)]
pub struct Outcomes(Arc<OutcomesCell>);

/// What the clones of one [`Outcomes`] share.
pub struct OutcomesCell {
    host: Arc<ScriptHost>,
    book: Mutex<OutcomesState>,
}

#[derive(Default)]
struct OutcomesState {
    stream: Option<OutcomeStream<Fault>>,
    /// Outcomes that came while the failures were looked for.
    ready: VecDeque<Outcome>,
    fault: Option<Fault>,
    taken: bool,
    counts: Tally,
    /// Entries that this stream left open in the books.
    open: Vec<EntryId>,
}

impl Outcomes {
    /// The outcomes of `stream`.
    pub fn new(host: &Arc<ScriptHost>, stream: OutcomeStream<Fault>) -> Self {
        let cell = Arc::new(OutcomesCell {
            host: Arc::clone(host),
            book: Mutex::new(OutcomesState {
                stream: Some(stream),
                ..OutcomesState::default()
            }),
        });
        let held = Arc::downgrade(&cell);
        host.watch_outcomes(held);
        Self(cell)
    }

    /// The host that it belongs to.
    pub fn host(&self) -> &Arc<ScriptHost> {
        &self.0.host
    }

    /// How many outcomes of each kind were seen so far.
    pub fn counts(&self) -> Tally {
        lock(&self.0.book).counts
    }

    /// Begins to read, once.
    pub fn read(&self) -> Native<OutcomeReader> {
        let mut book = lock(&self.0.book);
        if std::mem::replace(&mut book.taken, true) {
            return Err(consumed("Outcomes"));
        }
        Ok(OutcomeReader {
            owner: self.clone(),
            ready: std::mem::take(&mut book.ready),
            stream: book.stream.take(),
            fault: book.fault.take(),
        })
    }

    /// The tokens that are safe to send again. Reads to the end first, keeping what is settled for
    /// a later report.
    pub fn failures(&self) -> Native<Tokens> {
        let stream = lock(&self.0.book).stream.take();
        if let Some(mut stream) = stream {
            loop {
                // What is settled piles up here, so that it must count.
                let host = &self.0.host;
                match host.check_memory().and_then(|()| host.wait(stream.next())) {
                    Err(stopped) => {
                        lock(&self.0.book).stream = Some(stream);
                        return Err(stopped);
                    }
                    Ok(None) => break,
                    Ok(Some(Err(fault))) => lock(&self.0.book).fault = Some(fault),
                    Ok(Some(Ok(batch))) => self.sort(batch)?,
                }
            }
        }
        let entries = std::mem::take(&mut lock(&self.0.book).open);
        Ok(Tokens::open(&self.0.host, entries))
    }

    /// Keeps the settled outcomes for later and opens the others in the books.
    fn sort(&self, batch: Vec<Outcome>) -> Native<()> {
        for outcome in batch {
            if outcome.status.is_final() {
                lock(&self.0.book).ready.push_back(outcome);
            } else {
                self.record(outcome, None)?;
            }
        }
        Ok(())
    }

    /// Books an outcome of this stream.
    pub fn record(&self, outcome: Outcome, line: Option<&str>) -> Native<()> {
        let status = outcome.status;
        let recorded = self.0.host.ledger().record(outcome, line);
        let mut book = lock(&self.0.book);
        book.counts.add(status);
        book.open.extend(recorded.map_err(thrown)?);
        Ok(())
    }
}

impl HeldStream for OutcomesCell {
    fn abandon(&self) {
        let mut book = lock(&self.book);
        let (ready, stream) = (std::mem::take(&mut book.ready), book.stream.take());
        let fault = book.fault.take();
        drop(book);
        if let Some(fault) = fault {
            self.host.unreported(fault);
        }
        give_back(&self.host, ready, stream, false);
    }
}

impl Drop for OutcomesCell {
    fn drop(&mut self) {
        self.abandon();
    }
}

fn give_back(
    host: &ScriptHost,
    ready: VecDeque<Outcome>,
    stream: Option<OutcomeStream<Fault>>,
    stop: bool,
) {
    if let Some(stream) = stream.as_ref().filter(|_| stop) {
        stream.stop();
    }
    if stream.is_some() || !ready.is_empty() {
        host.abandon(AbandonedStream::Outcomes(ready, stream));
    }
}

/// Reads the outcomes of one stream. Dropped before the end, it sends no further token: who breaks
/// off a loop wants no more.
pub struct OutcomeReader {
    owner: Outcomes,
    ready: VecDeque<Outcome>,
    stream: Option<OutcomeStream<Fault>>,
    fault: Option<Fault>,
}

impl OutcomeReader {
    /// The next outcome; before it waits, `idle` is called.
    pub fn next(
        &mut self,
        idle: impl FnOnce(&ScriptHost) -> Native<()>,
    ) -> Native<Option<Result<Outcome, Fault>>> {
        if let Some(outcome) = self.ready.pop_front() {
            return Ok(Some(Ok(outcome)));
        }
        let Some(stream) = &mut self.stream else {
            return Ok(self.fault.take().map(Err));
        };
        let mut next = stream.try_next().map(Ok);
        if next.is_none() {
            idle(self.owner.host())?;
            next = self.owner.host().wait(stream.next())?;
        }
        match next {
            Some(Ok(batch)) => {
                self.ready = batch.into();
                Ok(self.ready.pop_front().map(Ok))
            }
            Some(Err(fault)) => {
                self.stream = None;
                Ok(Some(Err(fault)))
            }
            None => {
                self.stream = None;
                Ok(None)
            }
        }
    }

    /// The stream that is read.
    pub fn owner(&self) -> &Outcomes {
        &self.owner
    }
}

impl Drop for OutcomeReader {
    fn drop(&mut self) {
        let ready = std::mem::take(&mut self.ready);
        give_back(self.owner.host(), ready, self.stream.take(), true);
    }
}

impl IntoIterator for Outcomes {
    type Item = Native<Outcome>;
    type IntoIter = OutcomeIter;

    fn into_iter(self) -> OutcomeIter {
        let host = Arc::clone(self.host());
        let (reader, begin) = match self.read() {
            Ok(reader) => (Some(reader), None),
            Err(error) => (None, Some(error)),
        };
        OutcomeIter {
            unreported: begin.is_some().then(|| (host, used_already("Outcomes"))),
            reader,
            begin,
        }
    }
}

/// Hands a script one outcome after the other. Each is booked as it is handed out, so that none is
/// missing from the report whatever the script does with it.
pub struct OutcomeIter {
    reader: Option<OutcomeReader>,
    begin: Option<Box<EvalAltResult>>,
    unreported: Option<(Arc<ScriptHost>, Fault)>,
}

impl Iterator for OutcomeIter {
    type Item = Native<Outcome>;

    fn next(&mut self) -> Option<Self::Item> {
        if let Some(error) = self.begin.take() {
            return Some(Err(error));
        }
        if let Some((host, fault)) = self.unreported.take() {
            host.unreported(fault);
            return None;
        }
        let reader = self.reader.as_mut()?;
        match reader.next(|host| host.ledger().reports().flush().map_err(thrown)) {
            Err(error) => Some(Err(error)),
            Ok(Some(Ok(outcome))) => {
                let recorded = reader.owner().record(outcome.clone(), None);
                Some(recorded.map(|()| outcome))
            }
            Ok(Some(Err(fault))) => {
                self.unreported = Some((Arc::clone(reader.owner().host()), fault.clone()));
                self.reader = None;
                Some(Err(thrown(fault)))
            }
            Ok(None) => {
                self.reader = None;
                None
            }
        }
    }
}
