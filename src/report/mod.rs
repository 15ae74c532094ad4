//! Writes the reports: every token with its outcome. Reports stream; a report on a path is written to
//! `PATH.partial` and renamed when it is complete.

pub mod conclusion;
pub mod csv;
mod destination;
pub mod fail_on;
pub mod html;
pub mod json;
pub mod ledger;
pub mod mask;
pub mod metrics;
pub mod ndjson;
pub mod record;
pub mod rejections;
pub mod summary;
pub mod text;
pub mod yaml;

use std::fs;
use std::io::{self, BufWriter, IsTerminal, Write};
use std::path::PathBuf;

use crate::error::Error;
use crate::journal::Journal;
use crate::pipeline::token::Outcome;
use crate::report::destination::Destination;
use crate::report::mask::Mask;
use crate::report::record::TokenRecord;
use crate::report::summary::Summary;

/// The formats of a report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReportFormat {
    /// One line per token, for people and shell pipelines.
    Text,
    /// One JSON document.
    Json,
    /// One JSON object per line.
    Ndjson,
    /// A table for spreadsheets.
    Csv,
    /// One YAML document.
    Yaml,
    /// A page for a browser.
    Html,
}

impl ReportFormat {
    /// All formats with their names on the command line.
    pub const ALL: [(&str, Self); 6] = [
        ("text", Self::Text),
        ("ndjson", Self::Ndjson),
        ("json", Self::Json),
        ("csv", Self::Csv),
        ("yaml", Self::Yaml),
        ("html", Self::Html),
    ];
}

/// A report to write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReportSpec {
    /// The format.
    pub format: ReportFormat,
    /// The path; `None` is standard output.
    pub path: Option<PathBuf>,
}

/// Writes one format. An implementation buffers no outcome.
pub trait ReportSink: Send {
    /// Writes a token's record; `line` is the script's line for `text`.
    fn outcome(
        &mut self,
        out: &mut dyn Write,
        record: &TokenRecord,
        line: Option<&str>,
    ) -> io::Result<()>;

    /// Writes the end of the report.
    fn end(&mut self, out: &mut dyn Write, summary: &Summary) -> io::Result<()>;
}

fn sink(format: ReportFormat, color: bool) -> Box<dyn ReportSink> {
    match format {
        ReportFormat::Text => Box::new(text::TextReport { color }),
        ReportFormat::Json => Box::new(json::JsonReport::default()),
        ReportFormat::Ndjson => Box::new(ndjson::NdjsonReport),
        ReportFormat::Csv => Box::new(csv::CsvReport::default()),
        ReportFormat::Yaml => Box::new(yaml::YamlReport::default()),
        ReportFormat::Html => Box::new(html::HtmlReport::default()),
    }
}

struct OpenReport {
    sink: Box<dyn ReportSink>,
    destination: Destination,
    has_failed: bool,
}

/// Standard output if it is a terminal.
#[derive(Clone, Copy)]
struct Terminal {
    color: bool,
}

/// All reports of a run, and the standard output that they share with the script.
pub struct Reports {
    stdout: BufWriter<Box<dyn Write + Send>>,
    terminal: Option<Terminal>,
    mask: Mask,
    already_masked: bool,
    dry_run: bool,
    open: Vec<OpenReport>,
}

impl Reports {
    /// Opens all reports, so that an unwritable path fails before a token is fetched.
    ///
    /// An error leaves no files behind. A terminal gets colors if `color`.
    pub fn open(specs: &[ReportSpec], color: bool) -> Result<Self, Error> {
        let mut reports = Self::with_stdout(Box::new(io::stdout()));
        if io::stdout().is_terminal() {
            reports.terminal = Some(Terminal { color });
        }
        for spec in specs {
            let destination = match &spec.path {
                None => Ok(Destination::Stdout),
                Some(path) => {
                    Destination::open(path, reports.open.iter().map(|report| &report.destination))
                }
            };
            match destination {
                Ok(destination) => reports.add(spec.format, destination),
                Err(fault) => {
                    reports.discard();
                    return Err(fault);
                }
            }
        }
        Ok(reports)
    }

    /// Removes the files; called if the run cannot start.
    pub fn discard(self) {
        for report in self.open {
            if let Destination::File { partial, path, .. } = report.destination
                && partial != path
            {
                let _ = fs::remove_file(partial);
            }
        }
    }

    /// Creates an empty set of reports with this standard output.
    pub fn with_stdout(stdout: Box<dyn Write + Send>) -> Self {
        Self {
            stdout: BufWriter::with_capacity(64 * 1024, stdout),
            terminal: None,
            mask: Mask::None,
            already_masked: false,
            dry_run: false,
            open: Vec::new(),
        }
    }

    /// Adds a report on standard output.
    pub fn add_stdout(&mut self, format: ReportFormat) {
        self.add(format, Destination::Stdout);
    }

    /// Adds a report on `writer`.
    pub fn add_writer(&mut self, format: ReportFormat, writer: Box<dyn Write + Send>) {
        self.add(format, Destination::Writer(writer));
    }

    /// Sets the mask of all reports; the journal keeps the tokens.
    pub fn set_mask(&mut self, mask: Mask) {
        self.mask = mask;
    }

    /// Marks all tokens as masked already.
    pub fn set_already_masked(&mut self) {
        self.already_masked = true;
    }

    /// Sets whether the reports are those of a dry run.
    pub fn set_dry_run(&mut self, dry_run: bool) {
        self.dry_run = dry_run;
    }

    /// Returns true for a dry run.
    pub fn is_dry_run(&self) -> bool {
        self.dry_run
    }

    /// Also writes each outcome to the journal.
    pub fn add_journal(&mut self, journal: Journal) {
        self.add(ReportFormat::Ndjson, Destination::Journal(journal));
    }

    fn add(&mut self, format: ReportFormat, destination: Destination) {
        let on_stdout = matches!(destination, Destination::Stdout);
        let color = on_stdout && self.terminal.is_some_and(|terminal| terminal.color);
        self.open.push(OpenReport {
            sink: sink(format, color),
            destination,
            has_failed: false,
        });
    }

    /// Writes an outcome to every report. A report that fails once is skipped from then on.
    fn outcome(&mut self, outcome: &Outcome, line: Option<&str>) -> Result<(), Error> {
        let mut plain = TokenRecord::new(outcome);
        if self.dry_run {
            plain = plain.with_dry_run();
        }
        plain.masked = self.already_masked;
        let masked = plain.masked(self.mask);
        let shown = masked.as_ref().unwrap_or(&plain);
        self.for_each(|sink, out, is_journal| {
            // The journal keeps the token itself, for a replay.
            sink.outcome(out, if is_journal { &plain } else { shown }, line)
        })
    }

    /// Writes a line of the script to standard output.
    pub fn emit(&mut self, text: &str) -> Result<(), Error> {
        writeln!(self.stdout, "{text}").map_err(|error| Destination::Stdout.fault(&error))?;
        if self.terminal.is_some() {
            self.flush()?;
        }
        Ok(())
    }

    /// Flushes all buffers; called when no more outcomes are ready.
    pub fn flush(&mut self) -> Result<(), Error> {
        let flushed = self.stdout.flush();
        let mut flushed = flushed.map_err(|error| Destination::Stdout.fault(&error));
        for report in self.open.iter_mut().filter(|report| !report.has_failed) {
            if let Destination::File { writer, .. } = &mut report.destination {
                let written = writer.flush();
                flushed = flushed.and(written.map_err(|error| report.destination.fault(&error)));
            }
        }
        flushed
    }

    /// Ends every report and renames the complete files.
    pub fn end(&mut self, summary: &Summary) -> Result<(), Error> {
        let written = self.for_each(|sink, out, _| sink.end(out, summary));
        let flushed = self.flush();
        let mut renamed = Ok(());
        for report in self.open.iter_mut().filter(|report| !report.has_failed) {
            let finished = report.destination.finish();
            renamed = renamed.and(finished.map_err(|error| report.destination.fault(&error)));
        }
        written.and(flushed).and(renamed)
    }

    fn for_each(
        &mut self,
        mut write: impl FnMut(&mut dyn ReportSink, &mut dyn Write, bool) -> io::Result<()>,
    ) -> Result<(), Error> {
        let mut result = Ok(());
        for report in &mut self.open {
            if report.has_failed {
                continue;
            }
            let sink = report.sink.as_mut();
            let written = match &mut report.destination {
                Destination::Stdout => write(sink, &mut self.stdout, false),
                Destination::Writer(writer) => write(sink, writer, false),
                Destination::Journal(journal) => {
                    let mut line = Vec::new();
                    write(sink, &mut line, true).and_then(|()| journal.append(&line))
                }
                Destination::File { writer, .. } => write(sink, writer, false),
            };
            let written = written.map_err(|error| report.destination.fault(&error));
            report.has_failed = written.is_err();
            result = result.and(written);
        }
        result
    }
}
