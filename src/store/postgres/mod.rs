//! PostgreSQL: connections with many requests in flight.
//!
//! `url` reads addresses and `parameters` libpq's lists and words in them; `password` and `passfile`
//! find the password of a connection. `hosts` finds the server that takes writes, `connect` makes a `connection`,
//! `wire` watches what its server sends, and `setup` makes it ready for use (or `refusal` says why not).
//! `catalog` holds what the server's catalogs say about the table, and `attribution` decides by it whose
//! fault an error is. A `writer` sends over a link and waits for its `answers`; `pool` decides how many lanes
//! there are and what becomes of the `handover` of a lost one; `progress` ends a run whose commits are never
//! confirmed. `horizon` and `sent` know what is needed to find out what a lost connection did, `recheck`
//! finds out what a process did that is gone. `inspect` looks at a server for `check --connect`.

pub(super) mod catalog;
pub(super) mod classify;
pub(super) mod connect;
mod connect_error;
pub(super) mod connection;
pub(super) mod connector;
mod host;
mod hosts;
pub(crate) mod in_doubt;
pub(super) mod inflight;
mod inspect;
mod parameters;
mod passfile;
mod password;
mod pool;
mod progress;
mod recheck;
mod replies;
mod retry_set;
mod setup;
mod shared;
pub(crate) mod stall_monitor;
mod tls;
mod url;
mod wire;
mod writer;
pub(super) mod xid_horizon;

use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

pub(super) use crate::store::postgres::connect_error::every_insert_denied;
pub use crate::store::postgres::host::{Host, TargetSession};
pub(super) use crate::store::postgres::inspect::inspect;
pub use crate::store::postgres::parameters::{AuthMethod, RequireAuth, SslNegotiation, TlsVersion};
pub use crate::store::postgres::password::Password;
pub(super) use crate::store::postgres::pool::{Pool, gone};
pub(super) use crate::store::postgres::retry_set::MOST_LOSSES;
pub use crate::store::postgres::url::UrlError;
pub use tokio_postgres::config::ChannelBinding;

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

impl SslMode {
    /// All of them, the weakest first.
    pub const ALL: [Self; 6] = [
        Self::Disable,
        Self::Allow,
        Self::Prefer,
        Self::Require,
        Self::VerifyCa,
        Self::VerifyFull,
    ];

    /// libpq's spelling.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Disable => "disable",
            Self::Allow => "allow",
            Self::Prefer => "prefer",
            Self::Require => "require",
            Self::VerifyCa => "verify-ca",
            Self::VerifyFull => "verify-full",
        }
    }

    /// The mode that another client's or database's word means.
    fn meant_by(text: &str) -> Option<Self> {
        let letters = text.chars().filter(char::is_ascii_alphanumeric);
        let word: String = letters.collect::<String>().to_ascii_lowercase();
        match word.as_str() {
            "disable" | "disabled" | "none" | "false" | "off" | "no" | "0" => Some(Self::Disable),
            "allow" | "allowed" => Some(Self::Allow),
            "prefer" | "prefered" | "preferred" => Some(Self::Prefer),
            // node-postgres's `no-verify` is TLS without verification.
            "require" | "required" | "noverify" | "enable" | "enabled" | "true" | "on" | "yes"
            | "1" => Some(Self::Require),
            "verifyca" => Some(Self::VerifyCa),
            "verifyfull" | "verifyidentity" | "full" | "strict" => Some(Self::VerifyFull),
            _ => None,
        }
    }

    /// The mode where none is configured: `require`, but `prefer` where nobody can listen, because
    /// every host is loopback or a Unix socket.
    pub fn default_for(hosts: &[Host]) -> Self {
        if hosts.iter().all(Host::is_local) {
            Self::Prefer
        } else {
            Self::Require
        }
    }

    /// The mode if none is configured beside `sslrootcert`. As with libpq, `system` verifies the
    /// name too: anyone can get a certificate of a public authority.
    pub fn default_with(hosts: &[Host], sslrootcert: Option<&Path>) -> Self {
        match sslrootcert {
            Some(word) if word.as_os_str() == "system" => Self::VerifyFull,
            _ => Self::default_for(hosts),
        }
    }
}

impl FromStr for SslMode {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut modes = Self::ALL.into_iter();
        modes.find(|mode| mode.as_str() == text).ok_or_else(|| {
            let known = Self::ALL.map(Self::as_str).join(", ");
            match Self::meant_by(text) {
                Some(mode) => format!("must be one of {known} (did you mean `{}`?)", mode.as_str()),
                None => format!("must be one of {known}"),
            }
        })
    }
}

/// How an address was given, for hints that name what to change.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum AddressOrigin {
    /// By its parts.
    #[default]
    Parts,
    /// As a URL, in the variable or key of this name.
    Url(String),
}

/// Where a PostgreSQL server is and who connects to it; validated.
#[derive(Clone, Debug)]
pub struct Address {
    /// The servers, in the order in which they are tried; at least one.
    pub hosts: Vec<Host>,
    /// Which of them will do.
    pub session: TargetSession,
    /// The role.
    pub user: String,
    /// Its password.
    pub password: Option<Password>,
    /// libpq's password file, for a role without a password.
    pub passfile: Option<PathBuf>,
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
    /// Whether a password's proof must be bound to the TLS connection.
    pub channel_binding: ChannelBinding,
    /// The authentication methods that are accepted; `None` accepts every method.
    pub require_auth: Option<RequireAuth>,
    /// How a TLS connection starts.
    pub sslnegotiation: SslNegotiation,
    /// The lowest version of TLS that is accepted.
    pub ssl_min_protocol_version: TlsVersion,
    /// The highest version of TLS that is accepted; at least the lowest.
    pub ssl_max_protocol_version: TlsVersion,
    /// True if the hosts are tried in random order.
    pub load_balance_hosts: bool,
    /// Command-line options for the server (libpq's `options`), such as `-csearch_path=app`.
    pub startup_options: Option<String>,
    /// The longest that connecting to one host may take, TLS and authentication included.
    pub connect_timeout: Duration,
    /// How it was given.
    pub given: AddressOrigin,
}

impl Address {
    /// The longest that connecting may take where nothing else is configured.
    pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

    /// An address without a password, with the default of every parameter.
    pub fn new(hosts: Vec<Host>, user: String, name: String) -> Self {
        Self {
            sslmode: SslMode::default_for(&hosts),
            hosts,
            session: TargetSession::DEFAULT,
            user,
            password: None,
            passfile: None,
            name,
            sslrootcert: None,
            sslcert: None,
            sslkey: None,
            channel_binding: ChannelBinding::Prefer,
            require_auth: None,
            sslnegotiation: SslNegotiation::Postgres,
            ssl_min_protocol_version: TlsVersion::V12,
            ssl_max_protocol_version: TlsVersion::V13,
            load_balance_hosts: false,
            startup_options: None,
            connect_timeout: Self::CONNECT_TIMEOUT,
            given: AddressOrigin::Parts,
        }
    }

    /// Reads a `postgres://` or `postgresql://` URL with libpq's parameters.
    ///
    /// # Errors
    /// What is wrong with it, and what to write instead; never a part of the password.
    pub fn from_url(text: &str) -> Result<Self, UrlError> {
        url::parse(text)
    }

    /// What sets a part of it: `variable`, or `part` in the URL.
    fn set_by(&self, variable: &str, part: &str) -> String {
        match &self.given {
            AddressOrigin::Parts => variable.to_owned(),
            AddressOrigin::Url(name) => format!("{part} in {name}"),
        }
    }

    /// What sets the hosts.
    fn host_set_by(&self) -> String {
        self.set_by("DB_HOST", "the host")
    }

    /// What sets the hosts and their ports.
    fn place_set_by(&self) -> String {
        self.set_by("DB_HOST and DB_PORT", "host and port")
    }

    /// What sets how the connection is secured.
    fn sslmode_set_by(&self) -> String {
        self.set_by("DB_SSLMODE", "sslmode")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sslmodes_are_spelt_as_libpq_does() {
        for mode in SslMode::ALL {
            assert_eq!(mode.as_str().parse(), Ok(mode));
        }
        assert!("Require".parse::<SslMode>().is_err());
    }

    #[test]
    fn the_default_sslmode_asks_whether_anybody_could_listen() {
        let default_for = |list: &str| SslMode::default_for(&Host::list(list, &[]).unwrap());
        for host in [
            "localhost",
            "LocalHost",
            "127.0.0.1",
            "127.9.9.9",
            "::1",
            "/run/pg",
        ] {
            assert_eq!(default_for(host), SslMode::Prefer, "{host}");
        }
        assert_eq!(default_for("localhost,/run/pg"), SslMode::Prefer);
        for host in [
            "db",
            "10.0.0.1",
            "localhost.example.com",
            "2001:db8::1",
            "localhost,db",
        ] {
            assert_eq!(default_for(host), SslMode::Require, "{host}");
        }
    }
}
