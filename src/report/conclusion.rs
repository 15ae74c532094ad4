//! The end of a run: the books are closed, the exit code is drawn from them, and what needs saying is
//! said.

use std::time::Duration;

use jiff::Timestamp;

use crate::error::diagnostic::Problem;
use crate::error::exit::{Cause, Exit, RunTotals};
use crate::error::{ErrorKind, Fault};
use crate::observe::number::grouped;
use crate::observe::run_context::RunContext;
use crate::report::fail_on::Condition;
use crate::report::ledger::Ledger;
use crate::report::summary::{Summary, VERSION};
use crate::runtime::shutdown::Shutdown;

/// How a run ended.
#[derive(Debug)]
pub struct Conclusion {
    /// The process's exit code.
    pub exit: Exit,
    /// The run in numbers; `None` where nothing was asked of the source.
    pub summary: Option<Summary>,
    /// What is to be shown beneath it.
    pub problem: Option<Problem>,
}

impl From<Problem> for Conclusion {
    fn from(problem: Problem) -> Self {
        Self {
            exit: problem.exit,
            summary: None,
            problem: Some(problem),
        }
    }
}

/// What was asked of the source.
#[derive(Clone, Copy, Debug, Default)]
pub struct RequestCounts {
    /// Requests sent.
    pub requests: u64,
    /// Tokens beyond what was asked for.
    pub surplus: u64,
    /// The most tokens that may have been issued unseen.
    pub unseen: u64,
    /// Of the requests, those for what an earlier answer had left out.
    pub top_ups: u64,
    /// Of the requests, those that were sent again.
    pub repeated: u64,
}

/// Which run it was, and when.
#[derive(Clone, Debug)]
pub struct RunRecord {
    /// Its UUID.
    pub run_id: String,
    /// The run whose report or journal it replays.
    pub replay_of: Option<String>,
    /// When it began.
    pub started_at: Timestamp,
    /// How long it took.
    pub took: Duration,
    /// True where it is several runs in one.
    pub is_merged: bool,
}

impl From<&RunContext> for RunRecord {
    fn from(run_context: &RunContext) -> Self {
        Self {
            run_id: run_context.run_id.to_string(),
            replay_of: None,
            started_at: run_context.timestamp,
            took: run_context.elapsed(),
            is_merged: false,
        }
    }
}

/// Draws the verdict and ends the reports. A run that completed fails where one of `fail_on` holds.
pub fn close(
    ledger: &mut Ledger,
    totals: &RunTotals,
    asked: RequestCounts,
    record: RunRecord,
    problem: Option<Problem>,
    fail_on: &[Condition],
) -> Conclusion {
    let balanced = !totals.is_out_of_balance();
    let mut exit = if balanced {
        totals.verdict()
    } else {
        Exit::Database
    };
    let mut summary = Summary {
        version: VERSION,
        run_id: record.run_id,
        started_at: record.started_at.to_string(),
        duration_ms: u64::try_from(record.took.as_millis()).unwrap_or(u64::MAX),
        requested: totals.size,
        received: totals.received,
        requests: asked.requests,
        surplus: asked.surplus,
        counts: ledger.tally().into(),
        aborted_by: totals.cause.map(Cause::as_str),
        exit_code: exit.code(),
        latency_ms: ledger.latencies().percentiles(),
        issued_unseen: asked.unseen,
        replay_of: record.replay_of,
        dry_run: ledger.is_dry_run(),
        is_merged: record.is_merged,
        top_ups: asked.top_ups,
        repeated: asked.repeated,
        rejections: ledger.rejections().clone(),
        latencies: ledger.latencies().clone(),
    };
    let failure = fail_on.iter().find(|condition| condition.holds(&summary));
    let failure = failure.filter(|_| exit == Exit::Completed && problem.is_none());
    let failure = failure.map(|condition| failed(condition, &summary));
    if let Some(failure) = &failure {
        summary.exit_code = failure.exit.code();
    }
    let closed = ledger.end(&summary);
    let mut problem = problem
        .or_else(|| closed.err().map(Problem::from))
        .or_else(|| explain(totals, exit))
        .or(failure);
    if !balanced {
        problem = Some(out_of_balance(totals));
    } else if exit.code() == 0
        && let Some(problem) = &problem
    {
        exit = problem.exit;
    }
    summary.exit_code = exit.code();
    let worked = totals.received > 0 || asked.requests > 0 || totals.size == 0;
    Conclusion {
        exit,
        summary: worked.then_some(summary),
        problem,
    }
}

/// The problem of a run that completed and yet is no success.
fn failed(condition: &Condition, summary: &Summary) -> Problem {
    Problem::new(
        Exit::Condition,
        format!("the condition `{condition}` of --fail-on holds"),
    )
    .cause(condition.values(summary))
    .hint(if summary.received < summary.requested {
        "the report holds every token that was received; ask for the rest in a new run"
    } else {
        "the run is complete, and its report whole"
    })
}

/// What to say of a code that no error explains.
fn explain(totals: &RunTotals, exit: Exit) -> Option<Problem> {
    let again = "`failed` and `not_attempted` tokens are safe to send again; look for `unknown` ones in the table first";
    match totals.cause {
        Some(Cause::Deadline) => {
            return Some(
                Problem::new(exit, "the deadline passed before the run was complete")
                    .hint("`--deadline` sets it; the report holds every token that was received"),
            );
        }
        Some(signal) => {
            let what = format!("stopped by {} before the run was complete", signal.as_str());
            return Some(
                Problem::new(exit, what).hint("the report holds every token that was received"),
            );
        }
        None => {}
    }
    match exit {
        Exit::Database => {
            let what = match totals.unsettled {
                1 => String::from("1 received token is neither stored nor rejected"),
                count => format!(
                    "{} received tokens are neither stored nor rejected",
                    grouped(count)
                ),
            };
            Some(Problem::new(exit, what).hint(again))
        }
        Exit::Source => {
            let (received, size) = (grouped(totals.received), grouped(totals.size));
            let what = format!("the token source delivered {received} of {size} tokens");
            Some(Problem::new(exit, what).hint("ask again for the rest"))
        }
        _ => None,
    }
}

/// The problem of a run that was stopped before it could begin.
pub fn stopped_early(shutdown: &Shutdown) -> Problem {
    let exit = match shutdown.cause() {
        Some(signal @ (Cause::Interrupt | Cause::Terminate)) => Exit::Signal(signal),
        _ => Exit::Database,
    };
    let cause = shutdown.cause().map_or("the end of the run", Cause::as_str);
    Problem::new(
        exit,
        format!("stopped by {cause} while connecting to the database"),
    )
    .hint("no token was asked for")
}

fn out_of_balance(totals: &RunTotals) -> Problem {
    Problem::new(
        Exit::Database,
        "the books do not balance; this is a bug of token_service",
    )
    .cause(format!(
        "{} tokens were received and {} are accounted for",
        totals.received, totals.counted
    ))
    .hint("do not trust this report; compare it with the table")
}

/// A report that cannot be opened is a mistake in the configuration.
pub fn unwritable(fault: Fault) -> Problem {
    debug_assert!(matches!(fault.kind, ErrorKind::InvalidArgument { .. }));
    let problem = Problem::new(Exit::Usage, fault.message);
    let problem = fault.causes.into_iter().fold(problem, Problem::cause);
    match fault.hint {
        Some(hint) => problem.hint(hint),
        None => problem,
    }
}
