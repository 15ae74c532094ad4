//! `--update`: replaces expected values by actual ones. The rest of the file stays byte for byte the
//! same, including comments and blank lines.

use std::ops::Range;

use serde_json::Value;

use crate::config::yaml::{PathStep, TextSpan, YamlContent, YamlNode, YamlText};
use crate::error::escape::json_of;

/// An actual value that replaces the expected one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Change {
    /// The keys below `expect`.
    pub keys: Vec<String>,
    /// The value.
    pub value: ActualValue,
}

/// An actual value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ActualValue {
    /// A text, which may have several lines.
    Text(String),
    /// A number, a duration or a list of numbers, as YAML.
    Plain(String),
}

/// Returns the text of a test file with the change in the case at `index`.
///
/// # Errors
/// The value cannot be replaced without a change elsewhere.
pub(crate) fn update(text: &str, index: usize, change: &Change) -> Result<String, String> {
    let yaml = YamlText::new("the test file", "", text);
    let root = yaml.parse().ok_or("the file cannot be read")?;
    let case = [PathStep::Item(index), PathStep::Key("expect")];
    if root.find(&case).is_none() {
        return Err("the case has no `expect`".to_owned());
    }
    let keys = change.keys.iter().map(|key| PathStep::Key(key));
    let path: Vec<PathStep> = case.into_iter().chain(keys).collect();
    let found = root.find(&path);
    // Not every text can be a block.
    let quoted = match &change.value {
        ActualValue::Text(text) => Some(ActualValue::Plain(json_of(text))),
        ActualValue::Plain(_) => None,
    };
    let mut why = "it is behind an alias, or in a form that cannot be rewritten";
    for value in [Some(&change.value), quoted.as_ref()].into_iter().flatten() {
        let place = match &found {
            Some((node, Some(key))) => splice(text, node, key, value),
            _ => insertion(text, &root, &path, value),
        };
        let Some((bytes, new)) = place else { continue };
        let mut updated = text.to_owned();
        updated.replace_range(bytes, &new);
        if differs_only_in(text, &updated, index, change) {
            return Ok(updated);
        }
        why = "an anchor or alias shares it with other values";
    }
    Err(why.to_owned())
}

/// Returns true if the texts have the same values except for the change.
fn differs_only_in(old: &str, new: &str, index: usize, change: &Change) -> bool {
    let (Some(mut old), Some(mut new)) = (tree(old), tree(new)) else {
        return false;
    };
    let value = match &change.value {
        ActualValue::Text(text) => Some(Value::String(plain(text).to_owned())),
        ActualValue::Plain(text) => tree(text),
    };
    let got = match remove(&mut new[index]["expect"], &change.keys) {
        Some(Value::String(text)) => Some(Value::String(plain(&text).to_owned())),
        got => got,
    };
    remove(&mut old[index]["expect"], &change.keys);
    got.is_some() && got == value && old == new
}

fn tree(text: &str) -> Option<Value> {
    let yaml = YamlText::new("the test file", "", text);
    let tree = yaml.parse().map(|root| yaml.root(&root, "the file").tree());
    tree.filter(|_| yaml.into_errors().is_empty())
}

/// Removes and returns the value at `keys`.
fn remove(tree: &mut Value, keys: &[String]) -> Option<Value> {
    let (last, parents) = keys.split_last()?;
    let mut parent = tree;
    for key in parents {
        parent = parent.get_mut(key)?;
    }
    parent.as_object_mut()?.remove(last)
}

/// Returns a text without the line break at its end, which does not count.
fn plain(text: &str) -> &str {
    text.strip_suffix('\n').unwrap_or(text)
}

/// Returns the bytes of a value to replace, and their replacement.
fn splice(
    text: &str,
    value: &YamlNode,
    key: &TextSpan,
    new: &ActualValue,
) -> Option<(Range<usize>, String)> {
    let start = value.span.bytes.start;
    let header = text
        .get(key.bytes.end..start)?
        .trim_start_matches([':', ' ']);
    let is_block = header.starts_with(['|', '>']);
    let is_alias = text[start..].starts_with('*');
    match (&value.content, new) {
        (YamlContent::Text(_), ActualValue::Text(new)) if is_block => Some(block(text, key, new)),
        (YamlContent::Text(_), ActualValue::Plain(new)) if is_block => {
            let (bytes, _) = block(text, key, "");
            Some((bytes, format!(": {new}{}", line_break(text))))
        }
        (YamlContent::List(_), ActualValue::Plain(new)) if text[start..].starts_with('[') => {
            let end = start + text[start..].find(']')? + 1;
            Some((start..end, new.clone()))
        }
        (YamlContent::Null | YamlContent::List(_) | YamlContent::Map(_), _) => None,
        _ if is_block || is_alias => None,
        (_, new) => {
            let before = text[..start].rsplit('\n').next()?;
            let is_in_flow = before.contains(['{', '[']);
            let bytes = inline(text, start, is_in_flow);
            let new = match new {
                ActualValue::Plain(new) => new.clone(),
                ActualValue::Text(new) => {
                    let after = text[bytes.end..].split('\n').next()?;
                    let is_alone = !is_in_flow && after.trim().is_empty();
                    if is_alone && !text[bytes.clone()].contains('\n') {
                        literal_value(new, key.column - 1, line_break(text))
                    } else {
                        json_of(new)
                    }
                }
            };
            Some((bytes, new))
        }
    }
}

/// Returns where a missing key is inserted, and its text: at the start of its mapping.
fn insertion(
    text: &str,
    root: &YamlNode,
    path: &[PathStep],
    new: &ActualValue,
) -> Option<(Range<usize>, String)> {
    let (PathStep::Key(key), parents) = path.split_last()? else {
        return None;
    };
    let (parent, _) = root.find(parents)?;
    let YamlContent::Map(entries) = &parent.content else {
        return None;
    };
    let first = TextSpan::of(entries.first()?.0.referenced);
    let is_plain = |char: char| char.is_ascii_alphanumeric() || "._-/".contains(char);
    let key = if key.chars().all(is_plain) {
        (*key).to_owned()
    } else {
        json_of(key)
    };
    let at = first.bytes.start;
    let line = text[..at].rsplit('\n').next()?;
    let is_in_flow = line.contains(['{', '[']);
    let value = match new {
        ActualValue::Plain(new) => new.clone(),
        ActualValue::Text(new) if is_in_flow => json_of(new),
        ActualValue::Text(new) => literal_value(new, first.column - 1, line_break(text)),
    };
    let gap = if is_in_flow {
        ", ".to_owned()
    } else {
        format!("{}{}", line_break(text), " ".repeat(first.column - 1))
    };
    Some((at..at, format!("{key}: {value}{gap}")))
}

/// Returns a text as a literal block, for a key with this indentation.
fn literal_value(text: &str, key_indent: usize, line_break: &str) -> String {
    let (header, body) = literal(text, key_indent, key_indent + 2, line_break);
    let body = body.strip_suffix(line_break).unwrap_or(&body);
    let gap = if body.is_empty() { "" } else { line_break };
    format!("{header}{gap}{body}")
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
        let mut text = text.to_owned();
        for (index, report) in changes {
            let change = Change {
                keys: vec!["report".to_owned()],
                value: ActualValue::Text((*report).to_owned()),
            };
            text = update(&text, *index, &change).unwrap();
        }
        text
    }

    /// Changes the value at `keys` of the first case.
    fn changed(text: &str, keys: &str, value: &str) -> Result<String, String> {
        let change = Change {
            keys: keys.split('/').map(str::to_owned).collect(),
            value: ActualValue::Plain(value.to_owned()),
        };
        update(text, 0, &change)
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
    fn numbers_lists_and_durations_change_in_place() {
        let text = "- name: a\n  expect:\n    counts: {stored: 1, failed: 2}  # why\n    slept: 2s  # so\n    requests: [1, 2]\n";
        let text = changed(text, "counts/failed", "0").unwrap();
        let text = changed(&text, "slept", "1m 2s").unwrap();
        let text = changed(&text, "requests", "[3]").unwrap();
        // Keys that are missing come first.
        let text = changed(&text, "exit", "4").unwrap();
        let text = changed(&text, "counts/unknown", "7").unwrap();
        assert_eq!(
            text,
            "- name: a\n  expect:\n    exit: 4\n    counts: {unknown: 7, stored: 1, failed: 0}  # why\n    slept: 1m 2s  # so\n    requests: [3]\n"
        );
    }

    #[test]
    fn text_that_no_block_can_hold_is_quoted() {
        let text = "- name: a\n  expect:\n    report: |  # why\n      x\n    exit: 0\n";
        let report = "   \n a\rb\n";
        let updated = updated(text, &[(0, report)]);
        assert_eq!(
            updated,
            "- name: a\n  expect:\n    report: \"   \\n a\\rb\\n\"\n    exit: 0\n"
        );
    }

    #[test]
    fn value_behind_anchor_or_alias_is_not_changed() {
        let text = "- &one\n  name: a\n  expect: &e {exit: 1}\n- name: b\n  expect: *e\n";
        assert!(changed(text, "exit", "2").unwrap_err().contains("anchor"));
        let text = "- name: a\n  expect: {exit: &n 1, slept: *n}\n";
        assert!(changed(text, "exit", "2").is_err());
        let text = "- name: a\n  expect:\n    requests:\n      - 1\n";
        assert!(changed(text, "requests", "[2]").is_err());
        assert!(changed("- name: a\n", "exit", "2").is_err());
    }
}
