//! The outstanding replies of a connection, in the order of the requests.
//!
//! A server replies in order, so only the first reply is awaited: one wake-up finds it and every
//! reply that arrived with it.

use std::collections::VecDeque;
use std::future::{Future, poll_fn, ready};
use std::task::{Context, Poll, Waker, ready};

use tokio_util::sync::ReusableBoxFuture;

/// A queue of outstanding replies.
pub(super) struct PendingReplies<'a, T> {
    replies: VecDeque<ReusableBoxFuture<'a, T>>,
    /// Replies that have arrived; their memory is used again, since a request's future is large.
    spare: Vec<ReusableBoxFuture<'a, T>>,
}

impl<'a, T: Send + 'a> PendingReplies<'a, T> {
    /// Creates a queue with room for `count` replies.
    pub(super) fn with_capacity(count: usize) -> Self {
        Self {
            replies: VecDeque::with_capacity(count),
            spare: Vec::with_capacity(count),
        }
    }

    /// Returns the number of outstanding replies.
    pub(super) fn len(&self) -> usize {
        self.replies.len()
    }

    /// Returns true if no reply is outstanding.
    pub(super) fn is_empty(&self) -> bool {
        self.replies.is_empty()
    }

    /// Sends a request by the first poll of `reply`, and queues the reply.
    ///
    /// Returns the reply instead if it has arrived and is the first: a database that blocks has
    /// replied by then.
    pub(super) fn push(&mut self, reply: impl Future<Output = T> + Send + 'a) -> Option<T> {
        let mut reply = match self.spare.pop() {
            Some(mut spare) => {
                spare.set(reply);
                spare
            }
            None => ReusableBoxFuture::new(reply),
        };
        // Only the first reply needs a waker.
        match reply.poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Pending => self.replies.push_back(reply),
            Poll::Ready(result) if self.replies.is_empty() => {
                self.spare.push(reply);
                return Some(result);
            }
            Poll::Ready(result) => {
                self.spare.push(reply);
                self.replies
                    .push_back(ReusableBoxFuture::new(ready(result)));
            }
        }
        None
    }

    /// Waits for the first reply; for ever if none is outstanding. Cancel safe.
    pub(super) async fn next(&mut self) -> T {
        poll_fn(|cx| match self.replies.front_mut() {
            Some(reply) => {
                let result = ready!(reply.poll(cx));
                self.spare.extend(self.replies.pop_front());
                Poll::Ready(result)
            }
            None => Poll::Pending,
        })
        .await
    }

    /// Returns the first reply if it has arrived.
    pub(super) fn try_next(&mut self) -> Option<T> {
        let reply = self.replies.front_mut()?;
        match reply.poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(result) => {
                self.spare.extend(self.replies.pop_front());
                Some(result)
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
    async fn replies_arrive_in_request_order() {
        let mut replies = PendingReplies::with_capacity(2);
        let (first, reply) = oneshot::channel();
        assert_eq!(replies.push(ready(7)), Some(7));
        assert_eq!(replies.push(async { reply.await.unwrap_or(0) }), None);
        assert_eq!(replies.push(ready(2)), None);
        assert_eq!(replies.len(), 2);
        // The second has arrived, but it is not first.
        assert!(replies.try_next().is_none());
        first.send(1).unwrap();
        assert_eq!(replies.next().await, 1);
        assert_eq!(replies.try_next(), Some(2));
        assert!(replies.is_empty());
    }
}
