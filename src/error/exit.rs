//! The exit codes, named, and what maps to them. The table stands in `--help` and in the README.

use crate::error::ErrorKind;

/// Why a run is being stopped before its script is through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// SIGINT (Ctrl-C).
    Interrupt,
    /// SIGTERM.
    Terminate,
    /// The `--deadline` has passed.
    Deadline,
}

impl Cause {
    /// The name that stands as `aborted_by` in a report.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Interrupt => "SIGINT",
            Self::Terminate => "SIGTERM",
            Self::Deadline => "deadline",
        }
    }
}

/// How the process ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// The run completed: SIZE tokens received, each stored or rejected.
    Completed,
    /// It completed, but a `--fail-on` condition holds.
    Condition,
    /// A pipeline test failed.
    Tests,
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
            Self::Condition | Self::Tests => 1,
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
    pub fn of_fault(kind: &ErrorKind) -> Self {
        if kind.is_database() {
            Self::Database
        } else if kind.is_source() {
            Self::Source
        } else {
            Self::Script
        }
    }
}

/// What a run's verdict is drawn from.
#[derive(Clone, Copy, Debug, Default)]
pub struct RunTotals {
    /// SIZE.
    pub size: u64,
    /// Tokens received.
    pub received: u64,
    /// Tokens in the books.
    pub counted: u64,
    /// Tokens that are neither stored nor rejected.
    pub unsettled: u64,
    /// True where a fetch brought fewer tokens than it was asked for.
    pub fell_short: bool,
    /// True where SIZE is all that an input holds, so that `size` is what was received of it.
    pub open_ended: bool,
    /// Why the run was stopped from outside.
    pub cause: Option<Cause>,
    /// The script's own `exit(N)`.
    pub chosen: Option<u8>,
    /// How the error that ended the script would end the process.
    pub problem: Option<Exit>,
}

impl RunTotals {
    /// How the process ends. Where several reasons hold the order is: signal, the script's choice,
    /// 5, 4, 3.
    pub fn verdict(&self) -> Exit {
        let short = self.fell_short && (self.open_ended || self.received < self.size);
        match (self.cause, self.chosen) {
            (Some(signal @ (Cause::Interrupt | Cause::Terminate)), _) => Exit::Signal(signal),
            (_, Some(code)) => Exit::Chosen(code),
            _ if self.unsettled > 0 || self.problem == Some(Exit::Database) => Exit::Database,
            _ if short || self.problem == Some(Exit::Source) => Exit::Source,
            (Some(Cause::Deadline), _) => Exit::Script,
            _ => self.problem.unwrap_or(Exit::Completed),
        }
    }

    /// True where a token is missing from the books, or counted twice.
    pub fn is_out_of_balance(&self) -> bool {
        self.received != self.counted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(totals: RunTotals) -> u8 {
        totals.verdict().code()
    }

    #[test]
    fn the_order_of_the_codes_is_signal_choice_database_source_script() {
        let mut totals = RunTotals {
            size: 10,
            received: 9,
            counted: 9,
            unsettled: 1,
            fell_short: true,
            open_ended: false,
            cause: Some(Cause::Terminate),
            chosen: Some(7),
            problem: Some(Exit::Script),
        };
        assert_eq!(code(totals), 143);
        totals.cause = Some(Cause::Interrupt);
        assert_eq!(code(totals), 130);
        totals.cause = None;
        assert_eq!(code(totals), 7);
        totals.chosen = None;
        assert_eq!(code(totals), 5);
        totals.unsettled = 0;
        assert_eq!(code(totals), 4);
        totals.received = 10;
        assert_eq!(code(totals), 3);
        totals.problem = None;
        assert_eq!(code(totals), 0);
    }

    #[test]
    fn a_script_that_asked_for_less_than_size_is_no_short_supply() {
        let totals = RunTotals {
            size: 10,
            received: 3,
            counted: 3,
            ..RunTotals::default()
        };
        assert_eq!(code(totals), 0);
    }

    #[test]
    fn a_deadline_ends_by_what_it_left_undone() {
        let mut totals = RunTotals {
            size: 10,
            cause: Some(Cause::Deadline),
            ..RunTotals::default()
        };
        assert_eq!(code(totals), 3, "nothing was asked of anyone");
        totals.fell_short = true;
        assert_eq!(code(totals), 4);
        totals.unsettled = 2;
        assert_eq!(code(totals), 5);
    }
}
