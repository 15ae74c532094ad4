//! A certificate authority of the tests' own and a server certificate for loopback signed by it,
//! so that TLS is tested with verification on.

use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustls_pki_types::PrivateKeyDer;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::{ServerConfig, crypto};

/// What a TLS server on loopback needs, and what its clients must trust.
pub struct Certificates {
    /// The authority's certificate as PEM: what `SSL_CERT_FILE` may name.
    pub ca_pem: String,
    /// The server's certificate, for `localhost` and 127.0.0.1, as PEM.
    pub server_pem: String,
    /// The server's private key as PEM.
    pub key_pem: String,
    acceptor: TlsAcceptor,
}

impl Certificates {
    /// A new authority and a server certificate; ALPN offers HTTP/2, then HTTP/1.1.
    pub fn new() -> Self {
        let ca_key = KeyPair::generate().expect("a key");
        let mut ca = CertificateParams::default();
        ca.distinguished_name
            .push(DnType::CommonName, "token_service test authority");
        ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let ca_pem = ca.self_signed(&ca_key).expect("a certificate").pem();
        let issuer = Issuer::new(ca, ca_key);

        let key = KeyPair::generate().expect("a key");
        let names = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
        let params = CertificateParams::new(names).expect("valid names");
        let server = params.signed_by(&key, &issuer).expect("a certificate");

        let secret = PrivateKeyDer::try_from(key.serialize_der()).expect("a PKCS#8 key");
        let mut config =
            ServerConfig::builder_with_provider(Arc::new(crypto::ring::default_provider()))
                .with_safe_default_protocol_versions()
                .expect("ring's protocol versions")
                .with_no_client_auth()
                .with_single_cert(vec![server.der().clone()], secret)
                .expect("a matching key");
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Self {
            ca_pem,
            server_pem: server.pem(),
            key_pem: key.serialize_pem(),
            acceptor: TlsAcceptor::from(Arc::new(config)),
        }
    }

    pub(super) fn acceptor(&self) -> TlsAcceptor {
        self.acceptor.clone()
    }
}
