//! Formats the differences of a failed case, with their location in the test file.

use std::fmt::Write as _;
use std::time::Duration;

use similar::{ChangeTag, TextDiff};

use crate::command::test::compare::{Difference, DifferenceKind};
use crate::command::test::test_file::TestFile;
use crate::error::color::Color;
use crate::error::escape::escape_line;

/// The number of equal lines to show around differences.
const CONTEXT_LINES: usize = 3;

/// Maximum number of lines of a text to show.
const MAX_LINES: usize = 60;

/// The indentation below a case.
const INDENT: &str = "      ";

/// Returns the lines below a failed case.
pub(crate) fn differences(file: &TestFile, found: &[Difference], color: Color) -> String {
    let mut text = String::new();
    if let Some(first) = found.first() {
        // Writing into a string cannot fail.
        let _ = writeln!(text, "{INDENT}{}", file.location(&first.path));
    }
    for (at, difference) in found.iter().enumerate() {
        // A token's place is needed to find it.
        if at > 0 && difference.name == "store" {
            let _ = writeln!(text, "{INDENT}{}", file.location(&difference.path));
        }
        write_one(&mut text, difference, color);
    }
    text
}

/// Returns the lines below a case that `--update` changed only in part.
pub(crate) fn updates(changed: &[String], kept: &[(String, String)]) -> String {
    let mut text = String::new();
    if !changed.is_empty() {
        let _ = writeln!(
            text,
            "{INDENT}updated: {}",
            escape_line(&changed.join(", "))
        );
    }
    for (name, why) in kept {
        let _ = writeln!(text, "{INDENT}not updated: {}: {why}", escape_line(name));
    }
    text
}

fn write_one(text: &mut String, difference: &Difference, color: Color) {
    let name = escape_line(&difference.name);
    let prefix = if name.is_empty() {
        String::new()
    } else {
        format!("{name}: ")
    };
    let _ = match &difference.kind {
        DifferenceKind::Value { expected, got } => {
            writeln!(text, "{INDENT}{prefix}expected {expected}, got {got}")
        }
        DifferenceKind::Message(message) => {
            let mut lines = message.lines();
            let first = lines.next().unwrap_or_default();
            let _ = writeln!(text, "{INDENT}{prefix}{}", escape_line(first));
            write_lines(text, lines);
            Ok(())
        }
        DifferenceKind::Missing { part, text: whole } => {
            let _ = writeln!(text, "{INDENT}{prefix}expected `{}` in", escape_line(part));
            write_lines(text, whole.lines());
            Ok(())
        }
        DifferenceKind::Text { expected, got } => {
            let removed = color.red("- expected");
            let added = color.green("+ got");
            let _ = writeln!(text, "{INDENT}{prefix}{removed}, {added}");
            write_diff(text, expected, got, color);
            Ok(())
        }
    };
}

fn write_lines<'a>(text: &mut String, lines: impl Iterator<Item = &'a str>) {
    let mut lines = lines.peekable();
    if lines.peek().is_none() {
        return;
    }
    for (number, line) in lines.enumerate() {
        if number == MAX_LINES {
            let _ = writeln!(text, "{INDENT}  …");
            return;
        }
        let _ = writeln!(text, "{INDENT}  {}", escape_line(line));
    }
}

/// Writes a line diff of two texts.
fn write_diff(text: &mut String, expected: &str, got: &str, color: Color) {
    // Every line ends with a break, or the last line of the shorter text would differ.
    let ended = |text: &str| {
        let end = if text.is_empty() { "" } else { "\n" };
        format!("{text}{end}")
    };
    let (expected, got) = (ended(expected), ended(got));
    let diff = TextDiff::configure()
        .timeout(Duration::from_secs(1))
        .diff_lines(&expected, &got);
    let mut written = 0;
    for (number, group) in diff.grouped_ops(CONTEXT_LINES).iter().enumerate() {
        let gap = group.first().is_some_and(|op| op.old_range().start > 0);
        if number > 0 || gap {
            let _ = writeln!(text, "{INDENT}  …");
        }
        for change in group.iter().flat_map(|op| diff.iter_changes(op)) {
            if written == MAX_LINES {
                let _ = writeln!(text, "{INDENT}  …");
                return;
            }
            written += 1;
            let line = change.value().strip_suffix('\n').unwrap_or(change.value());
            let line = with_visible_end(&escape_line(line));
            let line = match change.tag() {
                ChangeTag::Equal => format!("  {line}"),
                ChangeTag::Delete => color.red(&format!("- {line}")),
                ChangeTag::Insert => color.green(&format!("+ {line}")),
            };
            let _ = writeln!(text, "{INDENT}{}", line.trim_end());
        }
    }
}

/// Returns the line with trailing blanks as dots, so that they are visible.
fn with_visible_end(line: &str) -> String {
    let plain = line.trim_end_matches([' ', '\t']);
    let blanks = line[plain.len()..].chars().count();
    format!("{plain}{}", "·".repeat(blanks))
}
