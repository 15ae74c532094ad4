//! Lets several replies arrive before the connection is read.
//!
//! A server sends each reply by itself. To read it costs several system calls and an acknowledgement,
//! and the writer sends nothing before a part of its pipeline is free. So the kernel wakes the reader
//! when that part has arrived.

use std::os::fd::{AsFd as _, OwnedFd};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::Context;
use std::time::Duration;

use futures_util::task::AtomicWaker;
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep};

use crate::runtime::platform::set_receive_threshold;
use crate::store::postgres::insert_sql::InsertForm;
use crate::store::postgres::wire::filter::INSERT_REPLY;

/// The time after which a reply no longer waits for others; at most twice this passes.
const REPLY_DELAY: Duration = Duration::from_millis(50);

/// The length of the shortest reply on a connection that writes receipts: that to a batch of one, whose
/// statement is not prepared.
const SHORTEST_WITH_RECEIPTS: usize = 37;

/// How many replies must arrive before a TCP connection is read.
pub(in crate::store::postgres) struct ReplyThreshold {
    socket: OwnedFd,
    replies: AtomicUsize,
    /// True if the writer has handled replies since the last check.
    is_used: AtomicBool,
    /// Wakes the task that limits the delay.
    raised: AtomicWaker,
}

impl ReplyThreshold {
    /// Creates the threshold of a connection that is read at once; `None` if the system has none.
    pub(super) fn new(stream: &TcpStream) -> Option<Self> {
        let socket = stream.as_fd().try_clone_to_owned().ok()?;
        set_receive_threshold(&socket, 1).ok()?;
        Some(Self {
            socket,
            replies: AtomicUsize::new(1),
            is_used: AtomicBool::new(false),
            raised: AtomicWaker::new(),
        })
    }

    /// Lets `replies` to such INSERTs arrive before the connection is read; so many must be outstanding.
    pub(in crate::store::postgres) fn set(&self, replies: usize, form: InsertForm) {
        self.is_used.store(true, Ordering::Relaxed);
        let before = self.replies.swap(replies, Ordering::Relaxed);
        if before == replies {
            return;
        }
        let bytes = match form {
            _ if replies <= 1 => 1,
            InsertForm::WithReceipt => replies * SHORTEST_WITH_RECEIPTS,
            // Every other reply is longer than that to an INSERT.
            InsertForm::Plain | InsertForm::InTransaction => replies * INSERT_REPLY.len(),
        };
        // If the system refuses, the connection is read as before.
        let _ = set_receive_threshold(&self.socket, bytes);
        if before <= 1 {
            self.raised.wake();
        }
    }

    /// Limits the time for which a reply waits for others; the task of `cx` is woken for that.
    ///
    /// `check` is the time of the next check.
    pub(in crate::store::postgres) fn poll_delay(
        &self,
        cx: &mut Context<'_>,
        mut check: Pin<&mut Sleep>,
    ) {
        self.raised.register(cx.waker());
        while self.replies.load(Ordering::Relaxed) > 1 && check.as_mut().poll(cx).is_ready() {
            if !self.is_used.swap(false, Ordering::Relaxed) {
                self.set(1, InsertForm::Plain);
            }
            check.as_mut().reset(Instant::now() + REPLY_DELAY);
        }
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;
    use futures_util::FutureExt as _;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    async fn arrived(stream: &TcpStream, count: usize) {
        let mut bytes = vec![0; count + 1];
        // `peek` waits for the threshold; the bytes may have arrived before.
        while rustix::net::recv(stream, &mut bytes, rustix::net::RecvFlags::PEEK)
            .map_or(0, |(count, _)| count)
            < count
        {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn connection_is_readable_when_enough_replies_have_arrived() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut client = TcpStream::connect(address).await.unwrap();
        let (mut server, _) = listener.accept().await.unwrap();
        let threshold = ReplyThreshold::new(&client).unwrap();
        threshold.set(2, InsertForm::Plain);
        server.write_all(INSERT_REPLY).await.unwrap();
        arrived(&client, INSERT_REPLY.len()).await;
        tokio::task::yield_now().await;
        assert!(client.readable().now_or_never().is_none());
        server.write_all(INSERT_REPLY).await.unwrap();
        let mut both = vec![0; 2 * INSERT_REPLY.len()];
        client.read_exact(&mut both).await.unwrap();
        // A lower threshold lets it be read at once.
        server.write_all(INSERT_REPLY).await.unwrap();
        arrived(&client, INSERT_REPLY.len()).await;
        threshold.set(1, InsertForm::Plain);
        client.readable().await.unwrap();
    }

    #[tokio::test]
    async fn threshold_is_lowered_when_no_reply_was_handled_for_a_while() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let client = TcpStream::connect(address).await.unwrap();
        let (mut server, _) = listener.accept().await.unwrap();
        let threshold = ReplyThreshold::new(&client).unwrap();
        server.write_all(INSERT_REPLY).await.unwrap();
        arrived(&client, INSERT_REPLY.len()).await;
        threshold.set(2, InsertForm::Plain);
        let mut check = std::pin::pin!(tokio::time::sleep(Duration::ZERO));
        let limiting = std::future::poll_fn(|cx| {
            threshold.poll_delay(cx, check.as_mut());
            std::task::Poll::<()>::Pending
        });
        tokio::select! {
            readable = client.readable() => readable.unwrap(),
            () = limiting => {}
        }
    }
}
