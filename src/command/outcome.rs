//! The result of a command, and how it reaches standard error and the exit status.

use std::io::{self, IsTerminal as _, Write as _};

use crate::cli::env::Env;
use crate::error::Error;
use crate::error::escape::escape;
use crate::error::exit::Exit;
use crate::observe::logging::LineFormat;

/// How a command ended, and what to print about it.
#[derive(Debug)]
pub struct CommandOutcome {
    pub(crate) exit: Exit,
    /// The summary line of a run.
    pub(crate) summary: Option<String>,
    /// Lines below the summary, for a terminal.
    pub(crate) details: Vec<String>,
    /// Warnings about the process itself.
    pub(crate) warnings: Vec<String>,
    pub(crate) errors: Vec<Error>,
    /// The layout of errors.
    pub(crate) error_format: LineFormat,
}

impl CommandOutcome {
    /// Returns the outcome of a command without a summary.
    pub(crate) fn new(exit: Exit, errors: Vec<Error>) -> Self {
        Self {
            exit,
            summary: None,
            details: Vec::new(),
            warnings: Vec::new(),
            errors,
            error_format: LineFormat::default(),
        }
    }

    /// Adds a warning, which is printed before the errors.
    pub fn warn(&mut self, warning: String) {
        self.warnings.push(warning);
    }

    /// Prints summary, warnings and errors to standard error.
    ///
    /// Ignores failed writes: if standard error is closed, the exit status still tells.
    pub fn print(&self, env: &Env) {
        let mut stderr = io::stderr();
        for line in self.summary.iter().chain(&self.details) {
            let _ = writeln!(stderr, "{line}");
        }
        for warning in &self.warnings {
            let _ = writeln!(stderr, "warning: {}", escape(warning));
        }
        for error in &self.errors {
            let text = match self.error_format {
                LineFormat::Text => error.render(stderr.is_terminal() && env.allows_color()),
                LineFormat::Json => error.to_json(),
            };
            let _ = writeln!(stderr, "{text}");
        }
    }

    /// Returns the one line that describes the outcome best, if there is anything to say.
    pub fn headline(&self) -> Option<String> {
        let summary = self.summary.clone();
        summary.or_else(|| self.errors.first().map(Error::headline))
    }

    /// Returns the exit status of the process.
    pub fn exit_code(&self) -> u8 {
        self.exit.code()
    }
}

impl From<Vec<Error>> for CommandOutcome {
    fn from(errors: Vec<Error>) -> Self {
        let exit = errors.first().map_or(Exit::Completed, |first| first.exit);
        Self::new(exit, errors)
    }
}
