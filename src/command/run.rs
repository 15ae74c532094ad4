//! A run: build the stages, let the script join them, tally, verdict. The script has a thread of
//! its own; this one drives fetching and storing.

use crate::pipeline::backoff::backoff;
use std::sync::Arc;
use std::time::Duration;
use std::{future, thread};

use anyhow::Context as _;
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tracing::{Dispatch, dispatcher};

use crate::command::supervisor::drive;
use crate::config::{RunSettings, ScriptSource as ScriptPath, SourceSettings};
use crate::error::Fault;
use crate::error::diagnostic::Problem;
use crate::error::exit::{Exit, RunTotals};
use crate::fetch;
use crate::fetch::http::HttpSource;
use crate::fetch::{FetchLimits, Fetcher};
use crate::journal::{Journal, JournalHeader};
use crate::observe::otel::Tracer;
use crate::observe::progress::ProgressDisplay;
use crate::observe::run_context::RunContext;
use crate::report::Reports;
use crate::report::conclusion::{
    self, Conclusion, RequestCounts, RunRecord, stopped_early, unwritable,
};
use crate::report::ledger::Ledger;
use crate::runtime::shutdown::Shutdown;
use crate::script::api::emit_files::Emitter;
use crate::script::finish::{ScriptEnd, run_to_the_end};
use crate::script::host::{HostParts, ScriptHost};
use crate::script::{self, Script};
use crate::store::{self, Store};

/// Runs the pipeline to its end, whatever way that comes.
pub fn run(settings: &RunSettings, display: &ProgressDisplay) -> Conclusion {
    let script = load(settings).and_then(|script| match &settings.out_dir {
        // It would fail in the middle, after tokens were fetched.
        None => script.file_written().map_or(Ok(script), Err),
        Some(_) => Ok(script),
    });
    drive(
        "run",
        settings,
        async |shutdown, run_context| match script {
            Err(problem) => Err(problem),
            Ok(_) if settings.size == 0 => nothing_to_do(settings, &run_context),
            Ok(script) => {
                pipeline(
                    settings.clone(),
                    script,
                    shutdown,
                    run_context,
                    display.clone(),
                )
                .await
            }
        },
    )
}

/// The run of a shard that has no part of SIZE, or of an input that holds no token. Its script is not
/// asked: no script expects a SIZE of 0.
fn nothing_to_do(settings: &RunSettings, run_context: &RunContext) -> Result<Conclusion, Problem> {
    let is_empty =
        matches!(&settings.source, SourceSettings::Input(input) if input.count() == Some(0));
    if is_empty {
        tracing::info!("there is nothing to do: the input holds no token");
    } else {
        tracing::info!("there is nothing to do: this run's part of SIZE is 0");
    }
    let mut reports = Reports::open(&settings.reports, settings.color).map_err(unwritable)?;
    reports.dry_run(settings.store.dry_run);
    let (mut ledger, totals) = (Ledger::new(reports), RunTotals::default());
    let (asked, record) = (RequestCounts::default(), RunRecord::from(run_context));
    let rules = &settings.fail_on;
    Ok(conclusion::close(
        &mut ledger,
        &totals,
        asked,
        record,
        None,
        rules,
    ))
}

/// The script, compiled and free of the mistakes that can be seen beforehand: a typing error must
/// not cost a token.
pub(crate) fn load(settings: &RunSettings) -> Result<Script, Problem> {
    let path = match &settings.script {
        ScriptPath::Default => None,
        ScriptPath::File(path) => Some(path.as_path()),
    };
    let script = Script::load(
        path,
        &script::ScriptSettings {
            size: settings.size,
            vars: settings.vars.clone(),
            max_operations: settings.script_limits.max_operations,
            max_memory: settings.script_limits.max_memory,
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
    settings: RunSettings,
    script: Script,
    shutdown: Shutdown,
    run_context: RunContext,
    display: ProgressDisplay,
) -> Result<Conclusion, Problem> {
    let deadline = settings
        .deadline
        .map(|deadline| run_context.instant + deadline);
    let mut options = settings.store;
    options.session = run_context.run_id.to_string();
    options.tracer = run_context.tracer.clone();
    let dry_run = options.dry_run;
    let (table, column) = (options.table.to_string(), options.column.clone());
    let source = source(settings.source, &settings.limits, &run_context.tracer).await?;
    let clock = Arc::clone(&run_context.clock);
    let mut fetcher = Fetcher::new(source, settings.limits, shutdown.clone(), clock, deadline);
    fetcher.wait_until(run_context.instant + settings.wait);
    let store = open(options, &shutdown, &run_context, settings.wait).await?;
    // Opened last: a run that cannot begin leaves no empty reports behind.
    let mut reports = Reports::open(&settings.reports, settings.color).map_err(unwritable)?;
    reports.mask(settings.mask);
    reports.dry_run(dry_run);
    if let Some(path) = &settings.journal {
        let run_id = run_context.run_id.to_string();
        let size = (!fetcher.is_open_ended()).then_some(settings.size);
        let header = JournalHeader::new(run_id, store.horizon(), table, column).asking_for(size);
        match Journal::begin(path, &header) {
            Ok(journal) => {
                reports.keep_journal(journal.clone());
                fetcher.keep_journal(journal);
            }
            Err(fault) => {
                reports.discard();
                return Err(unwritable(fault));
            }
        }
    }
    let parts = HostParts {
        runtime: Handle::current(),
        clock: Arc::clone(&run_context.clock),
        shutdown,
        size: settings.size,
        fetcher: Arc::new(fetcher),
        store: Arc::new(store),
        ledger: Ledger::new(reports),
        fail_on: settings.fail_on,
        emitter: Emitter::new(settings.out_dir),
        environment: settings.env,
    };
    carry_out(script, parts, run_context, &display).await
}

/// Runs the script between both ends, and draws the verdict.
pub(crate) async fn carry_out(
    script: Script,
    parts: HostParts,
    run_context: RunContext,
    display: &ProgressDisplay,
) -> Result<Conclusion, Problem> {
    let store = Arc::clone(&parts.store);
    let host = ScriptHost::new(parts);
    let total = (!host.fetcher().is_open_ended()).then(|| host.size());
    // Weakly, so that the host ends with its script.
    let watched = Arc::downgrade(&host);
    let tally = || watched.upgrade().and_then(|host| host.try_tally());
    let waits = || store.waits_for();
    let finished = tokio::select! {
        biased;
        finished = on_its_thread(script, host, run_context) => finished,
        () = display.follow(total, tally, waits) => future::pending().await,
    };
    let finished = finished?;
    if let Some(store) = Arc::into_inner(store) {
        store.close().await;
    }
    Ok(finished)
}

/// Opens the database; one that is not up yet is waited for.
pub(crate) async fn open(
    options: store::StoreOptions,
    shutdown: &Shutdown,
    run_context: &RunContext,
    wait: Duration,
) -> Result<Store, Problem> {
    let clock = &run_context.clock;
    let mut failures = 0;
    loop {
        let fault: Fault = tokio::select! {
            // First, for the store gives up for the same reason and knows nothing of signals.
            biased;
            () = shutdown.stopping().cancelled() => return Err(stopped_early(shutdown)),
            store = Store::open(options.clone(), shutdown.clone(), Arc::clone(clock)) => match store {
                Ok(store) => return Ok(store),
                Err(fault) => fault,
            },
        };
        failures += 1;
        let pause = backoff(failures, clock.jitter());
        if !fault.retryable || clock.now() + pause >= run_context.instant + wait {
            return Err(fault.into());
        }
        tracing::info!(cause = fault.causes.first(), "waiting for the database");
        tokio::select! {
            () = shutdown.stopping().cancelled() => return Err(stopped_early(shutdown)),
            () = clock.sleep(pause) => {}
        }
    }
}

async fn source(
    source: SourceSettings,
    limits: &FetchLimits,
    tracer: &Tracer,
) -> Result<Box<dyn fetch::TokenSource>, Problem> {
    let endpoint = match source {
        SourceSettings::Http(endpoint) => endpoint,
        SourceSettings::BuiltIn => fetch::demo::start().await?,
        SourceSettings::Input(input) => {
            let reading = input.read(limits.max_token);
            return Ok(Box::new(reading.context("the input cannot be read")?));
        }
        SourceSettings::Nothing => {
            return Err(Problem::new(Exit::Usage, "no token source is configured"));
        }
    };
    let mut http = HttpSource::new(&endpoint, limits)?;
    http.trace(tracer.clone());
    Ok(Box::new(http))
}

async fn on_its_thread(
    mut script: Script,
    host: Arc<ScriptHost>,
    run_context: RunContext,
) -> Result<Conclusion, Problem> {
    let (sender, receiver) = oneshot::channel();
    let busy = run_context.clock.busy();
    // The thread's log lines go where those of its run go.
    let log = dispatcher::get_default(Dispatch::clone);
    thread::Builder::new()
        .name("script".to_owned())
        .stack_size(script::STACK)
        .spawn(move || {
            busy.begin();
            let finished = dispatcher::with_default(&log, || {
                let ended = run_to_the_end(&mut script, &host);
                conclude(&host, ended, &run_context)
            });
            drop((script, host));
            let _ = sender.send(finished);
            drop(busy);
        })
        .context("the script's thread cannot be started")?;
    receiver
        .await
        .context("the script's thread ended without a verdict")
        .map_err(Problem::from)
}

/// Tallies and draws the verdict.
fn conclude(host: &ScriptHost, ended: ScriptEnd, run_context: &RunContext) -> Conclusion {
    let totals = gather(host, &ended);
    let stats = host.fetcher().stats();
    let asked = RequestCounts {
        requests: stats.requests(),
        surplus: stats.surplus(),
        unseen: stats.unseen(),
        top_ups: stats.top_ups(),
        repeated: stats.repeated(),
    };
    let rules = host.fail_on();
    conclusion::close(
        &mut host.ledger(),
        &totals,
        asked,
        RunRecord::from(run_context),
        ended.problem,
        rules,
    )
}

fn gather(host: &ScriptHost, ended: &ScriptEnd) -> RunTotals {
    let stats = host.fetcher().stats();
    let ledger = host.ledger();
    let tally = ledger.tally();
    let received = stats.received() + ledger.made();
    RunTotals {
        size: host.requested(received),
        received,
        open_ended: host.fetcher().is_open_ended(),
        counted: tally.total(),
        unsettled: tally.unsettled(),
        fell_short: stats.fell_short(),
        cause: host.shutdown().cause(),
        chosen: ended.chosen,
        problem: ended.problem.as_ref().map(|problem| problem.exit),
    }
}
