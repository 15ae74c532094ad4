//! The error type that all modules share: what failed, its causes and a hint.
//!
//! A script that catches a fault sees its kind as `kind`; the kind of an uncaught fault sets the exit
//! code. A fault never holds a token or a secret.

pub mod color;
pub mod diagnostic;
pub mod escape;
pub mod exit;
pub mod probe;
pub mod suggest;

use std::fmt;
use std::time::Duration;

/// The kind of a failure, with the values that a script can act on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// The source responded with a status other than 200.
    HttpStatus {
        /// The HTTP status code.
        status: u16,
        /// The `Retry-After` of the response.
        retry_after: Option<Duration>,
    },
    /// The source did not respond in time.
    HttpTimeout,
    /// The source could not be reached; it did not serve the request.
    HttpConnect,
    /// The response is not a list of tokens.
    HttpProtocol,
    /// The source stopped delivering before SIZE tokens were received.
    ShortSupply {
        /// The number of tokens requested.
        requested: u64,
        /// The number of tokens received.
        received: u64,
    },
    /// The database could not be reached, or its connection was lost and not restored.
    DbConnect,
    /// The database refused an operation that every token needs.
    DbDenied {
        /// The SQLSTATE, such as `42501`.
        sqlstate: String,
    },
    /// A call received an invalid value.
    InvalidArgument {
        /// The name of the argument.
        argument: String,
        /// The valid values.
        expected: String,
    },
    /// A stream was consumed a second time.
    StreamConsumed,
    /// A report or the standard output cannot be written.
    OutputClosed,
    /// An import is outside the script's folder, or does not exist.
    ImportDenied,
}

impl ErrorKind {
    /// The names of all kinds, as scripts see them in `kind`.
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

    /// Returns the name that scripts see as `kind`.
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

    /// Returns true for failures of the token source.
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

    /// Returns true for failures of the database.
    pub fn is_database(&self) -> bool {
        matches!(self, Self::DbConnect | Self::DbDenied { .. })
    }
}

/// A failure: a message, its causes and a hint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The kind.
    pub kind: ErrorKind,
    /// One sentence without a full stop: what failed.
    pub message: String,
    /// The causes, outermost first.
    pub causes: Vec<String>,
    /// The next step for the user.
    pub hint: Option<String>,
    /// True if a retry is safe and may succeed.
    pub retryable: bool,
}

impl Fault {
    /// Creates a fault that is not retryable.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
            causes: Vec::new(),
            hint: None,
            retryable: false,
        }
    }

    /// Appends a cause.
    #[must_use]
    pub fn cause(mut self, cause: impl Into<String>) -> Self {
        self.causes.push(cause.into());
        self
    }

    /// Sets the hint.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Marks the fault as retryable.
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

/// Returns the messages of an error and its sources, outermost first, without repetitions.
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
