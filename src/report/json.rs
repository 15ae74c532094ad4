//! `json`: one document, `{version, tokens: […], summary: {…}}`, written as outcomes arrive.

use std::io::{self, Write};

use crate::error::escape::write_json;
use crate::report::ReportSink;
use crate::report::record::TokenRecord;
use crate::report::summary::{Summary, VERSION};

/// The JSON report.
#[derive(Default)]
pub struct JsonReport {
    begun: bool,
}

impl JsonReport {
    /// What stands before the next token: the document's beginning, or a comma.
    fn lead(&mut self) -> String {
        if std::mem::replace(&mut self.begun, true) {
            ",\n".to_owned()
        } else {
            format!("{{\"version\": {VERSION}, \"tokens\": [\n")
        }
    }
}

impl ReportSink for JsonReport {
    fn outcome(
        &mut self,
        out: &mut dyn Write,
        row: &TokenRecord,
        _: Option<&str>,
    ) -> io::Result<()> {
        out.write_all(self.lead().as_bytes())?;
        write_json(out, row)
    }

    fn end(&mut self, out: &mut dyn Write, summary: &Summary) -> io::Result<()> {
        if !self.begun {
            out.write_all(self.lead().as_bytes())?;
        }
        out.write_all(b"\n], \"summary\": ")?;
        write_json(&mut *out, summary)?;
        out.write_all(b"}\n")
    }
}
