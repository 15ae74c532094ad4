//! The end of a script: whatever way it ended, every stream that it left is drained, every token
//! that is still open is written, and the run's verdict is drawn from what is then known.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use rhai::Engine;

use crate::error::diagnostic::Problem;
use crate::error::exit::{Cause, Exit};
use crate::pipeline::token::{Detail, Outcome, Status};
use crate::script::Script;
use crate::script::api::formatter::LineFormatter;
use crate::script::host::{AbandonedStream, ScriptHost};

/// How a script ended.
#[derive(Debug)]
pub struct ScriptEnd {
    /// What ended it, or what nobody heard of on the way; `None` where all went well or where the
    /// run was stopped from outside.
    pub problem: Option<Problem>,
    /// The code that it set with `exit(N)`.
    pub chosen: Option<u8>,
}

/// Runs the script and drains all that it leaves. Afterwards the books are complete.
pub fn run_to_the_end(script: &mut Script, host: &Arc<ScriptHost>) -> ScriptEnd {
    let result =
        catch_unwind(AssertUnwindSafe(|| script.run(host))).unwrap_or_else(|_| Err(crashed()));
    let went_well = result.is_ok();
    tracing::debug!("the script has ended");
    host.end();
    script.unwatch(host.shutdown());
    host.abandon_all();
    let mut drained = Drain {
        engine: &script.engine,
        host,
        formatter: host.take_formatter(),
        detail: Detail::reason(why_not(host, went_well)),
    };
    drained.drain(went_well);
    drained.settle();
    let output = host.emitter().end().err();
    let flush = host.ledger().reports().flush().err();
    let stopped = host.shutdown().stopping().is_cancelled();
    let problem = match (host.shutdown().fault(), result) {
        // Whatever else happened, happened because the run could not go on.
        (Some(fault), _) => Some(fault.clone().into()),
        // A script that was stopped did nothing wrong.
        (None, Err(problem)) if !stopped || problem.kind.is_some() => Some(problem),
        (None, _) => host
            .take_unreported()
            .or_else(|| host.ledger().fault().cloned())
            .or(output)
            .or(flush)
            .map(Problem::from),
    };
    ScriptEnd {
        problem,
        chosen: host.chosen_exit(),
    }
}

/// Why tokens that are left now were not sent.
fn why_not(host: &ScriptHost, went_well: bool) -> &'static str {
    match host.shutdown().cause() {
        Some(Cause::Deadline) => "the deadline had passed",
        Some(_) => "the run was stopped",
        None if host.shutdown().fault().is_some() => "the run could not go on",
        None if went_well => "the script did not store it",
        None => "the script failed before",
    }
}

struct Drain<'a> {
    engine: &'a Engine,
    host: &'a Arc<ScriptHost>,
    formatter: Option<LineFormatter>,
    detail: Arc<Detail>,
}

impl Drain<'_> {
    /// Takes every stream to its end. A script that ended well has what it began to store stored;
    /// one that failed sends nothing more.
    fn drain(&mut self, went_well: bool) {
        while let Some(stream) = self.host.next_abandoned() {
            match stream {
                AbandonedStream::Outcomes(ready, stream) => {
                    for outcome in ready {
                        self.record(outcome);
                    }
                    let Some(mut stream) = stream else { continue };
                    if !went_well {
                        stream.stop();
                    }
                    while let Some(next) = self.host.wait_to_the_end(stream.next()) {
                        match next {
                            Ok(batch) => batch.into_iter().for_each(|outcome| self.record(outcome)),
                            Err(fault) => self.host.unreported(fault),
                        }
                    }
                }
                AbandonedStream::Pages(mut pages) => {
                    pages.stop();
                    while let Some(next) = self.host.wait_to_the_end(pages.next()) {
                        // Nobody asked for these pages any more, nor for what ended them.
                        let Ok(page) = next else { continue };
                        for token in page.iter() {
                            let detail = Some(Arc::clone(&self.detail));
                            self.record(Outcome::unsent(token, Status::NotAttempted, detail));
                        }
                    }
                }
            }
        }
    }

    fn record(&self, outcome: Outcome) {
        let line = outcome.status.is_final().then(|| self.line(&outcome));
        // A report that cannot be written is remembered by the books.
        let _ = self
            .host
            .ledger()
            .record(outcome, line.flatten().as_deref());
    }

    /// The script's own line for an outcome, if it has one.
    fn line(&self, outcome: &Outcome) -> Option<String> {
        self.formatter.as_ref()?.text(self.engine, outcome)
    }

    /// Writes what is still open.
    fn settle(&self) {
        while let Some(outcome) = { self.host.ledger().take_open() } {
            let line = self.line(&outcome);
            let _ = self.host.ledger().settle(&outcome, line.as_deref());
        }
    }
}

fn crashed() -> Problem {
    Problem::new(
        Exit::Script,
        "the script host crashed; this is a bug of token_service",
    )
    .hint("every token is accounted for in the report; please file the script that did it")
}
