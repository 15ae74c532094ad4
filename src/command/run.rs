//! `token_service [SIZE]`: opens source, database and reports, runs the script and concludes the run.
//!
//! The script has its own thread. The current thread runs fetching and storing.

use std::sync::Arc;
use std::time::Duration;
use std::{future, thread};

use anyhow::Context as _;
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tracing::{Dispatch, dispatcher};

use crate::command::continuation::{self, EarlierJournal};
use crate::command::supervisor::run_supervised;
use crate::config::{RunSettings, ScriptSource as ScriptPath, SourceSettings};
use crate::error::Error;
use crate::error::exit::{Exit, RunTotals};
use crate::fetch;
use crate::fetch::http::{HttpEndpoint, HttpSource};
use crate::fetch::{Fetcher, RequestSettings};
use crate::journal::{Journal, JournalHeader};
use crate::observe::otel::Tracer;
use crate::observe::progress::ProgressDisplay;
use crate::observe::run_context::RunContext;
use crate::pipeline::backoff::Backoff;
use crate::pipeline::concurrency::Concurrency;
use crate::report::Reports;
use crate::report::conclusion::{self, Conclusion, stopped_early, unwritable};
use crate::report::ledger::Ledger;
use crate::report::summary::RunRecord;
use crate::runtime::shutdown::Shutdown;
use crate::runtime::url::display_url;
use crate::script::api::emit_files::Emitter;
use crate::script::finish::{ScriptEnd, run_and_drain};
use crate::script::host::{HostParts, ScriptHost};
use crate::script::{self, Script, ScriptSettings};
use crate::store::shared_store::SharedStore;
use crate::store::{Store, StoreOptions};

/// Opens the reports of a run.
pub(crate) type OpenReports = Box<dyn FnOnce() -> Result<Reports, Error> + Send>;
/// Gets the host of a run.
pub(crate) type OnStart = Box<dyn FnOnce(&Arc<ScriptHost>) + Send>;

/// What a run gets from its command: where its reports go, and what it shares with other runs.
pub(crate) struct RunEnvironment {
    /// Opens the reports once the run can start.
    pub open_reports: OpenReports,
    /// Gets the host before the script runs.
    pub on_start: OnStart,
    /// The source and the database of a service; `None` if the run has its own.
    pub shared: Option<SharedResources>,
    /// Shows the progress.
    pub display: ProgressDisplay,
}

/// The source and the database that the runs of a service share.
#[derive(Clone)]
pub(crate) struct SharedResources {
    /// The client of the source; `None` for a run with an input.
    pub source: Option<Arc<HttpSource>>,
    /// The database; `None` if each run has its own, because its receipts have its id.
    pub store: Option<Arc<SharedStore>>,
}

impl RunEnvironment {
    /// The environment of the only run of a process.
    pub fn of_process(settings: &RunSettings, display: &ProgressDisplay) -> Self {
        let (specs, color) = (settings.reports.clone(), settings.color);
        let stdout = display.stdout();
        Self {
            open_reports: Box::new(move || Reports::open(&specs, color, stdout)),
            on_start: Box::new(|_| {}),
            shared: None,
            display: display.clone(),
        }
    }
}

/// Runs the pipeline and returns its conclusion.
pub fn run(settings: &RunSettings, display: &ProgressDisplay) -> Conclusion {
    let script = load(settings).and_then(|script| match &settings.out_dir {
        // Without a folder, the script would fail only after tokens were fetched.
        None => script.first_file_write().map_or(Ok(script), Err),
        Some(_) => Ok(script),
    });
    let mut conclusion = run_supervised(
        "run",
        settings,
        async |shutdown, run_context| match script {
            Err(error) => Err(error),
            Ok(_) if settings.size == 0 => empty_run(settings, &run_context, display),
            Ok(script) => {
                let environment = RunEnvironment::of_process(settings, display);
                let settings = settings.clone();
                pipeline(settings, script, shutdown, run_context, environment).await
            }
        },
    );
    hide_built_in_script(settings, &mut conclusion);
    conclusion
}

/// Removes places in the built-in script from the error: the user did not write it.
pub(crate) fn hide_built_in_script(settings: &RunSettings, conclusion: &mut Conclusion) {
    if settings.script == ScriptPath::Default
        && let Some(error) = &mut conclusion.error
    {
        error.location = None;
        error.frames.clear();
    }
}

/// Concludes a run without tokens, because its shard or its input is empty.
///
/// The script does not run: no script expects a SIZE of 0.
fn empty_run(
    settings: &RunSettings,
    run_context: &RunContext,
    display: &ProgressDisplay,
) -> Result<Conclusion, Error> {
    let is_empty =
        matches!(&settings.source, SourceSettings::Input(input) if input.count() == Some(0));
    if is_empty {
        tracing::info!("nothing to do: the input has no tokens");
    } else {
        tracing::info!("nothing to do: this shard's part of SIZE is 0");
    }
    let reports = Reports::open(&settings.reports, settings.color, display.stdout());
    let mut reports = reports.map_err(unwritable)?;
    reports.dry_run = settings.store.dry_run;
    reports.inputs = inputs(settings);
    let (mut ledger, totals) = (Ledger::new(reports), RunTotals::default());
    let (record, fail_on) = (RunRecord::from(run_context), &settings.fail_on);
    Ok(conclusion::close(
        &mut ledger,
        &totals,
        record,
        None,
        fail_on,
    ))
}

/// Returns what a run uses, for its HTML page.
pub(crate) fn inputs(settings: &RunSettings) -> Vec<(&'static str, String)> {
    let source = match &settings.source {
        SourceSettings::Http(endpoint) => display_url(&endpoint.url),
        SourceSettings::BuiltIn => String::from("built-in"),
        SourceSettings::Input(input) => input.name().trim_matches('`').to_owned(),
        SourceSettings::Nothing => String::from("none"),
    };
    let script = match &settings.script {
        ScriptPath::Default => String::from("built-in"),
        ScriptPath::File(path) => path.display().to_string(),
    };
    let mut inputs = vec![("source", source)];
    inputs.extend(database_inputs(settings));
    inputs.push(("script", script));
    inputs
}

/// Returns the database that a run or a replay uses, for its HTML page.
pub(crate) fn database_inputs(settings: &RunSettings) -> [(&'static str, String); 2] {
    let store = &settings.store;
    let table = format!("{}, column {}", store.table, store.column);
    [("database", store.target.location()), ("table", table)]
}

/// Compiles and checks the script, so that a misspelt name costs no token.
pub(crate) fn load(settings: &RunSettings) -> Result<Script, Error> {
    let path = match &settings.script {
        ScriptPath::Default => None,
        ScriptPath::File(path) => Some(path.as_path()),
    };
    checked(Script::load(path, &script_settings(settings)))
}

/// Returns the values and limits of the script.
pub(crate) fn script_settings(settings: &RunSettings) -> ScriptSettings {
    ScriptSettings {
        size: settings.size,
        vars: settings.vars.clone(),
        max_operations: settings.script_limits.max_operations,
        max_memory: settings.script_limits.max_memory,
        shared_memory: None,
    }
}

/// Returns a compiled script without mistakes that are visible before it runs.
pub(crate) fn checked(script: Result<Script, Error>) -> Result<Script, Error> {
    let script = script.map_err(with_check_hint)?;
    match script.check().into_iter().next() {
        Some(error) => Err(with_check_hint(error)),
        None => Ok(script),
    }
}

/// Adds a hint to an error that was found before the run.
fn with_check_hint(error: Error) -> Error {
    match &error.location {
        Some(location) if error.hint.is_none() => {
            let file = location.file.clone();
            error.hint(format!(
                "no token was requested; `token_service check {file}` may find more mistakes"
            ))
        }
        _ => error,
    }
}

/// Opens source, database and reports, and runs the script.
pub(crate) async fn pipeline(
    mut settings: RunSettings,
    script: Script,
    shutdown: Shutdown,
    run_context: RunContext,
    environment: RunEnvironment,
) -> Result<Conclusion, Error> {
    let RunEnvironment {
        open_reports,
        on_start,
        shared,
        display,
    } = environment;
    let emitter = Emitter::new(settings.out_dir.clone(), settings.used_files.clone());
    emitter.check_folder()?;
    let deadline = settings
        .deadline
        .map(|deadline| run_context.instant + deadline);
    let inputs = inputs(&settings);
    if let Some(receipts) = &mut settings.store.receipts {
        receipts.run_id = run_context.run_id;
        receipts.shard = run_context.shard.unwrap_or_default();
    }
    let settings = settings;
    let mut options = settings.store.clone();
    options.session = run_context.run_id.to_string();
    options.tracer = run_context.tracer.clone();
    let dry_run = options.dry_run;
    let source = match shared.as_ref().and_then(|shared| shared.source.as_ref()) {
        Some(source) => Box::new(source.for_run(run_context.tracer.clone())),
        None => open_source(&settings, &run_context.tracer).await?,
    };
    let clock = Arc::clone(&run_context.clock);
    let limits = settings.limits.clone();
    let mut fetcher = Fetcher::new(source, limits, shutdown.clone(), clock, deadline);
    fetcher.set_requests(&requests(&settings, &fetcher));
    // Other shards may have the same run id.
    fetcher.set_key_prefix(format!("{}-{}", run_context.run_id, settings.shard.index()));
    fetcher.wait_until(run_context.instant + settings.wait);
    // Before the database is asked who else continues the run: the lock of the journal tells.
    let earlier_journal = match &settings.journal {
        Some(path) => EarlierJournal::read(path, &settings)?,
        None => None,
    };
    let shared_store = shared.and_then(|shared| shared.store);
    let session = shared_store
        .as_ref()
        .map(|shared| shared.session().to_owned());
    let store = match &shared_store {
        Some(shared) => {
            let get = async || shared.get().await;
            wait_for_store(get, &shutdown, &run_context, settings.wait).await?
        }
        None => Arc::new(open_store(options, &shutdown, &run_context, settings.wait).await?),
    };
    let script_request = if settings.run_id.is_some() {
        let begun = continuation::begin(&store, &mut fetcher, earlier_journal.as_ref(), &settings);
        tokio::select! {
            biased;
            begun = begun => begun?,
            () = shutdown.stopping().cancelled() => return Err(stopped_early(&shutdown)),
        }
    } else {
        0
    };
    let is_shared = session.is_some() && settings.journal.is_some();
    let horizon = run_horizon(&store, is_shared).await?;
    // Opened last, so that a run that cannot start leaves no empty reports.
    let mut reports = open_reports().map_err(unwritable)?;
    reports.mask = settings.mask;
    reports.dry_run = dry_run;
    reports.inputs = inputs;
    if let Some(path) = &settings.journal {
        let run_id = run_context.run_id.to_string();
        let journal = if let Some(mut earlier) = earlier_journal {
            earlier.resume(&run_id)
        } else {
            let size = (!fetcher.is_open_ended()).then_some(settings.size);
            let header = journal_header(run_id, horizon, &settings.store).with_requested(size);
            Journal::begin(path, &header.with_session(session))
        };
        match journal {
            Ok(journal) => {
                reports.add_journal(journal.clone());
                fetcher.set_journal(journal);
            }
            Err(error) => {
                reports.discard();
                return Err(unwritable(error));
            }
        }
    }
    let ledger = ledger(reports, &store, script_request).into();
    let parts = HostParts {
        runtime: Handle::current(),
        run_context: run_context.clone(),
        shutdown,
        size: settings.size,
        fetcher: Arc::new(fetcher),
        store,
        ledger,
        fail_on: settings.fail_on,
        emitter: emitter.into(),
        environment: settings.env,
    };
    let host = ScriptHost::new(parts);
    on_start(&host);
    run_script(script, host, run_context, &display).await
}

/// Returns the transaction id horizon of a run. Other runs may have used the connections of a shared store
/// before.
async fn run_horizon(store: &Store, is_shared: bool) -> Result<Option<i64>, Error> {
    if is_shared {
        store.current_horizon().await
    } else {
        Ok(store.horizon())
    }
}

/// Returns the header of a run's journal.
fn journal_header(run_id: String, horizon: Option<i64>, options: &StoreOptions) -> JournalHeader {
    let receipts = options.receipts.as_ref();
    let receipts = receipts.map(|receipts| (receipts.table.to_string(), receipts.shard));
    let (table, column) = (options.table.to_string(), options.column.clone());
    JournalHeader::new(run_id, horizon, table, column).with_receipts(receipts)
}

/// Returns how requests are sent. A run that another process can continue without a journal sends one at a
/// time, so that the same ones can be sent again.
fn requests(settings: &RunSettings, fetcher: &Fetcher) -> RequestSettings {
    let mut requests = settings.requests.clone();
    if settings.run_id.is_some() && settings.journal.is_none() && fetcher.sends_keys() {
        requests.concurrency = Concurrency::Fixed(1);
    }
    requests
}

/// Returns the ledger of a run, which collects the receipts of rejected tokens if receipts are written.
pub(crate) fn ledger(reports: Reports, store: &Store, script_request: u64) -> Ledger {
    let mut ledger = Ledger::new(reports);
    if let Some(log) = store.receipt_log() {
        ledger.set_receipts(log, script_request);
    }
    ledger
}

/// Runs the script, closes the store and returns the conclusion.
pub(crate) async fn run_script(
    script: Script,
    host: Arc<ScriptHost>,
    run_context: RunContext,
    display: &ProgressDisplay,
) -> Result<Conclusion, Error> {
    let store = Arc::clone(host.store_of_run());
    let total = (!host.fetcher().is_open_ended()).then(|| host.size());
    // A weak reference, so that the host is dropped with its script.
    let weak_host = Arc::downgrade(&host);
    let numbers = || weak_host.upgrade().and_then(|host| host.try_numbers());
    let waits = || store.waits_for();
    let finished = tokio::select! {
        biased;
        finished = on_script_thread(script, host, run_context) => finished,
        () = display.follow(total, numbers, waits) => future::pending().await,
    };
    let finished = finished?;
    // Other runs may use it too.
    if let Some(store) = Arc::into_inner(store) {
        store.close().await;
    }
    Ok(finished)
}

/// Opens the database, and retries for `wait` after the start of the run.
pub(crate) async fn open_store(
    options: StoreOptions,
    shutdown: &Shutdown,
    run_context: &RunContext,
    wait: Duration,
) -> Result<Store, Error> {
    let clock = &run_context.clock;
    let open = async || Store::open(options.clone(), shutdown.clone(), Arc::clone(clock)).await;
    wait_for_store(open, shutdown, run_context, wait).await
}

/// Calls `open` until it succeeds, for `wait` after the start of the run.
async fn wait_for_store<S>(
    open: impl AsyncFn() -> Result<S, Error>,
    shutdown: &Shutdown,
    run_context: &RunContext,
    wait: Duration,
) -> Result<S, Error> {
    let clock = &run_context.clock;
    let mut failures = 0;
    loop {
        let error: Error = tokio::select! {
            // First: the store also stops on shutdown, but its error does not name the signal.
            biased;
            () = shutdown.stopping().cancelled() => return Err(stopped_early(shutdown)),
            store = open() => match store {
                Ok(store) => return Ok(store),
                Err(error) => error,
            },
        };
        failures += 1;
        let pause = Backoff::default().wait(failures, clock.jitter());
        if !error.retryable || clock.now() + pause >= run_context.instant + wait {
            return Err(error);
        }
        tracing::info!(cause = error.causes.first(), "waiting for the database");
        tokio::select! {
            () = shutdown.stopping().cancelled() => return Err(stopped_early(shutdown)),
            () = clock.sleep(pause) => {}
        }
    }
}

/// Creates the client of a source.
pub(crate) fn http_source(
    settings: &RunSettings,
    endpoint: &HttpEndpoint,
    header: Option<&str>,
) -> Result<HttpSource, Error> {
    let mut http = HttpSource::new(endpoint, &settings.limits)?;
    if let Some(name) = header {
        http.set_idempotency_header(name)?;
    }
    Ok(http)
}

/// Opens the source of a run.
pub(crate) async fn open_source(
    settings: &RunSettings,
    tracer: &Tracer,
) -> Result<Box<dyn fetch::TokenSource>, Error> {
    let mut header = settings.requests.idempotency_header.as_deref();
    let endpoint = match &settings.source {
        SourceSettings::Http(endpoint) => endpoint,
        SourceSettings::BuiltIn => {
            header = Some(fetch::demo::IDEMPOTENCY_KEY);
            &fetch::demo::start().await?
        }
        SourceSettings::Input(input) => {
            let reader = input.read(settings.limits.max_token);
            return Ok(Box::new(reader.context("the input cannot be read")?));
        }
        SourceSettings::Nothing => {
            return Err(Error::new(Exit::Usage, "no token source is configured"));
        }
    };
    let http = http_source(settings, endpoint, header)?;
    Ok(Box::new(http.for_run(tracer.clone())))
}

async fn on_script_thread(
    mut script: Script,
    host: Arc<ScriptHost>,
    run_context: RunContext,
) -> Result<Conclusion, Error> {
    let (sender, receiver) = oneshot::channel();
    let busy = run_context.clock.busy();
    // The thread logs to the dispatcher of its run.
    let log = dispatcher::get_default(Dispatch::clone);
    let span = tracing::Span::current();
    thread::Builder::new()
        .name("script".to_owned())
        .stack_size(script::STACK_SIZE)
        .spawn(move || {
            busy.begin();
            let finished = dispatcher::with_default(&log, || {
                let _in_span = span.enter();
                let ended = run_and_drain(&mut script, &host);
                conclude(&host, ended, &run_context)
            });
            drop((script, host));
            let _ = sender.send(finished);
            drop(busy);
        })
        .context("the script's thread cannot be started")?;
    receiver
        .await
        .context("the script's thread ended without a result")
        .map_err(Error::from)
}

/// Computes the totals and concludes the run.
fn conclude(host: &ScriptHost, ended: ScriptEnd, run_context: &RunContext) -> Conclusion {
    let numbers = host.numbers();
    let totals = RunTotals {
        numbers,
        open_ended: host.fetcher().is_open_ended(),
        did_nothing: numbers.received == 0 && !host.fetcher().was_asked(),
        fell_short: host.fetcher().fell_short(),
        cause: host.shutdown().cause(),
        script_exit: ended.exit_code,
        error: ended.error.as_ref().map(|error| error.exit),
    };
    let (mut ledger, record) = (host.ledger(), RunRecord::from(run_context));
    conclusion::close(&mut ledger, &totals, record, ended.error, host.fail_on())
}
