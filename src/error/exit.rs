//! The exit status of the process and the rules that choose it. `--help` and the README list it.

use crate::pipeline::numbers::Numbers;

/// The reason to stop a run before its script ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// SIGHUP: the terminal was closed.
    Hangup,
    /// SIGINT (Ctrl-C).
    Interrupt,
    /// SIGQUIT (Ctrl-\\).
    Quit,
    /// SIGTERM.
    Terminate,
    /// The `--deadline` has passed.
    Deadline,
}

impl Cause {
    /// All causes.
    pub const ALL: [Self; 5] = [
        Self::Hangup,
        Self::Interrupt,
        Self::Quit,
        Self::Terminate,
        Self::Deadline,
    ];

    /// Returns true for a signal.
    pub fn is_signal(self) -> bool {
        self != Self::Deadline
    }

    /// Returns the value of `aborted_by` in a report.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Hangup => "SIGHUP",
            Self::Interrupt => "SIGINT",
            Self::Quit => "SIGQUIT",
            Self::Terminate => "SIGTERM",
            Self::Deadline => "deadline",
        }
    }
}

/// The exit status of the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// The run completed: SIZE tokens received, each stored or rejected.
    Completed,
    /// It completed, but a `--fail-on` condition holds.
    Condition,
    /// A pipeline test failed.
    Tests,
    /// An audit found something that is missing.
    Missing,
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
    /// Returns the exit code.
    pub fn code(self) -> u8 {
        match self {
            Self::Completed => 0,
            Self::Condition | Self::Tests | Self::Missing => 1,
            Self::Usage => 2,
            Self::Script | Self::Signal(Cause::Deadline) => 3,
            Self::Source => 4,
            Self::Database => 5,
            Self::Signal(Cause::Hangup) => 129,
            Self::Signal(Cause::Interrupt) => 130,
            Self::Signal(Cause::Quit) => 131,
            Self::Signal(Cause::Terminate) => 143,
            Self::Chosen(code) => code,
        }
    }
}

/// The totals of a run, from which its exit status follows.
#[derive(Clone, Copy, Debug, Default)]
pub struct RunTotals {
    /// The numbers; `requested` equals `received` if SIZE is unlimited.
    pub numbers: Numbers,
    /// True if a fetch returned fewer tokens than requested.
    pub fell_short: bool,
    /// True if SIZE is unlimited.
    pub open_ended: bool,
    /// True if a script neither requested a token nor stored or rejected one of its own.
    pub did_nothing: bool,
    /// The signal or deadline that stopped the run.
    pub cause: Option<Cause>,
    /// The script's own `exit(N)`.
    pub script_exit: Option<u8>,
    /// The exit status of the error that ended the script.
    pub error: Option<Exit>,
}

impl RunTotals {
    /// Returns the exit status.
    ///
    /// If several apply, the first of signal, `exit(N)`, 5, 4 and 3 wins.
    pub fn exit(&self) -> Exit {
        let whole = self.numbers.of_whole_run();
        let short = self.fell_short && (self.open_ended || whole.received < whole.requested);
        match (self.cause, self.script_exit) {
            (Some(signal), _) if signal.is_signal() => Exit::Signal(signal),
            (_, Some(code)) => Exit::Chosen(code),
            _ if whole.unsettled() > 0 || self.error == Some(Exit::Database) => Exit::Database,
            _ if short || self.error == Some(Exit::Source) => Exit::Source,
            (Some(Cause::Deadline), _) => Exit::Script,
            _ if self.error.is_none() && self.did_nothing => Exit::Script,
            _ => self.error.unwrap_or(Exit::Completed),
        }
    }

    /// Returns true if a token is missing from the ledger or counted twice.
    pub fn is_out_of_balance(&self) -> bool {
        self.numbers.received != self.numbers.total()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(totals: RunTotals) -> u8 {
        totals.exit().code()
    }

    #[test]
    fn exit_prefers_signal_script_exit_database_source_script() {
        let mut totals = RunTotals {
            numbers: Numbers {
                requested: 10,
                received: 9,
                stored: 8,
                failed: 1,
                ..Numbers::default()
            },
            fell_short: true,
            open_ended: false,
            did_nothing: false,
            cause: Some(Cause::Terminate),
            script_exit: Some(7),
            error: Some(Exit::Script),
        };
        assert_eq!(code(totals), 143);
        totals.cause = Some(Cause::Interrupt);
        assert_eq!(code(totals), 130);
        totals.cause = None;
        assert_eq!(code(totals), 7);
        totals.script_exit = None;
        assert_eq!(code(totals), 5);
        totals.numbers.failed = 0;
        assert_eq!(code(totals), 4);
        totals.numbers.received = 10;
        assert_eq!(code(totals), 3);
        totals.error = None;
        assert_eq!(code(totals), 0);
    }

    #[test]
    fn exit_is_zero_when_script_requests_fewer_than_size() {
        let totals = RunTotals {
            numbers: Numbers {
                requested: 10,
                received: 3,
                stored: 3,
                ..Numbers::default()
            },
            ..RunTotals::default()
        };
        assert_eq!(code(totals), 0);
    }

    #[test]
    fn deadline_exit_depends_on_what_is_unsettled() {
        let mut totals = RunTotals {
            numbers: Numbers {
                requested: 10,
                ..Numbers::default()
            },
            cause: Some(Cause::Deadline),
            ..RunTotals::default()
        };
        assert_eq!(code(totals), 3, "no fetch fell short");
        totals.fell_short = true;
        assert_eq!(code(totals), 4);
        totals.numbers.unknown = 2;
        assert_eq!(code(totals), 5);
    }
}
