//! PostgreSQL: connections with many requests in flight.

use std::path::PathBuf;
use std::time::Duration;

use secrecy::SecretString;

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
