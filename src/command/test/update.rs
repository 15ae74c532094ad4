//! `--update`: puts what a run reported where the test file expected something else. Everything else
//! in the file, comments and blank lines included, stays as it is byte for byte.

use std::ops::Range;

use crate::command::test::case::TestFile;
use crate::config::test_case;
use crate::config::yaml_spans::{PathStep, TextSpan, ValueStyle, YamlSpans};
use crate::error::escape::json_of;

/// What a case's report came to.
pub(crate) struct ReportChange {
    /// The case, from 0.
    pub index: usize,
    /// Its report.
    pub report: String,
}

/// The file's text with these reports.
///
/// # Errors
/// Where the text cannot be changed without changing its meaning elsewhere.
pub(crate) fn update(file: &TestFile, changes: &[ReportChange]) -> Result<String, String> {
    let mut splices: Vec<(Range<usize>, String)> = changes
        .iter()
        .map(|change| splice(&file.text, &file.spans, change))
        .collect::<Option<_>>()
        .ok_or("the report's place in the file was not found")?;
    splices.sort_by_key(|(range, _)| range.start);
    let mut text = file.text.clone();
    for (range, new) in splices.into_iter().rev() {
        text.replace_range(range, &new);
    }
    if means_the_same(&file.text, &text, changes) {
        Ok(text)
    } else {
        Err("the report is written in a form that cannot be replaced by itself".to_owned())
    }
}

/// True where nothing but the reports differs.
fn means_the_same(old: &str, new: &str, changes: &[ReportChange]) -> bool {
    type YamlTree = serde_json::Value;
    let read = |text| test_case::parse::<YamlTree>("the test file", "", text).ok();
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

/// Which bytes are replaced by what.
fn splice(text: &str, spans: &YamlSpans, change: &ReportChange) -> Option<(Range<usize>, String)> {
    let path = [
        PathStep::Item(change.index),
        PathStep::Key("expect"),
        PathStep::Key("report"),
    ];
    let (key, value) = (spans.key(&path)?, spans.value(&path)?);
    match value.style {
        ValueStyle::Literal | ValueStyle::Folded => Some(block(text, key, &change.report)),
        ValueStyle::Inline => {
            let before = text[..value.bytes.start].rsplit('\n').next()?;
            let is_in_flow = before.contains(['{', '[']);
            let bytes = inline(text, value.bytes.start, is_in_flow);
            let after = text[bytes.end..].split('\n').next()?;
            let is_alone = !is_in_flow && after.trim().is_empty();
            let new = if is_alone && !text[bytes.clone()].contains('\n') {
                let own = key.column - 1;
                let (header, body) = literal(&change.report, own, own + 2, line_break(text));
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
        ValueStyle::Other => None,
    }
}

/// The bytes of a value that begins at `start` and stands on the line of its key. The parser's mark may
/// reach further, over a comment.
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

/// How many bytes the text in quotes has that `rest` begins with.
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

/// The same for lines beneath their key, whose header keeps its comment.
fn block(text: &str, key: &TextSpan, report: &str) -> (Range<usize>, String) {
    let line_end = |from: usize| {
        text[from..]
            .find('\n')
            .map_or(text.len(), |at| from + at + 1)
    };
    let start = key.bytes.end;
    let header = &text[start..line_end(start)];
    let comment = header.find(" #");
    let own = key.column - 1;
    let mut end = line_end(start);
    let mut last_filled = end;
    // The header may say it, else the first line that is not empty does.
    let mut said = header[..comment.unwrap_or(header.len())].chars();
    let said = said.find_map(|char| char.to_digit(10));
    let mut indent = said.and_then(|said| Some(own + usize::try_from(said).ok()?));
    while end < text.len() {
        let line = &text[end..line_end(end)];
        let filled = !line.trim().is_empty();
        let blanks = line.len() - line.trim_start_matches(' ').len();
        if filled && blanks <= own {
            break;
        }
        end = line_end(end);
        if filled {
            indent.get_or_insert(blanks);
            last_filled = end;
        }
    }
    let line_break = line_break(text);
    let (mark, body) = literal(report, own, indent.unwrap_or(own + 2), line_break);
    let comment = comment.map_or("", |at| &header[header[..at].trim_end().len()..]);
    let comment = comment.trim_end();
    let new = format!(": {mark}{comment}{line_break}{body}");
    // Blank lines after the block belong to the file.
    (start..last_filled, new)
}

/// The header of a literal block, and its lines; the key stands `own` blanks from the margin, the
/// lines `indent`.
fn literal(text: &str, own: usize, indent: usize, line_break: &str) -> (String, String) {
    let plain = text.strip_suffix('\n').unwrap_or(text);
    if plain.is_empty() {
        return ("\"\"".to_owned(), String::new());
    }
    // A reader would take blanks at the beginning for the indentation.
    let first = plain.lines().find(|line| !line.is_empty());
    let size = match first {
        Some(line) if line.starts_with(' ') => (indent - own).to_string(),
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
        let file = file.unwrap_or_else(|problem| panic!("{}", problem.render(false)));
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
    fn only_the_reports_change() {
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
    fn a_file_that_is_right_stays_as_it_is() {
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
    fn lines_end_as_they_do_in_the_file() {
        let text = "- name: a\r\n  expect:\r\n    report: |\r\n      x\r\n    exit: 0\r\n";
        let new = updated(text, &[(0, "y\nz\n")]);
        assert_eq!(new, text.replace("      x\r\n", "      y\r\n      z\r\n"));
    }

    #[test]
    fn what_cannot_be_replaced_by_itself_is_left() {
        let text = "- &one\n  name: a\n  expect: &e {report: x}\n- name: b\n  expect: *e\n";
        let path = Path::new("x.test.yaml");
        let file = TestFile::parse(path, "x".to_owned(), text.to_owned())
            .ok()
            .unwrap();
        let report = "y\n".to_owned();
        assert!(update(&file, &[ReportChange { index: 0, report }]).is_err());
    }
}
