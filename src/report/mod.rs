//! Reporting: every token with what became of it, in the formats that were asked for. A report
//! streams; one on a path is written beside it (`PATH.partial`) and renamed when it is complete.

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

use crate::error::Fault;
use crate::journal::Journal;
use crate::pipeline::token::Outcome;
use crate::report::destination::Destination;
use crate::report::mask::Mask;
use crate::report::record::TokenRecord;
use crate::report::summary::Summary;

/// The formats of a report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReportFormat {
    /// A line a token for people and shell pipelines.
    Text,
    /// One JSON document.
    Json,
    /// A JSON object a line.
    Ndjson,
    /// A table for spreadsheets.
    Csv,
    /// One YAML document.
    Yaml,
    /// A page for a browser.
    Html,
}

impl ReportFormat {
    /// All of them, by the names that users write.
    pub const ALL: [(&str, Self); 6] = [
        ("text", Self::Text),
        ("ndjson", Self::Ndjson),
        ("json", Self::Json),
        ("csv", Self::Csv),
        ("yaml", Self::Yaml),
        ("html", Self::Html),
    ];
}

/// A report that was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReportSpec {
    /// Its format.
    pub format: ReportFormat,
    /// Where it goes; `None` is standard output.
    pub path: Option<PathBuf>,
}

/// How one format is written. An implementation holds no outcome back.
pub trait ReportSink: Send {
    /// Writes an outcome; `line` is the script's own wording, which only `text` uses.
    fn outcome(
        &mut self,
        out: &mut dyn Write,
        row: &TokenRecord,
        line: Option<&str>,
    ) -> io::Result<()>;

    /// Writes what comes after the last outcome.
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
    place: Destination,
    broken: bool,
}

/// What is known of a terminal.
#[derive(Clone, Copy)]
struct Terminal {
    color: bool,
}

/// All reports of a run, and the standard output that they share with what the script emits.
pub struct Reports {
    stdout: BufWriter<Box<dyn Write + Send>>,
    terminal: Option<Terminal>,
    mask: Mask,
    are_masked: bool,
    dry_run: bool,
    open: Vec<OpenReport>,
}

impl Reports {
    /// Opens the files at once: a path that cannot be written must fail before a token is fetched,
    /// and then leaves nothing behind. With `color` a terminal is given colours.
    pub fn open(specs: &[ReportSpec], color: bool) -> Result<Self, Fault> {
        let mut reports = Self::on(Box::new(io::stdout()));
        if io::stdout().is_terminal() {
            reports.terminal = Some(Terminal { color });
        }
        for spec in specs {
            let place = match &spec.path {
                None => Ok(Destination::Stdout),
                Some(path) => {
                    Destination::open(path, reports.open.iter().map(|report| &report.place))
                }
            };
            match place {
                Ok(place) => reports.add(spec.format, place),
                Err(fault) => {
                    reports.discard();
                    return Err(fault);
                }
            }
        }
        Ok(reports)
    }

    /// Removes the files of a run that could not begin.
    pub fn discard(self) {
        for report in self.open {
            if let Destination::File { partial, path, .. } = report.place
                && partial != path
            {
                let _ = fs::remove_file(partial);
            }
        }
    }

    /// No report yet, and this as the standard output.
    pub fn on(stdout: Box<dyn Write + Send>) -> Self {
        Self {
            stdout: BufWriter::with_capacity(64 * 1024, stdout),
            terminal: None,
            mask: Mask::None,
            are_masked: false,
            dry_run: false,
            open: Vec::new(),
        }
    }

    /// Writes a report on the standard output.
    pub fn write_on_stdout(&mut self, format: ReportFormat) {
        self.add(format, Destination::Stdout);
    }

    /// Writes a report to `writer`, each line as it comes.
    pub fn write_to(&mut self, format: ReportFormat, writer: Box<dyn Write + Send>) {
        self.add(format, Destination::Writer(writer));
    }

    /// Shows this much of each token, in every report and not in the journal.
    pub fn mask(&mut self, mask: Mask) {
        self.mask = mask;
    }

    /// Says of each token that it is a mask already, and no token.
    pub fn are_masked(&mut self) {
        self.are_masked = true;
    }

    /// Says of each token that whatever was inserted was rolled back.
    pub fn dry_run(&mut self, dry_run: bool) {
        self.dry_run = dry_run;
    }

    /// True where whatever is inserted is rolled back.
    pub fn is_dry_run(&self) -> bool {
        self.dry_run
    }

    /// Writes each outcome to the journal too.
    pub fn keep_journal(&mut self, journal: Journal) {
        self.add(ReportFormat::Ndjson, Destination::Journal(journal));
    }

    fn add(&mut self, format: ReportFormat, place: Destination) {
        let on_stdout = matches!(place, Destination::Stdout);
        let color = on_stdout && self.terminal.is_some_and(|terminal| terminal.color);
        self.open.push(OpenReport {
            sink: sink(format, color),
            place,
            broken: false,
        });
    }

    /// Writes one outcome to every report. A report that cannot be written is left out from then
    /// on; the others go on.
    fn outcome(&mut self, outcome: &Outcome, line: Option<&str>) -> Result<(), Fault> {
        let mut plain = TokenRecord::new(outcome);
        if self.dry_run {
            plain = plain.of_dry_run();
        }
        plain.masked = self.are_masked;
        let masked = plain.masked(self.mask);
        let shown = masked.as_ref().unwrap_or(&plain);
        self.each(|sink, out, is_journal| {
            // A journal keeps the token itself: it is there to be replayed.
            sink.outcome(out, if is_journal { &plain } else { shown }, line)
        })
    }

    /// Writes a line of the script's to standard output.
    pub fn emit(&mut self, text: &str) -> Result<(), Fault> {
        writeln!(self.stdout, "{text}").map_err(|error| Destination::Stdout.fault(&error))?;
        if self.terminal.is_some() {
            self.flush()?;
        }
        Ok(())
    }

    /// Hands everything to the operating system; called when nothing else is there to write.
    pub fn flush(&mut self) -> Result<(), Fault> {
        let flushed = self.stdout.flush();
        let mut flushed = flushed.map_err(|error| Destination::Stdout.fault(&error));
        for report in self.open.iter_mut().filter(|report| !report.broken) {
            if let Destination::File { writer, .. } = &mut report.place {
                let written = writer.flush();
                flushed = flushed.and(written.map_err(|error| report.place.fault(&error)));
            }
        }
        flushed
    }

    /// Ends every report and gives the finished files their names.
    pub fn end(&mut self, summary: &Summary) -> Result<(), Fault> {
        let written = self.each(|sink, out, _| sink.end(out, summary));
        let flushed = self.flush();
        let mut named = Ok(());
        for report in self.open.iter_mut().filter(|report| !report.broken) {
            let done = report.place.finish();
            named = named.and(done.map_err(|error| report.place.fault(&error)));
        }
        written.and(flushed).and(named)
    }

    fn each(
        &mut self,
        mut write: impl FnMut(&mut dyn ReportSink, &mut dyn Write, bool) -> io::Result<()>,
    ) -> Result<(), Fault> {
        let mut result = Ok(());
        for report in &mut self.open {
            if report.broken {
                continue;
            }
            let sink = report.sink.as_mut();
            let written = match &mut report.place {
                Destination::Stdout => write(sink, &mut self.stdout, false),
                Destination::Writer(writer) => write(sink, writer, false),
                Destination::Journal(journal) => {
                    let mut line = Vec::new();
                    write(sink, &mut line, true).and_then(|()| journal.append(&line))
                }
                Destination::File { writer, .. } => write(sink, writer, false),
            };
            let written = written.map_err(|error| report.place.fault(&error));
            report.broken = written.is_err();
            result = result.and(written);
        }
        result
    }
}
