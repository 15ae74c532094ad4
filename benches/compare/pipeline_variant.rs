//! The same pipeline in three variants: calls in Rust, the default script, and a script that loops over
//! each outcome.
//!
//! Each variant runs in its own process. The store is the demo table in memory, because a database
//! would hide the cost of the script.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, ensure};
use token_service::parts::{
    Clock, DatabaseTarget, Emitter, Error, FetchLimits, Fetcher, HostParts, HttpEndpoint,
    HttpSource, Ledger, ReportSpec, Reports, RunContext, STACK_SIZE, Script, ScriptHost,
    ScriptLimits, ScriptSettings, Shutdown, Store, StoreOptions, SystemClock, TableName, Tracer,
    run_and_drain, text,
};
use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;

/// The first argument that makes this binary run a variant.
pub const PROCESS_ARG: &str = "run-pipeline-variant";

/// A script that reads each outcome.
const LOOP_SCRIPT: &str = "\
let stored = 0;
for outcome in store(fetch(SIZE)) {
    if outcome.stored { stored += 1; }
}
";

/// The code that runs the pipeline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PipelineVariant {
    /// Calls in Rust.
    Rust,
    /// The default script.
    DefaultScript,
    /// A script that loops over each outcome.
    LoopScript,
}

impl PipelineVariant {
    /// All variants.
    pub const ALL: [Self; 3] = [Self::Rust, Self::DefaultScript, Self::LoopScript];

    /// Returns the name for tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::Rust => "the same calls in Rust",
            Self::DefaultScript => "default script",
            Self::LoopScript => "script that loops over each outcome",
        }
    }
}

/// Runs a variant; the arguments are its name, the number of tokens and the URL of the source.
///
/// # Errors
/// If an argument is missing or invalid, the pipeline fails, or a token has no outcome.
pub fn run(mut args: impl Iterator<Item = OsString>) -> Result<()> {
    let mut next = || args.next().and_then(|arg| arg.into_string().ok());
    let name = next().context("the name of the variant is missing")?;
    let variant = PipelineVariant::ALL
        .into_iter()
        .find(|variant| variant.name() == name)
        .with_context(|| format!("unknown variant {name:?}"))?;
    let size: u64 = next().context("the number of tokens is missing")?.parse()?;
    let url = next().context("the URL of the source is missing")?;
    let runtime = Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(run_pipeline(variant, size, &url))
}

async fn run_pipeline(variant: PipelineVariant, size: u64, url: &str) -> Result<()> {
    let shutdown = Shutdown::new();
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let endpoint = HttpEndpoint::new(url.parse()?);
    let limits = default_limits();
    let http = Box::new(HttpSource::new(&endpoint, &limits).map_err(fault_error)?);
    let fetcher = Fetcher::new(http, limits, shutdown.clone(), Arc::clone(&clock), None);
    let fetcher = Arc::new(fetcher);
    let store = Store::open(demo_store(), shutdown.clone(), Arc::clone(&clock));
    let store = store.await.map_err(fault_error)?;
    let stdout = ReportSpec {
        no_clobber: false,
        format: &text::FORMAT,
        path: None,
    };
    let ledger = Ledger::new(
        Reports::open(&[stdout], false, Box::new(std::io::stdout())).map_err(fault_error)?,
    );
    let runtime = Handle::current();
    let (sender, receiver) = oneshot::channel();
    thread::Builder::new()
        .stack_size(STACK_SIZE)
        .spawn(move || {
            let total = match variant {
                PipelineVariant::Rust => run_calls(&runtime, &fetcher, &store, ledger, size),
                PipelineVariant::DefaultScript | PipelineVariant::LoopScript => {
                    let host = ScriptHost::new(HostParts {
                        runtime,
                        run_context: RunContext::now(),
                        shutdown,
                        size,
                        fetcher,
                        store: Arc::new(store),
                        ledger: ledger.into(),
                        fail_on: Vec::new(),
                        emitter: Emitter::default().into(),
                        environment: BTreeMap::new(),
                    });
                    run_script(variant, &host)
                }
            };
            let _ = sender.send(total);
        })?;
    let total = receiver.await??;
    ensure!(
        total == size,
        "the pipeline reported {total} outcomes, expected {size}"
    );
    Ok(())
}

/// Runs the pipeline with calls in Rust, which need neither a lock nor a script host.
fn run_calls(
    runtime: &Handle,
    fetcher: &Arc<Fetcher>,
    store: &Store,
    mut ledger: Ledger,
    size: u64,
) -> Result<u64> {
    let mut outcomes = {
        let _guard = runtime.enter();
        store.store(
            fetcher.stream(size, fetcher.plan()),
            &Shutdown::new(),
            &Tracer::default(),
        )
    };
    loop {
        let batch = if let Some(batch) = outcomes.try_next() {
            batch
        } else {
            ledger.reports().flush().map_err(fault_error)?;
            match runtime.block_on(outcomes.next()) {
                Some(batch) => batch.map_err(fault_error)?,
                None => break,
            }
        };
        for outcome in batch {
            ledger.record(outcome, None).map_err(fault_error)?;
        }
    }
    ledger.reports().flush().map_err(fault_error)?;
    Ok(ledger.numbers().total())
}

fn run_script(variant: PipelineVariant, host: &Arc<ScriptHost>) -> Result<u64> {
    let settings = ScriptSettings {
        size: host.size(),
        vars: serde_json::Map::new(),
        max_operations: 0,
        max_memory: ScriptLimits::default().max_memory,
        shared_memory: None,
    };
    let script = if variant == PipelineVariant::LoopScript {
        Script::from_text("loop.rhai", LOOP_SCRIPT, &settings)
    } else {
        Script::load(None, &settings)
    };
    let mut script = script.map_err(|problem| problem_error(&problem))?;
    if let Some(problem) = script.check().into_iter().next() {
        return Err(problem_error(&problem));
    }
    match run_and_drain(&mut script, host).error {
        Some(problem) => Err(problem_error(&problem)),
        None => Ok(host.ledger().numbers().total()),
    }
}

/// Returns the default limits of the program.
fn default_limits() -> FetchLimits {
    FetchLimits {
        timeout: Duration::from_secs(10),
        connect_timeout: Duration::from_secs(5),
        page_size: 10_000,
        retries: None,
        patience: Duration::from_secs(30),
        max_body: 32 * 1024 * 1024,
        max_token: 1024,
        max_requests: None,
        top_up: true,
        repeat_served: false,
    }
}

fn demo_store() -> StoreOptions {
    StoreOptions {
        receipts: None,
        target: DatabaseTarget::Demo,
        table: TableName::plain("secret_tokens"),
        column: "data".to_owned(),
        connections: None,
        processes: 1,
        pipeline: None,
        dry_run: false,
        statement_timeout: Duration::from_secs(30),
        patience: Duration::from_secs(30),
        idle_limit: None,
        session: String::new(),
        tracer: Tracer::default(),
        expected: 0,
    }
}

fn fault_error(fault: Error) -> anyhow::Error {
    let causes = fault.causes.join(": ");
    anyhow!(fault).context(causes)
}

fn problem_error(problem: &Error) -> anyhow::Error {
    anyhow!(problem.render(false))
}
