//! The `json` report: one document, `{version, tokens: […], summary: {…}}`, written as outcomes arrive.

use std::io::{self, Write};

use crate::error::escape::write_json;
use crate::report::record::TokenRecord;
use crate::report::summary::{Summary, VERSION};
use crate::report::{ReportFormat, ReportSink};

/// The row of `json`.
pub static FORMAT: ReportFormat = ReportFormat {
    name: "json",
    is_reproducible: true,
    sink: |_| Box::new(JsonReport::default()),
};

/// The JSON report.
#[derive(Default)]
struct JsonReport {
    has_tokens: bool,
}

impl ReportSink for JsonReport {
    fn begin(&mut self, out: &mut dyn Write) -> io::Result<()> {
        writeln!(out, "{{\"version\": {VERSION}, \"tokens\": [")
    }

    fn outcome(&mut self, out: &mut dyn Write, record: &TokenRecord) -> io::Result<()> {
        if std::mem::replace(&mut self.has_tokens, true) {
            out.write_all(b",\n")?;
        }
        write_json(out, record)
    }

    fn end(&mut self, out: &mut dyn Write, summary: &Summary) -> io::Result<()> {
        out.write_all(b"\n], \"summary\": ")?;
        write_json(&mut *out, summary)?;
        out.write_all(b"}\n")
    }
}
