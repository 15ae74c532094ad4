//! TLS for PostgreSQL, with libpq's meaning of `sslmode`, `sslrootcert`, `sslcert` and `sslkey`.
//!
//! rustls verifies everything or nothing by itself; the verifier here adds the two steps between,
//! and trusts a self-signed server certificate that was given as its own root, as OpenSSL does.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, InconsistentKeys, RootCertStore,
    SignatureScheme,
};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::postgres::{Address, Host, SslMode};
use crate::fault::{Fault, Kind};

/// What makes TLS connections for `address`.
///
/// # Errors
/// A fault that names the file that cannot be used.
pub(super) fn connector(address: &Address) -> Result<MakeRustlsConnect, Fault> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = Arc::new(Verifier {
        trust: trust(address, &provider)?,
        provider: Arc::clone(&provider),
    });
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| {
            Fault::new(Kind::DbConnect, "TLS cannot be used").cause(error.to_string())
        })?
        .dangerous()
        .with_custom_certificate_verifier(verifier);
    let config = match (&address.sslcert, &address.sslkey) {
        (None, None) => builder.with_no_client_auth(),
        (Some(cert), Some(key)) => {
            builder.with_client_cert_resolver(Arc::new(client(cert, key, &provider)?))
        }
        (cert, _) => {
            let (given, missing) = match cert {
                Some(_) => ("sslcert", "sslkey"),
                None => ("sslkey", "sslcert"),
            };
            return Err(
                Fault::new(Kind::DbConnect, format!("{given} is set without {missing}"))
                    .hint("a client certificate needs both sslcert and sslkey"),
            );
        }
    };
    Ok(MakeRustlsConnect::new(config))
}

/// The client's own certificate. What it says is for the server to judge: only that the key
/// belongs to it is looked at here, and not even that where it is of an old version.
fn client(cert: &Path, key: &Path, provider: &CryptoProvider) -> Result<SingleCertAndKey, Fault> {
    let chain = certificates(cert, "sslcert")?;
    let key = PrivateKeyDer::from_pem_file(key)
        .map_err(|error| error.to_string())
        .and_then(|der| {
            let key = provider.key_provider.load_private_key(der);
            key.map_err(|error| error.to_string())
        })
        .map_err(|error| unusable(key, "sslkey", &error))?;
    let own = CertifiedKey::new(chain, key);
    match own.keys_match() {
        Err(error @ Error::InconsistentKeys(InconsistentKeys::KeyMismatch)) => {
            Err(unusable(cert, "sslcert", &error))
        }
        _ => Ok(SingleCertAndKey::from(own)),
    }
}

fn trust(address: &Address, provider: &Arc<CryptoProvider>) -> Result<Trust, Fault> {
    if address.hosts.iter().all(Host::is_socket) || address.sslmode == SslMode::Disable {
        return Ok(Trust::Anybody);
    }
    let verifies = matches!(address.sslmode, SslMode::VerifyCa | SslMode::VerifyFull);
    let given = address.sslrootcert.clone().or_else(default_roots);
    let (roots, own) = match given {
        Some(word) if word.as_os_str() == "system" => {
            if address.sslmode != SslMode::VerifyFull {
                return Err(Fault::new(
                    Kind::DbConnect,
                    format!(
                        "sslmode {} is too weak for sslrootcert=system",
                        address.sslmode.as_str()
                    ),
                )
                .hint(
                    "set sslmode to verify-full: any site has a certificate of a public authority",
                ));
            }
            (system_roots()?, Vec::new())
        }
        Some(file) => {
            let own = certificates(&file, "sslrootcert")?;
            let mut roots = RootCertStore::empty();
            for certificate in &own {
                roots
                    .add(certificate.clone())
                    .map_err(|error| unusable(&file, "sslrootcert", &error))?;
            }
            (roots, own)
        }
        None if verifies => (system_roots()?, Vec::new()),
        None => return Ok(Trust::Anybody),
    };
    let chain = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider))
        .build()
        .map_err(|error| {
            Fault::new(Kind::DbConnect, "the root certificates cannot be used")
                .cause(error.to_string())
        })?;
    Ok(Trust::Authorities {
        chain,
        own,
        name: address.sslmode == SslMode::VerifyFull,
    })
}

/// Where libpq looks when nothing is configured.
fn default_roots() -> Option<PathBuf> {
    let file = std::env::home_dir()?.join(".postgresql/root.crt");
    file.is_file().then_some(file)
}

fn system_roots() -> Result<RootCertStore, Fault> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(found.certs);
    if roots.is_empty() {
        let mut fault = Fault::new(Kind::DbConnect, "the system has no root certificates")
            .hint("install ca-certificates, or set sslrootcert to the file of your authority");
        if let Some(error) = found.errors.first() {
            fault = fault.cause(error.to_string());
        }
        return Err(fault);
    }
    Ok(roots)
}

fn certificates(file: &Path, what: &str) -> Result<Vec<CertificateDer<'static>>, Fault> {
    let certificates = CertificateDer::pem_file_iter(file)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| unusable(file, what, &error))?;
    if certificates.is_empty() {
        return Err(unusable(file, what, &"no certificate in it"));
    }
    Ok(certificates)
}

fn unusable(file: &Path, what: &str, error: &dyn std::fmt::Display) -> Fault {
    Fault::new(
        Kind::DbConnect,
        format!("{what} cannot be used: {}", file.display()),
    )
    .cause(error.to_string())
    .hint(format!("{what} must name a readable PEM file"))
}

/// Whom to trust.
#[derive(Debug)]
enum Trust {
    /// Encryption only.
    Anybody,
    /// Who shows a certificate of these authorities.
    Authorities {
        chain: Arc<WebPkiServerVerifier>,
        /// The certificates as given, to recognise a self-signed one.
        own: Vec<CertificateDer<'static>>,
        /// True where it must also be for the host that was meant.
        name: bool,
    },
}

#[derive(Debug)]
struct Verifier {
    trust: Trust,
    provider: Arc<CryptoProvider>,
}

impl Verifier {
    /// True for a certificate of X.509 version 1, as old recipes make them: good enough where
    /// nobody is verified. Any other one must prove its key, or channel binding would prove nothing.
    fn cannot_read(&self, cert: &CertificateDer<'_>) -> bool {
        matches!(self.trust, Trust::Anybody) && ParsedCertificate::try_from(cert).is_err()
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let Trust::Authorities { chain, own, name } = &self.trust else {
            return Ok(ServerCertVerified::assertion());
        };
        if own.iter().any(|certificate| certificate == end_entity) {
            if *name {
                let parsed = ParsedCertificate::try_from(end_entity)?;
                rustls::client::verify_server_name(&parsed, server_name)?;
            }
            return Ok(ServerCertVerified::assertion());
        }
        // The chain is verified before the name, so a wrong name means a good chain.
        match chain.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now) {
            Err(Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) if !name => Ok(ServerCertVerified::assertion()),
            verdict => verdict,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        if self.cannot_read(cert) {
            return Ok(HandshakeSignatureValid::assertion());
        }
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, cert, dss, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        if self.cannot_read(cert) {
            return Ok(HandshakeSignatureValid::assertion());
        }
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, cert, dss, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};

    /// An authority, a certificate of it for `db.test`, and one that vouches for itself.
    struct Certificates {
        folder: tempfile::TempDir,
        server: CertificateDer<'static>,
        own: CertificateDer<'static>,
    }

    fn certificates() -> Certificates {
        let folder = tempfile::tempdir().unwrap();
        let write =
            |name: &str, pem: String| std::fs::write(folder.path().join(name), pem).unwrap();
        let mut authority = CertificateParams::new(Vec::new()).unwrap();
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        write("ca.pem", authority.self_signed(&key).unwrap().pem());
        let issuer = Issuer::new(authority, key);
        let mut params = CertificateParams::new(vec!["db.test".to_owned()]).unwrap();
        let server_key = KeyPair::generate().unwrap();
        let server = params.signed_by(&server_key, &issuer).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let own = params.self_signed(&server_key).unwrap();
        write("own.pem", own.pem());
        write("own.key", server_key.serialize_pem());
        write("other.key", KeyPair::generate().unwrap().serialize_pem());
        write("empty.pem", String::new());
        Certificates {
            server: server.der().clone(),
            own: own.der().clone(),
            folder,
        }
    }

    fn address(sslmode: SslMode, root: Option<PathBuf>) -> Address {
        let hosts = Host::list("db.test", &[]).unwrap();
        Address {
            sslmode,
            sslrootcert: root,
            ..Address::new(hosts, "tokens".to_owned(), "tokens".to_owned())
        }
    }

    #[test]
    fn each_mode_verifies_what_libpq_says() {
        let certificates = certificates();
        let file = |name: &str| Some(certificates.folder.path().join(name));
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let (server, own) = (&certificates.server, &certificates.own);
        for (mode, root, shown, name, good) in [
            (SslMode::Require, "ca.pem", server, "db.test", true),
            (SslMode::Require, "ca.pem", server, "other.test", true),
            (SslMode::Require, "ca.pem", own, "db.test", false),
            (SslMode::VerifyCa, "ca.pem", server, "other.test", true),
            (SslMode::VerifyCa, "ca.pem", own, "db.test", false),
            (SslMode::VerifyFull, "ca.pem", server, "db.test", true),
            (SslMode::VerifyFull, "ca.pem", server, "other.test", false),
            (SslMode::VerifyFull, "ca.pem", own, "db.test", false),
            (SslMode::VerifyFull, "own.pem", own, "db.test", true),
            (SslMode::VerifyFull, "own.pem", own, "other.test", false),
            (SslMode::VerifyCa, "own.pem", own, "other.test", true),
            (SslMode::Disable, "own.pem", server, "other.test", true),
        ] {
            let verifier = Verifier {
                trust: trust(&address(mode, file(root)), &provider).unwrap(),
                provider: Arc::clone(&provider),
            };
            let name = ServerName::try_from(name).unwrap();
            let verdict = verifier.verify_server_cert(shown, &[], &name, &[], UnixTime::now());
            assert_eq!(verdict.is_ok(), good, "{mode:?} {root} {name:?}");
        }
    }

    #[test]
    fn files_that_cannot_be_used_are_named() {
        let certificates = certificates();
        let file = |name: &str| Some(certificates.folder.path().join(name));
        let refusal = |address: &Address| connector(address).err().unwrap().message;
        for root in ["missing.pem", "empty.pem"] {
            let message = refusal(&address(SslMode::VerifyCa, file(root)));
            assert!(message.contains(root), "{message}");
        }
        let weak = address(SslMode::Require, Some("system".into()));
        assert!(refusal(&weak).contains("too weak"));
        let mut client = address(SslMode::Disable, None);
        client.sslcert = file("own.pem");
        assert_eq!(refusal(&client), "sslcert is set without sslkey");
        client.sslkey = file("other.key");
        assert!(refusal(&client).contains("own.pem"));
        client.sslkey = file("own.key");
        assert!(connector(&client).is_ok());
    }
}
