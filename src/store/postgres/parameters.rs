//! libpq's connection parameters with a fixed set of values: their spelling and meaning.

use std::str::FromStr;

use crate::store::postgres::SslMode;

/// An authentication method, as `require_auth` names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AuthMethod {
    /// The password in clear text.
    Password,
    /// The password as an MD5 digest.
    Md5,
    /// Kerberos by GSSAPI; not supported.
    Gss,
    /// Windows SSPI; not supported.
    Sspi,
    /// SCRAM-SHA-256, with or without channel binding.
    ScramSha256,
    /// OAuth; not supported.
    OAuth,
    /// No authentication exchange: `trust`, `peer` or a client certificate.
    None,
}

impl AuthMethod {
    /// Every method.
    pub const ALL: [Self; 7] = [
        Self::Password,
        Self::Md5,
        Self::Gss,
        Self::Sspi,
        Self::ScramSha256,
        Self::OAuth,
        Self::None,
    ];

    /// Returns libpq's spelling.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Password => "password",
            Self::Md5 => "md5",
            Self::Gss => "gss",
            Self::Sspi => "sspi",
            Self::ScramSha256 => "scram-sha-256",
            Self::OAuth => "oauth",
            Self::None => "none",
        }
    }

    fn bit(self) -> u8 {
        match self {
            Self::Password => 1,
            Self::Md5 => 1 << 1,
            Self::Gss => 1 << 2,
            Self::Sspi => 1 << 3,
            Self::ScramSha256 => 1 << 4,
            Self::OAuth => 1 << 5,
            Self::None => 1 << 6,
        }
    }
}

/// The authentication methods that the client accepts from the server (`require_auth`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequireAuth {
    allowed: u8,
    text: String,
}

impl RequireAuth {
    /// Returns true if the client may authenticate by this method.
    pub fn allows(&self, method: AuthMethod) -> bool {
        self.allowed & method.bit() != 0
    }

    /// Returns the list as written, for messages.
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

impl FromStr for RequireAuth {
    type Err = String;

    /// Parses `scram-sha-256,none` or, if every method is negated, `!password,!md5`.
    fn from_str(text: &str) -> Result<Self, String> {
        let mut listed = 0;
        let mut is_negated = None;
        for word in text.split(',') {
            let word = word.trim();
            let (negated, name) = match word.strip_prefix('!') {
                Some(name) => (true, name),
                None => (false, word),
            };
            let mut methods = AuthMethod::ALL.into_iter();
            let method = methods
                .find(|method| method.as_str() == name)
                .ok_or_else(|| {
                    let known = AuthMethod::ALL.map(AuthMethod::as_str).join(", ");
                    format!("must be a list of {known}, each with `!` before it to exclude it")
                })?;
            if *is_negated.get_or_insert(negated) != negated {
                return Err(
                    "must be a list of methods that all have `!` or all have none".to_owned(),
                );
            }
            if listed & method.bit() != 0 {
                return Err("must be a list that names each method once".to_owned());
            }
            listed |= method.bit();
        }
        let allowed = if is_negated == Some(true) {
            !listed
        } else {
            listed
        };
        let supported = [
            AuthMethod::Password,
            AuthMethod::Md5,
            AuthMethod::ScramSha256,
            AuthMethod::None,
        ];
        if supported.iter().all(|method| allowed & method.bit() == 0) {
            let names = supported.map(AuthMethod::as_str).join(", ");
            return Err(format!("must allow one of the supported methods {names}"));
        }
        Ok(Self {
            allowed,
            text: text.to_owned(),
        })
    }
}

/// How a TLS connection starts (`sslnegotiation`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SslNegotiation {
    /// The client first sends PostgreSQL's `SSLRequest`.
    #[default]
    Postgres,
    /// The client starts the TLS handshake at once (PostgreSQL 17 and newer).
    Direct,
}

impl SslNegotiation {
    /// Returns libpq's spelling.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Postgres => "postgres",
            Self::Direct => "direct",
        }
    }

    /// Checks that TLS is compulsory for a direct start.
    ///
    /// # Errors
    /// Names the modes that are allowed.
    pub fn check(self, sslmode: SslMode) -> Result<(), String> {
        let is_weak = matches!(sslmode, SslMode::Disable | SslMode::Allow | SslMode::Prefer);
        if self == Self::Direct && is_weak {
            return Err(format!(
                "sslnegotiation=direct needs sslmode require, verify-ca or verify-full (now {})",
                sslmode.as_str()
            ));
        }
        Ok(())
    }
}

impl FromStr for SslNegotiation {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "postgres" => Ok(Self::Postgres),
            "direct" => Ok(Self::Direct),
            _ => Err("must be postgres or direct".to_owned()),
        }
    }
}

/// A supported version of TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum TlsVersion {
    /// TLS 1.2.
    V12,
    /// TLS 1.3.
    V13,
}

impl TlsVersion {
    /// Returns libpq's spelling.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::V12 => "TLSv1.2",
            Self::V13 => "TLSv1.3",
        }
    }

    /// Parses `ssl_min_protocol_version`; older versions mean 1.2, the lowest supported one.
    ///
    /// # Errors
    /// A rule that completes "ssl_min_protocol_version …".
    pub fn minimum(text: &str) -> Result<Self, String> {
        match text.to_ascii_lowercase().as_str() {
            "" | "tlsv1" | "tlsv1.1" | "tlsv1.2" => Ok(Self::V12),
            "tlsv1.3" => Ok(Self::V13),
            _ => Err("must be TLSv1, TLSv1.1, TLSv1.2 or TLSv1.3".to_owned()),
        }
    }

    /// Parses `ssl_max_protocol_version`.
    ///
    /// # Errors
    /// A rule that completes "ssl_max_protocol_version …".
    pub fn maximum(text: &str) -> Result<Self, String> {
        match text.to_ascii_lowercase().as_str() {
            "" | "tlsv1.3" => Ok(Self::V13),
            "tlsv1.2" => Ok(Self::V12),
            "tlsv1" | "tlsv1.1" => {
                Err("must be TLSv1.2 or TLSv1.3: older versions are not supported".to_owned())
            }
            _ => Err("must be TLSv1.2 or TLSv1.3".to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allowed(text: &str) -> Vec<&'static str> {
        let list: RequireAuth = text.parse().unwrap();
        let methods = AuthMethod::ALL.into_iter();
        methods
            .filter(|method| list.allows(*method))
            .map(AuthMethod::as_str)
            .collect()
    }

    #[test]
    fn require_auth_allows_exactly_the_listed_methods() {
        assert_eq!(allowed("scram-sha-256"), ["scram-sha-256"]);
        assert_eq!(allowed("md5,none"), ["md5", "none"]);
        assert_eq!(
            allowed("!password,!md5"),
            ["gss", "sspi", "scram-sha-256", "oauth", "none"]
        );
        assert!(!allowed("!none").contains(&"none"));
        let list: RequireAuth = "scram-sha-256, none".parse().unwrap();
        assert_eq!(list.as_str(), "scram-sha-256, none");
    }

    #[test]
    fn invalid_require_auth_explains_its_rule() {
        let invalid = [
            "",
            "scram",
            "md5,!none",
            "!md5,none",
            "md5,md5",
            "a,",
            "gss,sspi",
            "!password,!md5,!scram-sha-256,!none",
        ];
        let errors = invalid.map(|text| text.parse::<RequireAuth>().unwrap_err());
        insta::assert_snapshot!(errors.join("\n"), @"
        must be a list of password, md5, gss, sspi, scram-sha-256, oauth, none, each with `!` before it to exclude it
        must be a list of password, md5, gss, sspi, scram-sha-256, oauth, none, each with `!` before it to exclude it
        must be a list of methods that all have `!` or all have none
        must be a list of methods that all have `!` or all have none
        must be a list that names each method once
        must be a list of password, md5, gss, sspi, scram-sha-256, oauth, none, each with `!` before it to exclude it
        must allow one of the supported methods password, md5, scram-sha-256, none
        must allow one of the supported methods password, md5, scram-sha-256, none
        ");
    }

    #[test]
    fn direct_negotiation_needs_compulsory_tls() {
        for mode in SslMode::ALL {
            assert_eq!(SslNegotiation::Postgres.check(mode), Ok(()));
        }
        for mode in [SslMode::Require, SslMode::VerifyCa, SslMode::VerifyFull] {
            assert_eq!(SslNegotiation::Direct.check(mode), Ok(()));
        }
        let weak = [SslMode::Disable, SslMode::Allow, SslMode::Prefer];
        let errors = weak.map(|mode| SslNegotiation::Direct.check(mode).unwrap_err());
        insta::assert_snapshot!(errors.join("\n"), @"
        sslnegotiation=direct needs sslmode require, verify-ca or verify-full (now disable)
        sslnegotiation=direct needs sslmode require, verify-ca or verify-full (now allow)
        sslnegotiation=direct needs sslmode require, verify-ca or verify-full (now prefer)
        ");
    }

    #[test]
    fn older_tls_versions_mean_the_lowest_supported_one() {
        for text in ["TLSv1", "TLSv1.1", "TLSv1.2", "tlsv1.2"] {
            assert_eq!(TlsVersion::minimum(text), Ok(TlsVersion::V12), "{text}");
        }
        assert_eq!(TlsVersion::minimum("TLSv1.3"), Ok(TlsVersion::V13));
        assert_eq!(TlsVersion::maximum("TLSv1.2"), Ok(TlsVersion::V12));
        assert_eq!(TlsVersion::maximum("TLSv1.3"), Ok(TlsVersion::V13));
        let errors = [
            TlsVersion::minimum("1.2"),
            TlsVersion::maximum("TLSv1.1"),
            TlsVersion::maximum("SSLv3"),
        ]
        .map(Result::unwrap_err);
        insta::assert_snapshot!(errors.join("\n"), @"
        must be TLSv1, TLSv1.1, TLSv1.2 or TLSv1.3
        must be TLSv1.2 or TLSv1.3: older versions are not supported
        must be TLSv1.2 or TLSv1.3
        ");
    }
}
