//! Iterates a stream for a script, whose loop gets the items and the errors of the stream.

use std::sync::Arc;

use crate::error::Error;
use crate::script::host::ScriptHost;
use crate::script::native::{NativeResult, thrown};

/// Reads a stream item by item.
pub trait StreamReader {
    /// What the loop gets.
    type Item;

    /// Returns the next item or the error that ended the stream.
    ///
    /// # Errors
    ///
    /// If the run is being stopped.
    fn read(&mut self) -> NativeResult<Option<Result<Self::Item, Error>>>;
}

/// The iterator of a stream.
pub struct StreamIter<R> {
    host: Arc<ScriptHost>,
    state: IterState<R>,
}

enum IterState<R> {
    Reading(R),
    /// The loop does not have the error yet.
    Failed(Error),
    Thrown(Error),
    End,
}

impl<R> StreamIter<R> {
    /// Creates an iterator. If the stream was already read, it throws the error of that.
    pub fn new(host: &Arc<ScriptHost>, reader: Result<R, Error>) -> Self {
        Self {
            host: Arc::clone(host),
            state: reader.map_or_else(IterState::Failed, IterState::Reading),
        }
    }
}

impl<R: StreamReader> Iterator for StreamIter<R> {
    type Item = NativeResult<R::Item>;

    fn next(&mut self) -> Option<Self::Item> {
        if let IterState::Reading(reader) = &mut self.state {
            match reader.read() {
                Err(stopped) => return Some(Err(stopped)),
                Ok(Some(Ok(item))) => return Some(Ok(item)),
                Ok(Some(Err(error))) => self.state = IterState::Failed(error),
                Ok(None) => self.state = IterState::End,
            }
        }
        match std::mem::replace(&mut self.state, IterState::End) {
            IterState::Failed(error) => {
                self.state = IterState::Thrown(error.clone());
                Some(Err(thrown(error)))
            }
            // Only a loop with an empty body goes on after an error, so the script did not see it.
            IterState::Thrown(error) => {
                self.host.record_unreported(error);
                None
            }
            IterState::Reading(_) | IterState::End => None,
        }
    }
}
