//! `csv`: a header with the token object's keys, then a line a token, for spreadsheets. What a
//! spreadsheet would take for a formula gets an apostrophe before it, as in `lib/cells`.

use std::borrow::Cow;
use std::io::{self, Write};

use csv::WriterBuilder;

use crate::error::escape::escape;
use crate::report::ReportSink;
use crate::report::record::TokenRecord;
use crate::report::summary::Summary;

/// The token object's keys.
const HEADER: [&str; 8] = [
    "token",
    "status",
    "attempts",
    "ms",
    "sqlstate",
    "constraint",
    "reason",
    "message",
];

/// The CSV report. The summary has no place in it.
#[derive(Default)]
pub struct CsvReport {
    begun: bool,
    line: Vec<u8>,
}

impl CsvReport {
    fn begin(&mut self, out: &mut dyn Write) -> io::Result<()> {
        if std::mem::replace(&mut self.begun, true) {
            return Ok(());
        }
        self.write(out, HEADER)
    }

    fn write<'a>(
        &mut self,
        out: &mut dyn Write,
        cells: impl IntoIterator<Item = &'a str>,
    ) -> io::Result<()> {
        // Not straight to `out`: the crate's writer would flush it at each line.
        self.line.clear();
        let mut writer = WriterBuilder::new()
            .buffer_capacity(512)
            .from_writer(&mut self.line);
        writer.write_record(cells)?;
        writer.flush()?;
        drop(writer);
        out.write_all(&self.line)
    }
}

impl ReportSink for CsvReport {
    fn outcome(
        &mut self,
        out: &mut dyn Write,
        row: &TokenRecord,
        _: Option<&str>,
    ) -> io::Result<()> {
        self.begin(out)?;
        let texts = [
            cell(Some(&row.token)),
            cell(row.sqlstate.as_deref()),
            cell(row.constraint.as_deref()),
            cell(row.reason.as_deref()),
            cell(row.message.as_deref()),
        ];
        let [token, sqlstate, constraint, reason, message] = &texts;
        let (attempts, ms) = (row.attempts.to_string(), row.ms.to_string());
        let cells = [
            token,
            row.status.as_str(),
            &attempts,
            &ms,
            sqlstate,
            constraint,
            reason,
            message,
        ];
        self.write(out, cells)
    }

    fn end(&mut self, out: &mut dyn Write, _: &Summary) -> io::Result<()> {
        self.begin(out)
    }
}

/// A text that a spreadsheet shows and does not compute.
fn cell(text: Option<&str>) -> Cow<'_, str> {
    let text = escape(text.unwrap_or_default());
    if text.starts_with(['=', '+', '-', '@']) {
        return format!("'{text}").into();
    }
    text
}
