//! A run: build the stages, let the script join them, tally, verdict. The script has a thread of
//! its own; this one drives fetching and storing, and watches for signals and the deadline.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use tokio::runtime::{Builder, Handle};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::oneshot;
use url::Url;
use uuid::Uuid;

use crate::config::{Script as ScriptPath, Settings, Source};
use crate::exit::{Exit, Facts};
use crate::fault::{Fault, Kind};
use crate::fetch::{self, Fetcher};
use crate::halt::{Cause, Halt};
use crate::problem::Problem;
use crate::report::Reports;
use crate::report::ledger::Ledger;
use crate::report::summary::{Summary, VERSION, grouped};
use crate::script::emit::Emitter;
use crate::script::end::{Ended, run_to_the_end};
use crate::script::host::{Host, Parts};
use crate::script::{self, Script};
use crate::store::Store;

/// The longest that what is in flight is waited for when a run is stopped.
const DRAIN: Duration = Duration::from_secs(5);

/// How a run ended.
#[derive(Debug)]
pub struct Finished {
    /// The process's exit code.
    pub exit: Exit,
    /// The summary for people; `None` where nothing was asked of the source.
    pub summary: Option<String>,
    /// What is to be shown beneath it.
    pub problem: Option<Problem>,
}

impl From<Problem> for Finished {
    fn from(problem: Problem) -> Self {
        Self {
            exit: problem.exit,
            summary: None,
            problem: Some(problem),
        }
    }
}

/// Runs the pipeline to its end, whatever way that comes.
pub fn run(settings: &Settings) -> Finished {
    match start(settings) {
        Ok(finished) => finished,
        Err(problem) => problem.into(),
    }
}

fn start(settings: &Settings) -> Result<Finished, Problem> {
    let script = load(settings)?;
    let runtime = Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| broken("the runtime cannot be started", &error))?;
    let halt = Halt::new();
    let begun = Begun::now();
    let deadline = settings.deadline.map(|deadline| begun.instant + deadline);
    runtime.block_on(async {
        let signals = Signals::listen()?;
        tokio::select! {
            finished = pipeline(settings.clone(), script, halt.clone(), begun) => finished,
            cause = supervise(signals, &halt, deadline, settings.grace) => Ok(overdue(cause)),
        }
    })
}

/// The script, compiled and free of the mistakes that can be seen beforehand: a typing error must
/// not cost a token.
fn load(settings: &Settings) -> Result<Script, Problem> {
    let path = match &settings.script {
        ScriptPath::Default => None,
        ScriptPath::File(path) => Some(path.as_path()),
    };
    let script = Script::load(
        path,
        &script::Settings {
            size: settings.size,
            vars: settings.vars.clone(),
            max_operations: settings.script_limits.max_operations,
        },
    )
    .map_err(uncharged)?;
    match script.check().into_iter().next() {
        Some(problem) => Err(uncharged(problem)),
        None => Ok(script),
    }
}

/// A mistake that was found before anything was done.
fn uncharged(problem: Problem) -> Problem {
    match &problem.place {
        Some(place) if problem.hint.is_none() => {
            let file = place.file.clone();
            problem.hint(format!(
                "no token was asked for; `token_service check {file}` shows every such mistake"
            ))
        }
        _ => problem,
    }
}

/// Connects both ends and runs the script between them.
async fn pipeline(
    settings: Settings,
    script: Script,
    halt: Halt,
    begun: Begun,
) -> Result<Finished, Problem> {
    let deadline = settings.deadline.map(|deadline| begun.instant + deadline);
    let source = source(settings.source).await?;
    let fetcher = Arc::new(Fetcher::new(source, halt.clone(), deadline)?);
    let store = tokio::select! {
        store = Store::open(settings.store, halt.clone()) => store?,
        () = halt.stopping().cancelled() => return Err(stopped_early(&halt)),
    };
    let store = Arc::new(store);
    // Opened last: a run that cannot begin leaves no empty reports behind.
    let reports = Reports::open(&settings.reports).map_err(unwritable)?;
    let host = Host::new(Parts {
        runtime: Handle::current(),
        halt,
        size: settings.size,
        fetcher,
        store: Arc::clone(&store),
        ledger: Ledger::new(reports),
        emitter: Emitter::new(settings.out_dir),
        environment: settings.env,
    });
    let finished = on_its_thread(script, host, begun).await?;
    if let Some(store) = Arc::into_inner(store) {
        store.close().await;
    }
    Ok(finished)
}

async fn source(source: Source) -> Result<fetch::Options, Problem> {
    match source {
        Source::Http(options) => Ok(options),
        Source::BuiltIn(limits) => {
            let address = fetch::demo::start().await?;
            let url = Url::parse(&format!("http://{address}/tokens"))
                .map_err(|error| broken("the demo's token source has no address", &error))?;
            Ok(limits.at(url, Vec::new(), false))
        }
    }
}

async fn on_its_thread(
    mut script: Script,
    host: Arc<Host>,
    begun: Begun,
) -> Result<Finished, Problem> {
    let (sender, receiver) = oneshot::channel();
    thread::Builder::new()
        .name("script".to_owned())
        .stack_size(script::STACK)
        .spawn(move || {
            let ended = run_to_the_end(&mut script, &host);
            let finished = conclude(&host, ended, &begun);
            drop((script, host));
            let _ = sender.send(finished);
        })
        .map_err(|error| broken("the script's thread cannot be started", &error))?;
    receiver
        .await
        .map_err(|error| broken("the script's thread ended without a verdict", &error))
}

/// Tallies, draws the verdict and ends the reports.
fn conclude(host: &Host, ended: Ended, begun: &Begun) -> Finished {
    let facts = gather(host, &ended);
    let balanced = !facts.is_out_of_balance();
    let mut exit = if balanced {
        facts.verdict()
    } else {
        Exit::Database
    };
    let mut summary = summarize(&facts, host, begun, exit);
    let closed = host.ledger().end(&summary);
    let mut problem = ended
        .problem
        .or_else(|| closed.err().map(Problem::from))
        .or_else(|| explain(&facts, exit));
    if !balanced {
        problem = Some(out_of_balance(&facts));
    } else if exit == Exit::Completed
        && let Some(problem) = &problem
    {
        exit = problem.exit;
    }
    summary.exit_code = exit.code();
    let asked = facts.received > 0 || summary.requests > 0;
    Finished {
        exit,
        summary: asked.then(|| summary.line()),
        problem,
    }
}

fn gather(host: &Host, ended: &Ended) -> Facts {
    let supply = host.fetcher().supply();
    let ledger = host.ledger();
    let tally = ledger.tally();
    Facts {
        size: host.size(),
        received: supply.received() + ledger.made(),
        counted: tally.total(),
        unsettled: tally.unsettled(),
        fell_short: supply.fell_short(),
        cause: host.halt().cause(),
        chosen: ended.chosen,
        problem: ended.problem.as_ref().map(|problem| problem.exit),
    }
}

/// What to say of a code that no error explains.
fn explain(facts: &Facts, exit: Exit) -> Option<Problem> {
    let again = "`failed` and `not_attempted` tokens are safe to send again; look for `unknown` ones in the table first";
    match facts.cause {
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
            let count = grouped(facts.unsettled);
            let what = if facts.unsettled == 1 {
                "1 received token is neither stored nor rejected".to_owned()
            } else {
                format!("{count} received tokens are neither stored nor rejected")
            };
            Some(Problem::new(exit, what).hint(again))
        }
        Exit::Source => {
            let (received, size) = (grouped(facts.received), grouped(facts.size));
            let what = format!("the token source delivered {received} of {size} tokens");
            Some(Problem::new(exit, what).hint("ask again for the rest"))
        }
        _ => None,
    }
}

fn summarize(facts: &Facts, host: &Host, begun: &Begun, exit: Exit) -> Summary {
    let supply = host.fetcher().supply();
    let ledger = host.ledger();
    Summary {
        version: VERSION,
        run_id: begun.run_id.to_string(),
        started_at: begun.timestamp.to_string(),
        duration_ms: u64::try_from(begun.instant.elapsed().as_millis()).unwrap_or(u64::MAX),
        requested: facts.size,
        received: facts.received,
        requests: supply.requests(),
        surplus: supply.surplus(),
        counts: ledger.tally().into(),
        aborted_by: facts.cause.map(Cause::as_str),
        exit_code: exit.code(),
        latency_ms: ledger.latency(),
        issued_unseen: supply.unseen(),
    }
}

/// When a run began, by each clock that is asked for it.
#[derive(Clone, Copy)]
struct Begun {
    instant: Instant,
    timestamp: jiff::Timestamp,
    run_id: Uuid,
}

impl Begun {
    fn now() -> Self {
        Self {
            instant: Instant::now(),
            timestamp: jiff::Timestamp::now(),
            run_id: Uuid::now_v7(),
        }
    }
}

struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    fn listen() -> Result<Self, Problem> {
        let listen = |kind| signal(kind).map_err(|error| broken("signals cannot be heard", &error));
        Ok(Self {
            interrupt: listen(SignalKind::interrupt())?,
            terminate: listen(SignalKind::terminate())?,
        })
    }

    async fn next(&mut self) -> Cause {
        tokio::select! {
            _ = self.interrupt.recv() => Cause::Interrupt,
            _ = self.terminate.recv() => Cause::Terminate,
        }
    }
}

/// Stops the run at a signal or the deadline, gives up waiting after a while or at a second signal,
/// and returns when the run has outlived its grace.
async fn supervise(
    mut signals: Signals,
    halt: &Halt,
    deadline: Option<Instant>,
    grace: Duration,
) -> Cause {
    let cause = tokio::select! {
        cause = signals.next() => cause,
        () = until(deadline) => Cause::Deadline,
    };
    tracing::info!(cause = cause.as_str(), "stopping");
    halt.stop_for(cause);
    let stopped = tokio::time::Instant::now();
    let drain = DRAIN.min(grace.mul_f64(5.0 / 8.0));
    tokio::select! {
        () = tokio::time::sleep_until(stopped + drain) => {}
        _ = signals.next() => {}
    }
    halt.abort();
    tokio::time::sleep_until(stopped + grace).await;
    cause
}

async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline.into()).await,
        None => std::future::pending().await,
    }
}

/// The end of a run that did not end by itself within its grace, such as one whose standard output
/// nobody reads.
fn overdue(cause: Cause) -> Finished {
    let exit = match cause {
        Cause::Deadline => Exit::Database,
        signal => Exit::Signal(signal),
    };
    Problem::new(exit, "the report could not be completed in time")
        .hint("`--grace` sets the time; a report on a path is left as PATH.partial")
        .into()
}

fn stopped_early(halt: &Halt) -> Problem {
    let exit = match halt.cause() {
        Some(signal @ (Cause::Interrupt | Cause::Terminate)) => Exit::Signal(signal),
        _ => Exit::Database,
    };
    let cause = halt.cause().map_or("the end of the run", Cause::as_str);
    Problem::new(
        exit,
        format!("stopped by {cause} while connecting to the database"),
    )
    .hint("no token was asked for")
}

fn out_of_balance(facts: &Facts) -> Problem {
    Problem::new(
        Exit::Database,
        "the books do not balance; this is a bug of token_service",
    )
    .cause(format!(
        "{} tokens were received and {} are accounted for",
        facts.received, facts.counted
    ))
    .hint("do not trust this report; compare it with the table")
}

/// A report that cannot be opened is a mistake in the configuration.
fn unwritable(fault: Fault) -> Problem {
    debug_assert!(matches!(fault.kind, Kind::InvalidArgument { .. }));
    let problem = Problem::new(Exit::Usage, fault.message);
    let problem = fault.causes.into_iter().fold(problem, Problem::cause);
    match fault.hint {
        Some(hint) => problem.hint(hint),
        None => problem,
    }
}

fn broken(what: &str, error: &dyn std::error::Error) -> Problem {
    Problem::new(Exit::Script, what).cause(error.to_string())
}
