//! The `json` report: one document, `{version, tokens: […], summary: {…}}`, written as outcomes arrive.

use std::io::{self, Write};

use crate::error::escape::write_json;
use crate::report::ReportSink;
use crate::report::record::TokenRecord;
use crate::report::summary::{Summary, VERSION};

/// The JSON report.
#[derive(Default)]
pub struct JsonReport {
    has_begun: bool,
}

impl JsonReport {
    /// Returns the text before the next token: the start of the document, or a comma.
    fn separator(&mut self) -> String {
        if std::mem::replace(&mut self.has_begun, true) {
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
        record: &TokenRecord,
        _: Option<&str>,
    ) -> io::Result<()> {
        out.write_all(self.separator().as_bytes())?;
        write_json(out, record)
    }

    fn end(&mut self, out: &mut dyn Write, summary: &Summary) -> io::Result<()> {
        if !self.has_begun {
            out.write_all(self.separator().as_bytes())?;
        }
        out.write_all(b"\n], \"summary\": ")?;
        write_json(&mut *out, summary)?;
        out.write_all(b"}\n")
    }
}
