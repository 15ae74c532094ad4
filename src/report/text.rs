//! The `text` report: one line per token, status first.

use std::io::{self, Write};

use crate::error::color::Color;
use crate::error::escape::escape;
use crate::report::record::TokenRecord;
use crate::report::{ReportFormat, ReportSink};

/// The row of `text`.
pub static FORMAT: ReportFormat = ReportFormat {
    name: "text",
    is_reproducible: true,
    sink: |color| Box::new(TextReport { color }),
};

/// The text report. The summary goes to standard error instead.
struct TextReport {
    /// True to color the status; a script's own lines are never colored.
    color: bool,
}

impl ReportSink for TextReport {
    fn outcome(&mut self, out: &mut dyn Write, record: &TokenRecord) -> io::Result<()> {
        match record.line {
            Some(line) => writeln!(out, "{line}"),
            None => write_line(out, record, self.color),
        }
    }
}

fn write_line(out: &mut dyn Write, record: &TokenRecord, color: bool) -> io::Result<()> {
    let status = record.status.as_str();
    // At least two spaces separate the columns, even if a status is longer than its column.
    let width = 10.max(status.len() + 2);
    if color {
        let status = Color(true).status(record.status, &format!("{status:width$}"));
        write!(out, "{status}{}", escape(&record.token))?;
    } else {
        // Avoids an allocation per token.
        write!(out, "{status:width$}{}", escape(&record.token))?;
    }
    match details(record) {
        None => writeln!(out),
        Some(details) => writeln!(out, "  {}", escape(&details)),
    }
}

/// Returns the last column: the SQLSTATE and the constraint, the reason or the message.
pub fn details(record: &TokenRecord) -> Option<String> {
    let text = record
        .constraint
        .as_deref()
        .or(record.reason.as_deref())
        .or(record.message.as_deref());
    match (record.sqlstate.as_deref(), text) {
        (Some(sqlstate), Some(text)) => Some(format!("{sqlstate} {text}")),
        (text, None) | (None, text) => text.map(str::to_owned),
    }
}
