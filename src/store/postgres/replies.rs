//! The answers that a connection owes, in the order of the questions.
//!
//! A server answers in the order in which it was asked, so only the foremost answer is ever waited
//! for: one wake-up finds it and all that came with it.

use std::collections::{HashMap, VecDeque};
use std::future::{Future, poll_fn, ready};
use std::pin::Pin;
use std::task::{Context, Poll, Waker, ready};

use tokio_postgres::Error;

/// What the server answers.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum ServerReply {
    /// So many rows were inserted.
    Rows(u64),
    /// No later transaction has an older number.
    Horizon(i64),
    /// So many rows of each value are visible.
    Counts(HashMap<String, i64>),
}

/// An answer, or why there is none.
pub(super) type ReplyResult = Result<ServerReply, Error>;

/// What is still to be answered.
pub(super) struct PendingReplies<'a>(
    VecDeque<Pin<Box<dyn Future<Output = ReplyResult> + Send + 'a>>>,
);

impl<'a> PendingReplies<'a> {
    /// Room for `count` without growing.
    pub(super) fn with_capacity(count: usize) -> Self {
        Self(VecDeque::with_capacity(count))
    }

    /// How many are owed.
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// True where none is owed.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Asks, which the first poll of `question` does, and queues for the answer.
    pub(super) fn ask(&mut self, question: impl Future<Output = ReplyResult> + Send + 'a) {
        let mut question = Box::pin(question);
        // Nobody needs to be woken for an answer before it is the foremost.
        let first = question
            .as_mut()
            .poll(&mut Context::from_waker(Waker::noop()));
        match first {
            Poll::Pending => self.0.push_back(question),
            Poll::Ready(answer) => self.0.push_back(Box::pin(ready(answer))),
        }
    }

    /// Waits for the foremost answer; for ever where none is owed. Cancel safe.
    pub(super) async fn foremost(&mut self) -> ReplyResult {
        poll_fn(|cx| match self.0.front_mut() {
            Some(question) => {
                let answer = ready!(question.as_mut().poll(cx));
                self.0.pop_front();
                Poll::Ready(answer)
            }
            None => Poll::Pending,
        })
        .await
    }

    /// The foremost answer, if it is here already.
    pub(super) fn arrived(&mut self) -> Option<ReplyResult> {
        let question = self.0.front_mut()?;
        let polled = question
            .as_mut()
            .poll(&mut Context::from_waker(Waker::noop()));
        match polled {
            Poll::Ready(answer) => {
                self.0.pop_front();
                Some(answer)
            }
            Poll::Pending => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::sync::oneshot;

    #[tokio::test]
    async fn answers_come_in_the_order_of_the_questions() {
        let mut answers = PendingReplies::with_capacity(2);
        let (first, question) = oneshot::channel();
        answers.ask(async { Ok(ServerReply::Rows(question.await.unwrap_or(0))) });
        answers.ask(ready(Ok(ServerReply::Rows(2))));
        assert_eq!(answers.len(), 2);
        // The second is here, but its turn has not come.
        assert!(answers.arrived().is_none());
        first.send(1).unwrap();
        assert_eq!(answers.foremost().await.unwrap(), ServerReply::Rows(1));
        assert_eq!(answers.arrived().unwrap().unwrap(), ServerReply::Rows(2));
        assert!(answers.is_empty());
    }
}
