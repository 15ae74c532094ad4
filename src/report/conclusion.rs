//! The end of a run: ends the reports, and derives the exit status, the summary and the final error.

use crate::error::Error;
use crate::error::exit::{Cause, Exit, RunTotals};
use crate::observe::number::grouped;
use crate::pipeline::numbers::Numbers;
use crate::report::fail_on::Condition;
use crate::report::ledger::Ledger;
use crate::report::summary::{RunRecord, Summary};
use crate::runtime::shutdown::Shutdown;

/// How a run ended.
#[derive(Debug)]
pub struct Conclusion {
    /// The exit status of the process.
    pub exit: Exit,
    /// The summary; `None` if the run could not start.
    pub summary: Option<Summary>,
    /// The error to show after the summary.
    pub error: Option<Error>,
}

impl From<Error> for Conclusion {
    fn from(error: Error) -> Self {
        Self {
            exit: error.exit,
            summary: None,
            error: Some(error),
        }
    }
}

/// Ends the reports and concludes the run. A completed run fails if one of `fail_on` holds.
pub fn close(
    ledger: &mut Ledger,
    totals: &RunTotals,
    run: RunRecord,
    error: Option<Error>,
    fail_on: &[Condition],
) -> Conclusion {
    let numbers = totals.numbers;
    let whole = numbers.of_whole_run();
    let is_balanced = !totals.is_out_of_balance();
    let mut exit = if is_balanced {
        totals.exit()
    } else {
        Exit::Database
    };
    let mut summary = Summary {
        run,
        numbers,
        aborted_by: totals.cause,
        exit_code: exit.code(),
        dry_run: ledger.reports().dry_run,
        inputs: std::mem::take(&mut ledger.reports().inputs),
        rejections: ledger.rejections().clone(),
        latencies: ledger.latencies().clone(),
    };
    let failure = fail_on.iter().find(|condition| condition.holds(&whole));
    let failure = failure.filter(|_| exit == Exit::Completed && error.is_none());
    let failure = failure.map(|condition| condition_error(condition, &whole));
    if let Some(failure) = &failure {
        summary.exit_code = failure.exit.code();
    }
    let closed = ledger.reports().end(&summary);
    let mut error = error
        .or_else(|| closed.err())
        .or_else(|| error_of_exit(totals, exit))
        .or(failure);
    if !is_balanced {
        error = Some(out_of_balance(&numbers));
    } else if exit.code() == 0
        && let Some(error) = &error
    {
        exit = error.exit;
    }
    summary.exit_code = exit.code();
    Conclusion {
        exit,
        summary: Some(summary),
        error,
    }
}

/// Returns the error of a completed run for which a condition of `--fail-on` holds.
fn condition_error(condition: &Condition, numbers: &Numbers) -> Error {
    Error::new(
        Exit::Condition,
        format!("the condition `{condition}` of --fail-on holds"),
    )
    .cause(condition.values(numbers))
    .hint(if numbers.received < numbers.requested {
        "the report has every received token; start a new run for the rest"
    } else {
        "the run and its report are complete"
    })
}

/// Returns the error for an exit status that no error explains.
fn error_of_exit(totals: &RunTotals, exit: Exit) -> Option<Error> {
    let resend = "`failed` and `not_attempted` tokens are safe to send again; look for `unknown` ones in the table first";
    match totals.cause {
        Some(Cause::Deadline) => {
            return Some(
                Error::new(exit, "the deadline passed before the run was complete")
                    .hint("raise `--deadline` if needed; the report has every received token"),
            );
        }
        Some(signal) => {
            let message = format!("stopped by {} before the run was complete", signal.as_str());
            return Some(Error::new(exit, message).hint("the report has every received token"));
        }
        None => {}
    }
    match exit {
        Exit::Database => {
            let message = match totals.numbers.of_whole_run().unsettled() {
                1 => String::from("1 received token is neither stored nor rejected"),
                count => format!(
                    "{} received tokens are neither stored nor rejected",
                    grouped(count)
                ),
            };
            Some(Error::new(exit, message).hint(resend))
        }
        Exit::Script if totals.did_nothing => {
            let message = "the script requested no token, and gave none to `store` or `reject`";
            Some(Error::new(exit, message).hint(
                "a stream from `fetch` sends its first request when it is stored or looped over: `report(store(fetch(SIZE)));`",
            ))
        }
        Exit::Source => {
            let numbers = totals.numbers.of_whole_run();
            let (received, size) = (grouped(numbers.received), grouped(numbers.requested));
            let message = format!("the token source delivered {received} of {size} tokens");
            Some(Error::new(exit, message).hint("start a new run for the rest"))
        }
        _ => None,
    }
}

/// Returns the error of a run that was stopped before it connected.
pub fn stopped_early(shutdown: &Shutdown) -> Error {
    let exit = match shutdown.cause() {
        Some(signal) if signal.is_signal() => Exit::Signal(signal),
        _ => Exit::Database,
    };
    let cause = shutdown.cause().map_or("the end of the run", Cause::as_str);
    Error::new(
        exit,
        format!("stopped by {cause} while connecting to the database"),
    )
    .hint("no token was requested")
}

fn out_of_balance(numbers: &Numbers) -> Error {
    Error::new(
        Exit::Database,
        "received and reported tokens differ in number; this is a bug in token_service",
    )
    .cause(format!(
        "{} tokens were received and {} are in the report",
        numbers.received,
        numbers.total()
    ))
    .hint("do not trust this report; compare it with the table")
}

/// Turns the error of an unwritable output into one of the configuration.
pub fn unwritable(mut error: Error) -> Error {
    error.kind = None;
    error.with_exit(Exit::Usage)
}
