//! Runs what requests have started, one task per run. A run does not end with its request.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use tokio::sync::mpsc;
use tokio::task::spawn_local;
use tracing::Instrument as _;

use crate::command::replay;
use crate::command::replay::state::ReplayState;
use crate::command::run::{OpenReports, RunEnvironment, hide_built_in_script, pipeline};
use crate::command::serve::job::{RunJob, RunWork};
use crate::command::serve::report_log::LogWriter;
use crate::command::serve::run::Run;
use crate::command::serve::service::Service;
use crate::command::supervisor::{TimeLimits, supervise};
use crate::config::{RunSettings, SourceSettings};
use crate::error::Error;
use crate::error::exit::{Cause, Exit};
use crate::observe::otel::{RunEnd, Telemetry};
use crate::observe::progress::ProgressDisplay;
use crate::observe::run_context::RunContext;
use crate::report::conclusion::Conclusion;
use crate::report::metrics::{metrics, span_attributes};
use crate::report::{Reports, ndjson, text};
use crate::runtime::shutdown::Shutdown;

/// How long a report in memory stays after its run, for a client that comes back.
const LINGER: Duration = Duration::from_mins(1);
/// Maximum time to flush the telemetry of a run.
const MAX_FLUSH: Duration = Duration::from_secs(2);

/// Runs every job, until no more can come. Must be called on a local task set.
pub(super) async fn run_jobs(service: Arc<Service>, mut jobs: mpsc::UnboundedReceiver<RunJob>) {
    while let Some(job) = jobs.recv().await {
        let run_id = job.run.id.to_string();
        let span = tracing::info_span!("run", run_id);
        let service = Arc::clone(&service);
        let work = async move { run_job(&service, job).await };
        spawn_local(Box::pin(work.instrument(span)));
    }
}

async fn run_job(service: &Arc<Service>, job: RunJob) {
    let RunJob {
        run,
        work,
        admission,
        parent,
        mut stops,
    } = job;
    let replayed = match &work {
        RunWork::Replay(left) => Some(Arc::clone(left)),
        RunWork::Script { .. } => None,
    };
    let permit = tokio::select! {
        biased;
        Some(cause) = stops.recv() => Err(cause),
        permit = service.places.turn(admission) => Ok(permit),
    };
    let began = Instant::now();
    let conclusion = match permit {
        Err(cause) => stopped_in_queue(cause).into(),
        Ok(_permit) => {
            run.begin();
            let context = RunContext {
                run_id: run.id,
                ..RunContext::now()
            };
            Box::pin(supervised(
                service, &run, work, context, &parent, &mut stops,
            ))
            .await
        }
    };
    let was_stopped = was_stopped(&conclusion);
    log(&conclusion);
    service
        .metrics
        .record(&conclusion, was_stopped, began.elapsed());
    let failed_to_start = run.end(&conclusion, was_stopped);
    keep(service, &run, failed_to_start);
    if let Some(left) = replayed {
        left.end_replay(conclusion.summary.as_ref().map(|_| run.object()).as_ref());
        if let Some(data) = &service.data {
            data.keep(&left.object(), left.key.as_ref());
        }
    }
    service.registry.end(&run);
    forget_later(&run);
}

fn stopped_in_queue(cause: Cause) -> Error {
    let message = format!("stopped by {} before the run began", cause.as_str());
    Error::new(Exit::Signal(cause), message).hint("no token was requested")
}

fn was_stopped(conclusion: &Conclusion) -> bool {
    let aborted_by = conclusion.summary.as_ref().and_then(|it| it.aborted_by);
    matches!(conclusion.exit, Exit::Signal(cause) if cause.is_signal())
        || aborted_by.is_some_and(Cause::is_signal)
}

/// Does the work under supervision, with the telemetry of a run.
async fn supervised(
    service: &Arc<Service>,
    run: &Arc<Run>,
    work: RunWork,
    mut context: RunContext,
    parent: &HashMap<String, String>,
    stops: &mut mpsc::UnboundedReceiver<Cause>,
) -> Conclusion {
    let settings = &service.settings.run;
    let name = match work {
        RunWork::Script { .. } => "run",
        RunWork::Replay(_) => "replay",
    };
    let mut otel = settings.telemetry.clone();
    if let Some(otel) = &mut otel {
        otel.parent.clone_from(parent);
        // They were logged when the service started.
        otel.warnings.clear();
    }
    let telemetry = Telemetry::begin(otel.as_ref(), name, &context.run_id.to_string());
    context.tracer = telemetry.tracer();
    let limits = TimeLimits::of(settings);
    let next_stop = async || match stops.recv().await {
        Some(cause) => cause,
        None => std::future::pending().await,
    };
    let mut conclusion = supervise(context.clone(), limits, next_stop, |shutdown, context| {
        Box::pin(run_work(service, run, work, shutdown, context))
    })
    .await;
    hide_built_in_script(settings, &mut conclusion);
    let summary = conclusion.summary.as_ref();
    let exit = conclusion.exit;
    let ending = RunEnd {
        exit,
        metrics: metrics(exit, summary, context.elapsed(), Timestamp::now()),
        attributes: span_attributes(exit, summary),
    };
    tokio::spawn(telemetry.finish(ending, MAX_FLUSH));
    conclusion
}

async fn run_work(
    service: &Arc<Service>,
    run: &Arc<Run>,
    work: RunWork,
    shutdown: Shutdown,
    context: RunContext,
) -> Result<Conclusion, Error> {
    let mut settings = service.settings.run.clone();
    // A replay has no host, so it has started when its reports are open.
    let is_replay = matches!(work, RunWork::Replay(_));
    let environment = RunEnvironment {
        open_reports: open_reports(run, shutdown.clone(), is_replay),
        on_start: {
            let run = Arc::clone(run);
            Box::new(move |host| {
                run.set_host(host);
                run.set_started(Ok(()));
            })
        },
        shared: Some(service.shared.clone()),
        display: ProgressDisplay::blank(),
    };
    match work {
        RunWork::Script { size, input } => {
            settings.size = size;
            let mut environment = environment;
            if let Some(input) = input {
                settings.source = SourceSettings::Input(input);
                if let Some(shared) = &mut environment.shared {
                    shared.source = None;
                }
            }
            if !settings.store.dry_run {
                let data = service.data.as_ref();
                settings.journal = data.map(|data| data.journal(run.id));
            }
            let script = service.script.of_run(size)?;
            pipeline(settings, script, shutdown, context, environment).await
        }
        RunWork::Replay(left) => {
            let replay = replay_run(service, &left, settings, shutdown, context, environment);
            Box::pin(replay).await
        }
    }
}

/// Settles what an interrupted run left in its journal.
async fn replay_run(
    service: &Service,
    left: &Run,
    settings: RunSettings,
    shutdown: Shutdown,
    context: RunContext,
    environment: RunEnvironment,
) -> Result<Conclusion, Error> {
    let journal = service.data.as_ref().map(|data| data.journal(left.id));
    let journal = journal.filter(|journal| journal.exists()).ok_or_else(|| {
        let error = Error::new(Exit::Usage, "the run left no journal");
        error.hint("it ended before a token was requested, or it was a dry run")
    })?;
    let read = tokio::task::spawn_blocking(move || ReplayState::read(&journal)).await;
    let state = read.map_err(|error| {
        Error::new(Exit::Usage, "the journal cannot be read").cause(error.to_string())
    })??;
    state.check_table(&settings)?;
    replay::settle(settings, state, shutdown, context, environment).await
}

/// Returns what opens the reports of a run once it can start.
fn open_reports(run: &Arc<Run>, shutdown: Shutdown, is_replay: bool) -> OpenReports {
    let run = Arc::clone(run);
    Box::new(move || {
        let mut reports = match &run.text {
            // What the script prints is part of its text report.
            Some(log) => {
                let writer = LogWriter::new(log, shutdown.clone());
                let mut reports = Reports::with_stdout(Box::new(writer));
                reports.add_stdout(&text::FORMAT);
                reports
            }
            None => Reports::with_stdout(Box::new(std::io::sink())),
        };
        if let Some(log) = &run.log {
            let writer = LogWriter::new(log, shutdown);
            reports.add_writer(&ndjson::FORMAT, Box::new(writer));
        }
        if is_replay {
            run.set_started(Ok(()));
        }
        Ok(reports)
    })
}

/// Keeps the run in the folder, or removes what a run left that did not start.
fn keep(service: &Service, run: &Run, failed_to_start: bool) {
    if failed_to_start {
        service.registry.forget_key(run);
    }
    let Some(data) = &service.data else {
        return;
    };
    if failed_to_start {
        data.remove(run.id);
        return;
    }
    if run.log.as_ref().is_some_and(|log| !log.has_failed()) {
        data.finish_report(run.id);
    }
    data.keep(&run.object(), run.key.as_ref());
}

fn log(conclusion: &Conclusion) {
    let exit_code = conclusion.exit.code();
    let error = conclusion.error.as_ref();
    let (cause, causes) = (
        error.map(|error| error.message.as_str()),
        error.map(|error| error.causes.join(": ")),
    );
    let causes = causes.filter(|causes| !causes.is_empty());
    if let Some(summary) = &conclusion.summary {
        tracing::info!(exit_code, cause, causes, "{}", summary.line());
    } else {
        tracing::warn!(exit_code, cause, causes, "the run did not start");
    }
}

/// Forgets the report in memory some time after the run.
fn forget_later(run: &Run) {
    let logs: Vec<_> = run.log.iter().chain(&run.text).map(Arc::clone).collect();
    if logs.iter().all(|log| log.memory() == 0) {
        return;
    }
    tokio::spawn(async move {
        tokio::time::sleep(LINGER).await;
        for log in logs {
            log.forget();
        }
    });
}
