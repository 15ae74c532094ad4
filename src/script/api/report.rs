//! `report` and `emit`: write reports and lines.

use rhai::{Dynamic, FnPtr, NativeCallContext, export_module};

use crate::error::escape::escape_line;
use crate::pipeline::numbers::NUMBERS;
use crate::script::api::formatter::LineFormatter;
use crate::script::api::outcomes::Outcomes;
use crate::script::api::{OutcomeClosure, RhaiResultOf, SummaryMap};
use crate::script::host::ScriptHost;
use crate::script::native::integer;
use crate::script::native::thrown;

/// Functions that write output.
#[export_module]
pub mod functions {
    /// Writes outcomes to every configured report as they arrive, and returns the summary so far.
    ///
    /// The summary is a map with the counts {numbers}.
    /// They cover the whole run so far.
    ///
    /// `failed` and `not_attempted` tokens are written at the end of the run, because a script may
    /// store them again. Throws `stream_consumed` if the outcomes were already read, `output_closed`
    /// if a report cannot be written, and the error that ended the fetch or the store.
    ///
    /// # Example
    ///
    /// ```rhai
    /// let summary = report(store(fetch(SIZE)));
    /// log_info(`${summary.stored} stored`);
    /// ```
    #[rhai_fn(volatile, return_raw)]
    pub fn report(context: NativeCallContext, outcomes: Outcomes) -> RhaiResultOf<SummaryMap> {
        write_report(&context, &outcomes, None)
    }

    /// Writes outcomes to every configured report, with lines of the script in the `text` report.
    ///
    /// `line` is a closure that returns the line of one outcome. If it throws, the outcome is written
    /// with the default line, and `report` throws the error. Lines that are written after the script
    /// has ended come from the same closure, which can then call `emit`, `env::get` and the `log_`
    /// functions, but not fetch, store or wait.
    ///
    /// Tabs and line breaks in the line are written unchanged, also those of a token. Other control
    /// characters are escaped. `"\t"` is a tab; between backticks, `\t` is two characters.
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
        line: OutcomeClosure,
    ) -> RhaiResultOf<SummaryMap> {
        write_report(&context, &outcomes, Some(&line))
    }

    /// Writes a line to standard output, in order with the report there.
    ///
    /// Tabs and line breaks are written unchanged; other control characters are escaped. Throws
    /// `output_closed` if standard output cannot be written.
    ///
    /// # Example
    ///
    /// ```rhai
    /// emit("token,status");
    /// ```
    #[rhai_fn(volatile, return_raw)]
    pub fn emit(context: NativeCallContext, text: &str) -> RhaiResultOf<()> {
        let host = ScriptHost::of(&context)?;
        let text = escape_line(text);
        host.ledger().reports().emit(&text).map_err(thrown)
    }

    /// Writes a line to a file inside `--out-dir`.
    ///
    /// `file` is a relative path without `..`; missing folders are created. The first line of a run
    /// truncates the file. Its mode is 0600. Characters are escaped as in `emit(text)`.
    ///
    /// Throws `invalid_argument` if the path is not inside `--out-dir` or the file cannot be opened,
    /// and `output_closed` if it cannot be written. Without `--out-dir`, a run with such a call does
    /// not start, unless the call is in a `try`.
    ///
    /// # Example
    ///
    /// ```rhai
    /// emit("a line", "notes.txt");
    /// ```
    #[rhai_fn(name = "emit", volatile, return_raw)]
    pub fn emit_file(context: NativeCallContext, text: &str, file: &str) -> RhaiResultOf<()> {
        let host = ScriptHost::of(&context)?;
        host.emitter()
            .emit(&escape_line(text), file)
            .map_err(thrown)
    }
}

fn write_report(
    context: &NativeCallContext,
    outcomes: &Outcomes,
    line: Option<&FnPtr>,
) -> RhaiResultOf<SummaryMap> {
    let host = outcomes.host();
    let mut reader = outcomes.reader().map_err(thrown)?;
    let Some(line) = line else {
        while let Some(batch) = reader.next_batch()? {
            outcomes.record_all(batch.map_err(thrown)?, None)?;
        }
        return finish_report(host);
    };
    host.set_formatter(LineFormatter::of(context, line.clone()));
    while let Some(next) = reader.next()? {
        let outcome = next.map_err(thrown)?;
        if !outcome.status.is_final() {
            outcomes.record(outcome, None)?;
            continue;
        }
        match line.call_within_context::<Dynamic>(context, (outcome.clone(),)) {
            Ok(text) => outcomes.record(outcome, Some(&escape_line(&text.to_string())))?,
            Err(error) => {
                // The outcome must be recorded even if the closure throws.
                outcomes.record(outcome, None)?;
                return Err(error);
            }
        }
    }
    finish_report(host)
}

/// Flushes the reports and returns the summary so far.
fn finish_report(host: &ScriptHost) -> RhaiResultOf<SummaryMap> {
    // If the stream ended without a wait, its last outcomes are not flushed yet. A closed output must
    // fail here, where the script can catch the error.
    host.ledger().reports().flush().map_err(thrown)?;
    let numbers = host.numbers();
    let named = NUMBERS.iter().filter(|row| row.is_named);
    Ok(named
        .map(|row| (row.name.into(), integer(row.of(&numbers)).into()))
        .collect())
}
