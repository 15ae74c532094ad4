//! PostgreSQL: connections with many requests in flight.

use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use secrecy::SecretString;
use url::Url;

use crate::fault::{Fault, Kind};

/// How the connection is secured, with libpq's meaning of each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SslMode {
    /// No TLS.
    Disable,
    /// Without TLS first, with it where the server demands it.
    Allow,
    /// With TLS first, without it where the server has none.
    #[default]
    Prefer,
    /// TLS or nothing; the certificate is not verified unless a root certificate is given.
    Require,
    /// TLS with a certificate of a known authority.
    VerifyCa,
    /// TLS with a certificate of a known authority for this host name.
    VerifyFull,
}

/// Where a PostgreSQL server is and who connects to it; validated.
#[derive(Clone, Debug)]
pub struct Address {
    /// Host name, address, or the folder of a Unix socket (starts with `/`).
    pub host: String,
    /// TCP port, or the number in the socket's name.
    pub port: u16,
    /// The role.
    pub user: String,
    /// Its password.
    pub password: Option<SecretString>,
    /// The database.
    pub name: String,
    /// How the connection is secured.
    pub sslmode: SslMode,
    /// The file of root certificates (PEM), or the word `system`.
    pub sslrootcert: Option<PathBuf>,
    /// The client's certificate (PEM).
    pub sslcert: Option<PathBuf>,
    /// The client certificate's key (PEM).
    pub sslkey: Option<PathBuf>,
    /// The longest that connecting may take, TLS and authentication included.
    pub connect_timeout: Duration,
}

impl SslMode {
    /// The mode where none is configured: `prefer` where nobody can listen in, else `require`.
    pub fn default_for(host: &str) -> Self {
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        let is_loopback = bare
            .parse::<std::net::IpAddr>()
            .is_ok_and(|address| address.is_loopback());
        if host == "localhost" || host.starts_with('/') || is_loopback {
            Self::Prefer
        } else {
            Self::Require
        }
    }
}

impl FromStr for SslMode {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Ok(match text {
            "disable" => Self::Disable,
            "allow" => Self::Allow,
            "prefer" => Self::Prefer,
            "require" => Self::Require,
            "verify-ca" => Self::VerifyCa,
            "verify-full" => Self::VerifyFull,
            _ => {
                return Err(String::from(
                    "must be one of disable, allow, prefer, require, verify-ca, verify-full",
                ));
            }
        })
    }
}

impl Address {
    /// Reads `postgres://user:password@host:port/name?sslmode=…`.
    pub fn from_url(text: &str) -> Result<Self, Fault> {
        let wrong = |why: &str| {
            Fault::new(
                Kind::InvalidArgument {
                    argument: String::from("DATABASE_URL"),
                    expected: String::from("postgres://user:password@host:port/name"),
                },
                format!("the database's URL is not valid: {why}"),
            )
        };
        let url = Url::parse(text).map_err(|error| wrong(&error.to_string()))?;
        let host = url.host_str().unwrap_or("localhost").to_string();
        let name = url.path().trim_start_matches('/').to_string();
        let mut address = Self {
            sslmode: SslMode::default_for(&host),
            host,
            port: url.port().unwrap_or(5432),
            user: url.username().to_string(),
            password: url.password().map(SecretString::from),
            name,
            sslrootcert: None,
            sslcert: None,
            sslkey: None,
            connect_timeout: Duration::from_secs(10),
        };
        for (key, value) in url.query_pairs() {
            match key.as_ref() {
                "sslmode" => address.sslmode = value.parse().map_err(|why: String| wrong(&why))?,
                "sslrootcert" => address.sslrootcert = Some(value.as_ref().into()),
                "sslcert" => address.sslcert = Some(value.as_ref().into()),
                "sslkey" => address.sslkey = Some(value.as_ref().into()),
                _ => return Err(wrong(&format!("unknown parameter `{key}`"))),
            }
        }
        Ok(address)
    }
}
