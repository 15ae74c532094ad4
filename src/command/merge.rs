//! `token_service merge FILE…`: merges the ndjson reports of several runs, such as shards, into one
//! report in any format.
//!
//! It rejects incomplete reports, duplicate runs, and reports whose lines contradict their summary.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::Timestamp;
use uuid::Uuid;

use crate::config::MergeSettings;
use crate::error::Error;
use crate::error::exit::{Cause, Exit, RunTotals};
use crate::journal::{
    JournalLine, JournalReader, ParsedRecord, ReadPurpose, SummaryRecord, is_stream,
};
use crate::pipeline::token::{Status, Tally};
use crate::report::Reports;
use crate::report::conclusion::{self, Conclusion, RequestCounts, RunRecord, unwritable};
use crate::report::ledger::Ledger;
use crate::report::mask::Mask;

/// Merges the reports in the order of the arguments.
pub fn merge(settings: &MergeSettings) -> Conclusion {
    // A first pass without output, so that an invalid file leaves no partial report. Pipes can be read
    // only once, so they are skipped here.
    let mut first_pass = MergedTotals::new(Reports::with_stdout(Box::new(io::sink())), settings);
    let mut files = settings.files.iter().filter(|file| !is_stream(file));
    if let Err(fault) = files.try_for_each(|file| first_pass.add(file)) {
        return unwritable(fault).into();
    }
    let reports = match Reports::open(&settings.reports, settings.color) {
        Ok(reports) => reports,
        Err(fault) => return unwritable(fault).into(),
    };
    let mut merged = MergedTotals::new(reports, settings);
    let added = settings.files.iter().try_for_each(|file| merged.add(file));
    match added {
        Ok(()) => merged.close(settings),
        Err(fault) => {
            merged.ledger.into_reports().discard();
            unwritable(fault).into()
        }
    }
}

/// The totals of the reports read so far.
struct MergedTotals {
    ledger: Ledger,
    mask: Mask,
    /// The merged runs by UUID, with their files.
    runs: HashMap<String, PathBuf>,
    /// The style of the tokens; `None` before the first one.
    style: Option<TokenStyle>,
    requests: RequestCounts,
    requested: u64,
    start: Option<Timestamp>,
    end: Option<Timestamp>,
    cause: Option<Cause>,
    worst: Option<Exit>,
    /// True if a replayed run had not received SIZE tokens.
    fell_short: bool,
    script_exit: Option<u8>,
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
            requests: RequestCounts::default(),
            requested: 0,
            start: None,
            end: None,
            cause: None,
            worst: None,
            fell_short: false,
            script_exit: None,
        }
    }

    fn add(&mut self, file: &Path) -> Result<(), Error> {
        let mut reader = JournalReader::open(file, ReadPurpose::Merge)?;
        let mut tally = Tally::default();
        let mut end = None;
        while let Some(line) = reader.next() {
            match line? {
                _ if end.is_some() => return Err(reader.fault("a line follows the summary")),
                JournalLine::Outcome(record) => {
                    let status = self.add_record(&record);
                    tally.add(status.map_err(|why| reader.fault(why))?);
                }
                JournalLine::Summary { summary } => end = Some(summary),
                JournalLine::Journal { .. }
                | JournalLine::Received { .. }
                | JournalLine::Replay { .. } => {
                    return Err(reader
                        .fault("it is a journal, not a report")
                        .hint("`token_service replay` settles its tokens and writes a report"));
                }
            }
        }
        let Some(end) = end else {
            return Err(reader
                .file_fault("it has no summary: its run was interrupted or is still running")
                .hint("`token_service replay` settles the tokens of an interrupted run and writes a complete report"));
        };
        self.add_summary(file, &end, tally)
            .map_err(|why| reader.file_fault(&why))
    }

    fn add_record(&mut self, record: &ParsedRecord) -> Result<Status, &'static str> {
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
        // The ledger keeps the fault of a report; it is shown after all files were read.
        let _ = self.ledger.settle(&outcome, None);
        Ok(outcome.status)
    }

    fn set_style(&mut self, style: TokenStyle) {
        self.style = Some(style);
        let reports = self.ledger.reports();
        reports.set_dry_run(style.dry_run);
        if style.masked {
            // The mask of a mask would not match that of the token.
            reports.set_already_masked();
        } else {
            reports.set_mask(self.mask);
        }
    }

    fn add_summary(
        &mut self,
        file: &Path,
        end: &SummaryRecord,
        tally: Tally,
    ) -> Result<(), String> {
        let statuses = Status::ALL.iter().zip(end.counts());
        let differs = statuses
            .clone()
            .find(|(status, count)| tally.get(**status) != *count);
        if let Some((status, count)) = differs {
            let (lines, name) = (tally.get(*status), status.as_str());
            return Err(format!(
                "its summary has {count} {name} tokens, but its lines have {lines}"
            ));
        }
        if end.received != tally.total() {
            let (received, lines) = (end.received, tally.total());
            return Err(format!(
                "its summary has {received} received tokens, but its lines have {lines}"
            ));
        }
        // A replay reports every token of its run again.
        let run = end.replay_of.as_ref().unwrap_or(&end.run_id);
        if let Some(other) = self.runs.insert(run.clone(), file.to_owned()) {
            let other = other.display();
            return Err(format!(
                "{other} already contains this run or a replay of it"
            ));
        }
        let (run_start, run_end) = end.span().ok_or("its summary has no valid start time")?;
        self.start = Some(self.start.map_or(run_start, |first| first.min(run_start)));
        self.end = Some(self.end.map_or(run_end, |last| last.max(run_end)));
        self.requested = self.requested.saturating_add(end.requested);
        self.requests.requests += end.requests;
        self.requests.surplus += end.surplus;
        self.requests.unseen += end.issued_unseen;
        self.cause = worse_cause(self.cause, end.cause());
        // The exit code of a replay does not show this, because it uses no source.
        self.fell_short |= end.replay_of.is_some() && end.received < end.requested;
        match end.exit() {
            Exit::Completed | Exit::Condition | Exit::Signal(_) => {}
            Exit::Chosen(code) => self.script_exit = self.script_exit.or(Some(code)),
            exit => {
                let worst = self.worst.map_or(exit.code(), Exit::code);
                if exit.code() >= worst {
                    self.worst = Some(exit);
                }
            }
        }
        Ok(())
    }

    fn close(mut self, settings: &MergeSettings) -> Conclusion {
        let tally = self.ledger.tally();
        let totals = RunTotals {
            size: self.requested,
            received: tally.total(),
            counted: tally.total(),
            unsettled: tally.unsettled(),
            fell_short: self.fell_short || self.worst == Some(Exit::Source),
            open_ended: false,
            cause: self.cause,
            script_exit: self.script_exit,
            problem: self.worst,
        };
        let problem = self.ledger.fault().cloned();
        let record = self.record();
        let fail_on = &settings.fail_on;
        conclusion::close(
            &mut self.ledger,
            &totals,
            self.requests,
            record,
            problem,
            fail_on,
        )
    }

    fn record(&self) -> RunRecord {
        let start = self.start.unwrap_or_else(Timestamp::now);
        let duration = self.end.map(|end| end.duration_since(start).try_into());
        RunRecord {
            run_id: Uuid::now_v7().to_string(),
            replay_of: None,
            started_at: start,
            duration: duration.and_then(Result::ok).unwrap_or(Duration::ZERO),
            is_merged: true,
        }
    }
}

/// Returns the cause of the merged run: the first signal, else the deadline.
fn worse_cause(one: Option<Cause>, other: Option<Cause>) -> Option<Cause> {
    match (one, other) {
        (None | Some(Cause::Deadline), Some(other)) => Some(other),
        (one, _) => one,
    }
}
