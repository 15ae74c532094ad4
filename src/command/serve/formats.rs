//! The formats of a run's report: which one a request asks for, and how the ndjson report becomes another.

use std::io::{self, Write};
use std::sync::{Arc, Mutex, PoisonError};

use axum::http::HeaderMap;
use axum::http::header::ACCEPT;
use bytes::Bytes;
use serde_json::Value;
use utoipa::ToSchema;

use crate::command::serve::problem::Problem;
use crate::error::Error;
use crate::journal::{JournalLine, ParsedRecord, SummaryRecord, parse_report_line};
use crate::pipeline::numbers::Numbers;
use crate::report::ledger::Ledger;
use crate::report::summary::{RunRecord, Summary};
use crate::report::{FORMATS, ReportFormat, Reports, csv, html, json, ndjson, text, yaml};

/// The names of the formats, for the `OpenAPI` document.
#[derive(ToSchema)]
#[schema(rename_all = "lowercase")]
#[expect(dead_code, reason = "only its schema is used")]
pub(super) enum FormatName {
    Text,
    Ndjson,
    Json,
    Csv,
    Yaml,
    Html,
}

/// The media types of the formats, the default one first.
static MEDIA_TYPES: [(&str, &ReportFormat); 6] = [
    ("application/x-ndjson", &ndjson::FORMAT),
    ("application/json", &json::FORMAT),
    ("application/yaml", &yaml::FORMAT),
    ("text/plain", &text::FORMAT),
    ("text/csv", &csv::FORMAT),
    ("text/html", &html::FORMAT),
];

/// Returns the format that a request asks for: `format` of its query, else the best one of `Accept`.
///
/// # Errors
/// 400 for an unknown `format`, and 406 if no format is acceptable.
pub(super) fn requested_format(
    headers: &HeaderMap,
    query: Option<&str>,
) -> Result<&'static ReportFormat, Problem> {
    if let Some(name) = query {
        let known = FORMATS.iter().find(|format| format.name == name);
        return known.copied().ok_or_else(|| {
            let names = FORMATS.map(|format| format.name).join(", ");
            Problem::bad_request("the format is unknown")
                .hint(format!("`format` is one of {names}"))
        });
    }
    let accept: Vec<&str> = headers
        .get_all(ACCEPT)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .collect();
    if accept.is_empty() {
        return Ok(&ndjson::FORMAT);
    }
    acceptable(&accept.join(",")).ok_or_else(|| {
        let known = MEDIA_TYPES.map(|(media_type, _)| media_type);
        Problem::not_acceptable(&known)
    })
}

/// Returns the format with the highest quality; of equal ones the first in our order.
fn acceptable(accept: &str) -> Option<&'static ReportFormat> {
    let ranges: Vec<MediaRange> = accept.split(',').filter_map(MediaRange::parse).collect();
    let mut best: Option<(f32, &ReportFormat)> = None;
    for (media_type, format) in MEDIA_TYPES {
        // The most specific range counts.
        let matching = ranges.iter().filter(|range| range.matches(media_type));
        let range = matching.max_by_key(|range| range.specificity());
        let quality = range.map_or(0.0, |range| range.quality);
        if quality > best.map_or(0.0, |(quality, _)| quality) {
            best = Some((quality, format));
        }
    }
    best.map(|(_, format)| format)
}

/// A range of `Accept`, such as `text/*;q=0.5`.
struct MediaRange {
    kind: String,
    subtype: String,
    quality: f32,
}

impl MediaRange {
    fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split(';').map(str::trim);
        let (kind, subtype) = parts.next()?.split_once('/')?;
        let quality = parts.find_map(|parameter| {
            let (name, value) = parameter.split_once('=')?;
            name.trim()
                .eq_ignore_ascii_case("q")
                .then_some(value.trim())
        });
        Some(Self {
            kind: kind.to_ascii_lowercase(),
            subtype: subtype.to_ascii_lowercase(),
            quality: quality.map_or(Some(1.0), |quality| quality.parse().ok())?,
        })
    }

    fn matches(&self, media_type: &str) -> bool {
        let (kind, subtype) = media_type.split_once('/').unwrap_or_default();
        // Older names of the same types.
        let alias = match (self.kind.as_str(), self.subtype.as_str()) {
            ("application", "ndjson" | "jsonl" | "json-seq") => "x-ndjson",
            ("application", "x-yaml") => "yaml",
            (_, other) => other,
        };
        (self.kind == "*" || self.kind == kind) && (self.subtype == "*" || alias == subtype)
    }

    fn specificity(&self) -> u8 {
        u8::from(self.kind != "*") + u8::from(self.subtype != "*")
    }
}

/// Returns the value of `Content-Type` for a report.
pub(super) fn content_type(format: &ReportFormat) -> &'static str {
    match format.name {
        "ndjson" => "application/x-ndjson",
        "json" => "application/json",
        "yaml" => "application/yaml",
        "csv" => "text/csv; charset=utf-8",
        "html" => "text/html; charset=utf-8",
        _ => "text/plain; charset=utf-8",
    }
}

/// Rewrites the lines of an ndjson report in another format.
pub(super) struct Renderer {
    ledger: Ledger,
    written: SharedBuffer,
    /// A line whose end has not arrived.
    rest: Vec<u8>,
    inputs: Vec<(&'static str, String)>,
    /// True if the report is that of an earlier time, so that no time of arrival can be shown.
    is_old: bool,
    has_style: bool,
}

impl Renderer {
    /// Creates a renderer of a run that uses `inputs`; `is_old` if the run has ended.
    pub fn new(
        format: &'static ReportFormat,
        inputs: Vec<(&'static str, String)>,
        is_old: bool,
    ) -> Self {
        let written = SharedBuffer::default();
        let mut reports = Reports::with_stdout(Box::new(io::sink()));
        reports.add_writer(format, Box::new(written.clone()));
        Self {
            ledger: Ledger::new(reports),
            written,
            rest: Vec::new(),
            inputs,
            is_old,
            has_style: false,
        }
    }

    /// Takes lines of the report and returns what follows from them.
    ///
    /// # Errors
    /// If a line is not one of a report.
    pub fn render(&mut self, lines: &[u8]) -> Result<Bytes, Error> {
        self.rest.extend_from_slice(lines);
        let text = std::mem::take(&mut self.rest);
        for line in text.split_inclusive(|byte| *byte == b'\n') {
            let Some(line) = line.strip_suffix(b"\n") else {
                self.rest = line.to_vec();
                break;
            };
            self.add(line).map_err(damaged)?;
        }
        Ok(self.written.take())
    }

    fn add(&mut self, line: &[u8]) -> Result<(), &'static str> {
        match parse_report_line(line)? {
            JournalLine::Outcome(record) => {
                self.set_style(&record);
                let outcome = record.outcome()?;
                // Writing to memory cannot fail.
                let _ = self.ledger.settle(&outcome, None);
            }
            JournalLine::Summary { summary } => {
                let summary = self.summary(&summary)?;
                let _ = self.ledger.reports().end(&summary);
            }
            _ => return Err("the line is not one of a report"),
        }
        Ok(())
    }

    fn set_style(&mut self, record: &ParsedRecord) {
        if !std::mem::replace(&mut self.has_style, true) {
            let reports = self.ledger.reports();
            reports.dry_run = record.dry_run;
            reports.already_masked = record.masked;
            reports.has_receipts = record.position.is_some();
        }
    }

    fn summary(&mut self, record: &SummaryRecord) -> Result<Summary, &'static str> {
        let (started_at, ended_at) = record.span().ok_or("the summary has no start time")?;
        let run = RunRecord {
            run_id: record.run_id.clone(),
            shard: record.shard,
            replay_of: record.replay_of.clone(),
            started_at,
            duration: ended_at.duration_since(started_at).unsigned_abs(),
            is_merged: self.is_old,
        };
        Ok(Summary {
            run,
            numbers: Numbers {
                retries: self.ledger.numbers().retries,
                ..record.numbers
            },
            aborted_by: record.cause(),
            exit_code: record.exit_code,
            dry_run: self.ledger.reports().dry_run,
            inputs: std::mem::take(&mut self.inputs),
            rejections: self.ledger.rejections().clone(),
            latencies: self.ledger.latencies().clone(),
        })
    }
}

fn damaged(why: &'static str) -> Error {
    let error = Error::new(
        crate::error::exit::Exit::Usage,
        "the kept report is damaged",
    );
    error.cause(why)
}

/// A buffer that a report writes, and from which the response takes.
#[derive(Clone, Default)]
struct SharedBuffer(Arc<Mutex<Vec<u8>>>);

impl SharedBuffer {
    fn take(&self) -> Bytes {
        let mut buffer = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut *buffer).into()
    }
}

impl Write for SharedBuffer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut buffer = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        buffer.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Returns the token objects of lines, for the latest rejections.
pub(super) fn objects(lines: &[Bytes]) -> Vec<Value> {
    let parsed = lines.iter().map(|line| serde_json::from_slice(line));
    parsed.filter_map(Result::ok).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn best_acceptable_format_is_chosen() {
        let name = |accept| acceptable(accept).map(|format| format.name);
        assert_eq!(name("*/*"), Some("ndjson"));
        assert_eq!(name("text/*"), Some("text"));
        assert_eq!(name("text/csv, */*;q=0.1"), Some("csv"));
        assert_eq!(
            name("application/json;q=0.5,application/yaml;q=0.9"),
            Some("yaml")
        );
        assert_eq!(
            name("application/*, application/x-ndjson;q=0"),
            Some("json")
        );
        assert_eq!(name("TEXT/HTML"), Some("html"));
        assert_eq!(name("application/ndjson"), Some("ndjson"));
        assert_eq!(
            name("text/html,application/xhtml+xml,*/*;q=0.8"),
            Some("html")
        );
        for refused in [
            "image/png",
            "text/plain;q=0",
            "",
            "text",
            "application/json;q=x",
        ] {
            assert_eq!(name(refused), None, "{refused}");
        }
    }

    #[test]
    fn report_is_rendered_line_by_line() {
        let mut renderer = Renderer::new(&csv::FORMAT, Vec::new(), true);
        let head = renderer
            .render(b"{\"token\":\"aa\",\"status\":\"stored\",\"attempts\":1,\"ms\":1.5}\n{\"tok")
            .unwrap();
        let head = String::from_utf8(head.to_vec()).unwrap();
        assert!(head.contains("aa,stored,1,1.5"), "{head}");
        let tail = renderer
            .render(b"en\":\"b\",\"status\":\"rejected\",\"attempts\":1,\"ms\":2}\n")
            .unwrap();
        assert!(tail.starts_with(b"b,rejected"));
        assert!(renderer.render(b"{\"received\":[]}\n").is_err());
    }
}
