//! Stores tokens in PostgreSQL over connections with many INSERTs in flight.
//!
//! `url`, `parameters`, `host`, `password` and `passfile` hold an address. `hosts` finds the server
//! that accepts writes, `connect` makes a `connection`, `wire` filters what its server sends, and
//! `setup` prepares the session; `connect_error` explains why that fails. `catalog` reads the table
//! from the server's catalogs, and `classify` decides by it what an error means for a token.
//! `insert_sql` has the statements that insert a token, which a `writer_connection` sends. After a loss,
//! `look_up` finds what was stored by value, with the help of `xid_horizon`, and `receipts` by key;
//! `recheck` looks up the tokens of an earlier process; `receipt_rows` reads and deletes receipts. `stall_monitor` ends a run whose commits are never confirmed, by the times
//! in `progress`. `inspect` probes a server for `check --connect`.

pub(super) mod catalog;
pub(super) mod classify;
mod connect;
mod connect_error;
mod connector;
pub(super) mod database;
mod early;
mod first_login;
mod free_connections;
mod host;
mod hosts;
mod insert_sql;
mod inspect;
mod known_servers;
mod look_up;
mod parameters;
mod passfile;
mod password;
mod progress;
mod raw_connection;
pub(super) mod receipt_rows;
mod receipts;
mod receipts_table;
mod recheck;
mod setup;
mod shared;
mod stall_monitor;
mod tls;
mod url;
mod wire;
mod writer_connection;
mod xid_horizon;

use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

pub use tokio_postgres::config::ChannelBinding;

pub(super) use crate::store::postgres::database::open;
pub use crate::store::postgres::host::{Host, TargetSession};
pub(super) use crate::store::postgres::inspect::{inspect, location};
pub use crate::store::postgres::parameters::{AuthMethod, RequireAuth, SslNegotiation, TlsVersion};
pub use crate::store::postgres::password::Password;
pub use crate::store::postgres::url::UrlError;

/// How the connection is secured, with libpq's meaning of each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SslMode {
    /// No TLS.
    Disable,
    /// Without TLS first, with TLS if the server refuses that.
    Allow,
    /// With TLS first, without TLS if the server does not support it.
    #[default]
    Prefer,
    /// Only with TLS; the certificate is verified only if a root certificate is given.
    Require,
    /// TLS, and a trusted authority issued the certificate.
    VerifyCa,
    /// TLS, and a trusted authority issued the certificate for this host name.
    VerifyFull,
}

impl SslMode {
    /// Every mode, the weakest first.
    pub const ALL: [Self; 6] = [
        Self::Disable,
        Self::Allow,
        Self::Prefer,
        Self::Require,
        Self::VerifyCa,
        Self::VerifyFull,
    ];

    /// Returns libpq's spelling.
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

    /// Returns the mode that another client's or database's spelling means.
    fn from_foreign_spelling(text: &str) -> Option<Self> {
        let letters = text.chars().filter(char::is_ascii_alphanumeric);
        let word: String = letters.collect::<String>().to_ascii_lowercase();
        match word.as_str() {
            "disable" | "disabled" | "none" | "false" | "off" | "no" | "0" => Some(Self::Disable),
            "allow" | "allowed" => Some(Self::Allow),
            "prefer" | "prefered" | "preferred" => Some(Self::Prefer),
            // node-postgres's `no-verify` means TLS without verification.
            "require" | "required" | "noverify" | "enable" | "enabled" | "true" | "on" | "yes"
            | "1" => Some(Self::Require),
            "verifyca" => Some(Self::VerifyCa),
            "verifyfull" | "verifyidentity" | "full" | "strict" => Some(Self::VerifyFull),
            _ => None,
        }
    }

    /// Returns the mode if none is configured: `prefer` if every host is loopback or a Unix socket,
    /// which cannot be intercepted, else `require`.
    pub fn default_for(hosts: &[Host]) -> Self {
        if hosts.iter().all(Host::is_local) {
            Self::Prefer
        } else {
            Self::Require
        }
    }

    /// Returns the mode if only `sslrootcert` is configured.
    ///
    /// As with libpq, `system` also verifies the host name, since anyone can get a certificate from
    /// a public authority.
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
            match Self::from_foreign_spelling(text) {
                Some(mode) => format!("must be one of {known} (did you mean `{}`?)", mode.as_str()),
                None => format!("must be one of {known}"),
            }
        })
    }
}

/// How an address was configured, for hints that name the setting to change.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum AddressOrigin {
    /// By separate settings, such as `DB_HOST`.
    #[default]
    Parts,
    /// By a URL in the variable or key of this name.
    Url(String),
}

/// A validated address: the servers, the login and the TLS settings.
#[derive(Clone, Debug)]
pub struct Address {
    /// The servers in the order of connection attempts; at least one.
    pub hosts: Vec<Host>,
    /// Which of the servers is acceptable.
    pub target_session: TargetSession,
    /// The role.
    pub user: String,
    /// The role's password.
    pub password: Option<Password>,
    /// libpq's password file, used if no password is set.
    pub passfile: Option<PathBuf>,
    /// The database.
    pub name: String,
    /// Whether and how TLS is used.
    pub sslmode: SslMode,
    /// The file of root certificates (PEM), or the word `system`.
    pub sslrootcert: Option<PathBuf>,
    /// The client's certificate (PEM).
    pub sslcert: Option<PathBuf>,
    /// The client certificate's key (PEM).
    pub sslkey: Option<PathBuf>,
    /// Whether SCRAM must be bound to the TLS connection.
    pub channel_binding: ChannelBinding,
    /// The accepted authentication methods; `None` accepts every method.
    pub require_auth: Option<RequireAuth>,
    /// How a TLS connection starts.
    pub sslnegotiation: SslNegotiation,
    /// The lowest accepted version of TLS.
    pub ssl_min_protocol_version: TlsVersion,
    /// The highest accepted version of TLS; not below the lowest.
    pub ssl_max_protocol_version: TlsVersion,
    /// True if the hosts and their addresses are tried in random order.
    pub load_balance_hosts: bool,
    /// Command-line options for the server (libpq's `options`), such as `-csearch_path=app`.
    pub startup_options: Option<String>,
    /// The time limit for a connection to one address, including TLS and authentication.
    pub connect_timeout: Duration,
    /// How the address was configured.
    pub origin: AddressOrigin,
}

impl Address {
    /// The default of `connect_timeout`.
    pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

    /// Creates an address without a password and with default parameters.
    pub fn new(hosts: Vec<Host>, user: String, name: String) -> Self {
        Self {
            sslmode: SslMode::default_for(&hosts),
            hosts,
            target_session: TargetSession::DEFAULT,
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
            origin: AddressOrigin::Parts,
        }
    }

    /// Parses a `postgres://` or `postgresql://` URL with libpq's parameters.
    ///
    /// # Errors
    /// What is wrong with the URL and what to write instead, without any part of the password.
    pub fn from_url(text: &str) -> Result<Self, UrlError> {
        url::parse(text)
    }

    /// Names the setting of a part: `variable`, or `part` in the URL.
    fn setting(&self, variable: &str, part: &str) -> String {
        match &self.origin {
            AddressOrigin::Parts => variable.to_owned(),
            AddressOrigin::Url(name) => format!("{part} in {name}"),
        }
    }

    /// Names the setting of the hosts.
    fn host_setting(&self) -> String {
        self.setting("DB_HOST", "the host")
    }

    /// Names the settings of the hosts and their ports.
    fn host_and_port_setting(&self) -> String {
        self.setting("DB_HOST and DB_PORT", "host and port")
    }

    /// Names the setting of `sslmode`.
    fn sslmode_setting(&self) -> String {
        self.setting("DB_SSLMODE", "sslmode")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sslmodes_are_spelled_as_in_libpq() {
        for mode in SslMode::ALL {
            assert_eq!(mode.as_str().parse(), Ok(mode));
        }
        assert!("Require".parse::<SslMode>().is_err());
    }

    #[test]
    fn default_sslmode_is_prefer_only_when_every_host_is_local() {
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
