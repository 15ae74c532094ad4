//! A certificate authority for tests. It signs certificates for servers on loopback and for clients, so
//! TLS is tested with verification.

use std::sync::Arc;

use rcgen::{
    BasicConstraints, Certificate, CertificateParams, DistinguishedName, DnType, IsCa, Issuer,
    KeyPair, date_time_ymd,
};
use rustls_pki_types::PrivateKeyDer;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::{RootCertStore, ServerConfig, crypto};

/// The certificates and keys of a TLS server on loopback.
pub struct Certificates {
    /// The authority's certificate as PEM, for `SSL_CERT_FILE`.
    pub ca_pem: String,
    /// The server's certificate as PEM.
    pub server_pem: String,
    /// The server's private key as PEM.
    pub key_pem: String,
    acceptor: TlsAcceptor,
    config: ServerConfig,
    issuer: Issuer<'static, KeyPair>,
}

impl Certificates {
    /// Creates an authority and a server certificate; ALPN offers HTTP/2, then HTTP/1.1.
    pub fn new() -> Self {
        Self::for_server(&["localhost", "127.0.0.1"])
    }

    /// Like [`Self::new`], for a server with these names only.
    pub fn for_server(names: &[&str]) -> Self {
        Self::for_names(names, None)
    }

    /// Like [`Self::new`], with a common name and no alternative names, as in old certificates.
    pub fn for_common_name(name: &str) -> Self {
        Self::for_names(&[], Some(name))
    }

    fn for_names(names: &[&str], common: Option<&str>) -> Self {
        let (ca, issuer) = authority(names);
        let mut params = params_of(names);
        if let Some(name) = common {
            params.distinguished_name = DistinguishedName::new();
            params.distinguished_name.push(DnType::CommonName, name);
        }
        let key = KeyPair::generate().expect("a key");
        let server = params.signed_by(&key, &issuer).expect("a certificate");
        Self::of(&ca, issuer, &server, &key, false)
    }

    /// A certificate that signed itself, as `openssl req -x509` makes it: `ca_pem` is the same.
    pub fn self_signed(names: &[&str]) -> Self {
        Self::of_own_key(params_of(names))
    }

    /// Like [`Self::self_signed`], with a certificate that expired long ago.
    pub fn expired(names: &[&str]) -> Self {
        let mut params = params_of(names);
        params.not_before = date_time_ymd(2001, 1, 1);
        params.not_after = date_time_ymd(2002, 1, 1);
        Self::of_own_key(params)
    }

    fn of_own_key(mut params: CertificateParams) -> Self {
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key");
        let server = params.self_signed(&key).expect("a certificate");
        let (_, issuer) = authority(&[]);
        Self::of(&server, issuer, &server, &key, false)
    }

    /// Like [`Self::new`], for a server that requires a client certificate of the same authority.
    pub fn requiring_client() -> Self {
        let (ca, issuer) = authority(&[]);
        let key = KeyPair::generate().expect("a key");
        let params = params_of(&["localhost", "127.0.0.1"]);
        let server = params.signed_by(&key, &issuer).expect("a certificate");
        Self::of(&ca, issuer, &server, &key, true)
    }

    fn of(
        ca: &Certificate,
        issuer: Issuer<'static, KeyPair>,
        server: &Certificate,
        key: &KeyPair,
        requires_client: bool,
    ) -> Self {
        let provider = Arc::new(crypto::ring::default_provider());
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .expect("ring's protocol versions");
        let builder = if requires_client {
            let mut roots = RootCertStore::empty();
            roots.add(ca.der().clone()).expect("a valid authority");
            let verifier =
                WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build();
            builder.with_client_cert_verifier(verifier.expect("a verifier"))
        } else {
            builder.with_no_client_auth()
        };
        let secret = PrivateKeyDer::try_from(key.serialize_der()).expect("a PKCS#8 key");
        let mut config = builder
            .with_single_cert(vec![server.der().clone()], secret)
            .expect("a matching key");
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Self {
            ca_pem: ca.pem(),
            server_pem: server.pem(),
            key_pem: key.serialize_pem(),
            acceptor: TlsAcceptor::from(Arc::new(config.clone())),
            config,
            issuer,
        }
    }

    /// A client certificate of the same authority and its key, as PEM.
    pub fn client(&self, name: &str) -> (String, String) {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        let client = params.signed_by(&key, &self.issuer);
        (client.expect("a certificate").pem(), key.serialize_pem())
    }

    /// An acceptor for these ALPN protocols; without ALPN if there are none.
    pub(super) fn acceptor_for(&self, protocols: &[&str]) -> TlsAcceptor {
        let mut config = self.config.clone();
        config.alpn_protocols = protocols
            .iter()
            .map(|name| name.as_bytes().to_vec())
            .collect();
        TlsAcceptor::from(Arc::new(config))
    }

    pub(super) fn acceptor(&self) -> TlsAcceptor {
        self.acceptor.clone()
    }
}

/// A new authority.
fn authority(names: &[&str]) -> (Certificate, Issuer<'static, KeyPair>) {
    let key = KeyPair::generate().expect("a key");
    let mut ca = CertificateParams::default();
    ca.distinguished_name
        .push(DnType::CommonName, format!("authority of {names:?}"));
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let certificate = ca.self_signed(&key).expect("a certificate");
    (certificate, Issuer::new(ca, key))
}

/// A certificate for these names.
fn params_of(names: &[&str]) -> CertificateParams {
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    CertificateParams::new(names).expect("valid names")
}
