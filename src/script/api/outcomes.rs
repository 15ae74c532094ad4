//! `Outcomes`: the stream of outcomes that scripts hold. It is lazy and can be read once.
//!
//! Clones share it. When the last one is dropped, unread outcomes go back to the host.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use crate::error::Error;
use crate::pipeline::channel::OutcomeStream;
use crate::pipeline::numbers::Numbers;
use crate::pipeline::token::Outcome;
use crate::report::ledger::EntryId;
use crate::script::api::stream_iter::{StreamIter, StreamReader};
use crate::script::api::tokens::{TokenSource, Tokens};
use crate::script::host::{AbandonedStream, HeldStream, ScriptHost};
use crate::script::native::{NativeResult, consumed_error, lock, thrown};

/// The stream of outcomes that `store` and `reject` return to scripts.
#[derive(Clone)]
pub struct Outcomes(Arc<OutcomesCell>);

/// The state that the clones of one [`Outcomes`] share.
pub struct OutcomesCell {
    host: Arc<ScriptHost>,
    state: Mutex<OutcomesState>,
}

#[derive(Default)]
struct OutcomesState {
    stream: Option<OutcomeStream<Error>>,
    /// Settled outcomes that `failures` read and `report` has not written yet.
    ready: VecDeque<Outcome>,
    error: Option<Error>,
    is_consumed: bool,
    counts: Numbers,
    /// Ledger entries of this stream that are still open.
    open: Vec<EntryId>,
}

impl Outcomes {
    /// Wraps `stream` for a script.
    pub fn new(host: &Arc<ScriptHost>, stream: OutcomeStream<Error>) -> Self {
        let cell = Arc::new(OutcomesCell {
            host: Arc::clone(host),
            state: Mutex::new(OutcomesState {
                stream: Some(stream),
                ..OutcomesState::default()
            }),
        });
        let stream = Arc::downgrade(&cell);
        host.track_outcomes(stream);
        Self(cell)
    }

    /// Returns the host of the run.
    pub fn host(&self) -> &Arc<ScriptHost> {
        &self.0.host
    }

    /// Returns the number of outcomes of each status that were read so far.
    pub fn counts(&self) -> Numbers {
        lock(&self.0.state).counts
    }

    /// Returns the reader of the stream.
    ///
    /// # Errors
    ///
    /// `stream_consumed` on the second call.
    pub fn reader(&self) -> Result<OutcomeReader, Error> {
        let mut state = lock(&self.0.state);
        if std::mem::replace(&mut state.is_consumed, true) {
            return Err(consumed_error("Outcomes"));
        }
        Ok(OutcomeReader {
            owner: self.clone(),
            ready: std::mem::take(&mut state.ready),
            stream: state.stream.take(),
            error: state.error.take(),
        })
    }

    /// Returns the tokens that are safe to send again.
    ///
    /// Reads to the end first and keeps settled outcomes for a later report.
    pub fn failures(&self) -> NativeResult<Tokens> {
        let stream = lock(&self.0.state).stream.take();
        if let Some(mut stream) = stream {
            loop {
                // Settled outcomes accumulate in `ready`, so check the memory limit.
                let host = &self.0.host;
                match host.check_memory().and_then(|()| host.wait(stream.next())) {
                    Err(stopped) => {
                        lock(&self.0.state).stream = Some(stream);
                        return Err(stopped);
                    }
                    Ok(None) => break,
                    Ok(Some(Err(error))) => lock(&self.0.state).error = Some(error),
                    Ok(Some(Ok(batch))) => self.queue_settled(batch)?,
                }
            }
        }
        let entries = std::mem::take(&mut lock(&self.0.state).open);
        let len = Some(entries.len() as u64);
        let source = TokenSource::Open(entries.into());
        Ok(Tokens::of(&self.0.host, source, len, len))
    }

    /// Queues settled outcomes for a later report and records the others as open.
    fn queue_settled(&self, batch: Vec<Outcome>) -> NativeResult<()> {
        for outcome in batch {
            if outcome.status.is_final() {
                lock(&self.0.state).ready.push_back(outcome);
            } else {
                self.record(outcome, None)?;
            }
        }
        Ok(())
    }

    /// Records an outcome of this stream in the ledger.
    pub fn record(&self, outcome: Outcome, line: Option<&str>) -> NativeResult<()> {
        self.record_all([outcome], line)
    }

    /// Records outcomes under one lock of the ledger; all of them, even if one cannot be written.
    pub fn record_all(
        &self,
        outcomes: impl IntoIterator<Item = Outcome>,
        line: Option<&str>,
    ) -> NativeResult<()> {
        let mut state = lock(&self.0.state);
        let mut ledger = self.0.host.ledger();
        let mut failed = Ok(());
        for outcome in outcomes {
            state.counts.count(&outcome);
            match ledger.record(outcome, line) {
                Ok(entry) => state.open.extend(entry),
                Err(error) => failed = failed.and(Err(error)),
            }
        }
        failed.map_err(thrown)
    }
}

impl HeldStream for OutcomesCell {
    fn abandon(&self) {
        let mut state = lock(&self.state);
        let (ready, stream) = (std::mem::take(&mut state.ready), state.stream.take());
        let error = state.error.take();
        drop(state);
        if let Some(error) = error {
            self.host.record_unreported(error);
        }
        return_to_host(&self.host, ready, stream, false);
    }
}

impl Drop for OutcomesCell {
    fn drop(&mut self) {
        self.abandon();
    }
}

fn return_to_host(
    host: &ScriptHost,
    ready: VecDeque<Outcome>,
    stream: Option<OutcomeStream<Error>>,
    stop: bool,
) {
    if let Some(stream) = stream.as_ref().filter(|_| stop) {
        stream.stop();
    }
    if stream.is_some() || !ready.is_empty() {
        host.abandon(AbandonedStream::Outcomes(ready, stream));
    }
}

/// Reads the outcomes of one stream. Dropped before the end, it stops sending tokens.
pub struct OutcomeReader {
    owner: Outcomes,
    ready: VecDeque<Outcome>,
    stream: Option<OutcomeStream<Error>>,
    error: Option<Error>,
}

impl OutcomeReader {
    /// Returns the next outcome; flushes the reports before it waits.
    pub fn next(&mut self) -> NativeResult<Option<Result<Outcome, Error>>> {
        if self.ready.is_empty() {
            match self.next_batch()? {
                Some(Ok(batch)) => self.ready = batch,
                Some(Err(error)) => return Ok(Some(Err(error))),
                None => return Ok(None),
            }
        }
        Ok(self.ready.pop_front().map(Ok))
    }

    /// Returns the next outcomes; flushes the reports before it waits.
    pub fn next_batch(&mut self) -> NativeResult<Option<Result<VecDeque<Outcome>, Error>>> {
        if !self.ready.is_empty() {
            return Ok(Some(Ok(std::mem::take(&mut self.ready))));
        }
        let Some(stream) = &mut self.stream else {
            return Ok(self.error.take().map(Err));
        };
        let mut next = stream.try_next().map(Ok);
        if next.is_none() {
            let host = self.owner.host();
            host.ledger().reports().flush().map_err(thrown)?;
            next = host.wait(stream.next())?;
        }
        match next {
            Some(Ok(batch)) => Ok(Some(Ok(batch.into()))),
            Some(Err(error)) => {
                self.stream = None;
                Ok(Some(Err(error)))
            }
            None => {
                self.stream = None;
                Ok(None)
            }
        }
    }
}

impl Drop for OutcomeReader {
    fn drop(&mut self) {
        let ready = std::mem::take(&mut self.ready);
        return_to_host(self.owner.host(), ready, self.stream.take(), true);
    }
}

impl IntoIterator for Outcomes {
    type Item = NativeResult<Outcome>;
    type IntoIter = StreamIter<OutcomeReader>;

    fn into_iter(self) -> Self::IntoIter {
        StreamIter::new(self.host(), self.reader())
    }
}

impl StreamReader for OutcomeReader {
    type Item = Outcome;

    /// Records each outcome before the script gets it, so none is missing from the report.
    fn read(&mut self) -> NativeResult<Option<Result<Outcome, Error>>> {
        let next = self.next()?;
        if let Some(Ok(outcome)) = &next {
            self.owner.record(outcome.clone(), None)?;
        }
        Ok(next)
    }
}
