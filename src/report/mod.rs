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

use std::io::{self, BufWriter, IsTerminal, Write};
use std::path::PathBuf;

use crate::error::Error;
use crate::journal::Journal;
use crate::pipeline::token::Outcome;
use crate::report::destination::Destination;
use crate::report::mask::Mask;
use crate::report::record::TokenRecord;
use crate::report::summary::Summary;

/// A format of reports. Its file defines it; `FORMATS` lists it.
#[derive(Debug)]
pub struct ReportFormat {
    /// The name on the command line, which is also the extension of files in hints.
    pub name: &'static str,
    /// True if pipeline tests can compare it, because equal runs have equal reports.
    pub is_reproducible: bool,
    /// Creates the sink of a report, with colors if the argument is true.
    sink: fn(bool) -> Box<dyn ReportSink>,
}

/// All formats, in the order of the help.
pub static FORMATS: [&ReportFormat; 6] = [
    &text::FORMAT,
    &ndjson::FORMAT,
    &json::FORMAT,
    &csv::FORMAT,
    &yaml::FORMAT,
    &html::FORMAT,
];

/// The names of all formats.
pub const FORMAT_NAMES: [&str; FORMATS.len()] = {
    let mut names = [""; FORMATS.len()];
    let mut index = 0;
    while index < names.len() {
        names[index] = FORMATS[index].name;
        index += 1;
    }
    names
};

impl PartialEq for ReportFormat {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

impl Eq for ReportFormat {}

/// A report to write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReportSpec {
    /// The format.
    pub format: &'static ReportFormat,
    /// The path; `None` is standard output.
    pub path: Option<PathBuf>,
    /// True if the report must not replace a file.
    pub no_clobber: bool,
}

/// Writes one format. An implementation buffers no outcome.
pub trait ReportSink: Send {
    /// Writes the start of the report, before the first token or the end.
    fn begin(&mut self, _out: &mut dyn Write) -> io::Result<()> {
        Ok(())
    }

    /// Writes a token's record.
    fn outcome(&mut self, out: &mut dyn Write, record: &TokenRecord) -> io::Result<()>;

    /// Writes the end of the report.
    fn end(&mut self, _out: &mut dyn Write, _summary: &Summary) -> io::Result<()> {
        Ok(())
    }
}

struct OpenReport {
    sink: Box<dyn ReportSink>,
    destination: Destination,
    has_begun: bool,
    has_failed: bool,
}

/// All reports of a run, and the standard output that they share with the script.
pub struct Reports {
    stdout: BufWriter<Box<dyn Write + Send>>,
    /// Whether standard output has colors; `None` if it is not a terminal.
    terminal: Option<bool>,
    /// The mask of all reports; the journal keeps the tokens.
    pub mask: Mask,
    /// True if all tokens are masks already.
    pub already_masked: bool,
    /// True for the reports of a dry run.
    pub dry_run: bool,
    /// True if the run writes receipts, so that token objects have their position.
    pub has_receipts: bool,
    /// What runs: names and values, such as the source and the table, for the HTML page. No secrets.
    pub inputs: Vec<(&'static str, String)>,
    open: Vec<OpenReport>,
}

impl Reports {
    /// Opens all reports, so that an unwritable path fails before a token is fetched.
    ///
    /// An error leaves no files behind. `stdout` writes to standard output; a terminal gets colors if
    /// `color`.
    pub fn open(
        specs: &[ReportSpec],
        color: bool,
        stdout: Box<dyn Write + Send>,
    ) -> Result<Self, Error> {
        let mut reports = Self::with_stdout(stdout);
        if io::stdout().is_terminal() {
            reports.terminal = Some(color);
        }
        for spec in specs {
            let destination = match &spec.path {
                None => Ok(Destination::Stdout),
                Some(path) => {
                    let others = reports.open.iter().map(|report| &report.destination);
                    Destination::open(path, spec.no_clobber, others)
                }
            };
            match destination {
                Ok(destination) => reports.add(spec.format, destination),
                Err(error) => {
                    reports.discard();
                    return Err(error);
                }
            }
        }
        Ok(reports)
    }

    /// Removes the files; called if the run cannot start.
    pub fn discard(self) {
        for report in self.open {
            report.destination.discard();
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
            has_receipts: false,
            inputs: Vec::new(),
            open: Vec::new(),
        }
    }

    /// Adds a report on standard output.
    pub fn add_stdout(&mut self, format: &ReportFormat) {
        self.add(format, Destination::Stdout);
    }

    /// Adds a report on `writer`.
    pub fn add_writer(&mut self, format: &ReportFormat, writer: Box<dyn Write + Send>) {
        self.add(format, Destination::Writer(writer));
    }

    /// Also writes each outcome to the journal.
    pub fn add_journal(&mut self, journal: Journal) {
        self.add(&ndjson::FORMAT, Destination::Journal(journal));
    }

    fn add(&mut self, format: &ReportFormat, destination: Destination) {
        let on_stdout = matches!(destination, Destination::Stdout);
        let color = on_stdout && self.terminal == Some(true);
        self.open.push(OpenReport {
            sink: (format.sink)(color),
            destination,
            has_begun: false,
            has_failed: false,
        });
    }

    /// Writes an outcome to every report. A report that fails once is skipped from then on.
    fn outcome(&mut self, outcome: &Outcome, line: Option<&str>) -> Result<(), Error> {
        let mut plain = TokenRecord::new(outcome);
        plain.line = line;
        if self.dry_run {
            plain = plain.with_dry_run();
        }
        if self.has_receipts {
            plain = plain.with_position(&outcome.token);
        }
        plain.masked = self.already_masked;
        let masked = plain.masked(self.mask);
        let shown = masked.as_ref().unwrap_or(&plain);
        self.for_each(|sink, out, is_journal| {
            // The journal keeps the token itself, for a replay.
            sink.outcome(out, if is_journal { &plain } else { shown })
        })
    }

    /// Writes a line of the script to standard output.
    pub fn emit(&mut self, text: &str) -> Result<(), Error> {
        writeln!(self.stdout, "{text}").map_err(|error| Destination::Stdout.error(&error))?;
        if self.terminal.is_some() {
            self.flush()?;
        }
        Ok(())
    }

    /// Flushes all buffers; called when no more outcomes are ready.
    pub fn flush(&mut self) -> Result<(), Error> {
        let flushed = self.stdout.flush();
        let mut flushed = flushed.map_err(|error| Destination::Stdout.error(&error));
        for report in self.open.iter_mut().filter(|report| !report.has_failed) {
            let written = match &mut report.destination {
                Destination::File(writer) => writer.flush(),
                Destination::Writer(writer) => writer.flush(),
                Destination::Stdout | Destination::Journal(_) => continue,
            };
            flushed = flushed.and(written.map_err(|error| report.destination.error(&error)));
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
            renamed = renamed.and(finished.map_err(|error| report.destination.error(&error)));
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
            let is_first = !std::mem::replace(&mut report.has_begun, true);
            let mut write = |out: &mut dyn Write, is_journal| {
                if is_first {
                    sink.begin(out)?;
                }
                write(sink, out, is_journal)
            };
            let written = match &mut report.destination {
                Destination::Stdout => write(&mut self.stdout, false),
                Destination::Writer(writer) => write(writer, false),
                Destination::Journal(journal) => {
                    let mut line = Vec::new();
                    write(&mut line, true).and_then(|()| journal.append(&line))
                }
                Destination::File(writer) => write(writer, false),
            };
            let written = written.map_err(|error| report.destination.error(&error));
            report.has_failed = written.is_err();
            result = result.and(written);
        }
        result
    }
}
