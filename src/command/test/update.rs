//! `--update`: replaces expected reports by actual ones. The rest of the file stays byte for byte the
//! same, including comments and blank lines.

use std::ops::Range;

use crate::command::test::test_file::TestFile;
use crate::config::yaml::{PathStep, TextSpan, YamlContent, YamlNode, YamlText};
use crate::error::escape::json_of;

/// The actual report of a case.
pub(crate) struct ReportChange {
    /// The index of the case, from 0.
    pub index: usize,
    /// The report.
    pub report: String,
}

/// Returns the text of the file with these reports.
///
/// # Errors
/// A report is missing, or cannot be replaced without a change elsewhere.
pub(crate) fn update(file: &TestFile, changes: &[ReportChange]) -> Result<String, String> {
    let mut splices: Vec<(Range<usize>, String)> = changes
        .iter()
        .map(|change| splice(&file.text, &file.root, change))
        .collect::<Option<_>>()
        .ok_or("the report was not found in the file")?;
    splices.sort_by_key(|(range, _)| range.start);
    let mut text = file.text.clone();
    for (range, new) in splices.into_iter().rev() {
        text.replace_range(range, &new);
    }
    if differs_only_in_reports(&file.text, &text, changes) {
        Ok(text)
    } else {
        Err("the report cannot be replaced without a change to other values".to_owned())
    }
}

/// Returns true if the texts have the same values except for the reports.
fn differs_only_in_reports(old: &str, new: &str, changes: &[ReportChange]) -> bool {
    let read = |text| {
        let yaml = YamlText::new("the test file", "", text);
        let tree = yaml.parse().map(|root| yaml.root(&root, "the file").tree());
        tree.filter(|_| yaml.into_errors().is_empty())
    };
    let (Some(mut old), Some(new)) = (read(old), read(new)) else {
        return false;
    };
    for change in changes {
        let report = &mut old[change.index]["expect"]["report"];
        let got = new[change.index]["expect"]["report"].as_str();
        let plain = |text: &str| text.strip_suffix('\n').unwrap_or(text).to_owned();
        if got.map(plain) != Some(plain(&change.report)) {
            return false;
        }
        *report = new[change.index]["expect"]["report"].clone();
    }
    old == new
}

/// Returns the bytes to replace and their replacement.
fn splice(text: &str, root: &YamlNode, change: &ReportChange) -> Option<(Range<usize>, String)> {
    let path = [
        PathStep::Item(change.index),
        PathStep::Key("expect"),
        PathStep::Key("report"),
    ];
    let (value, key) = root.find(&path)?;
    let (key, start) = (key?, value.span.bytes.start);
    let header = text
        .get(key.bytes.end..start)?
        .trim_start_matches([':', ' ']);
    match value.content {
        YamlContent::Text(_) if header.starts_with(['|', '>']) => {
            Some(block(text, &key, &change.report))
        }
        YamlContent::Text(_) if !text[start..].starts_with('*') => {
            let before = text[..start].rsplit('\n').next()?;
            let is_in_flow = before.contains(['{', '[']);
            let bytes = inline(text, start, is_in_flow);
            let after = text[bytes.end..].split('\n').next()?;
            let is_alone = !is_in_flow && after.trim().is_empty();
            let new = if is_alone && !text[bytes.clone()].contains('\n') {
                let key_indent = key.column - 1;
                let (header, body) =
                    literal(&change.report, key_indent, key_indent + 2, line_break(text));
                let body = body.strip_suffix(line_break(text)).unwrap_or(&body);
                let gap = if body.is_empty() {
                    ""
                } else {
                    line_break(text)
                };
                format!("{header}{gap}{body}")
            } else {
                json_of(&change.report)
            };
            Some((bytes, new))
        }
        _ => None,
    }
}

/// Returns the bytes of a value on the line of its key; the parser's span may include a comment.
fn inline(text: &str, start: usize, is_in_flow: bool) -> Range<usize> {
    let rest = &text[start..];
    let length = if let Some(quote @ ('"' | '\'')) = rest.chars().next() {
        quoted(rest, quote)
    } else {
        let line = rest.split(['\r', '\n']).next().unwrap_or_default();
        let plain = line.split(" #").next().unwrap_or_default();
        let end = plain.find([',', '}', ']']).filter(|_| is_in_flow);
        plain[..end.unwrap_or(plain.len())].trim_end().len()
    };
    start..start + length
}

/// Returns the length in bytes of the quoted text at the start of `rest`.
fn quoted(rest: &str, quote: char) -> usize {
    let mut chars = rest.char_indices().skip(1).peekable();
    while let Some((at, char)) = chars.next() {
        let is_doubled = |next: &(usize, char)| quote == '\'' && next.1 == quote;
        if char == '\\' && quote == '"' {
            chars.next();
        } else if char == quote && chars.next_if(is_doubled).is_none() {
            return at + 1;
        }
    }
    rest.len()
}

/// Returns the bytes of a block value and their replacement, which keeps the comment of the header.
fn block(text: &str, key: &TextSpan, report: &str) -> (Range<usize>, String) {
    let line_end = |from: usize| {
        text[from..]
            .find('\n')
            .map_or(text.len(), |at| from + at + 1)
    };
    let start = key.bytes.end;
    let header = &text[start..line_end(start)];
    let comment = header.find(" #");
    let key_indent = key.column - 1;
    let mut end = line_end(start);
    let mut last_filled = end;
    // The header may set the indentation, else the first line that is not empty does.
    let mut indicator = header[..comment.unwrap_or(header.len())].chars();
    let indicator = indicator.find_map(|char| char.to_digit(10));
    let mut indent = indicator.and_then(|size| Some(key_indent + usize::try_from(size).ok()?));
    while end < text.len() {
        let line = &text[end..line_end(end)];
        let filled = !line.trim().is_empty();
        let blanks = line.len() - line.trim_start_matches(' ').len();
        if filled && blanks <= key_indent {
            break;
        }
        end = line_end(end);
        if filled {
            indent.get_or_insert(blanks);
            last_filled = end;
        }
    }
    let line_break = line_break(text);
    let indent = indent.unwrap_or(key_indent + 2);
    let (mark, body) = literal(report, key_indent, indent, line_break);
    let comment = comment.map_or("", |at| &header[header[..at].trim_end().len()..]);
    let comment = comment.trim_end();
    let new = format!(": {mark}{comment}{line_break}{body}");
    // Blank lines after the block belong to the file.
    (start..last_filled, new)
}

/// Returns the header and the lines of a literal block, for the indentations of key and lines.
fn literal(text: &str, key_indent: usize, indent: usize, line_break: &str) -> (String, String) {
    let plain = text.strip_suffix('\n').unwrap_or(text);
    if plain.is_empty() {
        return ("\"\"".to_owned(), String::new());
    }
    // YAML would take leading blanks for indentation.
    let first = plain.lines().find(|line| !line.is_empty());
    let size = match first {
        Some(line) if line.starts_with(' ') => (indent - key_indent).to_string(),
        _ => String::new(),
    };
    let keep = if plain.ends_with('\n') { "+" } else { "" };
    let mut body = String::new();
    for line in plain.split('\n') {
        if !line.is_empty() {
            body.push_str(&" ".repeat(indent));
            body.push_str(line);
        }
        body.push_str(line_break);
    }
    (format!("|{size}{keep}"), body)
}

fn line_break(text: &str) -> &'static str {
    if text.contains("\r\n") { "\r\n" } else { "\n" }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    const FILE: &str = "\
# the first comment
- name: block  # beside a name
  source: [{tokens: [a]}]
  expect:
    report: |  # kept
        stored    a

        stored    b

    # between
    exit: 0
- name: flow
  expect: {report: 'x', exit: 0}  # at the end
- name: inline
  expect:
    exit: 0
    report: old
    counts: {stored: 1}
- name: commented
  expect:
    \"report\": \"o \\\"# ld\"   # why
- name: plain
  expect:
    report: old it's  # why
- name: doubled
  expect: {report: 'it''s # so', exit: 0}  # why
- name: plain in a flow
  expect: {report: old, exit: 0}  # why
- name: last
  expect:
    report: |
      x";

    fn updated(text: &str, changes: &[(usize, &str)]) -> String {
        let path = Path::new("x.test.yaml");
        let file = TestFile::parse(path, "x".to_owned(), text.to_owned());
        let file = file.unwrap_or_else(|errors| panic!("{}", errors[0].render(false)));
        let changes: Vec<ReportChange> = changes
            .iter()
            .map(|(index, report)| ReportChange {
                index: *index,
                report: (*report).to_owned(),
            })
            .collect();
        update(&file, &changes).unwrap()
    }

    #[test]
    fn only_reports_change() {
        let report = "stored    a\n\nrejected  b  why: #1\n";
        let all: Vec<(usize, &str)> = (0..8).map(|index| (index, report)).collect();
        insta::assert_snapshot!(updated(FILE, &all), @r#"
        # the first comment
        - name: block  # beside a name
          source: [{tokens: [a]}]
          expect:
            report: |  # kept
                stored    a

                rejected  b  why: #1

            # between
            exit: 0
        - name: flow
          expect: {report: "stored    a\n\nrejected  b  why: #1\n", exit: 0}  # at the end
        - name: inline
          expect:
            exit: 0
            report: |
              stored    a

              rejected  b  why: #1
            counts: {stored: 1}
        - name: commented
          expect:
            "report": "stored    a\n\nrejected  b  why: #1\n"   # why
        - name: plain
          expect:
            report: "stored    a\n\nrejected  b  why: #1\n"  # why
        - name: doubled
          expect: {report: "stored    a\n\nrejected  b  why: #1\n", exit: 0}  # why
        - name: plain in a flow
          expect: {report: "stored    a\n\nrejected  b  why: #1\n", exit: 0}  # why
        - name: last
          expect:
            report: |
              stored    a

              rejected  b  why: #1
        "#);
    }

    #[test]
    fn second_update_changes_nothing() {
        let once = updated(FILE, &[(0, "  indented\nx\n"), (2, "one\n"), (7, "")]);
        let twice = updated(&once, &[(0, "  indented\nx\n"), (2, "one\n"), (7, "")]);
        assert_eq!(once, twice);
        assert!(
            once.contains("report: |4  # kept\n          indented\n        x\n"),
            "{once}"
        );
        assert!(
            once.contains("    report: |\n      one\n    counts"),
            "{once}"
        );
        assert!(once.ends_with("    report: \"\"\n"), "{once}");
    }

    #[test]
    fn line_endings_of_the_file_are_kept() {
        let text = "- name: a\r\n  expect:\r\n    report: |\r\n      x\r\n    exit: 0\r\n";
        let new = updated(text, &[(0, "y\nz\n")]);
        assert_eq!(new, text.replace("      x\r\n", "      y\r\n      z\r\n"));
    }

    #[test]
    fn report_behind_alias_is_an_error() {
        let text = "- &one\n  name: a\n  expect: &e {report: x}\n- name: b\n  expect: *e\n";
        let path = Path::new("x.test.yaml");
        let file = TestFile::parse(path, "x".to_owned(), text.to_owned())
            .ok()
            .unwrap();
        let report = "y\n".to_owned();
        assert!(update(&file, &[ReportChange { index: 0, report }]).is_err());
    }
}
