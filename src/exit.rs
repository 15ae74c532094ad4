//! The exit codes, named, and what maps to them. The table stands in `--help` and in the README.

use crate::fault::Kind;
use crate::halt::Cause;

/// How the process ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// The run completed: SIZE tokens received, each stored or rejected.
    Completed,
    /// It completed, but a `--fail-on` condition holds.
    Condition,
    /// Usage or configuration.
    Usage,
    /// The script does not compile, threw, or ran past a limit.
    Script,
    /// The source: unreachable, refused, or could not supply SIZE tokens.
    Source,
    /// The database: unreachable, or some token is `failed`, `unknown` or `not_attempted`.
    Database,
    /// Stopped by a signal, after the report.
    Signal(Cause),
    /// The script's own `exit(N)`.
    Chosen(u8),
}

impl Exit {
    /// The number that the shell sees.
    pub fn code(self) -> u8 {
        match self {
            Self::Completed => 0,
            Self::Condition => 1,
            Self::Usage => 2,
            Self::Script | Self::Signal(Cause::Deadline) => 3,
            Self::Source => 4,
            Self::Database => 5,
            Self::Signal(Cause::Interrupt) => 130,
            Self::Signal(Cause::Terminate) => 143,
            Self::Chosen(code) => code,
        }
    }

    /// The code of a fault that nobody caught.
    pub fn of_fault(kind: &Kind) -> Self {
        if kind.is_database() {
            Self::Database
        } else if kind.is_source() {
            Self::Source
        } else {
            Self::Script
        }
    }
}
