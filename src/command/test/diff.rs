//! How the outcome of cases looks: a line a case, and beneath one that failed what differs, so that a
//! person sees at a glance which line of which file to look at.

use std::fmt::Write as _;
use std::time::Duration;

use similar::{ChangeTag, TextDiff};

use crate::command::test::case::TestFile;
use crate::command::test::compare::{Difference, DifferenceKind};
use crate::error::color::Color;
use crate::error::escape::escape_line;

/// So many equal lines stand before and after different ones.
const AROUND: usize = 3;

/// So many lines of a text are shown.
const MOST_LINES: usize = 60;

/// What stands before everything beneath a case.
const INDENT: &str = "      ";

/// What stands beneath a case that failed.
pub(crate) fn differences(file: &TestFile, found: &[Difference], color: Color) -> String {
    let mut text = String::new();
    if let Some(first) = found.first() {
        // Writing into a string cannot fail.
        let _ = writeln!(text, "{INDENT}{}", file.place(&first.path));
    }
    for difference in found {
        write_one(&mut text, difference, color);
    }
    text
}

fn write_one(text: &mut String, difference: &Difference, color: Color) {
    let what = escape_line(&difference.what);
    let lead = if what.is_empty() {
        String::new()
    } else {
        format!("{what}: ")
    };
    let _ = match &difference.how {
        DifferenceKind::Value { expected, got } => {
            writeln!(text, "{INDENT}{lead}expected {expected}, got {got}")
        }
        DifferenceKind::Says(sentence) => {
            let mut lines = sentence.lines();
            let first = lines.next().unwrap_or_default();
            let _ = writeln!(text, "{INDENT}{lead}{}", escape_line(first));
            write_lines(text, lines);
            Ok(())
        }
        DifferenceKind::Lacks { part, text: whole } => {
            let _ = writeln!(text, "{INDENT}{lead}expected `{}` in", escape_line(part));
            write_lines(text, whole.lines());
            Ok(())
        }
        DifferenceKind::Text { expected, got } => {
            let removed = color.red("- expected");
            let added = color.green("+ got");
            let _ = writeln!(text, "{INDENT}{lead}{removed}, {added}");
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
        if number == MOST_LINES {
            let _ = writeln!(text, "{INDENT}  …");
            return;
        }
        let _ = writeln!(text, "{INDENT}  {}", escape_line(line));
    }
}

/// The lines of two texts, those that are only expected and those that only came marked.
fn write_diff(text: &mut String, expected: &str, got: &str, color: Color) {
    let diff = TextDiff::configure()
        .timeout(Duration::from_secs(1))
        .diff_lines(expected, got);
    let mut written = 0;
    for (number, group) in diff.grouped_ops(AROUND).iter().enumerate() {
        let gap = group.first().is_some_and(|op| op.old_range().start > 0);
        if number > 0 || gap {
            let _ = writeln!(text, "{INDENT}  …");
        }
        for change in group.iter().flat_map(|op| diff.iter_changes(op)) {
            if written == MOST_LINES {
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

/// The line with blanks at its end as dots: nobody sees them otherwise.
fn with_visible_end(line: &str) -> String {
    let plain = line.trim_end_matches([' ', '\t']);
    let blanks = line[plain.len()..].chars().count();
    format!("{plain}{}", "·".repeat(blanks))
}
