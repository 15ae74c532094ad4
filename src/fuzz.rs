//! The ways in for whoever feeds the program rubbish: the targets in `fuzz/` and the property tests.
//! Each takes any bytes, and must neither panic nor show in an error what it was given to keep.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;

use crate::config::{self, Purpose};
use crate::error::Fault;
use crate::error::diagnostic::Problem;
use crate::error::exit::Cause;
use crate::fetch::http::HttpSource;
use crate::fetch::lines::LineParser;
use crate::fetch::{self, Fetcher};
use crate::report::Reports;
use crate::report::ledger::Ledger;
use crate::runtime::clock::{Clock, SystemClock};
use crate::runtime::shutdown::Shutdown;
use crate::script;
use crate::script::api::emit_files::Emitter;
use crate::script::finish::run_and_drain;
use crate::script::host::{HostParts, ScriptHost};
use crate::script::{STACK_SIZE, Script};
use crate::store::{self, DatabaseTarget, Store};

/// The most operations of a script that is run.
const OPERATIONS: u64 = 100_000;
/// How long a script that is run may take.
const TIME: Duration = Duration::from_millis(500);
/// How many tokens such a script is to fetch.
const SIZE: u64 = 5;

/// Cuts `bytes` into tokens; they come in chunks of `chunk` bytes. Gives the tokens, and how many
/// there were beyond `wanted`.
///
/// # Panics
/// Where a token is longer than it may be, or more are kept than were wanted.
pub fn lines(bytes: &[u8], chunk: usize, wanted: u64, whole: bool) -> (Vec<String>, u64) {
    const MOST: usize = 64;
    let mut parser = LineParser::new(wanted, MOST).detecting_json();
    for part in bytes.chunks(chunk.max(1)) {
        parser.feed(part);
    }
    let lines = parser.finish(whole);
    assert!(lines.page.len() as u64 <= wanted, "more than was wanted");
    let texts: Vec<String> = lines
        .page
        .iter()
        .map(|token| {
            let sound = token.defect().is_none();
            assert!(!sound || token.as_str().len() <= MOST, "too long");
            assert!(
                !sound || !token.as_str().chars().any(char::is_control),
                "a control character"
            );
            token.as_str().to_owned()
        })
        .collect();
    (texts, lines.surplus)
}

/// Reads a configuration file and settles it for a run. Gives the error as a person and as a program
/// see it.
pub fn configuration(text: &str) -> Result<(), String> {
    for purpose in [Purpose::Run, Purpose::Replay, Purpose::Demo] {
        config::load_text(purpose, "fuzz.yaml", text).map_err(|problem| shown(&problem))?;
    }
    Ok(())
}

/// Compiles and lints a script, and runs it on the demo's source and database within limits if
/// `run`.
pub fn script(text: &str, run: bool) -> Result<(), String> {
    let settings = script::ScriptSettings {
        size: SIZE,
        vars: serde_json::Map::new(),
        max_operations: OPERATIONS,
        max_memory: config::ScriptLimits::default().max_memory,
    };
    let compiled = Script::from_text("fuzz.rhai", text, &settings);
    let script = compiled.map_err(|problem| shown(&problem))?;
    for problem in script.check() {
        shown(&problem);
    }
    if run {
        let runtime = Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| error.to_string())?;
        runtime.block_on(on_the_demo(script))?;
    }
    Ok(())
}

/// Reads a journal or a report as `replay` does.
pub fn journal(bytes: &[u8]) -> Result<(), String> {
    crate::command::replay::parse(bytes.to_vec()).map_err(|fault| shown(&fault.into()))
}

/// Both forms of an error.
fn shown(problem: &Problem) -> String {
    let plain = problem.render(false);
    format!("{plain}\n{}\n{}", problem.render(true), problem.to_json())
}

async fn on_the_demo(mut script: Script) -> Result<(), String> {
    let told = |fault: Fault| shown(&fault.into());
    let endpoint = fetch::demo::start().await.map_err(told)?;
    let settings = config::load_text(Purpose::Demo, "fuzz.yaml", "");
    let settings = settings.map_err(|problem| shown(&problem))?;
    let limits = settings.limits;
    let shutdown = Shutdown::new();
    let deadline = Instant::now() + TIME;
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let http = Box::new(HttpSource::new(&endpoint, &limits).map_err(told)?);
    let fetcher = Fetcher::new(
        http,
        limits,
        shutdown.clone(),
        Arc::clone(&clock),
        Some(deadline),
    );
    let options = store::StoreOptions {
        target: DatabaseTarget::Demo,
        ..settings.store
    };
    let store = Store::open(options, shutdown.clone(), Arc::clone(&clock)).await;
    let host = ScriptHost::new(HostParts {
        runtime: Handle::current(),
        clock,
        shutdown: shutdown.clone(),
        size: SIZE,
        fetcher: Arc::new(fetcher),
        store: Arc::new(store.map_err(told)?),
        ledger: Ledger::new(Reports::with_stdout(Box::new(std::io::sink()))),
        fail_on: Vec::new(),
        emitter: Emitter::new(None),
        environment: std::collections::BTreeMap::new(),
    });
    let (tell, mut done) = oneshot::channel();
    thread::Builder::new()
        .stack_size(STACK_SIZE)
        .spawn(move || {
            let ended = run_and_drain(&mut script, &host);
            let received = host.fetcher().stats().received() + host.ledger().created();
            let booked = host.ledger().tally().total();
            drop((script, host));
            let _ = tell.send((ended, received, booked));
        })
        .map_err(|error| error.to_string())?;
    let (ended, received, booked) = tokio::select! {
        told = &mut done => told,
        () = tokio::time::sleep_until(deadline.into()) => {
            shutdown.stop_for(Cause::Deadline);
            shutdown.abort();
            done.await
        }
    }
    .map_err(|error| error.to_string())?;
    assert_eq!(received, booked, "the books do not balance");
    if let Some(problem) = ended.problem {
        let text = shown(&problem);
        assert!(!text.contains("this is a bug"), "{text}");
    }
    Ok(())
}
