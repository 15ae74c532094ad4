//! `text`: a line a token, the status first, for people and shell pipelines.

use std::io::{self, Write};

use crate::error::color::Color;
use crate::error::escape::escape;
use crate::report::ReportSink;
use crate::report::record::TokenRecord;
use crate::report::summary::Summary;

/// The text report. Its summary goes to standard error, not here.
pub struct TextReport {
    /// True to colour what became of a token; a script's own line is the script's.
    pub color: bool,
}

impl ReportSink for TextReport {
    fn outcome(
        &mut self,
        out: &mut dyn Write,
        row: &TokenRecord,
        line: Option<&str>,
    ) -> io::Result<()> {
        match line {
            Some(line) => writeln!(out, "{line}"),
            None => write_line(out, row, self.color),
        }
    }

    fn end(&mut self, _: &mut dyn Write, _: &Summary) -> io::Result<()> {
        Ok(())
    }
}

fn write_line(out: &mut dyn Write, row: &TokenRecord, color: bool) -> io::Result<()> {
    let status = row.status.as_str();
    // Columns stand two spaces apart even where a status is longer than its column.
    let width = 10.max(status.len() + 2);
    if color {
        let word = Color(true).status(row.status, &format!("{status:width$}"));
        write!(out, "{word}{}", escape(&row.token))?;
    } else {
        // Nothing is set up for each of a million tokens that are piped.
        write!(out, "{status:width$}{}", escape(&row.token))?;
    }
    match words(row) {
        None => writeln!(out),
        Some(words) => writeln!(out, "  {}", escape(&words)),
    }
}

/// What stands last on the line: the database's code with the constraint or else its message, or
/// the reason of whoever refused.
pub fn words(row: &TokenRecord) -> Option<String> {
    let words = row
        .constraint
        .as_deref()
        .or(row.reason.as_deref())
        .or(row.message.as_deref());
    match (row.sqlstate.as_deref(), words) {
        (Some(sqlstate), Some(words)) => Some(format!("{sqlstate} {words}")),
        (words, None) | (None, words) => words.map(str::to_owned),
    }
}
