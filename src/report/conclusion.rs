//! The end of a run: ends the reports, and derives the exit status, the summary and the final problem.

use std::time::Duration;

use jiff::Timestamp;

use crate::error::Error;
use crate::error::exit::{Cause, Exit, RunTotals};
use crate::observe::number::grouped;
use crate::observe::run_context::RunContext;
use crate::report::fail_on::Condition;
use crate::report::ledger::Ledger;
use crate::report::summary::{Summary, VERSION};
use crate::runtime::shutdown::Shutdown;

/// How a run ended.
#[derive(Debug)]
pub struct Conclusion {
    /// The exit status of the process.
    pub exit: Exit,
    /// The summary; `None` if the run sent no request and received no token.
    pub summary: Option<Summary>,
    /// The problem to show after the summary.
    pub problem: Option<Error>,
}

impl From<Error> for Conclusion {
    fn from(problem: Error) -> Self {
        Self {
            exit: problem.exit,
            summary: None,
            problem: Some(problem),
        }
    }
}

/// The requests to the source and their results.
#[derive(Clone, Copy, Debug, Default)]
pub struct RequestCounts {
    /// Requests sent.
    pub requests: u64,
    /// Tokens received in excess of the request.
    pub surplus: u64,
    /// Upper bound of the tokens issued in responses that were not received.
    pub unseen: u64,
    /// Requests for tokens that an earlier response did not deliver.
    pub top_ups: u64,
    /// Requests that repeat a failed one.
    pub repeated: u64,
}

/// The identity and the times of a run.
#[derive(Clone, Debug)]
pub struct RunRecord {
    /// The UUID of the run.
    pub run_id: String,
    /// The run that this one replays.
    pub replay_of: Option<String>,
    /// The start time.
    pub started_at: Timestamp,
    /// The duration.
    pub duration: Duration,
    /// True for the merged report of several runs.
    pub is_merged: bool,
}

impl From<&RunContext> for RunRecord {
    fn from(run_context: &RunContext) -> Self {
        Self {
            run_id: run_context.run_id.to_string(),
            replay_of: None,
            started_at: run_context.timestamp,
            duration: run_context.elapsed(),
            is_merged: false,
        }
    }
}

/// Ends the reports and concludes the run. A completed run fails if one of `fail_on` holds.
pub fn close(
    ledger: &mut Ledger,
    totals: &RunTotals,
    requests: RequestCounts,
    record: RunRecord,
    problem: Option<Error>,
    fail_on: &[Condition],
) -> Conclusion {
    let is_balanced = !totals.is_out_of_balance();
    let mut exit = if is_balanced {
        totals.exit()
    } else {
        Exit::Database
    };
    let mut summary = Summary {
        version: VERSION,
        run_id: record.run_id,
        started_at: record.started_at.to_string(),
        duration_ms: u64::try_from(record.duration.as_millis()).unwrap_or(u64::MAX),
        requested: totals.size,
        received: totals.received,
        requests: requests.requests,
        surplus: requests.surplus,
        counts: ledger.tally().into(),
        aborted_by: totals.cause.map(Cause::as_str),
        exit_code: exit.code(),
        latency_ms: ledger.latencies().percentiles(),
        issued_unseen: requests.unseen,
        replay_of: record.replay_of,
        dry_run: ledger.is_dry_run(),
        is_merged: record.is_merged,
        top_ups: requests.top_ups,
        repeated: requests.repeated,
        rejections: ledger.rejections().clone(),
        latencies: ledger.latencies().clone(),
    };
    let failure = fail_on.iter().find(|condition| condition.holds(&summary));
    let failure = failure.filter(|_| exit == Exit::Completed && problem.is_none());
    let failure = failure.map(|condition| condition_problem(condition, &summary));
    if let Some(failure) = &failure {
        summary.exit_code = failure.exit.code();
    }
    let closed = ledger.end(&summary);
    let mut problem = problem
        .or_else(|| closed.err())
        .or_else(|| problem_of_exit(totals, exit))
        .or(failure);
    if !is_balanced {
        problem = Some(out_of_balance(totals));
    } else if exit.code() == 0
        && let Some(problem) = &problem
    {
        exit = problem.exit;
    }
    summary.exit_code = exit.code();
    let has_summary = totals.received > 0 || requests.requests > 0 || totals.size == 0;
    Conclusion {
        exit,
        summary: has_summary.then_some(summary),
        problem,
    }
}

/// Returns the problem of a completed run for which a condition of `--fail-on` holds.
fn condition_problem(condition: &Condition, summary: &Summary) -> Error {
    Error::new(
        Exit::Condition,
        format!("the condition `{condition}` of --fail-on holds"),
    )
    .cause(condition.values(summary))
    .hint(if summary.received < summary.requested {
        "the report has every received token; start a new run for the rest"
    } else {
        "the run and its report are complete"
    })
}

/// Returns the problem for an exit status that no error explains.
fn problem_of_exit(totals: &RunTotals, exit: Exit) -> Option<Error> {
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
            let message = match totals.unsettled {
                1 => String::from("1 received token is neither stored nor rejected"),
                count => format!(
                    "{} received tokens are neither stored nor rejected",
                    grouped(count)
                ),
            };
            Some(Error::new(exit, message).hint(resend))
        }
        Exit::Source => {
            let (received, size) = (grouped(totals.received), grouped(totals.size));
            let message = format!("the token source delivered {received} of {size} tokens");
            Some(Error::new(exit, message).hint("start a new run for the rest"))
        }
        _ => None,
    }
}

/// Returns the problem of a run that was stopped before it connected.
pub fn stopped_early(shutdown: &Shutdown) -> Error {
    let exit = match shutdown.cause() {
        Some(signal @ (Cause::Interrupt | Cause::Terminate)) => Exit::Signal(signal),
        _ => Exit::Database,
    };
    let cause = shutdown.cause().map_or("the end of the run", Cause::as_str);
    Error::new(
        exit,
        format!("stopped by {cause} while connecting to the database"),
    )
    .hint("no token was requested")
}

fn out_of_balance(totals: &RunTotals) -> Error {
    Error::new(
        Exit::Database,
        "received and reported tokens differ in number; this is a bug in token_service",
    )
    .cause(format!(
        "{} tokens were received and {} are in the report",
        totals.received, totals.counted
    ))
    .hint("do not trust this report; compare it with the table")
}

/// Turns the error of an unwritable output into one of the configuration.
pub fn unwritable(mut error: Error) -> Error {
    error.kind = None;
    error.with_exit(Exit::Usage)
}
