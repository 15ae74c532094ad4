//! The `ndjson` report: one JSON object per token, then one with the summary.

use std::io::{self, Write};

use serde::Serialize;

use crate::error::escape::write_json;
use crate::report::record::TokenRecord;
use crate::report::summary::Summary;
use crate::report::{ReportFormat, ReportSink};

/// The row of `ndjson`.
pub static FORMAT: ReportFormat = ReportFormat {
    name: "ndjson",
    is_reproducible: true,
    sink: |_| Box::new(NdjsonReport),
};

/// The newline-delimited JSON report.
struct NdjsonReport;

impl ReportSink for NdjsonReport {
    fn outcome(&mut self, out: &mut dyn Write, record: &TokenRecord) -> io::Result<()> {
        write_json(&mut *out, record)?;
        out.write_all(b"\n")
    }

    fn end(&mut self, out: &mut dyn Write, summary: &Summary) -> io::Result<()> {
        #[derive(Serialize)]
        struct Line<'a> {
            summary: &'a Summary,
        }
        write_json(&mut *out, &Line { summary })?;
        out.write_all(b"\n")
    }
}
