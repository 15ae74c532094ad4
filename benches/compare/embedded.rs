//! The same pipeline in three ways, each in a process of its own that differs in nothing else: the
//! calls made in Rust, the default script, and a script that loops over each outcome. The store is the
//! demo's table in memory, so that what the script costs is not lost beside the database.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, ensure};
use token_service::error::Fault;
use token_service::error::diagnostic::Problem;
use token_service::fetch::http::{HttpEndpoint, HttpSource};
use token_service::fetch::{FetchLimits, Fetcher};
use token_service::observe::otel::Tracer;
use token_service::report::ledger::Ledger;
use token_service::report::{ReportFormat, ReportSpec, Reports};
use token_service::runtime::clock::{Clock, SystemClock};
use token_service::runtime::shutdown::Shutdown;
use token_service::script::api::emit_files::Emitter;
use token_service::script::finish::run_and_drain;
use token_service::script::host::{HostParts, ScriptHost};
use token_service::script::{self, Script};
use token_service::store;
use token_service::store::identifier::TableName;
use token_service::store::{DatabaseTarget, Store};
use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;

/// The argument that makes this binary such a process.
pub const WORD: &str = "embedded";

/// Looks at each outcome, as a user's script may.
const LOOP: &str = "\
let stored = 0;
for outcome in store(fetch(SIZE)) {
    if outcome.stored { stored += 1; }
}
";

/// How the pipeline is joined.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// By Rust code.
    Rust,
    /// By the default script.
    Default,
    /// By a script that loops over each outcome.
    Loop,
}

impl Way {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Rust, Self::Default, Self::Loop];

    /// What it is called in the tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::Rust => "the same calls in Rust",
            Self::Default => "default script",
            Self::Loop => "script that loops over each outcome",
        }
    }
}

/// What such a process does, given the way, the number of tokens and the source's address.
///
/// # Errors
/// Where a token did not get its outcome.
pub fn run(mut args: impl Iterator<Item = OsString>) -> Result<()> {
    let mut next = || args.next().and_then(|arg| arg.into_string().ok());
    let way = next().context("the way")?;
    let way = Way::ALL.into_iter().find(|known| known.name() == way);
    let way = way.context("a known way")?;
    let size: u64 = next().context("the number of tokens")?.parse()?;
    let url = next().context("the source's address")?;
    let runtime = Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(pipeline(way, size, &url))
}

async fn pipeline(way: Way, size: u64, url: &str) -> Result<()> {
    let shutdown = Shutdown::new();
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let endpoint = HttpEndpoint {
        url: url.parse()?,
        headers: Vec::new(),
        proxy: false,
    };
    let limits = limits();
    let http = Box::new(HttpSource::new(&endpoint, &limits).map_err(said)?);
    let fetcher = Fetcher::new(http, limits, shutdown.clone(), Arc::clone(&clock), None);
    let fetcher = Arc::new(fetcher);
    let store = Store::open(database(), shutdown.clone(), Arc::clone(&clock));
    let store = store.await.map_err(said)?;
    let stdout = ReportSpec {
        format: ReportFormat::Text,
        path: None,
    };
    let ledger = Ledger::new(Reports::open(&[stdout], false).map_err(said)?);
    let runtime = Handle::current();
    let (sender, receiver) = oneshot::channel();
    thread::Builder::new()
        .stack_size(script::STACK_SIZE)
        .spawn(move || {
            let counted = match way {
                Way::Rust => in_rust(&runtime, &fetcher, &store, ledger, size),
                Way::Default | Way::Loop => {
                    let host = ScriptHost::new(HostParts {
                        runtime,
                        clock,
                        shutdown,
                        size,
                        fetcher,
                        store: Arc::new(store),
                        ledger,
                        fail_on: Vec::new(),
                        emitter: Emitter::new(None),
                        environment: BTreeMap::new(),
                    });
                    by_script(way, &host)
                }
            };
            let _ = sender.send(counted);
        })?;
    let counted = receiver.await??;
    ensure!(counted == size, "{counted} outcomes of {size} tokens");
    Ok(())
}

/// Whoever writes this in Rust needs no lock and no host.
fn in_rust(
    runtime: &Handle,
    fetcher: &Arc<Fetcher>,
    store: &Store,
    mut ledger: Ledger,
    size: u64,
) -> Result<u64> {
    let mut outcomes = {
        let _guard = runtime.enter();
        store.store(fetcher.stream(size, fetcher.plan()))
    };
    loop {
        let batch = if let Some(batch) = outcomes.try_next() {
            batch
        } else {
            ledger.reports().flush().map_err(said)?;
            match runtime.block_on(outcomes.next()) {
                Some(batch) => batch.map_err(said)?,
                None => break,
            }
        };
        for outcome in batch {
            ledger.record(outcome, None).map_err(said)?;
        }
    }
    ledger.reports().flush().map_err(said)?;
    Ok(ledger.tally().total())
}

fn by_script(way: Way, host: &Arc<ScriptHost>) -> Result<u64> {
    let settings = script::ScriptSettings {
        size: host.size(),
        vars: serde_json::Map::new(),
        max_operations: 0,
        max_memory: token_service::config::ScriptLimits::default().max_memory,
    };
    let script = if way == Way::Loop {
        Script::from_text("loop.rhai", LOOP, &settings)
    } else {
        Script::load(None, &settings)
    };
    let mut script = script.map_err(|problem| shown(&problem))?;
    if let Some(problem) = script.check().into_iter().next() {
        return Err(shown(&problem));
    }
    match run_and_drain(&mut script, host).problem {
        Some(problem) => Err(shown(&problem)),
        None => Ok(host.ledger().tally().total()),
    }
}

/// The product's defaults.
fn limits() -> FetchLimits {
    FetchLimits {
        timeout: Duration::from_secs(10),
        connect_timeout: Duration::from_secs(5),
        page_size: 10_000,
        retries: 3,
        max_body: 32 * 1024 * 1024,
        max_token: 1024,
        max_requests: None,
        top_up: true,
        repeat_served: false,
    }
}

fn database() -> store::StoreOptions {
    store::StoreOptions {
        target: DatabaseTarget::Demo,
        table: TableName::plain("secret_tokens"),
        column: "data".to_owned(),
        connections: 16,
        pipeline: None,
        dry_run: false,
        statement_timeout: Duration::from_secs(30),
        patience: Duration::from_secs(30),
        session: String::new(),
        tracer: Tracer::default(),
        expected: 0,
    }
}

fn said(fault: Fault) -> anyhow::Error {
    let causes = fault.causes.join(": ");
    anyhow!(fault).context(causes)
}

fn shown(problem: &Problem) -> anyhow::Error {
    anyhow!(problem.render(false))
}
