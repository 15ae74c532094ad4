//! `report` and `emit`: what the script writes.
#![allow(
    clippy::unwrap_used,
    clippy::wildcard_imports,
    clippy::needless_pass_by_value,
    clippy::unnecessary_wraps,
    reason = "what the engine's macro makes of natives, and the forms that it asks of them"
)]

use crate::script::api::counts_of;
use crate::script::native::integer;
use rhai::plugin::*;
use rhai::{FnPtr, Map};

use crate::error::escape::escape_line;
use crate::script::api::RhaiResultOf;
use crate::script::api::formatter::LineFormatter;
use crate::script::api::outcomes::Outcomes;
use crate::script::host::ScriptHost;
use crate::script::native::thrown;

/// Reporting.
#[export_module]
pub mod functions {
    /// Writes outcomes to every configured report as they arrive, and gives the summary so far.
    ///
    /// # Example
    ///
    /// ```rhai
    /// let summary = report(store(fetch(SIZE)));
    /// log_info(`${summary.stored} stored`);
    /// ```
    #[rhai_fn(volatile, return_raw)]
    pub fn report(context: NativeCallContext, outcomes: Outcomes) -> RhaiResultOf<Map> {
        write_report(&context, &outcomes, None)
    }

    /// The same, with the script's own line for the `text` report. Tabs and line breaks in it are
    /// written as they are, a token's own included; other control characters are escaped, as they are
    /// in tokens. `"\t"` is a tab; between backticks, where nothing is escaped, `\t` is two characters.
    ///
    /// # Example
    ///
    /// ```rhai
    /// report(store(fetch(SIZE)), |outcome| `${outcome.status}: ${outcome.token}`);
    /// ```
    #[rhai_fn(name = "report", volatile, return_raw)]
    pub fn report_lines(
        context: NativeCallContext,
        outcomes: Outcomes,
        line: FnPtr,
    ) -> RhaiResultOf<Map> {
        write_report(&context, &outcomes, Some(&line))
    }

    /// Writes a line to standard output, in order with the report there. What is escaped is the same
    /// as in a line of `report`.
    ///
    /// # Example
    ///
    /// ```rhai
    /// emit("token,status");
    /// ```
    #[rhai_fn(volatile, return_raw)]
    pub fn emit(context: NativeCallContext, text: &str) -> RhaiResultOf<()> {
        let host = ScriptHost::of_line(&context)?;
        let text = escape_line(text);
        host.ledger().reports().emit(&text).map_err(thrown)
    }

    /// Writes a line to a file inside `--out-dir`, which the first line of a run empties. A new file
    /// can be read by its owner alone. Without `--out-dir` a run is refused before it begins, except
    /// where the call stands in a `try`.
    ///
    /// # Example
    ///
    /// ```rhai
    /// emit("a line", "notes.txt");
    /// ```
    #[rhai_fn(name = "emit", volatile, return_raw)]
    pub fn emit_file(context: NativeCallContext, text: &str, file: &str) -> RhaiResultOf<()> {
        let host = ScriptHost::of_line(&context)?;
        host.emitter()
            .emit(&escape_line(text), file)
            .map_err(thrown)
    }
}

fn write_report(
    context: &NativeCallContext,
    outcomes: &Outcomes,
    line: Option<&FnPtr>,
) -> RhaiResultOf<Map> {
    let host = outcomes.host();
    let mut reader = outcomes.read()?;
    if let Some(line) = line {
        host.set_formatter(LineFormatter::of(context, line.clone()));
    }
    while let Some(next) = reader.next(|host| host.ledger().reports().flush().map_err(thrown))? {
        let outcome = next.map_err(thrown)?;
        let formatter = match line.filter(|_| outcome.status.is_final()) {
            None => None,
            // The outcome must be booked even where its wording throws.
            Some(line) => match line.call_within_context::<Dynamic>(context, (outcome.clone(),)) {
                Ok(text) => Some(escape_line(&text.to_string()).into_owned()),
                Err(error) => {
                    outcomes.record(outcome, None)?;
                    return Err(error);
                }
            },
        };
        outcomes.record(outcome, formatter.as_deref())?;
    }
    // Where the stream ended without a wait, nothing was flushed behind its last outcome: an output that
    // is closed must be told of here, where the script can catch it.
    host.ledger().reports().flush().map_err(thrown)?;
    Ok(summary_so_far(host))
}

/// The summary so far, as a script has it.
fn summary_so_far(host: &ScriptHost) -> Map {
    let stats = host.fetcher().stats();
    let ledger = host.ledger();
    let received = stats.received() + ledger.made();
    let mut map = counts_of(&ledger.tally());
    for (name, count) in [
        ("requested", host.requested(received)),
        ("received", received),
        ("requests", stats.requests()),
        ("surplus", stats.surplus()),
    ] {
        map.insert(name.into(), integer(count).into());
    }
    map
}
