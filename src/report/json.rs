//! `json`: one document, `{version, tokens: […], summary: {…}}`, written as outcomes arrive.

use std::io::{self, Write};

use crate::error::escape::write_json;
use crate::report::Sink;
use crate::report::record::Row;
use crate::report::summary::{Summary, VERSION};

/// The JSON report.
#[derive(Default)]
pub struct Json {
    begun: bool,
}

impl Json {
    /// What stands before the next token: the document's beginning, or a comma.
    fn lead(&mut self) -> String {
        if std::mem::replace(&mut self.begun, true) {
            ",\n".to_owned()
        } else {
            format!("{{\"version\": {VERSION}, \"tokens\": [\n")
        }
    }
}

impl Sink for Json {
    fn outcome(&mut self, out: &mut dyn Write, row: &Row, _: Option<&str>) -> io::Result<()> {
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
