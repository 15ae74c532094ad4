//! `token_service merge FILE…`: merges the ndjson reports of several runs, such as shards, into one
//! report in any format.
//!
//! It rejects incomplete reports, duplicate runs, and reports whose lines contradict their summary.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use uuid::Uuid;

use crate::config::MergeSettings;
use crate::error::Error;
use crate::error::exit::{Cause, Exit, RunTotals};
use crate::journal::{
    JournalLine, JournalReader, ParsedRecord, ReadPurpose, SummaryRecord, is_stream,
};
use crate::pipeline::numbers::Numbers;
use crate::pipeline::token::Status;
use crate::report::Reports;
use crate::report::conclusion::{self, Conclusion, unwritable};
use crate::report::ledger::Ledger;
use crate::report::mask::Mask;
use crate::report::summary::RunRecord;
use crate::runtime::stdout::Stdout;

/// Merges the reports in the order of the arguments.
pub fn merge(settings: &MergeSettings) -> Conclusion {
    // A first pass without output, so that an invalid file leaves no partial report. Pipes can be read
    // only once, so they are skipped here.
    let mut first_pass = MergedTotals::new(Reports::with_stdout(Box::new(io::sink())), settings);
    let mut files = settings.files.iter().filter(|file| !is_stream(file));
    if let Err(error) = files.try_for_each(|file| first_pass.add(file)) {
        return unwritable(error).into();
    }
    let reports = Reports::open(&settings.reports, settings.color, Box::new(Stdout));
    let mut reports = match reports {
        Ok(reports) => reports,
        Err(error) => return unwritable(error).into(),
    };
    let files = settings.files.iter().map(|file| file.display().to_string());
    let files = files.collect::<Vec<_>>().join(", ");
    reports.inputs = vec![("merged files", files)];
    let mut merged = MergedTotals::new(reports, settings);
    let added = settings.files.iter().try_for_each(|file| merged.add(file));
    match added {
        Ok(()) => merged.close(settings),
        Err(error) => {
            merged.ledger.into_reports().discard();
            unwritable(error).into()
        }
    }
}

/// The totals of the reports read so far.
struct MergedTotals {
    ledger: Ledger,
    mask: Mask,
    /// The merged runs by UUID and shard, with their files.
    runs: HashMap<(String, Option<u32>), PathBuf>,
    /// The style of the tokens; `None` before the first one.
    style: Option<TokenStyle>,
    /// The totals, without the numbers that the lines show.
    totals: RunTotals,
    /// The first start and the last end.
    span: Option<(Timestamp, Timestamp)>,
}

/// Properties that all tokens of a report share.
#[derive(Clone, Copy, PartialEq, Eq)]
struct TokenStyle {
    masked: bool,
    dry_run: bool,
}

impl MergedTotals {
    fn new(reports: Reports, settings: &MergeSettings) -> Self {
        Self {
            ledger: Ledger::new(reports),
            mask: settings.mask,
            runs: HashMap::new(),
            style: None,
            totals: RunTotals::default(),
            span: None,
        }
    }

    fn add(&mut self, file: &Path) -> Result<(), Error> {
        let mut reader = JournalReader::open(file, ReadPurpose::Merge)?;
        let mut lines = Numbers::default();
        let mut end = None;
        while let Some(line) = reader.next() {
            match line? {
                _ if end.is_some() => return Err(reader.error("a line follows the summary")),
                JournalLine::Outcome(record) => {
                    let added = self.add_record(&record, &mut lines);
                    added.map_err(|why| reader.error(why))?;
                }
                JournalLine::Summary { summary } => end = Some(summary),
                JournalLine::Journal { .. }
                | JournalLine::Received { .. }
                | JournalLine::Request { .. }
                | JournalLine::Replay { .. } => {
                    return Err(reader
                        .error("it is a journal, not a report")
                        .hint("`token_service replay` settles its tokens and writes a report"));
                }
            }
        }
        let Some(end) = end else {
            return Err(reader
                .file_error("it has no summary: its run was interrupted or is still running")
                .hint("`token_service replay` settles the tokens of an interrupted run and writes a complete report"));
        };
        self.add_summary(file, &end, &lines)
            .map_err(|why| reader.file_error(&why))
    }

    fn add_record(
        &mut self,
        record: &ParsedRecord,
        lines: &mut Numbers,
    ) -> Result<(), &'static str> {
        let outcome = record.outcome()?;
        let style = TokenStyle {
            masked: record.masked,
            dry_run: record.dry_run,
        };
        match self.style {
            None => self.set_style(style),
            Some(first) if first == style => {}
            Some(first) if first.masked != style.masked => {
                return Err("masked and unmasked tokens cannot be merged");
            }
            Some(_) => return Err("tokens of a dry run and of a real run cannot be merged"),
        }
        // The ledger keeps the error of a report; it is shown after all files were read.
        let _ = self.ledger.settle(&outcome, None);
        lines.count(&outcome);
        Ok(())
    }

    fn set_style(&mut self, style: TokenStyle) {
        self.style = Some(style);
        let reports = self.ledger.reports();
        reports.dry_run = style.dry_run;
        if style.masked {
            // The mask of a mask would not match that of the token.
            reports.already_masked = true;
        } else {
            reports.mask = self.mask;
        }
    }

    fn add_summary(
        &mut self,
        file: &Path,
        end: &SummaryRecord,
        lines: &Numbers,
    ) -> Result<(), String> {
        let statuses = Status::ALL.map(|status| (status.as_str(), lines.of(status)));
        for (name, lines) in statuses.into_iter().chain([("received", lines.total())]) {
            let count = end.numbers.named(name);
            if count != lines {
                return Err(format!(
                    "its summary has {count} {name} tokens, but its lines have {lines}"
                ));
            }
        }
        // A replay reports every token of its run again.
        let run = end.replay_of.as_ref().unwrap_or(&end.run_id);
        let key = (run.clone(), end.shard);
        if let Some(other) = self.runs.insert(key, file.to_owned()) {
            let other = other.display();
            return Err(format!(
                "{other} already contains this run or a replay of it"
            ));
        }
        let span = end.span().ok_or("its summary has no valid start time")?;
        let (first, last) = self.span.unwrap_or(span);
        self.span = Some((first.min(span.0), last.max(span.1)));
        let totals = &mut self.totals;
        totals.numbers = totals.numbers.merged(&end.numbers);
        totals.cause = worse_cause(totals.cause, end.cause());
        // The exit code of a replay does not show this, because it uses no source.
        totals.fell_short |=
            end.replay_of.is_some() && end.numbers.received < end.numbers.requested;
        match end.exit() {
            Exit::Completed | Exit::Condition | Exit::Signal(_) => {}
            Exit::Chosen(code) => totals.script_exit = totals.script_exit.or(Some(code)),
            exit if exit.code() >= totals.error.map_or(0, Exit::code) => {
                totals.error = Some(exit);
            }
            _ => {}
        }
        Ok(())
    }

    fn close(mut self, settings: &MergeSettings) -> Conclusion {
        let numbers = self.ledger.numbers().merged(&self.totals.numbers);
        let received = numbers.total();
        let totals = RunTotals {
            numbers: Numbers {
                received,
                ..numbers
            },
            fell_short: self.totals.fell_short || self.totals.error == Some(Exit::Source),
            ..self.totals
        };
        let now = Timestamp::now();
        let (start, end) = self.span.unwrap_or((now, now));
        let run = RunRecord {
            run_id: Uuid::now_v7().to_string(),
            shard: None,
            replay_of: None,
            started_at: start,
            duration: end.duration_since(start).try_into().unwrap_or_default(),
            is_merged: true,
        };
        let error = self.ledger.error().cloned();
        conclusion::close(&mut self.ledger, &totals, run, error, &settings.fail_on)
    }
}

/// Returns the cause of the merged run: the first signal, else the deadline.
fn worse_cause(one: Option<Cause>, other: Option<Cause>) -> Option<Cause> {
    match (one, other) {
        (None | Some(Cause::Deadline), Some(other)) => Some(other),
        (one, _) => one,
    }
}
