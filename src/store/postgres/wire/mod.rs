//! Watches what a server sends before tokio-postgres reads it.
//!
//! tokio-postgres hides the transaction status of `ReadyForQuery`, keeps notices of any number and
//! messages of any size, and reads an unreadable command tag as zero rows. So each connection reads
//! through a `MonitoredStream`, above TLS if there is TLS. A `MessageFilter` parses the type and the
//! length of each message and forwards, shortens, replaces or drops it. A `ConnectionMonitor` is what the
//! connection and its stream share.

mod fields;
mod filter;
mod socket;
mod stream;
#[cfg(test)]
mod tests;
mod tls;

use std::fmt;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use crate::store::postgres::{AuthMethod, RequireAuth};

pub(super) use crate::store::postgres::wire::socket::{HostAddress, Socket};
pub(super) use crate::store::postgres::wire::stream::MonitoredStream;
pub(super) use crate::store::postgres::wire::tls::MonitoredTls;

/// The longest message, and the longest answer, if no look-up is under way.
const MESSAGE_LIMIT: u64 = 1 << 20;
/// The longest answer to a look-up, if what it asks for is not longer.
const LOOKUP_LIMIT: u64 = 32 << 20;

/// Why the client ended a connection: the server broke a rule of the protocol or exceeded a limit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::store) enum ProtocolViolation {
    /// A transaction was open that this connection had not begun.
    OpenTransaction,
    /// A message was too long.
    MessageTooLong {
        /// Its length in bytes.
        length: u64,
        /// The limit in bytes.
        limit: u64,
    },
    /// The messages of one answer were too long together.
    AnswerTooLong {
        /// The limit in bytes.
        limit: u64,
    },
    /// The server sent too many messages before the session was ready.
    TooManyMessages {
        /// The limit.
        limit: u32,
    },
    /// The length of a message cannot be right.
    Unreadable,
    /// The answer to the request for TLS is neither yes nor no.
    TlsAnswer,
    /// The server asks for an authentication method that `require_auth` excludes.
    AuthMethod {
        /// The method, as `require_auth` spells it.
        asked: &'static str,
        /// The value of `require_auth`.
        required: String,
    },
}

impl fmt::Display for ProtocolViolation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OpenTransaction => f.write_str("the server handed over an open transaction"),
            Self::MessageTooLong { length, limit } => write!(
                f,
                "the server sent a message of {length} bytes, more than the limit of {}",
                ByteCount(*limit)
            ),
            Self::AnswerTooLong { limit } => write!(
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
            Self::TlsAnswer => {
                f.write_str("the server answered the request for TLS with neither yes nor no")
            }
            Self::AuthMethod {
                asked: "none",
                required,
            } => write!(
                f,
                "the server did not ask for authentication, and require_auth is {required}"
            ),
            Self::AuthMethod { asked, required } => write!(
                f,
                "the server asks for {asked} authentication, and require_auth is {required}"
            ),
        }
    }
}

impl std::error::Error for ProtocolViolation {}

/// A number of bytes in words.
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

/// What a connection and the filter of its stream share.
pub(in crate::store) struct ConnectionMonitor {
    violation: OnceLock<ProtocolViolation>,
    /// How many transactions this client has begun and not seen end.
    transactions: AtomicU32,
    answer_limit: AtomicU64,
    /// How many look-ups raise that limit.
    long_answers: AtomicU32,
    /// What the server says of its version when the session begins.
    server_version: OnceLock<String>,
    require_auth: Option<RequireAuth>,
}

impl ConnectionMonitor {
    /// The monitor of a connection that accepts these authentication methods.
    pub(super) fn new(require_auth: Option<RequireAuth>) -> Self {
        Self {
            violation: OnceLock::new(),
            transactions: AtomicU32::new(0),
            answer_limit: AtomicU64::new(MESSAGE_LIMIT),
            long_answers: AtomicU32::new(0),
            server_version: OnceLock::new(),
            require_auth,
        }
    }

    /// Why the client ended the connection, if it did.
    pub(super) fn violation(&self) -> Option<&ProtocolViolation> {
        self.violation.get()
    }

    /// The version as the server says it, such as `15.18 (Debian 15.18-0+deb12u1)`.
    pub(super) fn server_version(&self) -> Option<&str> {
        self.server_version.get().map(String::as_str)
    }

    /// True if the server handed over a transaction that this connection had not begun.
    pub(super) fn had_open_transaction(&self) -> bool {
        self.violation() == Some(&ProtocolViolation::OpenTransaction)
    }

    /// Begins a transaction of this client; to be called before `BEGIN` is sent.
    pub(super) fn begin_transaction(&self) {
        self.transactions.fetch_add(1, Ordering::Relaxed);
    }

    /// Ends what [`ConnectionMonitor::begin_transaction`] began; to be called after the answer to `ROLLBACK` or
    /// `COMMIT`.
    pub(super) fn end_transaction(&self) {
        let _ = self
            .transactions
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |count| {
                count.checked_sub(1)
            });
    }

    /// Raises the limit of an answer to that of a look-up, and at least to `length` bytes, until the
    /// guard is dropped.
    pub(super) fn allow_long_answers(&self, length: u64) -> LongAnswers<'_> {
        self.long_answers.fetch_add(1, Ordering::Relaxed);
        let limit = LOOKUP_LIMIT.max(length);
        self.answer_limit.fetch_max(limit, Ordering::Relaxed);
        LongAnswers(self)
    }

    /// Checks an authentication method against `require_auth`; `None` is a method without a name.
    fn allows(&self, method: Option<AuthMethod>) -> Result<(), ProtocolViolation> {
        match &self.require_auth {
            Some(required) if !method.is_some_and(|method| required.allows(method)) => {
                Err(ProtocolViolation::AuthMethod {
                    asked: method.map_or("another", AuthMethod::as_str),
                    required: required.as_str().to_owned(),
                })
            }
            _ => Ok(()),
        }
    }

    fn stop(&self, violation: ProtocolViolation) {
        // The first one counts.
        let _ = self.violation.set(violation);
    }
}

/// Restores the limit of an answer if no other look-up is under way.
pub(super) struct LongAnswers<'a>(&'a ConnectionMonitor);

impl Drop for LongAnswers<'_> {
    fn drop(&mut self) {
        if self.0.long_answers.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.0.answer_limit.store(MESSAGE_LIMIT, Ordering::Relaxed);
        }
    }
}
