//! What `check --connect` found out about one thing that a run needs: a line for people, and the fault
//! where it stands in the way of a run. Never holds a secret.

use crate::error::Fault;
use crate::error::color::Color;
use crate::error::escape::escape;

/// How it is.
#[derive(Clone, Debug, PartialEq, Eq)]
enum ProbeState {
    Fine,
    /// A run is possible, but somebody should know.
    Warning,
    /// A run is not possible.
    Fault(Box<Fault>),
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProbeResult {
    /// What it is, in at most eight letters.
    what: &'static str,
    state: ProbeState,
    words: String,
}

impl ProbeResult {
    /// It is as it should be; `words` say what was seen.
    pub fn fine(what: &'static str, words: impl Into<String>) -> Self {
        Self {
            what,
            state: ProbeState::Fine,
            words: words.into(),
        }
    }

    /// It will do; `words` say what was seen and what may be done about it.
    pub fn warning(what: &'static str, words: impl Into<String>) -> Self {
        Self {
            state: ProbeState::Warning,
            ..Self::fine(what, words)
        }
    }

    /// It prevents a run; `place` says where it was looked for.
    pub fn fault(what: &'static str, place: &str, fault: Fault) -> Self {
        let words = format!("{place}  {}", fault.message);
        Self {
            state: ProbeState::Fault(Box::new(fault)),
            ..Self::fine(what, words)
        }
    }

    /// Why there can be no run, where it prevents one.
    pub fn prevents(&self) -> Option<&Fault> {
        match &self.state {
            ProbeState::Fault(fault) => Some(fault),
            ProbeState::Fine | ProbeState::Warning => None,
        }
    }

    /// The line for people, without a line break.
    pub fn line(&self, color: Color) -> String {
        let word = match self.state {
            ProbeState::Fine => "ok  ",
            ProbeState::Warning => "warn",
            ProbeState::Fault(_) => "FAIL",
        };
        let (what, words) = (self.what, escape(&self.words));
        format!("{what:<10}{}  {words}", color.word(word))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    #[test]
    fn lines_stand_in_columns_and_drive_no_terminal() {
        let fault = Fault::new(ErrorKind::DbConnect, "the database cannot be reached");
        let lines = [
            ProbeResult::fine("source", "http://127.0.0.1/"),
            ProbeResult::warning("commit", "a\u{1b}[2Jb"),
            ProbeResult::fault("database", "db:5432", fault),
        ];
        let lines = lines.map(|finding| finding.line(Color(false)));
        insta::assert_snapshot!(lines.join("\n"), @r"
        source    ok    http://127.0.0.1/
        commit    warn  a\u{1b}[2Jb
        database  FAIL  db:5432  the database cannot be reached
        ");
    }
}
