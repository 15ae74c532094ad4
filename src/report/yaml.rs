//! The `yaml` report: one document of the same structure as `json`, written as outcomes arrive. Strings
//! are double-quoted, so that no parser takes a token for a number, a date or a boolean.

use std::io::{self, Write};

use serde::Serialize;
use serde_json::Serializer;
use serde_json::ser::Formatter;

use crate::error::escape::write_escaped;
use crate::report::record::TokenRecord;
use crate::report::summary::{Summary, VERSION};
use crate::report::{ReportFormat, ReportSink};

/// The row of `yaml`.
pub static FORMAT: ReportFormat = ReportFormat {
    name: "yaml",
    is_reproducible: true,
    sink: |_| Box::new(YamlReport::default()),
};

/// The YAML report.
#[derive(Default)]
struct YamlReport {
    has_tokens: bool,
}

impl ReportSink for YamlReport {
    fn begin(&mut self, out: &mut dyn Write) -> io::Result<()> {
        write!(out, "version: {VERSION}\ntokens:")
    }

    fn outcome(&mut self, out: &mut dyn Write, record: &TokenRecord) -> io::Result<()> {
        if !std::mem::replace(&mut self.has_tokens, true) {
            out.write_all(b"\n")?;
        }
        out.write_all(b"- ")?;
        write_block(out, record)
    }

    fn end(&mut self, out: &mut dyn Write, summary: &Summary) -> io::Result<()> {
        if !self.has_tokens {
            out.write_all(b" []\n")?;
        }
        out.write_all(b"summary:\n  ")?;
        write_block(out, summary)
    }
}

fn write_block(out: &mut dyn Write, value: &impl Serialize) -> io::Result<()> {
    value.serialize(&mut Serializer::with_formatter(
        &mut *out,
        YamlBlock::default(),
    ))?;
    out.write_all(b"\n")
}

/// Formats a mapping in block style, indented by two, and nested ones in flow style. Strings are JSON's:
/// YAML accepts its escapes, but for surrogates.
#[derive(Default)]
struct YamlBlock {
    depth: usize,
    in_key: bool,
}

impl YamlBlock {
    fn is_nested(&self) -> bool {
        self.depth > 1
    }
}

impl Formatter for YamlBlock {
    fn begin_object<W: Write + ?Sized>(&mut self, out: &mut W) -> io::Result<()> {
        self.depth += 1;
        out.write_all(if self.is_nested() { b"{" } else { b"" })
    }

    fn end_object<W: Write + ?Sized>(&mut self, out: &mut W) -> io::Result<()> {
        out.write_all(if self.is_nested() { b"}" } else { b"" })?;
        self.depth -= 1;
        Ok(())
    }

    fn begin_object_key<W: Write + ?Sized>(&mut self, out: &mut W, first: bool) -> io::Result<()> {
        self.in_key = true;
        out.write_all(match (first, self.is_nested()) {
            (true, _) => b"",
            (false, true) => b", ",
            (false, false) => b"\n  ",
        })
    }

    fn end_object_key<W: Write + ?Sized>(&mut self, _: &mut W) -> io::Result<()> {
        self.in_key = false;
        Ok(())
    }

    fn begin_object_value<W: Write + ?Sized>(&mut self, out: &mut W) -> io::Result<()> {
        out.write_all(b": ")
    }

    fn begin_string<W: Write + ?Sized>(&mut self, out: &mut W) -> io::Result<()> {
        out.write_all(if self.in_key { b"" } else { b"\"" })
    }

    fn end_string<W: Write + ?Sized>(&mut self, out: &mut W) -> io::Result<()> {
        self.begin_string(out)
    }

    fn write_string_fragment<W: Write + ?Sized>(
        &mut self,
        out: &mut W,
        fragment: &str,
    ) -> io::Result<()> {
        write_escaped(out, fragment, |out, hostile| match u32::from(hostile) {
            code @ ..=0xffff => write!(out, "\\u{code:04x}"),
            // YAML has no surrogates.
            code => write!(out, "\\U{code:08x}"),
        })
    }
}
