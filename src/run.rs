//! A run: build the stages, let the script join them, tally, verdict. The script has a thread of
//! its own; this one drives fetching and storing.

use std::sync::Arc;
use std::thread;
use std::time::Instant;

use anyhow::Context as _;
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use url::Url;

use crate::config::{Script as ScriptPath, Settings, Source};
use crate::exit::{Exit, Facts};
use crate::fault::Fault;
use crate::fetch::{self, Fetcher};
use crate::halt::Halt;
use crate::journal::{Header, Journal};
use crate::problem::Problem;
use crate::report::Reports;
use crate::report::ledger::Ledger;
use crate::script::emit::Emitter;
use crate::script::end::{Ended, run_to_the_end};
use crate::script::host::{Host, Parts};
use crate::script::{self, Script};
use crate::store::{self, Store};
use crate::supervise::{Begun, drive};
use crate::verdict::{self, Asked, Finished, stopped_early, unwritable};

/// Runs the pipeline to its end, whatever way that comes.
pub fn run(settings: &Settings) -> Finished {
    match load(settings) {
        Err(problem) => problem.into(),
        Ok(script) => drive(settings, |halt, begun| {
            pipeline(settings.clone(), script, halt, begun)
        }),
    }
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
    settings: Settings,
    script: Script,
    halt: Halt,
    begun: Begun,
) -> Result<Finished, Problem> {
    let deadline = settings.deadline.map(|deadline| begun.instant + deadline);
    let wait_until = begun.instant + settings.wait;
    let mut options = settings.store;
    options.session = begun.run_id.to_string();
    let (table, column) = (options.table.clone(), options.column.clone());
    let source = source(settings.source).await?;
    let mut fetcher = Fetcher::new(source, halt.clone(), deadline)?;
    fetcher.wait_until(wait_until);
    let store = open(options, &halt, wait_until).await?;
    // Opened last: a run that cannot begin leaves no empty reports behind.
    let mut reports = Reports::open(&settings.reports).map_err(unwritable)?;
    if let Some(path) = &settings.journal {
        let run_id = begun.run_id.to_string();
        let header = Header::new(run_id, store.horizon(), table, column);
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
    let store = Arc::new(store);
    let host = Host::new(Parts {
        runtime: Handle::current(),
        halt,
        size: settings.size,
        fetcher: Arc::new(fetcher),
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

/// Opens the database; one that is not up yet is waited for.
pub(crate) async fn open(
    options: store::Options,
    halt: &Halt,
    wait_until: Instant,
) -> Result<Store, Problem> {
    let mut failures = 0;
    loop {
        let fault: Fault = tokio::select! {
            // First, for the store gives up for the same reason and knows nothing of signals.
            biased;
            () = halt.stopping().cancelled() => return Err(stopped_early(halt)),
            store = Store::open(options.clone(), halt.clone()) => match store {
                Ok(store) => return Ok(store),
                Err(fault) => fault,
            },
        };
        failures += 1;
        let pause = fetch::retry::backoff(failures, fastrand::f64());
        if !fault.retryable || Instant::now() + pause >= wait_until {
            return Err(fault.into());
        }
        tracing::info!(cause = fault.causes.first(), "waiting for the database");
        tokio::select! {
            () = halt.stopping().cancelled() => return Err(stopped_early(halt)),
            () = tokio::time::sleep(pause) => {}
        }
    }
}

async fn source(source: Source) -> Result<fetch::Options, Problem> {
    match source {
        Source::Http(options) => Ok(options),
        Source::Nothing => Err(Problem::new(Exit::Usage, "no token source is configured")),
        Source::BuiltIn(limits) => {
            let address = fetch::demo::start().await?;
            let url = Url::parse(&format!("http://{address}/tokens"))
                .context("the demo's token source has no address")?;
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
        .context("the script's thread cannot be started")?;
    receiver
        .await
        .context("the script's thread ended without a verdict")
        .map_err(Problem::from)
}

/// Tallies and draws the verdict.
fn conclude(host: &Host, ended: Ended, begun: &Begun) -> Finished {
    let facts = gather(host, &ended);
    let supply = host.fetcher().supply();
    let asked = Asked {
        requests: supply.requests(),
        surplus: supply.surplus(),
        unseen: supply.unseen(),
    };
    verdict::close(&mut host.ledger(), &facts, asked, begun, ended.problem)
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
