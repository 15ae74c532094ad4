//! Runs a script to its end: drains its remaining streams and writes every open token.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use rhai::Engine;

use crate::error::Error;
use crate::error::exit::{Cause, Exit};
use crate::pipeline::token::{Detail, Outcome, Status};
use crate::script::Script;
use crate::script::api::formatter::LineFormatter;
use crate::script::host::{AbandonedStream, ScriptHost};

/// The result of a script.
#[derive(Debug)]
pub struct ScriptEnd {
    /// The error that ended the script, or the first error that it did not see.
    ///
    /// `None` if there was no error, or if a signal or the deadline stopped the run.
    pub error: Option<Error>,
    /// The code that the script set with `exit(N)`.
    pub exit_code: Option<u8>,
}

/// Runs the script and drains its remaining streams. Afterwards the ledger is complete.
pub fn run_and_drain(script: &mut Script, host: &Arc<ScriptHost>) -> ScriptEnd {
    let result =
        catch_unwind(AssertUnwindSafe(|| script.run(host))).unwrap_or_else(|_| Err(panicked()));
    let succeeded = result.is_ok();
    tracing::debug!("the script has ended");
    host.set_ended();
    script.watch_line_closure(host.shutdown());
    host.abandon_all();
    let mut drain = Drain {
        engine: &script.engine,
        host,
        formatter: host.take_formatter(),
        detail: Detail::reason(not_attempted_reason(host, succeeded)),
    };
    drain.drain(succeeded);
    drain.settle_open();
    let output = host.emitter().flush().err();
    let flush = host.ledger().reports().flush().err();
    let stopped = host.shutdown().stopping().is_cancelled();
    let error = match (host.shutdown().error(), result) {
        // This error stopped the run, so it is the cause of any other error.
        (Some(error), _) => Some(error.clone()),
        // The error of a stopped script is the stop itself, not a mistake.
        (None, Err(error)) if !stopped || error.kind.is_some() => Some(error),
        (None, _) => host
            .take_unreported()
            .or_else(|| host.ledger().error().cloned())
            .or(output)
            .or(flush),
    };
    ScriptEnd {
        error,
        exit_code: host.exit_code(),
    }
}

/// Returns why the remaining tokens were not sent.
fn not_attempted_reason(host: &ScriptHost, succeeded: bool) -> &'static str {
    match host.shutdown().cause() {
        Some(Cause::Deadline) => "the deadline passed",
        Some(_) => "the run was stopped",
        None if host.shutdown().error().is_some() => "the run failed",
        None if succeeded => "the script did not store it",
        None => "the script failed",
    }
}

struct Drain<'a> {
    engine: &'a Engine,
    host: &'a Arc<ScriptHost>,
    formatter: Option<LineFormatter>,
    detail: Arc<Detail>,
}

impl Drain<'_> {
    /// Reads every abandoned stream to its end.
    ///
    /// If the script failed, its streams stop sending tokens.
    fn drain(&mut self, succeeded: bool) {
        while let Some(stream) = self.host.next_abandoned() {
            match stream {
                AbandonedStream::Outcomes(ready, stream) => {
                    for outcome in ready {
                        self.record(&outcome);
                    }
                    let Some(mut stream) = stream else { continue };
                    if !succeeded {
                        stream.stop();
                    }
                    while let Some(next) = self.host.wait_despite_stop(stream.next()) {
                        match next {
                            Ok(batch) => batch.iter().for_each(|outcome| self.record(outcome)),
                            Err(error) => self.host.record_unreported(error),
                        }
                    }
                }
                AbandonedStream::Pages(mut pages) => {
                    pages.stop();
                    while let Some(next) = self.host.wait_despite_stop(pages.next()) {
                        // The script did not read these pages, so their error does not count.
                        let Ok(page) = next else { continue };
                        for token in page.iter() {
                            let detail = Some(Arc::clone(&self.detail));
                            self.record(&Outcome::unsent(token, Status::NotAttempted, detail));
                        }
                    }
                }
            }
        }
    }

    /// Writes an outcome. The script has ended, so no token is sent again.
    fn record(&self, outcome: &Outcome) {
        let line = self.line(outcome);
        // The ledger keeps the error of a report that cannot be written.
        let _ = self.host.ledger().settle(outcome, line.as_deref());
    }

    /// Returns the line of the script's closure for an outcome.
    fn line(&self, outcome: &Outcome) -> Option<String> {
        self.formatter.as_ref()?.format(self.engine, outcome)
    }

    /// Writes the tokens that are still open.
    fn settle_open(&self) {
        while let Some(outcome) = { self.host.ledger().take_open() } {
            self.record(&outcome);
        }
    }
}

fn panicked() -> Error {
    Error::new(
        Exit::Script,
        "the script host panicked: this is a bug in token_service",
    )
    .hint("the report accounts for every token; please report the bug and attach the script")
}
