//! The stream that tokio-postgres reads, with the message filter inside.

use std::future::Future as _;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_postgres::tls::{ChannelBinding, TlsStream};
use tokio_util::sync::WaitForCancellationFutureOwned;

use crate::store::postgres::wire::filter::MessageFilter;
use crate::store::postgres::wire::{ConnectionMonitor, ProtocolViolation};

/// The type of every message with a password or a proof of it.
const PASSWORD: u8 = b'p';
/// The reads with nothing to forward after which the task yields.
const MAX_EMPTY_READS: u32 = 16;

/// A stream to a server, whose messages are filtered on reading.
pub(in crate::store::postgres) struct MonitoredStream<S> {
    inner: S,
    monitor: Arc<ConnectionMonitor>,
    pub(super) filter: MessageFilter,
    /// True until the server has replied to `SSLRequest`, with one byte and no message.
    awaits_tls_reply: bool,
    /// Forwarded bytes that are not in the reader's buffer.
    out: Vec<u8>,
    /// How much of `out` was read.
    read: usize,
    violation: Option<ProtocolViolation>,
    /// Ends when the password may be sent; `None` once it may.
    may_log_in: Option<Pin<Box<WaitForCancellationFutureOwned>>>,
    /// When the latest request of the session start was sent.
    sent_at: Option<Instant>,
}

impl<S> MonitoredStream<S> {
    /// Wraps a stream; if the client requests TLS first, filtering starts after the reply to that.
    pub(in crate::store::postgres) fn new(
        inner: S,
        monitor: &Arc<ConnectionMonitor>,
        asks_for_tls: bool,
    ) -> Self {
        Self {
            inner,
            monitor: Arc::clone(monitor),
            filter: MessageFilter::new(Arc::clone(monitor)),
            awaits_tls_reply: asks_for_tls,
            out: Vec::new(),
            read: 0,
            violation: None,
            may_log_in: monitor.login.may_log_in.clone().map(|may_log_in| {
                let waiting = may_log_in.cancelled_owned();
                Box::pin(waiting)
            }),
            sent_at: None,
        }
    }

    /// Returns the inner stream; nothing was read ahead.
    pub(super) fn into_inner(self) -> S {
        self.inner
    }

    fn record_reply(&mut self) {
        if let Some(sent_at) = self.sent_at.take() {
            self.monitor.record_round_trip(sent_at.elapsed());
        }
    }

    fn end_with(&mut self, violation: ProtocolViolation) {
        self.monitor.record_violation(violation.clone());
        self.violation = Some(violation);
    }
}

impl<S: AsyncRead + Unpin> MonitoredStream<S> {
    /// Copies the rest of `out`; returns false if nothing is left.
    fn copy_pending(&mut self, buf: &mut ReadBuf<'_>) -> bool {
        let left = &self.out[self.read..];
        if left.is_empty() {
            return false;
        }
        let count = left.len().min(buf.remaining());
        buf.put_slice(&left[..count]);
        self.read += count;
        if self.read == self.out.len() {
            self.out.clear();
            self.read = 0;
        }
        true
    }

    /// Reads the one-byte reply to `SSLRequest` and no more, since TLS follows.
    fn poll_tls_reply(
        &mut self,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let mut byte = [0];
        let mut one = ReadBuf::new(&mut byte);
        ready!(Pin::new(&mut self.inner).poll_read(cx, &mut one))?;
        match one.filled() {
            [] => {}
            [reply @ (b'S' | b'N')] => {
                self.awaits_tls_reply = false;
                let _ = self.monitor.accepts_tls.set(*reply == b'S');
                self.record_reply();
                buf.put_slice(one.filled());
            }
            _ => {
                self.end_with(ProtocolViolation::TlsReply);
                return Poll::Ready(Err(io::Error::other(ProtocolViolation::TlsReply)));
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for MonitoredStream<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if buf.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        for _ in 0..MAX_EMPTY_READS {
            if this.copy_pending(buf) {
                return Poll::Ready(Ok(()));
            }
            if let Some(violation) = &this.violation {
                return Poll::Ready(Err(io::Error::other(violation.clone())));
            }
            if this.awaits_tls_reply {
                return this.poll_tls_reply(cx, buf);
            }
            let start = buf.filled().len();
            ready!(Pin::new(&mut this.inner).poll_read(cx, buf))?;
            let bytes = &buf.filled()[start..];
            if bytes.is_empty() {
                return Poll::Ready(Ok(()));
            }
            this.record_reply();
            let (kept, result) = this.filter.filter(bytes, &mut this.out);
            buf.set_filled(start + kept);
            if let Err(violation) = result {
                this.end_with(violation);
            }
            if kept > 0 {
                return Poll::Ready(Ok(()));
            }
        }
        if this.copy_pending(buf) {
            return Poll::Ready(Ok(()));
        }
        // An endless stream of dropped messages must not delay timers.
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for MonitoredStream<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        if let Some(waiting) = &mut this.may_log_in
            && buf.first() == Some(&PASSWORD)
        {
            ready!(waiting.as_mut().poll(cx));
            this.may_log_in = None;
        }
        if this.filter.is_starting() {
            this.sent_at = Some(Instant::now());
        }
        Pin::new(&mut this.inner).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }
}

impl<S: TlsStream + Unpin> TlsStream for MonitoredStream<S> {
    fn channel_binding(&self) -> ChannelBinding {
        self.inner.channel_binding()
    }
}
