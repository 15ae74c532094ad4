//! The TLS settings of a source: trusted authorities, and the client certificate.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use rustls::client::ResolvesClientCert;
use rustls::crypto::ring;
use rustls::pki_types::CertificateDer;
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, SignatureScheme};

use crate::error::{Error, ErrorKind};
use crate::runtime::tls::{Authorities, Trust, Verifier};

/// What the files of `source.tls` hold.
#[derive(Clone, Debug, Default)]
pub struct SourceTls {
    /// The client certificate and its key.
    pub identity: Option<Arc<CertifiedKey>>,
    /// The only authorities to trust; the system's if `None`.
    pub authorities: Option<Vec<CertificateDer<'static>>>,
}

/// The client certificate, and whether the source asked for one.
#[derive(Clone, Debug, Default)]
pub(super) struct ClientIdentity {
    pub certificate: Option<Arc<CertifiedKey>>,
    was_requested: Arc<AtomicBool>,
    /// The number of requests under way.
    requests: Arc<AtomicUsize>,
}

/// Exists while a request is under way.
pub(super) struct RequestGuard<'a>(&'a AtomicUsize);

impl Drop for RequestGuard<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl ClientIdentity {
    pub fn of(tls: &SourceTls) -> Self {
        Self {
            certificate: tls.identity.clone(),
            was_requested: Arc::default(),
            requests: Arc::default(),
        }
    }

    /// Begins a request, and forgets earlier handshakes if it is the only one.
    pub fn begin(&self) -> RequestGuard<'_> {
        if self.requests.fetch_add(1, Ordering::Relaxed) == 0 {
            self.was_requested.store(false, Ordering::Relaxed);
        }
        RequestGuard(&self.requests)
    }

    /// Returns true if a handshake asked for a certificate.
    pub fn was_requested(&self) -> bool {
        self.was_requested.load(Ordering::Relaxed)
    }
}

impl ResolvesClientCert for ClientIdentity {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.was_requested.store(true, Ordering::Relaxed);
        self.certificate.clone()
    }

    fn has_certs(&self) -> bool {
        self.certificate.is_some()
    }
}

impl SourceTls {
    /// Returns the configuration of TLS; it loads the system's authorities if needed.
    pub(super) fn client_config(&self, identity: &ClientIdentity) -> Result<ClientConfig, Error> {
        let failed = |why: String| {
            Error::of(
                ErrorKind::HttpConnect,
                "there is no authority that the token source's certificate could be verified with",
            )
            .cause(why)
            .hint(
                "install ca-certificates, or set `source.tls.ca` or SSL_CERT_FILE to the file of \
                 your authority",
            )
        };
        let provider = Arc::new(ring::default_provider());
        let authorities = match &self.authorities {
            Some(certificates) => Authorities::of(certificates.clone(), &provider),
            None => Authorities::of_system(&provider),
        };
        let verifier = Arc::new(Verifier {
            trust: Trust::Authorities {
                authorities: authorities.map_err(failed)?,
                checks_name: true,
            },
            provider: Arc::clone(&provider),
        });
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| failed(error.to_string()))?
            .dangerous()
            .with_custom_certificate_verifier(verifier)
            .with_client_cert_resolver(Arc::new(identity.clone()));
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(config)
    }
}
