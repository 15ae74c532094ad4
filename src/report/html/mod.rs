//! The `html` report: one self-contained page.
//!
//! Rows are written as outcomes arrive, up to a maximum for each status. The conclusion and the charts,
//! which need only totals, follow them. So memory use does not depend on SIZE.

mod charts;
mod page;
mod totals;

use std::io::{self, Write};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use sha2::{Digest, Sha256};

use crate::error::escape::{escape, write_json};
use crate::pipeline::token::Status;
use crate::report::html::totals::HtmlTotals;
use crate::report::record::TokenRecord;
use crate::report::summary::Summary;
use crate::report::text::details;
use crate::report::{ReportFormat, ReportSink};

const STYLE: &str = include_str!("page.css");
const SCRIPT: &str = include_str!("page.js");

/// Maximum number of rows of `stored` tokens, which a browser can search without delay.
const MAX_ROWS: u64 = 100_000;

/// The row of `html`.
pub static FORMAT: ReportFormat = ReportFormat {
    name: "html",
    is_reproducible: false,
    sink: |_| Box::new(HtmlReport::default()),
};

/// The HTML report.
struct HtmlReport {
    totals: HtmlTotals,
    /// The number of rows by status.
    rows: [u64; 5],
    line: Vec<u8>,
}

impl Default for HtmlReport {
    /// Creates an empty page; the timeline starts now.
    fn default() -> Self {
        Self {
            totals: HtmlTotals::new(),
            rows: [0; 5],
            line: Vec::new(),
        }
    }
}

impl HtmlReport {
    /// Counts a row and returns true if the table has room for it.
    fn reserve_row(&mut self, status: Status) -> bool {
        let max = match status {
            Status::Stored => MAX_ROWS,
            _ => MAX_ROWS / 2,
        };
        let rows = &mut self.rows[status as usize];
        let has_room = *rows < max;
        *rows += u64::from(has_room);
        has_room
    }
}

impl ReportSink for HtmlReport {
    fn begin(&mut self, out: &mut dyn Write) -> io::Result<()> {
        out.write_all(head().as_bytes())
    }

    fn outcome(&mut self, out: &mut dyn Write, record: &TokenRecord) -> io::Result<()> {
        let first = self.rows == [0; 5];
        let details = details(record);
        self.totals.add(record, details.as_deref());
        if !self.reserve_row(record.status) {
            return Ok(());
        }
        self.line.clear();
        let cells = (
            record.status as u8,
            escape(&record.token),
            record.attempts,
            record.ms,
            escape(details.as_deref().unwrap_or_default()),
        );
        write_json(&mut self.line, &cells)?;
        out.write_all(if first { b"\n" } else { b",\n" })?;
        // Only `<` can end the text of a script element or begin a comment in it.
        for part in self.line.split_inclusive(|byte| *byte == b'<') {
            match part.strip_suffix(b"<") {
                Some(part) => {
                    out.write_all(part)?;
                    out.write_all(br"\u003c")?;
                }
                None => out.write_all(part)?,
            }
        }
        Ok(())
    }

    fn end(&mut self, out: &mut dyn Write, summary: &Summary) -> io::Result<()> {
        let page = page::page(&self.totals, summary, &self.rows).into_string();
        write!(
            out,
            "\n]</script>\n{page}<script>{SCRIPT}</script>\n</body>\n</html>\n"
        )
    }
}

/// Returns the page up to the first row.
///
/// The content security policy allows only the page's own style and script, and no requests.
fn head() -> String {
    let hash = |text: &str| BASE64_STANDARD.encode(Sha256::digest(text));
    let (style, script) = (hash(STYLE), hash(SCRIPT));
    format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; \
         style-src 'sha256-{style}'; script-src 'sha256-{script}'; \
         base-uri 'none'; form-action 'none'\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"referrer\" content=\"no-referrer\">\n\
         <style>{STYLE}</style>\n<script type=\"application/json\" id=\"rows\">["
    )
}
