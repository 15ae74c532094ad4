//! TLS with libpq's meaning of `sslmode`, `sslrootcert`, `sslcert` and `sslkey`.
//!
//! rustls verifies everything or nothing; libpq has modes in between.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::crypto::CryptoProvider;
use rustls::sign::SingleCertAndKey;
use rustls::{ClientConfig, SupportedProtocolVersion};

use crate::error::{Error, ErrorKind};
use crate::runtime::tls::{
    Authorities, IdentityError, Trust, Verifier, read_certificates, read_identity,
};
use crate::store::postgres::{Address, Host, SslMode, TlsVersion};

/// PostgreSQL's ALPN protocol name.
const ALPN: &[u8] = b"postgresql";

/// Builds the TLS configuration of `address`.
///
/// # Errors
/// Names the file that cannot be used.
pub(crate) fn client_config(address: &Address) -> Result<ClientConfig, Error> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = Arc::new(Verifier {
        trust: trust(address, &provider)?,
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
            let identity = read_identity(cert, key, &provider).map_err(|error| match error {
                IdentityError::Certificate(why) => unusable(cert, "sslcert", &why),
                IdentityError::Key(why) => unusable(key, "sslkey", &why),
            })?;
            builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(identity)))
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
    // A server that agrees on it also accepts a direct TLS start, which requires it.
    config.alpn_protocols = vec![ALPN.to_vec()];
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

/// Returns which certificates the mode of `address` trusts.
fn trust(address: &Address, provider: &Arc<CryptoProvider>) -> Result<Trust, Error> {
    if address.hosts.iter().all(Host::is_socket) || address.sslmode == SslMode::Disable {
        return Ok(Trust::Any);
    }
    let verifies = matches!(address.sslmode, SslMode::VerifyCa | SslMode::VerifyFull);
    let given = address.sslrootcert.clone().or_else(default_roots);
    let authorities = match given {
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
            system_authorities(provider)?
        }
        Some(file) => read_certificates(&file)
            .and_then(|certificates| Authorities::of(certificates, provider))
            .map_err(|why| unusable(&file, "sslrootcert", &why))?,
        None if verifies => system_authorities(provider)?,
        None => return Ok(Trust::Any),
    };
    Ok(Trust::Authorities {
        authorities,
        checks_name: address.sslmode == SslMode::VerifyFull,
    })
}

/// Returns libpq's default file of root certificates, if it exists.
fn default_roots() -> Option<PathBuf> {
    let file = std::env::home_dir()?.join(".postgresql/root.crt");
    file.is_file().then_some(file)
}

fn system_authorities(provider: &Arc<CryptoProvider>) -> Result<Authorities, Error> {
    Authorities::of_system(provider).map_err(|why| {
        Error::of(ErrorKind::DbConnect, "the system has no root certificates")
            .cause(why)
            .hint("install ca-certificates, or set sslrootcert to the file of your authority")
    })
}

fn unusable(file: &Path, what: &str, why: &str) -> Error {
    Error::of(
        ErrorKind::DbConnect,
        format!("{what} cannot be used: {}", file.display()),
    )
    .cause(why)
    .hint(format!("{what} must name a readable PEM file"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::tls::is_wrong_name;
    use rustls::client::danger::ServerCertVerifier as _;
    use rustls::pki_types::{CertificateDer, ServerName, UnixTime};

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
                trust: trust(&address(mode, file(root)), &provider).unwrap(),
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
                    trust: trust(&address(SslMode::VerifyFull, root), &provider).unwrap(),
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
            trust: trust(&address(SslMode::VerifyFull, root), &provider).unwrap(),
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
