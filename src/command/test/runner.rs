//! Runs one case, from the check of the script to the exit code, with a fake source, a fake database
//! and a virtual clock.

use std::fs;
use std::io::{self, Write};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use tokio::runtime::{Builder, Handle};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tracing::dispatcher;
use uuid::Uuid;

use crate::command::run;
use crate::command::supervisor::{TimeLimits, supervise};
use crate::command::test::case::{SignalTime, TestCase};
use crate::command::test::fake_source::{self, Interruption, RequestedSizes};
use crate::command::test::virtual_clock::{Overrun, VirtualClock};
use crate::error::exit::Cause;
use crate::fetch::{Fetcher, RequestSettings};
use crate::observe::logging;
use crate::observe::otel::Tracer;
use crate::observe::progress::ProgressDisplay;
use crate::observe::run_context::RunContext;
use crate::pipeline::concurrency::Concurrency;
use crate::pipeline::numbers::Numbers;
use crate::report::conclusion::Conclusion;
use crate::report::ledger::Ledger;
use crate::report::{FORMATS, ReportFormat, Reports, text};
use crate::runtime::clock::Clock;
use crate::runtime::shutdown::Shutdown;
use crate::script::Script;
use crate::script::api::emit_files::Emitter;
use crate::script::host::{HostParts, ScriptHost};
use crate::store::Store;

/// Maximum size of each captured output.
const MAX_OUTPUT: usize = 16 << 20;

/// The results of a case.
pub(crate) struct CaseRun {
    pub exit: u8,
    pub numbers: Numbers,
    pub stdout: String,
    /// The reports to compare.
    reports: Vec<(&'static ReportFormat, String)>,
    pub stderr: String,
    pub slept: Duration,
    /// The requested sizes.
    pub requests: Vec<u64>,
    /// The files that the script wrote, by name.
    pub files: Vec<(String, String)>,
    /// Why the run did not end by itself.
    pub overrun: Option<Overrun>,
    /// The real time that the case took.
    pub took: Duration,
}

impl CaseRun {
    /// Returns the report of a format; empty if it was not written.
    pub fn report(&self, format: &ReportFormat) -> &str {
        let found = self.reports.iter().find(|(known, _)| *known == format);
        found.map_or("", |(_, text)| text)
    }
}

/// Runs a case, for at most `limit` of real time.
pub(crate) fn run_case(case: &TestCase, limit: Duration) -> CaseRun {
    let started = Instant::now();
    let compared = FORMATS
        .into_iter()
        .filter(|format| case.expect.compares(format));
    let reports = compared.map(|format| (format, CapturedOutput::default()));
    let environment = CaseEnvironment {
        clock: VirtualClock::new(limit),
        requested: RequestedSizes::default(),
        stdout: CapturedOutput::default(),
        reports: reports.collect(),
        // Without a folder, a script that writes files gets an error.
        folder: tempfile::tempdir().ok(),
    };
    let stderr = CapturedOutput::default();
    let log_output = stderr.clone();
    let log = logging::lines(case.settings.log, false, move || log_output.clone());
    let finished = dispatcher::with_default(&log, || environment.run(case));
    let mut stderr = stderr.text();
    let mut numbers = Numbers::default();
    if let Some(summary) = &finished.summary {
        stderr += &summary.line();
        stderr.push('\n');
        numbers = summary.numbers;
    }
    if let Some(error) = &finished.error {
        stderr += &error.render(false);
        stderr.push('\n');
    }
    let reports = environment.reports.iter();
    let reports = reports.map(|(format, output)| (*format, output.text()));
    let requested = environment
        .requested
        .lock()
        .unwrap_or_else(PoisonError::into_inner);
    CaseRun {
        exit: finished.exit.code(),
        numbers,
        stdout: environment.stdout.text(),
        reports: reports.collect(),
        stderr,
        slept: environment.clock.slept(),
        requests: requested.clone(),
        files: files(environment.folder.as_ref().map(tempfile::TempDir::path)),
        overrun: environment.clock.overrun(),
        took: started.elapsed(),
    }
}

/// The fakes and outputs of a case.
struct CaseEnvironment {
    clock: VirtualClock,
    requested: RequestedSizes,
    stdout: CapturedOutput,
    reports: Vec<(&'static ReportFormat, CapturedOutput)>,
    folder: Option<tempfile::TempDir>,
}

impl CaseEnvironment {
    fn run(&self, case: &TestCase) -> Conclusion {
        let finished = run::load(&case.settings).and_then(|script| {
            let clock = self.clock.clone();
            // The runtime has no timers; the run waits only on the virtual clock.
            let runtime = Builder::new_current_thread()
                .on_thread_park(move || clock.idle())
                .build()
                .context("the runtime cannot be started")?;
            let ended = runtime.block_on(self.clock.drive(self.supervised(case, script)));
            Ok(ended.context("the run did not end although it was stopped")?)
        });
        finished.unwrap_or_else(Conclusion::from)
    }

    async fn supervised(&self, case: &TestCase, script: Script) -> Conclusion {
        let run_context = RunContext {
            clock: Arc::new(self.clock.clone()),
            instant: self.clock.now(),
            timestamp: jiff::Timestamp::UNIX_EPOCH,
            run_id: Uuid::nil(),
            shard: None,
            tracer: Tracer::default(),
        };
        let (signals, mut arriving) = unbounded_channel();
        for signal in &case.signals {
            if let SignalTime::At(moment) = signal.when {
                let (sender, name) = (signals.clone(), signal.cause);
                let moment = self.clock.sleep_until(run_context.instant + moment);
                tokio::spawn(async move {
                    moment.await;
                    let _ = sender.send(name);
                });
            }
        }
        let limits = TimeLimits::of(&case.settings);
        let next_signal = async || next(&mut arriving).await;
        supervise(
            run_context,
            limits,
            next_signal,
            |shutdown, run_context| async {
                let parts = self.parts(case, signals, shutdown, &run_context);
                let host = ScriptHost::new(parts);
                run::run_script(script, host, run_context, &ProgressDisplay::blank()).await
            },
        )
        .await
    }

    /// Builds the parts of the script host.
    fn parts(
        &self,
        case: &TestCase,
        signals: UnboundedSender<Cause>,
        shutdown: Shutdown,
        run_context: &RunContext,
    ) -> HostParts {
        self.clock.stop_with(shutdown.clone());
        let settings = &case.settings;
        let limits = settings.limits.clone();
        let source = fake_source::FakeSource {
            entries: case.entries.clone(),
            interruptions: interruptions(case),
            signals,
            requested: Arc::clone(&self.requested),
            timeout: limits.timeout,
            max_token: limits.max_token,
            sends_keys: settings.requests.idempotency_header.is_some(),
            clock: self.clock.clone(),
            shutdown: shutdown.clone(),
        };
        let deadline = settings
            .deadline
            .map(|deadline| run_context.instant + deadline);
        let clock = &run_context.clock;
        let mut fetcher = Fetcher::new(
            Box::new(source),
            limits,
            shutdown.clone(),
            Arc::clone(clock),
            deadline,
        );
        fetcher.set_requests(&RequestSettings {
            concurrency: Concurrency::Fixed(case.concurrency),
            ..settings.requests.clone()
        });
        fetcher.deliver_in_order();
        let script = case.store.clone();
        let store =
            Store::with_fake_replies(script, &settings.store, shutdown.clone(), Arc::clone(clock));
        let folder = self.folder.as_ref().map(|folder| folder.path().to_owned());
        HostParts {
            runtime: Handle::current(),
            run_context: run_context.clone(),
            shutdown,
            size: settings.size,
            fetcher: Arc::new(fetcher),
            store: Arc::new(store),
            ledger: Ledger::new(self.reports(case)).into(),
            fail_on: settings.fail_on.clone(),
            emitter: Emitter::new(folder, Vec::new()).into(),
            environment: settings.env.clone(),
        }
    }

    fn reports(&self, case: &TestCase) -> Reports {
        let mut reports = Reports::with_stdout(Box::new(self.stdout.clone()));
        reports.add_stdout(&text::FORMAT);
        reports.mask = case.settings.mask;
        reports.dry_run = case.settings.store.dry_run;
        for (format, output) in &self.reports {
            reports.add_writer(format, Box::new(output.clone()));
        }
        reports
    }
}

async fn next(arriving: &mut UnboundedReceiver<Cause>) -> Cause {
    match arriving.recv().await {
        Some(cause) => cause,
        None => std::future::pending().await,
    }
}

fn interruptions(case: &TestCase) -> Vec<Interruption> {
    let answered = case.signals.iter().filter_map(|signal| match signal.when {
        SignalTime::Answered(after) => Some(Interruption {
            after,
            cause: signal.cause,
        }),
        SignalTime::At(_) => None,
    });
    answered.collect()
}

/// A captured output. Clones share the buffer.
#[derive(Clone, Default)]
struct CapturedOutput(Arc<Mutex<Vec<u8>>>);

impl CapturedOutput {
    fn text(&self) -> String {
        let bytes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

impl Write for CapturedOutput {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut buffer = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if buffer.len() + bytes.len() > MAX_OUTPUT {
            return Err(io::Error::other("a test case may write at most 16 MiB"));
        }
        buffer.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Returns the files below `folder`, sorted by name.
fn files(folder: Option<&Path>) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut folders: Vec<_> = folder.map(Path::to_owned).into_iter().collect();
    while let Some(one) = folders.pop() {
        for entry in fs::read_dir(one).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let bytes = fs::read(&path).unwrap_or_default();
            let name = folder.and_then(|folder| path.strip_prefix(folder).ok());
            let name = name.unwrap_or(&path).display().to_string();
            found.push((name, String::from_utf8_lossy(&bytes).into_owned()));
        }
    }
    found.sort();
    found
}
