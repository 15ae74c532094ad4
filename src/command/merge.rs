//! `token_service merge FILE…`: the ndjson reports of several runs, such as the shards of one SIZE,
//! become the report of one run, in any format. What does not add up is refused: a report that was cut
//! off, a run that is counted twice, lines that are not those of their summary.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::Timestamp;
use uuid::Uuid;

use crate::config::MergeSettings;
use crate::error::Fault;
use crate::error::diagnostic::Problem;
use crate::error::exit::{Cause, Exit, RunTotals};
use crate::journal::{
    JournalLine, JournalReader, ParsedRecord, ReadPurpose, SummaryRecord, is_endless,
};
use crate::pipeline::token::{Status, Tally};
use crate::report::Reports;
use crate::report::conclusion::{self, Conclusion, RequestCounts, RunRecord, unwritable};
use crate::report::ledger::Ledger;
use crate::report::mask::Mask;

/// Joins the reports in the order in which they are named.
pub fn merge(settings: &MergeSettings) -> Conclusion {
    // Read once without a report: what does not add up must not cost half of one. A pipe can be read
    // but once.
    let mut trial = MergedTotals::new(Reports::on(Box::new(io::sink())), settings);
    let mut files = settings.files.iter().filter(|file| !is_endless(file));
    if let Err(fault) = files.try_for_each(|file| trial.add(file)) {
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

/// What the reports that were read so far come to.
struct MergedTotals {
    ledger: Ledger,
    mask: Mask,
    /// The runs whose tokens are in, by their UUID, with the file of each.
    runs: HashMap<String, PathBuf>,
    /// Whether the tokens are masked, and those of a dry run; unknown before the first one.
    manner: Option<TokenStyle>,
    asked: RequestCounts,
    requested: u64,
    begin: Option<Timestamp>,
    end: Option<Timestamp>,
    cause: Option<Cause>,
    worst: Option<Exit>,
    /// True where a run that is here by its replay had not received its SIZE.
    fell_short: bool,
    chosen: Option<u8>,
}

/// How a report shows its tokens.
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
            manner: None,
            asked: RequestCounts::default(),
            requested: 0,
            begin: None,
            end: None,
            cause: None,
            worst: None,
            fell_short: false,
            chosen: None,
        }
    }

    fn add(&mut self, file: &Path) -> Result<(), Fault> {
        let mut reading = JournalReader::open(file, ReadPurpose::Merge)?;
        let mut tally = Tally::default();
        let mut end = None;
        while let Some(line) = reading.next() {
            match line? {
                _ if end.is_some() => return Err(reading.fault("a line stands behind the summary")),
                JournalLine::Outcome(told) => {
                    let settled = self.settle(&told);
                    tally.add(settled.map_err(|why| reading.fault(why))?);
                }
                JournalLine::Summary { summary } => end = Some(summary),
                JournalLine::Journal { .. }
                | JournalLine::Received { .. }
                | JournalLine::Replay { .. } => {
                    return Err(reading
                        .fault("it is a journal, and no report")
                        .hint("`token_service replay` settles it and writes a report"));
                }
            }
        }
        let Some(end) = end else {
            return Err(reading
                .fault_of_all("it has no summary: its run did not end, or is not over")
                .hint("`token_service replay` settles what such a run left, and writes a whole report"));
        };
        self.count(file, &end, tally)
            .map_err(|why| reading.fault_of_all(&why))
    }

    fn settle(&mut self, told: &ParsedRecord) -> Result<Status, &'static str> {
        let outcome = told.outcome()?;
        let manner = TokenStyle {
            masked: told.masked,
            dry_run: told.dry_run,
        };
        match self.manner {
            None => self.begin_in(manner),
            Some(first) if first == manner => {}
            Some(first) if first.masked != manner.masked => {
                return Err("it is masked, or not, other than those before it");
            }
            Some(_) => return Err("it is that of a dry run, or not, other than those before it"),
        }
        // A report that cannot be written ends with that fault, after all of them were read.
        let _ = self.ledger.settle(&outcome, None);
        Ok(outcome.status)
    }

    fn begin_in(&mut self, manner: TokenStyle) {
        self.manner = Some(manner);
        let reports = self.ledger.reports();
        reports.dry_run(manner.dry_run);
        if manner.masked {
            // To mask a mask would make it another token's.
            reports.are_masked();
        } else {
            reports.mask(self.mask);
        }
    }

    fn count(&mut self, file: &Path, end: &SummaryRecord, tally: Tally) -> Result<(), String> {
        let statuses = Status::ALL.iter().zip(end.counts());
        let differs = statuses
            .clone()
            .find(|(status, count)| tally.get(**status) != *count);
        if let Some((status, count)) = differs {
            let (lines, name) = (tally.get(*status), status.as_str());
            return Err(format!(
                "its summary says {count} {name}, and its lines are {lines}"
            ));
        }
        if end.received != tally.total() {
            let (received, lines) = (end.received, tally.total());
            return Err(format!(
                "its summary says {received} received, and its lines are {lines}"
            ));
        }
        // A replay reports every token of its run anew.
        let run = end.replay_of.as_ref().unwrap_or(&end.run_id);
        if let Some(other) = self.runs.insert(run.clone(), file.to_owned()) {
            let other = other.display();
            return Err(format!("the run, or a replay of it, is in {other} already"));
        }
        let (begin, end_of_it) = end.span().ok_or("its summary does not say when it began")?;
        self.begin = Some(self.begin.map_or(begin, |first| first.min(begin)));
        self.end = Some(self.end.map_or(end_of_it, |last| last.max(end_of_it)));
        self.requested = self.requested.saturating_add(end.requested);
        self.asked.requests += end.requests;
        self.asked.surplus += end.surplus;
        self.asked.unseen += end.issued_unseen;
        self.cause = worse(self.cause, end.cause());
        // A replay ends with 0 all the same, for it asks no source.
        self.fell_short |= end.replay_of.is_some() && end.received < end.requested;
        match end.exit() {
            Exit::Completed | Exit::Condition | Exit::Signal(_) => {}
            Exit::Chosen(code) => self.chosen = self.chosen.or(Some(code)),
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
            chosen: self.chosen,
            problem: self.worst,
        };
        let problem = self.ledger.fault().cloned().map(Problem::from);
        let record = self.record();
        let rules = &settings.fail_on;
        conclusion::close(
            &mut self.ledger,
            &totals,
            self.asked,
            record,
            problem,
            rules,
        )
    }

    fn record(&self) -> RunRecord {
        let begin = self.begin.unwrap_or_else(Timestamp::now);
        let took = self.end.map(|end| end.duration_since(begin).try_into());
        RunRecord {
            run_id: Uuid::now_v7().to_string(),
            replay_of: None,
            started_at: begin,
            took: took.and_then(Result::ok).unwrap_or(Duration::ZERO),
            is_merged: true,
        }
    }
}

/// What stopped the runs together: a signal before the deadline, the first of its kind.
fn worse(one: Option<Cause>, other: Option<Cause>) -> Option<Cause> {
    match (one, other) {
        (None | Some(Cause::Deadline), Some(other)) => Some(other),
        (one, _) => one,
    }
}
