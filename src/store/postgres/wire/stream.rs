//! The stream that tokio-postgres reads, with a filter in it.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_postgres::tls::{ChannelBinding, TlsStream};

use crate::store::postgres::wire::filter::MessageFilter;
use crate::store::postgres::wire::{ConnectionMonitor, ProtocolViolation};

/// The reads without anything to forward after which other tasks get their turn.
const DRY_READS: u32 = 16;

/// A stream from and to a server, whose messages are filtered as they are read.
pub(in crate::store::postgres) struct MonitoredStream<S> {
    inner: S,
    monitor: Arc<ConnectionMonitor>,
    pub(super) filter: MessageFilter,
    /// True until the server has answered the request for TLS, with one byte and no message.
    awaits_tls_answer: bool,
    /// What is forwarded and did not stand in the reader's own buffer.
    out: Vec<u8>,
    /// How much of it was read.
    read: usize,
    violation: Option<ProtocolViolation>,
}

impl<S> MonitoredStream<S> {
    /// Filters messages; if the client asks for TLS first, from the answer to that on.
    pub(in crate::store::postgres) fn new(
        inner: S,
        monitor: &Arc<ConnectionMonitor>,
        asks_for_tls: bool,
    ) -> Self {
        Self {
            inner,
            monitor: Arc::clone(monitor),
            filter: MessageFilter::new(Arc::clone(monitor)),
            awaits_tls_answer: asks_for_tls,
            out: Vec::new(),
            read: 0,
            violation: None,
        }
    }

    /// The stream itself; nothing of it was read ahead.
    pub(super) fn into_inner(self) -> S {
        self.inner
    }

    fn stop(&mut self, violation: ProtocolViolation) {
        self.monitor.stop(violation.clone());
        self.violation = Some(violation);
    }
}

impl<S: AsyncRead + Unpin> MonitoredStream<S> {
    /// Hands over what is left of `out`; false if nothing is.
    fn hand_over(&mut self, buf: &mut ReadBuf<'_>) -> bool {
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

    /// Reads the byte that answers the request for TLS, and no byte more: TLS begins behind it.
    fn poll_tls_answer(
        &mut self,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let mut byte = [0];
        let mut one = ReadBuf::new(&mut byte);
        ready!(Pin::new(&mut self.inner).poll_read(cx, &mut one))?;
        match one.filled() {
            [] => {}
            [b'S' | b'N'] => {
                self.awaits_tls_answer = false;
                buf.put_slice(one.filled());
            }
            _ => {
                self.stop(ProtocolViolation::TlsAnswer);
                return Poll::Ready(Err(io::Error::other(ProtocolViolation::TlsAnswer)));
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
        for _ in 0..DRY_READS {
            if this.hand_over(buf) {
                return Poll::Ready(Ok(()));
            }
            if let Some(violation) = &this.violation {
                return Poll::Ready(Err(io::Error::other(violation.clone())));
            }
            if this.awaits_tls_answer {
                return this.poll_tls_answer(cx, buf);
            }
            let start = buf.filled().len();
            ready!(Pin::new(&mut this.inner).poll_read(cx, buf))?;
            let bytes = &buf.filled()[start..];
            if bytes.is_empty() {
                return Poll::Ready(Ok(()));
            }
            let (kept, result) = this.filter.filter(bytes, &mut this.out);
            buf.set_filled(start + kept);
            if let Err(violation) = result {
                this.stop(violation);
            }
            if kept > 0 {
                return Poll::Ready(Ok(()));
            }
        }
        if this.hand_over(buf) {
            return Poll::Ready(Ok(()));
        }
        // A server that sends without end what is dropped must not keep deadlines from passing.
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
        Pin::new(&mut self.inner).poll_write(cx, buf)
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
