//! TLS clients: trusted authorities, client certificates, and a verifier with what rustls lacks.
//!
//! rustls accepts only certificates of authorities. As OpenSSL does, and with it curl and libpq, the
//! verifier also accepts a trusted certificate as its own root, and the common name of a certificate
//! without `subjectAltName`.

use std::path::Path;
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::sign::CertifiedKey;
use rustls::{
    CertificateError, DigitallySignedStruct, Error as TlsError, InconsistentKeys, RootCertStore,
    SignatureScheme,
};
use x509_cert::Certificate;
use x509_cert::der::Decode as _;
use x509_cert::der::asn1::ObjectIdentifier;
use x509_cert::ext::pkix::SubjectAltName;
use x509_cert::ext::pkix::name::GeneralName;

use crate::error::escape::escape;
use crate::runtime::files::{self, MAX_PEM};

/// Reads the certificates of a PEM file, at least one.
///
/// # Errors
/// Says why the file cannot be used.
pub(crate) fn read_certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let pem = files::read(file, MAX_PEM).map_err(|error| error.to_string())?;
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    let certificates = certificates.map_err(|error| error.to_string())?;
    if certificates.is_empty() {
        return Err("it holds no certificate in PEM format".to_owned());
    }
    Ok(certificates)
}

/// Which file of a client certificate cannot be used, and why.
#[derive(Debug)]
pub(crate) enum IdentityError {
    /// The file with the certificate.
    Certificate(String),
    /// The file with the key.
    Key(String),
}

/// Loads a client certificate and its key.
///
/// Checks only that the key belongs to it, and not even that for an X.509 version 1 certificate:
/// the rest is the server's decision.
pub(crate) fn read_identity(
    certificate: &Path,
    key: &Path,
    provider: &CryptoProvider,
) -> Result<CertifiedKey, IdentityError> {
    let chain = read_certificates(certificate).map_err(IdentityError::Certificate)?;
    let pem = files::read(key, MAX_PEM).map_err(|error| IdentityError::Key(error.to_string()))?;
    let der = PrivateKeyDer::from_pem_slice(&pem).map_err(|_| {
        let is_encrypted = pem.windows(9).any(|word| word == b"ENCRYPTED");
        IdentityError::Key(String::from(if is_encrypted {
            "the key is encrypted; a key without passphrase is needed"
        } else {
            "it holds no private key in PEM format"
        }))
    })?;
    let key = provider.key_provider.load_private_key(der);
    let key = key.map_err(|error| IdentityError::Key(error.to_string()))?;
    let certified = CertifiedKey::new(chain, key);
    match certified.keys_match() {
        Err(TlsError::InconsistentKeys(InconsistentKeys::KeyMismatch)) => Err(
            IdentityError::Certificate("the key does not belong to the certificate".to_owned()),
        ),
        _ => Ok(certified),
    }
}

/// The authorities whose certificates are trusted.
#[derive(Debug)]
pub(crate) struct Authorities {
    chain: Arc<WebPkiServerVerifier>,
    /// Their certificates, to recognise a server's own among them.
    certificates: Vec<CertificateDer<'static>>,
}

impl Authorities {
    /// Trusts these certificates.
    ///
    /// # Errors
    /// If one of them is invalid, or there are none.
    pub(crate) fn of(
        certificates: Vec<CertificateDer<'static>>,
        provider: &Arc<CryptoProvider>,
    ) -> Result<Self, String> {
        let mut roots = RootCertStore::empty();
        for certificate in &certificates {
            let added = roots.add(certificate.clone());
            added.map_err(|error| error.to_string())?;
        }
        Self::with_roots(roots, certificates, provider)
    }

    /// Trusts the authorities of the system, or those that `SSL_CERT_FILE` and `SSL_CERT_DIR` name.
    ///
    /// # Errors
    /// If there are none, or the file cannot be read.
    pub(crate) fn of_system(provider: &Arc<CryptoProvider>) -> Result<Self, String> {
        // The loader skips a file that it cannot read if there is a folder, and reads a device for ever.
        if let Some(file) = std::env::var_os("SSL_CERT_FILE") {
            let file = Path::new(&file);
            files::read(file, MAX_PEM).map_err(|error| {
                let file = escape(&file.to_string_lossy()).into_owned();
                format!("SSL_CERT_FILE names `{file}`: {error}")
            })?;
        }
        let found = rustls_native_certs::load_native_certs();
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(found.certs.iter().cloned());
        if roots.is_empty() {
            let mut errors = found.errors.iter().map(ToString::to_string);
            let none = || "there is no certificate of an authority".to_owned();
            return Err(errors.next().unwrap_or_else(none));
        }
        Self::with_roots(roots, found.certs, provider)
    }

    fn with_roots(
        roots: RootCertStore,
        certificates: Vec<CertificateDer<'static>>,
        provider: &Arc<CryptoProvider>,
    ) -> Result<Self, String> {
        let builder =
            WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider));
        let chain = builder.build().map_err(|error| error.to_string())?;
        Ok(Self {
            chain,
            certificates,
        })
    }
}

/// Which server certificates are trusted.
#[derive(Debug)]
pub(crate) enum Trust {
    /// Any certificate: encryption only.
    Any,
    /// Certificates that these authorities issued.
    Authorities {
        /// The authorities.
        authorities: Authorities,
        /// True if the certificate must also name the host.
        checks_name: bool,
    },
}

/// Returns true for the error of a certificate of another host.
pub(crate) fn is_wrong_name(error: &TlsError) -> bool {
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
    let certificate = Certificate::from_der(certificate).ok()?;
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

/// Checks that a certificate is valid at `now`.
fn check_validity(certificate: &CertificateDer<'_>, now: UnixTime) -> Result<(), TlsError> {
    let parsed = Certificate::from_der(certificate).map_err(|_| CertificateError::BadEncoding)?;
    let validity = parsed.tbs_certificate.validity;
    if now.as_secs() < validity.not_before.to_unix_duration().as_secs() {
        Err(CertificateError::NotValidYet.into())
    } else if now.as_secs() > validity.not_after.to_unix_duration().as_secs() {
        Err(CertificateError::Expired.into())
    } else {
        Ok(())
    }
}

/// Verifies the certificate of a server.
#[derive(Debug)]
pub(crate) struct Verifier {
    /// Which certificates are trusted.
    pub trust: Trust,
    /// What verifies signatures.
    pub provider: Arc<CryptoProvider>,
}

impl Verifier {
    /// Returns true for an X.509 version 1 certificate if no certificate is verified.
    ///
    /// Any other certificate must prove its key, or channel binding would prove nothing.
    fn skips_signature(&self, cert: &CertificateDer<'_>) -> bool {
        matches!(self.trust, Trust::Any) && ParsedCertificate::try_from(cert).is_err()
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
        let Trust::Authorities {
            authorities,
            checks_name,
        } = &self.trust
        else {
            return Ok(ServerCertVerified::assertion());
        };
        let mut trusted = authorities.certificates.iter();
        if trusted.any(|certificate| certificate == end_entity) {
            check_validity(end_entity, now)?;
            if *checks_name {
                let parsed = ParsedCertificate::try_from(end_entity)?;
                let verified = rustls::client::verify_server_name(&parsed, server_name);
                accept_common_name(verified, end_entity, server_name)?;
            }
            return Ok(ServerCertVerified::assertion());
        }
        let verified = authorities.chain.verify_server_cert(
            end_entity,
            intermediates,
            server_name,
            ocsp_response,
            now,
        );
        match verified.map(|_| ()) {
            // The chain is verified before the name, so a wrong name implies a valid chain.
            Err(error) if is_wrong_name(&error) && !checks_name => Ok(()),
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
