//! The kinds of error that a script can catch, and the exit status of each.

use std::time::Duration;

use crate::error::exit::Exit;

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
    /// A kind that a script threw: its own, or that of an error it caught before.
    Thrown(String),
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
    pub fn as_str(&self) -> &str {
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
            Self::Thrown(name) => name,
        }
    }

    /// Returns the exit status of a run that an error of this kind ends.
    pub fn exit(&self) -> Exit {
        match self.as_str() {
            "db_connect" | "db_denied" => Exit::Database,
            "short_supply" => Exit::Source,
            name if name.starts_with("http_") => Exit::Source,
            _ => Exit::Script,
        }
    }
}
