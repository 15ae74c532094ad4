//! The one error value that crosses the rooms: what failed, why, and what to do next.
//!
//! The kinds are the contract's: a script that catches a fault sees them as `kind`, and an
//! uncaught one decides the exit code. A fault never holds a token or a secret.

pub mod color;
pub mod diagnostic;
pub mod escape;
pub mod exit;
pub mod probe;
pub mod suggest;

use std::fmt;
use std::time::Duration;

/// What kind of failure it is, with what a script may want to act on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// The source answered with a status other than 200.
    HttpStatus {
        /// The HTTP status code.
        status: u16,
        /// The answer's `Retry-After`, if it had one.
        retry_after: Option<Duration>,
    },
    /// The source did not answer in time.
    HttpTimeout,
    /// The source could not be reached; the request was certainly not served.
    HttpConnect,
    /// The source answered something that is no list of tokens.
    HttpProtocol,
    /// The source stopped delivering before SIZE tokens were there.
    ShortSupply {
        /// How many tokens were asked for.
        requested: u64,
        /// How many came.
        received: u64,
    },
    /// The database could not be reached, or the connection to it was lost for good.
    DbConnect,
    /// The database refused in a way that concerns every token.
    DbDenied {
        /// The five characters of its verdict, such as `42501`.
        sqlstate: String,
    },
    /// A call got a value that it cannot work with.
    InvalidArgument {
        /// The argument's name.
        argument: String,
        /// What it may be.
        expected: String,
    },
    /// A stream was used a second time.
    StreamConsumed,
    /// A report or the standard output cannot be written any more.
    OutputClosed,
    /// An import lies outside the script's folder, or does not exist.
    ImportDenied,
}

impl ErrorKind {
    /// The names of all kinds, as scripts see them.
    pub const NAMES: [&str; 11] = [
        "http_status",
        "http_timeout",
        "http_connect",
        "http_protocol",
        "short_supply",
        "db_connect",
        "db_denied",
        "invalid_argument",
        "stream_consumed",
        "output_closed",
        "import_denied",
    ];

    /// The name that scripts see as `kind`.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::HttpStatus { .. } => "http_status",
            Self::HttpTimeout => "http_timeout",
            Self::HttpConnect => "http_connect",
            Self::HttpProtocol => "http_protocol",
            Self::ShortSupply { .. } => "short_supply",
            Self::DbConnect => "db_connect",
            Self::DbDenied { .. } => "db_denied",
            Self::InvalidArgument { .. } => "invalid_argument",
            Self::StreamConsumed => "stream_consumed",
            Self::OutputClosed => "output_closed",
            Self::ImportDenied => "import_denied",
        }
    }

    /// True for the failures of the token source.
    pub fn is_source(&self) -> bool {
        matches!(
            self,
            Self::HttpStatus { .. }
                | Self::HttpTimeout
                | Self::HttpConnect
                | Self::HttpProtocol
                | Self::ShortSupply { .. }
        )
    }

    /// True for the failures of the database.
    pub fn is_database(&self) -> bool {
        matches!(self, Self::DbConnect | Self::DbDenied { .. })
    }
}

/// A failure: one sentence, what caused it, and a hint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// What kind of failure it is.
    pub kind: ErrorKind,
    /// One sentence without a full stop: what failed.
    pub message: String,
    /// Why, outermost first.
    pub causes: Vec<String>,
    /// What to do next.
    pub hint: Option<String>,
    /// True where doing the same again may succeed and is safe.
    pub retryable: bool,
}

impl Fault {
    /// A fault that is not worth a retry.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
            causes: Vec::new(),
            hint: None,
            retryable: false,
        }
    }

    /// Adds a cause beneath those it has.
    #[must_use]
    pub fn cause(mut self, cause: impl Into<String>) -> Self {
        self.causes.push(cause.into());
        self
    }

    /// Says what to do next.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Marks it as worth a retry.
    #[must_use]
    pub fn retryable(mut self) -> Self {
        self.retryable = true;
        self
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Fault {}

/// The messages of an error and of all that caused it, outermost first, without repeats.
pub fn chain(error: &(dyn std::error::Error + 'static)) -> Vec<String> {
    let mut messages: Vec<String> = Vec::new();
    let mut next = Some(error);
    while let Some(error) = next {
        let message = error.to_string();
        if !messages.iter().any(|seen| seen.contains(&message)) {
            messages.push(message);
        }
        next = error.source();
    }
    messages
}
