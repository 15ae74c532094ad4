//! Filters what a server sends before tokio-postgres reads it.
//!
//! tokio-postgres hides the transaction status of `ReadyForQuery`, keeps any number of notices and
//! messages of any size, and reads an unreadable command tag as zero rows. So each connection reads
//! through a `MonitoredStream`, inside TLS if there is TLS. A `MessageFilter` parses the type and
//! length of each message and forwards, shortens, replaces or drops it. The connection and its
//! stream share a `ConnectionMonitor`.

mod fields;
mod filter;
mod socket;
mod stream;
#[cfg(test)]
mod tests;
mod threshold;
mod tls;

use std::fmt;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use tokio_util::sync::CancellationToken;

pub(super) use crate::store::postgres::wire::socket::{HostAddress, Socket};
pub(super) use crate::store::postgres::wire::stream::MonitoredStream;
pub(super) use crate::store::postgres::wire::threshold::ReplyThreshold;
pub(super) use crate::store::postgres::wire::tls::MonitoredTls;
use crate::store::postgres::{AuthMethod, RequireAuth};

/// The limit of a message and of a reply, except during a look-up.
const MESSAGE_LIMIT: u64 = 1 << 20;
/// The limit of a look-up's reply, unless a longer one is expected.
const LOOKUP_LIMIT: u64 = 32 << 20;

/// Why the client ended a connection: the server violated the protocol or exceeded a limit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::store) enum ProtocolViolation {
    /// A transaction was open that this connection did not begin.
    OpenTransaction,
    /// A message was too long.
    MessageTooLong {
        /// Its length in bytes.
        length: u64,
        /// The limit in bytes.
        limit: u64,
    },
    /// The messages of one reply were too long in total.
    ReplyTooLong {
        /// The limit in bytes.
        limit: u64,
    },
    /// The server sent too many messages before the session was ready.
    TooManyMessages {
        /// The limit.
        limit: u32,
    },
    /// The length of a message is invalid.
    Unreadable,
    /// The reply to `SSLRequest` is invalid.
    TlsReply,
    /// The server requests an authentication method that `require_auth` excludes.
    AuthMethod {
        /// The method, as `require_auth` spells it.
        requested: &'static str,
        /// The value of `require_auth`.
        required: String,
    },
}

impl fmt::Display for ProtocolViolation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OpenTransaction => {
                f.write_str("the server was inside an open transaction of another client")
            }
            Self::MessageTooLong { length, limit } => write!(
                f,
                "the server sent a message of {length} bytes, more than the limit of {}",
                ByteCount(*limit)
            ),
            Self::ReplyTooLong { limit } => write!(
                f,
                "the server sent an answer of more than the limit of {}",
                ByteCount(*limit)
            ),
            Self::TooManyMessages { limit } => write!(
                f,
                "the server sent more than {limit} messages before the session was ready"
            ),
            Self::Unreadable => {
                f.write_str("the server sent a message that PostgreSQL's protocol does not have")
            }
            Self::TlsReply => {
                f.write_str("the server answered the request for TLS with neither yes nor no")
            }
            Self::AuthMethod {
                requested: "none",
                required,
            } => write!(
                f,
                "the server did not ask for authentication, and require_auth is {required}"
            ),
            Self::AuthMethod {
                requested,
                required,
            } => write!(
                f,
                "the server asks for {requested} authentication, and require_auth is {required}"
            ),
        }
    }
}

impl std::error::Error for ProtocolViolation {}

/// A number of bytes, shown with its unit.
struct ByteCount(u64);

impl fmt::Display for ByteCount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            bytes if bytes >= 1 << 30 => write!(f, "{} GiB", bytes >> 30),
            bytes if bytes >= 1 << 20 => write!(f, "{} MiB", bytes >> 20),
            bytes => write!(f, "{} KiB", bytes >> 10),
        }
    }
}

/// The state that a connection and its stream's filter share.
pub(in crate::store) struct ConnectionMonitor {
    violation: OnceLock<ProtocolViolation>,
    /// The transactions that this client began and that have not ended.
    transactions: AtomicU32,
    reply_limit: AtomicU64,
    /// The number of look-ups that raise the limit.
    long_replies: AtomicU32,
    /// The server's version, as reported at session start.
    server_version: OnceLock<String>,
    require_auth: Option<RequireAuth>,
    login: LoginSequence,
    /// Whether the server accepts the request for TLS.
    accepts_tls: OnceLock<bool>,
    /// True if the server agreed on PostgreSQL's protocol (ALPN).
    agrees_on_protocol: OnceLock<()>,
    /// The shortest time between a request of the session start and its reply, in microseconds.
    round_trip: AtomicU64,
}

/// How the logins of connections that start together follow each other: the password is sent again
/// only after the first connection has logged in.
#[derive(Clone, Debug, Default)]
pub(super) struct LoginSequence {
    /// Cancelled when the server requests authentication; `None` if nothing waits for that.
    pub(super) auth_requested: Option<CancellationToken>,
    /// The same, but not over TLS: another attempt without TLS may follow.
    pub(super) auth_requested_without_tls: Option<CancellationToken>,
    /// Cancelled when the password may be sent; `None` for at once.
    pub(super) may_log_in: Option<CancellationToken>,
}

impl ConnectionMonitor {
    /// Creates the monitor of a connection with these authentication methods.
    pub(super) fn new(require_auth: Option<RequireAuth>, login: LoginSequence) -> Self {
        Self {
            violation: OnceLock::new(),
            transactions: AtomicU32::new(0),
            reply_limit: AtomicU64::new(MESSAGE_LIMIT),
            long_replies: AtomicU32::new(0),
            server_version: OnceLock::new(),
            require_auth,
            login,
            accepts_tls: OnceLock::new(),
            agrees_on_protocol: OnceLock::new(),
            round_trip: AtomicU64::new(u64::MAX),
        }
    }

    /// Returns whether the server accepts TLS; `None` if it was not asked.
    pub(super) fn accepts_tls(&self) -> Option<bool> {
        self.accepts_tls.get().copied()
    }

    /// Returns true if TLS is in use and the server agreed on PostgreSQL's protocol (ALPN).
    pub(super) fn agrees_on_protocol(&self) -> bool {
        self.agrees_on_protocol.get().is_some()
    }

    /// Returns the shortest round trip of the session start, an upper bound of the network's.
    pub(super) fn round_trip(&self) -> Duration {
        Duration::from_micros(self.round_trip.load(Ordering::Relaxed))
    }

    fn record_round_trip(&self, round_trip: Duration) {
        let microseconds = u64::try_from(round_trip.as_micros()).unwrap_or(u64::MAX);
        self.round_trip.fetch_min(microseconds, Ordering::Relaxed);
    }

    /// Records the server's first request for authentication.
    fn record_auth_request(&self) {
        let LoginSequence {
            auth_requested,
            auth_requested_without_tls,
            ..
        } = &self.login;
        let without_tls = auth_requested_without_tls
            .as_ref()
            .filter(|_| self.accepts_tls() == Some(false));
        for requested in auth_requested.iter().chain(without_tls) {
            requested.cancel();
        }
    }

    /// Returns why the client ended the connection, if it did.
    pub(super) fn violation(&self) -> Option<&ProtocolViolation> {
        self.violation.get()
    }

    /// Returns the server's version, such as `15.18 (Debian 15.18-0+deb12u1)`.
    pub(super) fn server_version(&self) -> Option<&str> {
        self.server_version.get().map(String::as_str)
    }

    /// Returns true if the server was inside a transaction that this connection did not begin.
    pub(super) fn had_open_transaction(&self) -> bool {
        self.violation() == Some(&ProtocolViolation::OpenTransaction)
    }

    /// Records that this client begins a transaction; call it before sending `BEGIN`.
    pub(super) fn begin_transaction(&self) {
        self.transactions.fetch_add(1, Ordering::Relaxed);
    }

    /// Records the end of a transaction; call it after the reply to `ROLLBACK` or `COMMIT`.
    pub(super) fn end_transaction(&self) {
        let _ = self
            .transactions
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |count| {
                count.checked_sub(1)
            });
    }

    /// Raises the reply limit to that of a look-up, and at least to `length` bytes, until the guard
    /// is dropped.
    pub(super) fn allow_long_replies(&self, length: u64) -> LongReplies<'_> {
        self.long_replies.fetch_add(1, Ordering::Relaxed);
        let limit = LOOKUP_LIMIT.max(length);
        self.reply_limit.fetch_max(limit, Ordering::Relaxed);
        LongReplies(self)
    }

    /// Checks an authentication method against `require_auth`; `None` is a method without a name.
    fn check_auth_method(&self, method: Option<AuthMethod>) -> Result<(), ProtocolViolation> {
        match &self.require_auth {
            Some(required) if !method.is_some_and(|method| required.allows(method)) => {
                Err(ProtocolViolation::AuthMethod {
                    requested: method.map_or("another", AuthMethod::as_str),
                    required: required.as_str().to_owned(),
                })
            }
            _ => Ok(()),
        }
    }

    fn record_violation(&self, violation: ProtocolViolation) {
        // The first violation is kept.
        let _ = self.violation.set(violation);
    }
}

/// Restores the reply limit if no other look-up is in progress.
pub(super) struct LongReplies<'a>(&'a ConnectionMonitor);

impl Drop for LongReplies<'_> {
    fn drop(&mut self) {
        if self.0.long_replies.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.0.reply_limit.store(MESSAGE_LIMIT, Ordering::Relaxed);
        }
    }
}
