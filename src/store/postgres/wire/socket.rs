//! The transport below TLS: TCP or a Unix socket.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use rustix::net::sockopt;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream, lookup_host};

use crate::runtime::platform::set_unacknowledged_timeout;
use crate::store::postgres::Host;
use crate::store::postgres::wire::ReplyThreshold;

/// The time after which an unresponsive peer counts as lost.
const PEER_TIMEOUT: Duration = Duration::from_secs(15);
/// The unanswered keepalive probes after which a connection is lost.
const KEEPALIVE_PROBES: u32 = 3;

/// One address of a host.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(in crate::store::postgres) enum HostAddress {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

impl HostAddress {
    /// Resolves a host to its addresses, in the resolver's order; at least one.
    pub(in crate::store::postgres) async fn resolve(host: &Host) -> io::Result<Vec<Self>> {
        if host.is_socket() {
            return Ok(vec![Self::Unix(host.location().into())]);
        }
        let mut found: Vec<Self> = Vec::new();
        for address in lookup_host((host.name.as_str(), host.port)).await? {
            let endpoint = Self::Tcp(address);
            if !found.contains(&endpoint) {
                found.push(endpoint);
            }
        }
        if found.is_empty() {
            return Err(io::Error::other("the name has no address"));
        }
        Ok(found)
    }
}

/// A connected socket.
pub(in crate::store::postgres) enum Socket {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Socket {
    /// Connects; a TCP connection sends small packets at once and detects an unresponsive peer.
    pub(in crate::store::postgres) async fn connect(endpoint: &HostAddress) -> io::Result<Self> {
        match endpoint {
            HostAddress::Tcp(address) => {
                let stream = TcpStream::connect(address).await?;
                stream.set_nodelay(true)?;
                sockopt::set_socket_keepalive(&stream, true)?;
                sockopt::set_tcp_keepidle(&stream, PEER_TIMEOUT / 2)?;
                sockopt::set_tcp_keepintvl(&stream, PEER_TIMEOUT / 5)?;
                sockopt::set_tcp_keepcnt(&stream, KEEPALIVE_PROBES)?;
                set_unacknowledged_timeout(&stream, PEER_TIMEOUT)?;
                Ok(Self::Tcp(stream))
            }
            HostAddress::Unix(path) => UnixStream::connect(path).await.map(Self::Unix),
        }
    }
}

impl Socket {
    /// Returns the client's port of a TCP connection.
    pub(in crate::store::postgres) fn local_port(&self) -> Option<u16> {
        match self {
            Self::Tcp(stream) => stream.local_addr().ok().map(|address| address.port()),
            Self::Unix(_) => None,
        }
    }
}

impl Socket {
    /// Returns the threshold from which a TCP connection is read.
    pub(in crate::store::postgres) fn reply_threshold(&self) -> Option<ReplyThreshold> {
        match self {
            Self::Tcp(stream) => ReplyThreshold::new(stream),
            Self::Unix(_) => None,
        }
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match &mut *self {
            Self::Tcp(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Unix(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        match &mut *self {
            Self::Tcp(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Unix(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Self::Tcp(stream) => Pin::new(stream).poll_flush(cx),
            Self::Unix(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Self::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
