//! The `csv` report: a header, then one line per token. Cells that a spreadsheet would take for a
//! formula begin with an apostrophe, as in `lib/cells`.

use std::borrow::Cow;
use std::io::{self, Write};

use crate::error::escape::escape;
use crate::report::record::TokenRecord;
use crate::report::summary::Summary;
use crate::report::{ReportFormat, ReportSink};
use csv::WriterBuilder;

/// The keys of the token object; the last one only in runs with receipts.
const HEADER: [&str; 9] = [
    "token",
    "status",
    "attempts",
    "ms",
    "sqlstate",
    "constraint",
    "reason",
    "message",
    "position",
];

/// The row of `csv`.
pub static FORMAT: ReportFormat = ReportFormat {
    name: "csv",
    is_reproducible: true,
    sink: |_| Box::new(CsvReport::default()),
};

/// The CSV report, which has no summary.
#[derive(Default)]
struct CsvReport {
    line: Vec<u8>,
    /// The number of columns; 0 before the header is written.
    columns: usize,
}

impl CsvReport {
    /// Writes the header, unless it is written.
    fn write_header(&mut self, out: &mut dyn Write, has_positions: bool) -> io::Result<()> {
        if self.columns > 0 {
            return Ok(());
        }
        self.columns = HEADER.len() - usize::from(!has_positions);
        self.write(out, HEADER.into_iter().take(self.columns))
    }

    fn write<'a>(
        &mut self,
        out: &mut dyn Write,
        cells: impl IntoIterator<Item = &'a str>,
    ) -> io::Result<()> {
        // Written to a buffer first: the crate's writer would flush `out` at each line.
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
    fn outcome(&mut self, out: &mut dyn Write, record: &TokenRecord) -> io::Result<()> {
        self.write_header(out, record.position.is_some())?;
        let texts = [
            cell(Some(&record.token)),
            cell(record.sqlstate.as_deref()),
            cell(record.constraint.as_deref()),
            cell(record.reason.as_deref()),
            cell(record.message.as_deref()),
        ];
        let [token, sqlstate, constraint, reason, message] = &texts;
        let (attempts, ms) = (record.attempts.to_string(), record.ms.to_string());
        let position = record.position.map(|position| position.to_string());
        let cells = [
            token,
            record.status.as_str(),
            &attempts,
            &ms,
            sqlstate,
            constraint,
            reason,
            message,
            position.as_deref().unwrap_or_default(),
        ];
        self.write(out, cells.into_iter().take(self.columns))
    }

    fn end(&mut self, out: &mut dyn Write, _: &Summary) -> io::Result<()> {
        self.write_header(out, false)
    }
}

/// The characters that begin a formula. Spreadsheets also take their fullwidth forms.
const FORMULA_STARTS: [char; 8] = ['=', '+', '-', '@', '＝', '＋', '－', '＠'];

/// Returns the text so that a spreadsheet does not take it for a formula.
fn cell(text: Option<&str>) -> Cow<'_, str> {
    let text = escape(text.unwrap_or_default());
    // Some spreadsheets ignore blanks before a formula.
    if text.trim_start().starts_with(FORMULA_STARTS) {
        return format!("'{text}").into();
    }
    text
}
