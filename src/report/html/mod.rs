//! `html`: one page that needs nothing but a browser. Rows are written as outcomes arrive, up to a
//! bound for each status, so that what matters is never crowded out by what is stored; verdict and
//! charts, which need numbers only, come behind them. So memory stays flat whatever SIZE is.

mod charts;
mod page;
mod totals;

use std::io::{self, Write};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use sha2::{Digest, Sha256};

use crate::error::escape::{escape, write_json};
use crate::pipeline::token::Status;
use crate::report::ReportSink;
use crate::report::html::totals::HtmlTotals;
use crate::report::record::TokenRecord;
use crate::report::summary::Summary;
use crate::report::text::words;

const STYLE: &str = include_str!("page.css");
const SCRIPT: &str = include_str!("page.js");

/// So many tokens of a status the table holds: what a browser still searches at once.
const MOST: u64 = 100_000;

/// The HTML report.
pub struct HtmlReport {
    begun: bool,
    totals: HtmlTotals,
    /// How many tokens of each status stand in the table.
    held: [u64; 5],
    line: Vec<u8>,
}

impl Default for HtmlReport {
    /// An empty page; what comes later is drawn against the time that has passed since.
    fn default() -> Self {
        Self {
            begun: false,
            totals: HtmlTotals::new(),
            held: [0; 5],
            line: Vec::new(),
        }
    }
}

impl HtmlReport {
    fn begin(&mut self, out: &mut dyn Write) -> io::Result<bool> {
        let first = !std::mem::replace(&mut self.begun, true);
        if first {
            out.write_all(head().as_bytes())?;
        }
        Ok(first)
    }

    /// True where the table still has room for a token of this status.
    fn holds(&mut self, status: Status) -> bool {
        let most = match status {
            Status::Stored => MOST,
            _ => MOST / 2,
        };
        let held = &mut self.held[status as usize];
        let room = *held < most;
        *held += u64::from(room);
        room
    }
}

impl ReportSink for HtmlReport {
    fn outcome(
        &mut self,
        out: &mut dyn Write,
        row: &TokenRecord,
        _: Option<&str>,
    ) -> io::Result<()> {
        let first = self.begin(out)?;
        let words = words(row);
        self.totals.add(row, words.as_deref());
        if !self.holds(row.status) {
            return Ok(());
        }
        self.line.clear();
        let cells = (
            row.status as u8,
            escape(&row.token),
            row.attempts,
            row.ms,
            escape(words.as_deref().unwrap_or_default()),
        );
        write_json(&mut self.line, &cells)?;
        out.write_all(if first { b"\n" } else { b",\n" })?;
        // In a script's text nothing else can end it, or begin a comment that hides its end.
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
        self.begin(out)?;
        let page = page::page(&self.totals, summary, &self.held).map_err(io::Error::other)?;
        let page = page.into_string();
        write!(
            out,
            "\n]</script>\n{page}<script>{SCRIPT}</script>\n</body>\n</html>\n"
        )
    }
}

/// What stands before the first row. The policy lets the page's own style and script run, and nothing
/// else: no token could become a script, and nothing is loaded or sent.
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
