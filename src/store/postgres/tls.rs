//! TLS with libpq's meaning of `sslmode`, `sslrootcert`, `sslcert` and `sslkey`.
//!
//! rustls verifies everything or nothing. This verifier adds what libpq and OpenSSL do: modes in
//! between, a self-signed server certificate as its own root, and the common name of a certificate
//! without `subjectAltName`.

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
    CertificateError, ClientConfig, DigitallySignedStruct, Error as TlsError, InconsistentKeys,
    RootCertStore, SignatureScheme, SupportedProtocolVersion,
};
use x509_cert::der::Decode as _;
use x509_cert::der::asn1::ObjectIdentifier;
use x509_cert::ext::pkix::SubjectAltName;
use x509_cert::ext::pkix::name::GeneralName;

use crate::error::{Error, ErrorKind};
use crate::store::postgres::{Address, Host, SslMode, SslNegotiation, TlsVersion};

/// PostgreSQL's ALPN protocol name.
const ALPN: &[u8] = b"postgresql";

/// Builds the TLS configuration of `address`.
///
/// # Errors
/// Names the file that cannot be used.
pub(crate) fn client_config(address: &Address) -> Result<ClientConfig, Error> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = Arc::new(Verifier {
        trust: trust_anchor(address, &provider)?,
        provider: Arc::clone(&provider),
    });
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&versions(address))
        .map_err(|error| {
            Error::of(ErrorKind::DbConnect, "TLS cannot be used").cause(error.to_string())
        })?
        .dangerous()
        .with_custom_certificate_verifier(verifier);
    let mut config = match (&address.sslcert, &address.sslkey) {
        (None, None) => builder.with_no_client_auth(),
        (Some(cert), Some(key)) => {
            builder.with_client_cert_resolver(Arc::new(client_certificate(cert, key, &provider)?))
        }
        (cert, _) => {
            let (given, missing) = match cert {
                Some(_) => ("sslcert", "sslkey"),
                None => ("sslkey", "sslcert"),
            };
            return Err(Error::of(
                ErrorKind::DbConnect,
                format!("{given} is set without {missing}"),
            )
            .hint("a client certificate needs both sslcert and sslkey"));
        }
    };
    // Servers require ALPN for a direct TLS start.
    if address.sslnegotiation == SslNegotiation::Direct {
        config.alpn_protocols = vec![ALPN.to_vec()];
    }
    Ok(config)
}

/// Returns the accepted TLS versions; at least one.
fn versions(address: &Address) -> Vec<&'static SupportedProtocolVersion> {
    let accepted = address.ssl_min_protocol_version..=address.ssl_max_protocol_version;
    let versions = [
        (TlsVersion::V12, &rustls::version::TLS12),
        (TlsVersion::V13, &rustls::version::TLS13),
    ];
    let versions = versions.into_iter();
    versions
        .filter(|(version, _)| accepted.contains(version))
        .map(|(_, version)| version)
        .collect()
}

/// Loads the client certificate.
///
/// Checks only that the key belongs to it, and not even that for an X.509 version 1 certificate:
/// the rest is the server's decision.
fn client_certificate(
    cert: &Path,
    key: &Path,
    provider: &CryptoProvider,
) -> Result<SingleCertAndKey, Error> {
    let chain = read_certificates(cert, "sslcert")?;
    let key = PrivateKeyDer::from_pem_file(key)
        .map_err(|error| error.to_string())
        .and_then(|der| {
            let key = provider.key_provider.load_private_key(der);
            key.map_err(|error| error.to_string())
        })
        .map_err(|error| unusable(key, "sslkey", &error))?;
    let certified = CertifiedKey::new(chain, key);
    match certified.keys_match() {
        Err(error @ TlsError::InconsistentKeys(InconsistentKeys::KeyMismatch)) => {
            Err(unusable(cert, "sslcert", &error))
        }
        _ => Ok(SingleCertAndKey::from(certified)),
    }
}

fn trust_anchor(address: &Address, provider: &Arc<CryptoProvider>) -> Result<TrustAnchor, Error> {
    if address.hosts.iter().all(Host::is_socket) || address.sslmode == SslMode::Disable {
        return Ok(TrustAnchor::Any);
    }
    let verifies = matches!(address.sslmode, SslMode::VerifyCa | SslMode::VerifyFull);
    let given = address.sslrootcert.clone().or_else(default_roots);
    let (roots, given_roots) = match given {
        Some(word) if word.as_os_str() == "system" => {
            if address.sslmode != SslMode::VerifyFull {
                return Err(Error::of(
                    ErrorKind::DbConnect,
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
            let given_roots = read_certificates(&file, "sslrootcert")?;
            let mut roots = RootCertStore::empty();
            for certificate in &given_roots {
                roots
                    .add(certificate.clone())
                    .map_err(|error| unusable(&file, "sslrootcert", &error))?;
            }
            (roots, given_roots)
        }
        None if verifies => (system_roots()?, Vec::new()),
        None => return Ok(TrustAnchor::Any),
    };
    let chain = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider))
        .build()
        .map_err(|error| {
            Error::of(ErrorKind::DbConnect, "the root certificates cannot be used")
                .cause(error.to_string())
        })?;
    Ok(TrustAnchor::Authorities {
        chain,
        given_roots,
        name: address.sslmode == SslMode::VerifyFull,
    })
}

/// Returns libpq's default file of root certificates, if it exists.
fn default_roots() -> Option<PathBuf> {
    let file = std::env::home_dir()?.join(".postgresql/root.crt");
    file.is_file().then_some(file)
}

fn system_roots() -> Result<RootCertStore, Error> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(found.certs);
    if roots.is_empty() {
        let mut failure = Error::of(ErrorKind::DbConnect, "the system has no root certificates")
            .hint("install ca-certificates, or set sslrootcert to the file of your authority");
        if let Some(error) = found.errors.first() {
            failure = failure.cause(error.to_string());
        }
        return Err(failure);
    }
    Ok(roots)
}

fn read_certificates(file: &Path, what: &str) -> Result<Vec<CertificateDer<'static>>, Error> {
    let certificates = CertificateDer::pem_file_iter(file)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| unusable(file, what, &error))?;
    if certificates.is_empty() {
        return Err(unusable(file, what, &"no certificate in it"));
    }
    Ok(certificates)
}

fn unusable(file: &Path, what: &str, error: &dyn std::fmt::Display) -> Error {
    Error::of(
        ErrorKind::DbConnect,
        format!("{what} cannot be used: {}", file.display()),
    )
    .cause(error.to_string())
    .hint(format!("{what} must name a readable PEM file"))
}

/// Which server certificates are trusted.
#[derive(Debug)]
enum TrustAnchor {
    /// Any certificate: encryption only.
    Any,
    /// Certificates that these authorities issued.
    Authorities {
        chain: Arc<WebPkiServerVerifier>,
        /// The root certificates, to recognise a self-signed one.
        given_roots: Vec<CertificateDer<'static>>,
        /// True if the certificate must also name the host.
        name: bool,
    },
}

fn is_wrong_name(error: &TlsError) -> bool {
    matches!(
        error,
        TlsError::InvalidCertificate(
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. }
        )
    )
}

/// Accepts the common name of a certificate without host names, as libpq does.
///
/// rustls checks only the `subjectAltName` extension; `verified` is its result.
fn accept_common_name(
    verified: Result<(), TlsError>,
    certificate: &CertificateDer<'_>,
    host: &ServerName<'_>,
) -> Result<(), TlsError> {
    let Err(error) = &verified else {
        return verified;
    };
    if !is_wrong_name(error) {
        return verified;
    }
    let Some(name) = common_name(certificate) else {
        return verified;
    };
    if name_matches(&name, &host.to_str()) {
        return Ok(());
    }
    Err(TlsError::InvalidCertificate(
        CertificateError::NotValidForNameContext {
            expected: host.to_owned(),
            presented: vec![format!("CommonName({name:?})")],
        },
    ))
}

/// Returns the first common name if `subjectAltName` has no host name and no address.
fn common_name(certificate: &CertificateDer<'_>) -> Option<String> {
    const COMMON_NAME: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.4.3");
    let certificate = x509_cert::Certificate::from_der(certificate).ok()?;
    let names = certificate.tbs_certificate.get::<SubjectAltName>().ok()?;
    let has_name = names.is_some_and(|(_, SubjectAltName(names))| {
        names
            .iter()
            .any(|name| matches!(name, GeneralName::DnsName(_) | GeneralName::IpAddress(_)))
    });
    if has_name {
        return None;
    }
    let subject = &certificate.tbs_certificate.subject.0;
    let mut attributes = subject.iter().flat_map(|attributes| attributes.0.iter());
    let name = attributes.find(|attribute| attribute.oid == COMMON_NAME)?;
    let name = std::str::from_utf8(name.value.value()).ok()?;
    // Attackers have used a NUL to end a name early.
    (!name.is_empty() && !name.contains('\0')).then(|| name.to_owned())
}

/// Returns true if a certificate's name matches the host; a leading `*.` matches one label.
fn name_matches(name: &str, host: &str) -> bool {
    if name.eq_ignore_ascii_case(host) {
        return true;
    }
    // Wildcards do not apply to IP addresses.
    if host.parse::<std::net::IpAddr>().is_ok() {
        return false;
    }
    match (name.strip_prefix("*."), host.split_once('.')) {
        (Some(domain), Some((label, rest))) => {
            !domain.is_empty() && !label.is_empty() && rest.eq_ignore_ascii_case(domain)
        }
        _ => false,
    }
}

#[derive(Debug)]
struct Verifier {
    trust: TrustAnchor,
    provider: Arc<CryptoProvider>,
}

impl Verifier {
    /// Returns true for an X.509 version 1 certificate if no certificate is verified.
    ///
    /// Any other certificate must prove its key, or channel binding would prove nothing.
    fn skips_signature(&self, cert: &CertificateDer<'_>) -> bool {
        matches!(self.trust, TrustAnchor::Any) && ParsedCertificate::try_from(cert).is_err()
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
    ) -> Result<ServerCertVerified, TlsError> {
        let TrustAnchor::Authorities {
            chain,
            given_roots,
            name,
        } = &self.trust
        else {
            return Ok(ServerCertVerified::assertion());
        };
        if given_roots
            .iter()
            .any(|certificate| certificate == end_entity)
        {
            if *name {
                let parsed = ParsedCertificate::try_from(end_entity)?;
                let verified = rustls::client::verify_server_name(&parsed, server_name);
                accept_common_name(verified, end_entity, server_name)?;
            }
            return Ok(ServerCertVerified::assertion());
        }
        let verified =
            chain.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now);
        match verified.map(|_| ()) {
            // The chain is verified before the name, so a wrong name implies a valid chain.
            Err(error) if is_wrong_name(&error) && !name => Ok(()),
            verified => accept_common_name(verified, end_entity, server_name),
        }
        .map(|()| ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        if self.skips_signature(cert) {
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
    ) -> Result<HandshakeSignatureValid, TlsError> {
        if self.skips_signature(cert) {
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
    use rcgen::{
        BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyPair,
    };

    /// An authority's certificate for `db.test`, and a self-signed one.
    struct Certificates {
        folder: tempfile::TempDir,
        server: CertificateDer<'static>,
        self_signed: CertificateDer<'static>,
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
        let self_signed = params.self_signed(&server_key).unwrap();
        write("own.pem", self_signed.pem());
        write("own.key", server_key.serialize_pem());
        write("other.key", KeyPair::generate().unwrap().serialize_pem());
        write("empty.pem", String::new());
        Certificates {
            server: server.der().clone(),
            self_signed: self_signed.der().clone(),
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
    fn each_sslmode_verifies_what_libpq_does() {
        let certificates = certificates();
        let file = |name: &str| Some(certificates.folder.path().join(name));
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let (server, self_signed) = (&certificates.server, &certificates.self_signed);
        for (mode, root, shown, name, good) in [
            (SslMode::Require, "ca.pem", server, "db.test", true),
            (SslMode::Require, "ca.pem", server, "other.test", true),
            (SslMode::Require, "ca.pem", self_signed, "db.test", false),
            (SslMode::VerifyCa, "ca.pem", server, "other.test", true),
            (SslMode::VerifyCa, "ca.pem", self_signed, "db.test", false),
            (SslMode::VerifyFull, "ca.pem", server, "db.test", true),
            (SslMode::VerifyFull, "ca.pem", server, "other.test", false),
            (SslMode::VerifyFull, "ca.pem", self_signed, "db.test", false),
            (SslMode::VerifyFull, "own.pem", self_signed, "db.test", true),
            (
                SslMode::VerifyFull,
                "own.pem",
                self_signed,
                "other.test",
                false,
            ),
            (
                SslMode::VerifyCa,
                "own.pem",
                self_signed,
                "other.test",
                true,
            ),
            (SslMode::Disable, "own.pem", server, "other.test", true),
        ] {
            let verifier = Verifier {
                trust: trust_anchor(&address(mode, file(root)), &provider).unwrap(),
                provider: Arc::clone(&provider),
            };
            let name = ServerName::try_from(name).unwrap();
            let result = verifier.verify_server_cert(shown, &[], &name, &[], UnixTime::now());
            assert_eq!(result.is_ok(), good, "{mode:?} {root} {name:?}");
        }
    }

    /// Creates a certificate with these names that the authority signed, and a self-signed one.
    fn named_certificates(
        folder: &Path,
        common: &[&str],
        alternative: &[&str],
    ) -> [CertificateDer<'static>; 2] {
        let mut authority = CertificateParams::new(Vec::new()).unwrap();
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let pem = authority.self_signed(&key).unwrap().pem();
        std::fs::write(folder.join("ca.pem"), pem).unwrap();
        let issuer = Issuer::new(authority, key);
        let alternative: Vec<String> = alternative.iter().map(ToString::to_string).collect();
        let mut params = CertificateParams::new(alternative).unwrap();
        params.distinguished_name = DistinguishedName::new();
        for name in common {
            params.distinguished_name.push(DnType::CommonName, *name);
        }
        let key = KeyPair::generate().unwrap();
        let server = params.signed_by(&key, &issuer).unwrap().der().clone();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let self_signed = params.self_signed(&key).unwrap();
        std::fs::write(folder.join("own.pem"), self_signed.pem()).unwrap();
        [server, self_signed.der().clone()]
    }

    #[test]
    fn common_name_is_used_when_no_alternative_name_is_given() {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let folder = tempfile::tempdir().unwrap();
        for (common, alternative, host, good) in [
            ("db.test", &[][..], "db.test", true),
            ("DB.Test", &[], "db.test", true),
            ("db.test", &[], "other.test", false),
            ("db.test", &["other.test"], "db.test", false),
            ("db.test", &["10.0.0.1"], "db.test", false),
            ("*.test", &[], "db.test", true),
            ("*.test", &[], "a.db.test", false),
            ("*.test", &[], "test", false),
            ("d*.test", &[], "db.test", false),
            ("*", &[], "db", false),
            ("*.", &[], "db.", false),
            ("10.0.0.1", &[], "10.0.0.1", true),
            ("*.0.0.1", &[], "10.0.0.1", false),
            ("db.test\0.evil", &[], "db.test", false),
        ] {
            let [server, self_signed] = named_certificates(folder.path(), &[common], alternative);
            for (shown, root) in [(&server, "ca.pem"), (&self_signed, "own.pem")] {
                let root = Some(folder.path().join(root));
                let verifier = Verifier {
                    trust: trust_anchor(&address(SslMode::VerifyFull, root), &provider).unwrap(),
                    provider: Arc::clone(&provider),
                };
                let name = ServerName::try_from(host).unwrap();
                let result = verifier.verify_server_cert(shown, &[], &name, &[], UnixTime::now());
                assert_eq!(result.is_ok(), good, "{common:?} {alternative:?} {host}");
                if let Err(error) = result {
                    assert!(is_wrong_name(&error), "{error}");
                }
            }
        }
        // A certificate of an unknown authority fails for another reason than the name.
        let [server, _] = named_certificates(folder.path(), &["db.test"], &[]);
        let [_, _] = named_certificates(folder.path(), &["db.test"], &[]);
        let root = Some(folder.path().join("ca.pem"));
        let verifier = Verifier {
            trust: trust_anchor(&address(SslMode::VerifyFull, root), &provider).unwrap(),
            provider: Arc::clone(&provider),
        };
        let name = ServerName::try_from("db.test").unwrap();
        let result = verifier.verify_server_cert(&server, &[], &name, &[], UnixTime::now());
        assert!(!is_wrong_name(&result.unwrap_err()));
    }

    #[test]
    fn tls_versions_between_minimum_and_maximum_are_accepted() {
        let mut address = address(SslMode::Require, None);
        let count = |address: &Address| versions(address).len();
        assert_eq!(count(&address), 2);
        address.ssl_min_protocol_version = TlsVersion::V13;
        assert_eq!(versions(&address), [&rustls::version::TLS13]);
        address.ssl_min_protocol_version = TlsVersion::V12;
        address.ssl_max_protocol_version = TlsVersion::V12;
        assert_eq!(versions(&address), [&rustls::version::TLS12]);
    }

    #[test]
    fn unusable_file_is_named() {
        let certificates = certificates();
        let file = |name: &str| Some(certificates.folder.path().join(name));
        let message_of =
            |address: &Address| client_config(address).err().unwrap().into_parts().message;
        for root in ["missing.pem", "empty.pem"] {
            let message = message_of(&address(SslMode::VerifyCa, file(root)));
            assert!(message.contains(root), "{message}");
        }
        let weak = address(SslMode::Require, Some("system".into()));
        assert!(message_of(&weak).contains("too weak"));
        let mut client = address(SslMode::Disable, None);
        client.sslcert = file("own.pem");
        assert_eq!(message_of(&client), "sslcert is set without sslkey");
        client.sslkey = file("other.key");
        assert!(message_of(&client).contains("own.pem"));
        client.sslkey = file("own.key");
        assert!(client_config(&client).is_ok());
    }
}
