//! The error type that all modules share: what failed, where, why, what to do, and the exit status.
//!
//! `render` writes it as text and as JSON; only `main` prints it. An error never holds a token or a
//! secret.

pub mod color;
pub mod escape;
pub mod exit;
pub mod kind;
pub mod probe;
mod render;
pub mod suggest;

use std::fmt;
use std::ops::{Deref, DerefMut};

use serde::Serialize;

use crate::error::escape::escape;
use crate::error::exit::Exit;
pub use crate::error::kind::ErrorKind;

/// A position in a user's file, with a label for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Location {
    /// The file's path as the user knows it.
    pub file: String,
    /// The text of the file; if empty, only the position is shown.
    pub source: String,
    /// The line, from 1.
    pub line: usize,
    /// The column in characters, from 1.
    pub column: usize,
    /// How many characters are marked, at least 1; never beyond the line's end.
    pub length: usize,
    /// The text beside the mark, such as ``did you mean `store`?``; may be empty.
    pub label: String,
}

/// One call of the stack at the error.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CallFrame {
    /// The called function; empty for the top level of a script.
    pub name: String,
    /// The file that contains the call.
    pub file: String,
    /// The call's line, from 1.
    pub line: usize,
    /// The call's column in characters, from 1.
    pub column: usize,
}

/// The severity of an error.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// The command fails.
    #[default]
    Error,
    /// The command can go on, but the input looks wrong.
    Warning,
}

/// The parts of an [`Error`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ErrorParts {
    /// The severity.
    pub severity: Severity,
    /// One sentence without a full stop: what failed.
    pub message: String,
    /// The kind, if a script can catch the error.
    pub kind: Option<ErrorKind>,
    /// The causes, outermost first.
    pub causes: Vec<String>,
    /// The position in a script or configuration file.
    pub location: Option<Location>,
    /// The call stack, innermost call first.
    pub frames: Vec<CallFrame>,
    /// Additional facts, one line each.
    pub notes: Vec<String>,
    /// The next step for the user.
    pub hint: Option<String>,
    /// True if a retry is safe and may succeed.
    pub retryable: bool,
    /// The exit status of the process.
    pub exit: Exit,
}

/// An error or warning. Its parts are accessible through `Deref`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error(Box<ErrorParts>);

impl Error {
    /// Creates an error that no script can catch; `message` is one sentence without a full stop.
    pub fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self(Box::new(ErrorParts {
            severity: Severity::Error,
            message: message.into(),
            kind: None,
            causes: Vec::new(),
            location: None,
            frames: Vec::new(),
            notes: Vec::new(),
            hint: None,
            retryable: false,
            exit,
        }))
    }

    /// Creates an error of `kind`, with the exit status of that kind. It is not retryable.
    pub fn of(kind: ErrorKind, message: impl Into<String>) -> Self {
        let mut error = Self::new(kind.exit(), message);
        if let ErrorKind::HttpStatus {
            retry_after: Some(wait),
            ..
        } = kind
        {
            error = error.note(format!("retry_after_ms {}", wait.as_millis()));
        }
        error.kind = Some(kind);
        error
    }

    /// Turns the error into a warning.
    #[must_use]
    pub fn warning(mut self) -> Self {
        self.severity = Severity::Warning;
        self
    }

    /// Replaces the exit status.
    #[must_use]
    pub fn with_exit(mut self, exit: Exit) -> Self {
        self.exit = exit;
        self
    }

    /// Marks the error as retryable.
    #[must_use]
    pub fn retryable(mut self) -> Self {
        self.retryable = true;
        self
    }

    /// Appends a cause.
    #[must_use]
    pub fn cause(mut self, cause: impl Into<String>) -> Self {
        self.causes.push(cause.into());
        self
    }

    /// Sets the location.
    #[must_use]
    pub fn location(mut self, location: Location) -> Self {
        self.location = Some(location);
        self
    }

    /// Appends the next outer call.
    #[must_use]
    pub fn frame(mut self, frame: CallFrame) -> Self {
        self.frames.push(frame);
        self
    }

    /// Appends a fact.
    #[must_use]
    pub fn note(mut self, note: impl Into<String>) -> Self {
        self.notes.push(note.into());
        self
    }

    /// Sets the hint.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Applies `map` to the message, the causes, the notes, the hint and the label.
    #[must_use]
    pub fn map_texts(mut self, map: impl Fn(&str) -> String) -> Self {
        let parts = &mut *self.0;
        let lines = parts.causes.iter_mut().chain(&mut parts.notes);
        for text in lines.chain(&mut parts.hint).chain([&mut parts.message]) {
            *text = map(text);
        }
        if let Some(location) = &mut parts.location {
            location.label = map(&location.label);
        }
        self
    }

    /// Returns true if the error has a kind for which `test` holds.
    pub fn is_kind(&self, test: impl FnOnce(&ErrorKind) -> bool) -> bool {
        self.kind.as_ref().is_some_and(test)
    }

    /// Returns the parts by value.
    pub fn into_parts(self) -> ErrorParts {
        *self.0
    }

    /// Returns the name of the kind; empty for an error without a kind.
    pub fn kind_name(&self) -> &str {
        self.kind.as_ref().map_or("", ErrorKind::as_str)
    }
}

impl Deref for Error {
    type Target = ErrorParts;

    fn deref(&self) -> &ErrorParts {
        &self.0
    }
}

impl DerefMut for Error {
    fn deref_mut(&mut self) -> &mut ErrorParts {
        &mut self.0
    }
}

impl fmt::Display for Error {
    /// Writes the escaped message.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&escape(&self.message))
    }
}

impl std::error::Error for Error {}

impl From<anyhow::Error> for Error {
    /// Converts an unexpected failure: the outermost context is the message, the rest are the causes.
    fn from(error: anyhow::Error) -> Self {
        let mut messages = error.chain().map(ToString::to_string);
        let message = messages.next().unwrap_or_default();
        messages.fold(Self::new(Exit::Script, message), Self::cause)
    }
}

/// Creates an error of usage or configuration.
pub fn usage(message: impl Into<String>) -> Error {
    Error::new(Exit::Usage, message)
}

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
