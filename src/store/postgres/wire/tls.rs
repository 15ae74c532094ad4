//! TLS whose decrypted stream is filtered.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use rustls::ClientConfig;
use rustls::pki_types::{CertificateDer, ServerName};
use sha2::{Digest as _, Sha256, Sha384, Sha512};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_postgres::tls::{ChannelBinding, TlsConnect, TlsStream};
use tokio_rustls::{TlsConnector, client};
use x509_cert::der::Decode as _;
use x509_cert::der::asn1::ObjectIdentifier;
use x509_cert::der::oid::db::rfc5912;

use crate::store::postgres::wire::{ConnectionMonitor, MonitoredStream};

/// Makes TLS connections to one host.
pub(in crate::store::postgres) struct MonitoredTls {
    config: Arc<ClientConfig>,
    host: String,
    monitor: Arc<ConnectionMonitor>,
    requires_protocol: bool,
}

impl MonitoredTls {
    /// Creates the connector for `host`.
    ///
    /// If `requires_protocol` is true, the server must agree on the protocol that `config` names
    /// (ALPN). Otherwise a server may ignore it, as PostgreSQL before 17 does.
    pub(in crate::store::postgres) fn new(
        config: &Arc<ClientConfig>,
        host: &str,
        monitor: &Arc<ConnectionMonitor>,
        requires_protocol: bool,
    ) -> Self {
        Self {
            config: Arc::clone(config),
            host: host.to_owned(),
            monitor: Arc::clone(monitor),
            requires_protocol,
        }
    }
}

impl<S> TlsConnect<MonitoredStream<S>> for MonitoredTls
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    type Stream = MonitoredStream<DecryptedStream<S>>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Self::Stream>> + Send>>;

    fn connect(self, stream: MonitoredStream<S>) -> Self::Future {
        Box::pin(async move {
            let host = ServerName::try_from(self.host)
                .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
            let connector = TlsConnector::from(self.config);
            let stream = connector.connect(host, stream.into_inner()).await?;
            // rustls refuses a protocol that was not offered.
            if stream.get_ref().1.alpn_protocol().is_some() {
                let _ = self.monitor.agrees_on_protocol.set(());
            } else if self.requires_protocol {
                // Another service on the same host would not agree.
                return Err(io::Error::other(
                    "the server did not agree on PostgreSQL's protocol (ALPN)",
                ));
            }
            let stream = DecryptedStream(stream);
            Ok(MonitoredStream::new(stream, &self.monitor, false))
        })
    }
}

/// A decrypted TLS stream.
pub(in crate::store::postgres) struct DecryptedStream<S>(client::TlsStream<S>);

impl<S: AsyncRead + AsyncWrite + Unpin> TlsStream for DecryptedStream<S> {
    fn channel_binding(&self) -> ChannelBinding {
        let certificates = self.0.get_ref().1.peer_certificates();
        certificates
            .and_then(|certificates| end_point(certificates.first()?))
            .map_or_else(ChannelBinding::none, ChannelBinding::tls_server_end_point)
    }
}

/// Returns the certificate's digest for channel binding (`tls-server-end-point`, RFC 5929).
///
/// The hash is that of its signature, but SHA-256 instead of SHA-1; `None` for other signatures.
fn end_point(certificate: &CertificateDer<'_>) -> Option<Vec<u8>> {
    const SHA_256: [ObjectIdentifier; 3] = [
        rfc5912::SHA_1_WITH_RSA_ENCRYPTION,
        rfc5912::SHA_256_WITH_RSA_ENCRYPTION,
        rfc5912::ECDSA_WITH_SHA_256,
    ];
    const SHA_384: [ObjectIdentifier; 2] = [
        rfc5912::SHA_384_WITH_RSA_ENCRYPTION,
        rfc5912::ECDSA_WITH_SHA_384,
    ];
    const SHA_512: [ObjectIdentifier; 2] = [
        rfc5912::SHA_512_WITH_RSA_ENCRYPTION,
        rfc5912::ECDSA_WITH_SHA_512,
    ];
    let parsed = x509_cert::Certificate::from_der(certificate).ok()?;
    let algorithm = parsed.signature_algorithm.oid;
    if SHA_256.contains(&algorithm) {
        Some(Sha256::digest(certificate).to_vec())
    } else if SHA_384.contains(&algorithm) {
        Some(Sha384::digest(certificate).to_vec())
    } else if SHA_512.contains(&algorithm) {
        Some(Sha512::digest(certificate).to_vec())
    } else {
        None
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for DecryptedStream<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for DecryptedStream<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}
