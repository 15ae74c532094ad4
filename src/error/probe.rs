//! The results of `check --connect`: one for each thing that a run needs. They never hold a secret.

use crate::error::Error;
use crate::error::color::Color;
use crate::error::escape::{cut, escape};

/// The outcome of a probe.
#[derive(Clone, Debug, PartialEq, Eq)]
enum ProbeState {
    Ok,
    /// A run is possible, with a limitation.
    Warning,
    /// A run is not possible.
    Failed(Error),
}

/// The result of one probe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProbeResult {
    /// The thing that was probed, in at most eight letters.
    subject: &'static str,
    state: ProbeState,
    details: String,
}

impl ProbeResult {
    /// Creates a result without an error.
    pub fn ok(subject: &'static str, details: impl Into<String>) -> Self {
        Self {
            subject,
            state: ProbeState::Ok,
            details: details.into(),
        }
    }

    /// Creates a warning; `details` also say how to fix it.
    pub fn warning(subject: &'static str, details: impl Into<String>) -> Self {
        Self {
            state: ProbeState::Warning,
            ..Self::ok(subject, details)
        }
    }

    /// Creates a result that prevents a run; `address` is the address that was probed.
    pub fn error(subject: &'static str, address: &str, error: Error) -> Self {
        let details = format!("{address}  {}", error.message);
        Self {
            state: ProbeState::Failed(error),
            ..Self::ok(subject, details)
        }
    }

    /// Returns the error that prevents a run.
    pub fn blocking_error(&self) -> Option<&Error> {
        match &self.state {
            ProbeState::Failed(error) => Some(error),
            ProbeState::Ok | ProbeState::Warning => None,
        }
    }

    /// Applies `map` to the details.
    #[must_use]
    pub fn map_details(mut self, map: impl Fn(&str) -> String) -> Self {
        self.details = map(&self.details);
        self
    }

    /// Returns the line to print, without a line break.
    pub fn line(&self, color: Color) -> String {
        let result = match self.state {
            ProbeState::Ok => "ok  ",
            ProbeState::Warning => "warn",
            ProbeState::Failed(_) => "FAIL",
        };
        let (subject, details) = (self.subject, escape(&cut(&self.details)).into_owned());
        format!("{subject:<10}{}  {details}", color.result(result))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    #[test]
    fn lines_are_aligned_and_escaped() {
        let error = Error::of(ErrorKind::DbConnect, "the database cannot be reached");
        let lines = [
            ProbeResult::ok("source", "http://127.0.0.1/"),
            ProbeResult::warning("commit", "a\u{1b}[2Jb"),
            ProbeResult::error("database", "db:5432", error),
        ];
        let lines = lines.map(|result| result.line(Color(false)));
        insta::assert_snapshot!(lines.join("\n"), @r"
        source    ok    http://127.0.0.1/
        commit    warn  a\u{1b}[2Jb
        database  FAIL  db:5432  the database cannot be reached
        ");
    }
}
