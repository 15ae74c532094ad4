//! Entry points of the fuzz targets in `fuzz/` and of the property tests.
//!
//! Each accepts arbitrary bytes. It must not panic, and its errors must not show secrets.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;

use crate::config::{self, Purpose};
use crate::error::Error;
use crate::error::exit::Cause;
use crate::fetch::http::HttpSource;
use crate::fetch::lines::LineParser;
use crate::fetch::{self, Fetcher};
use crate::observe::run_context::RunContext;
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

/// Maximum number of operations of a script.
const MAX_OPERATIONS: u64 = 100_000;
/// The time limit of a script.
const TIME_LIMIT: Duration = Duration::from_millis(500);
/// SIZE of a script's run.
const SIZE: u64 = 5;

/// Parses `bytes` as a body in chunks of `chunk` bytes; returns the tokens and the surplus.
///
/// # Panics
/// A token is too long or has control characters, or there are more than `wanted` tokens.
pub fn lines(bytes: &[u8], chunk: usize, wanted: u64, whole: bool) -> (Vec<String>, u64) {
    const MAX_TOKEN: usize = 64;
    let mut parser = LineParser::new(wanted, MAX_TOKEN).detecting_json();
    for part in bytes.chunks(chunk.max(1)) {
        parser.feed(part);
    }
    let lines = parser.finish(whole);
    assert!(lines.page.len() as u64 <= wanted, "more than wanted");
    let texts: Vec<String> = lines
        .page
        .iter()
        .map(|token| {
            let sound = token.defect().is_none();
            assert!(!sound || token.as_str().len() <= MAX_TOKEN, "too long");
            assert!(
                !sound || !token.as_str().chars().any(char::is_control),
                "a control character"
            );
            token.as_str().to_owned()
        })
        .collect();
    (texts, lines.surplus)
}

/// Loads a configuration file; an error has both the text and the JSON form.
pub fn configuration(text: &str) -> Result<(), String> {
    for purpose in [Purpose::Run, Purpose::Replay, Purpose::Demo] {
        config::load_text(purpose, "fuzz.yaml", text).map_err(|errors| all_shown(&errors))?;
    }
    Ok(())
}

/// Compiles and checks a script, and if `run`, runs it with the demo's source and database.
pub fn script(text: &str, run: bool) -> Result<(), String> {
    let settings = script::ScriptSettings {
        size: SIZE,
        vars: serde_json::Map::new(),
        max_operations: MAX_OPERATIONS,
        max_memory: config::ScriptLimits::default().max_memory,
        shared_memory: None,
    };
    for failure in Script::lint_text("fuzz.rhai", text, None, &settings).errors {
        shown(&failure);
    }
    let compiled = Script::from_text("fuzz.rhai", text, &settings);
    let script = compiled.map_err(|failure| shown(&failure))?;
    for failure in script.check() {
        shown(&failure);
    }
    if run {
        let runtime = Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| error.to_string())?;
        runtime.block_on(run_on_demo(script))?;
    }
    Ok(())
}

/// Parses a journal or a report as `replay` does.
pub fn journal(bytes: &[u8]) -> Result<(), String> {
    crate::command::replay::parse(bytes.to_vec()).map_err(|error| shown(&error))
}

/// Returns all forms of an error.
fn shown(error: &Error) -> String {
    let plain = error.render(false);
    format!("{plain}\n{}\n{}", error.render(true), error.to_json())
}

fn all_shown(errors: &[Error]) -> String {
    errors.iter().map(shown).collect()
}

async fn run_on_demo(mut script: Script) -> Result<(), String> {
    let rendered = |failure: Error| shown(&failure);
    let endpoint = fetch::demo::start().await.map_err(rendered)?;
    let settings = config::load_text(Purpose::Demo, "fuzz.yaml", "");
    let settings = settings.map_err(|failures| all_shown(&failures))?;
    let limits = settings.limits;
    let shutdown = Shutdown::new();
    let deadline = Instant::now() + TIME_LIMIT;
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let http = Box::new(HttpSource::new(&endpoint, &limits).map_err(rendered)?);
    let fetcher = Fetcher::new(
        http,
        limits,
        shutdown.clone(),
        Arc::clone(&clock),
        Some(deadline),
    );
    let options = store::StoreOptions {
        receipts: None,
        target: DatabaseTarget::Demo,
        ..settings.store
    };
    let store = Store::open(options, shutdown.clone(), Arc::clone(&clock)).await;
    let host = ScriptHost::new(HostParts {
        runtime: Handle::current(),
        run_context: RunContext {
            clock,
            ..RunContext::now()
        },
        shutdown: shutdown.clone(),
        size: SIZE,
        fetcher: Arc::new(fetcher),
        store: Arc::new(store.map_err(rendered)?),
        ledger: Ledger::new(Reports::with_stdout(Box::new(std::io::sink()))).into(),
        fail_on: Vec::new(),
        emitter: Emitter::default().into(),
        environment: std::collections::BTreeMap::new(),
    });
    let (sender, mut done) = oneshot::channel();
    thread::Builder::new()
        .stack_size(STACK_SIZE)
        .spawn(move || {
            let ended = run_and_drain(&mut script, &host);
            let numbers = host.numbers();
            drop((script, host));
            let _ = sender.send((ended, numbers));
        })
        .map_err(|error| error.to_string())?;
    let (ended, numbers) = tokio::select! {
        result = &mut done => result,
        () = tokio::time::sleep_until(deadline.into()) => {
            shutdown.stop_for(Cause::Deadline);
            shutdown.abort();
            done.await
        }
    }
    .map_err(|error| error.to_string())?;
    let counted = numbers.total();
    assert_eq!(
        numbers.received, counted,
        "received and reported tokens differ"
    );
    if let Some(failure) = ended.error {
        let text = shown(&failure);
        assert!(!text.contains("this is a bug"), "{text}");
    }
    Ok(())
}
