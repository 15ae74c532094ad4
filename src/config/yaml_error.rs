//! Turns the YAML crate's errors into problems: with the key or value marked and the nearest known
//! key.
//!
//! The shown line may contain a secret. Such values are redacted here, character by character so that
//! columns stay the same.

use crate::config::options;
use crate::error::suggest::nearest;
use crate::error::{Error, Location, usage};

/// The keys whose values are redacted.
const SECRET_KEYS: [&str; 3] = ["password", "url", "headers"];

/// The name of the configuration file in messages.
pub(super) const CONFIGURATION: &str = "the configuration file";

/// Turns the YAML crate's error about `source`, the text of `file`, into a problem.
///
/// Messages call the file `what`.
pub(super) fn explain(what: &str, file: &str, source: &str, error: &serde_yaml::Error) -> Error {
    let index = error.location().map(|location| location.index());
    let text = error.to_string();
    let text = match error.location() {
        Some(at) => {
            let end = format!(" at line {} column {}", at.line(), at.column());
            text.replacen(&end, "", 1)
        }
        None => text,
    };
    let Some((path, kind)) = parse_message(&text) else {
        let Some(index) = index else {
            return usage(format!("{what} `{file}` cannot be read as YAML")).cause(text);
        };
        let problem = usage(format!("{what} is not valid YAML"));
        let problem = if source
            .get(index..)
            .is_some_and(|rest| rest.starts_with('\t'))
        {
            problem.hint("indent YAML with spaces, not tabs")
        } else {
            problem
        };
        return problem.location(location_at(file, source, index, 1, text));
    };
    let index = index.unwrap_or_default();
    // The location shows which item of the file it is.
    let (path, root) = match path
        .trim_start_matches('.')
        .strip_prefix('[')
        .and_then(|path| path.split_once(']'))
    {
        Some((_, path)) => (path.trim_start_matches('.'), "each item"),
        None => (path, "the file"),
    };
    let parent = if path.is_empty() {
        String::new()
    } else {
        format!(" in `{path}`")
    };
    match kind {
        YamlErrorKind::Unknown { key, known } => {
            let found = key_at(source, index, key);
            // Other files have no keys that are options.
            let option = options::option_named(key).filter(|_| what == CONFIGURATION);
            let (label, hint) = match (option, nearest(key, &known)) {
                (Some(option), _) => (option, None),
                (None, Some(near)) => (format!("did you mean `{near}`?"), None),
                (None, None) => (
                    String::from("no such key"),
                    Some(format!("known keys: {}", known.join(", "))),
                ),
            };
            let location = location_of_key(file, source, found, key, label);
            let location = match nearest(key, &known) {
                Some(near) if is_harmless(near) => location.redact_other_keys(source),
                // A misspelt key may be that of a secret.
                _ => location.redact_rest(source),
            };
            let problem = usage(format!("unknown key `{key}`{parent}")).location(location);
            match hint {
                Some(hint) => problem.hint(hint),
                None => problem,
            }
        }
        YamlErrorKind::Duplicate { key } => {
            let second = keys(source, index, key).nth(1).unwrap_or(index);
            let label = String::from("already set above");
            let location = location_of_key(file, source, second, key, label);
            usage(format!("duplicate key `{key}`{parent}"))
                .location(location.redact_other_keys(source))
        }
        YamlErrorKind::Invalid { found, rule } => {
            let what = if path.is_empty() {
                String::from(root)
            } else {
                format!("`{path}`")
            };
            let message = match found {
                Some(found) => format!("{what} {rule}, not {found}"),
                None => format!("{what} {rule}"),
            };
            let length = value_length(source, index);
            let location = location_at(file, source, index, length, String::new());
            // Text in place of a mapping may be a URL with a password.
            let is_secret = matches!(path, "" | "database" | "source")
                || path.split('.').any(|key| SECRET_KEYS.contains(&key));
            usage(message).location(if is_secret {
                location.redact_marked(source)
            } else {
                location.reveal_marked(source)
            })
        }
    }
}

/// Returns the location of the key at `path`.
pub(super) fn locate_key(
    file: &str,
    source: &str,
    path: &[&str],
    label: String,
) -> Option<Location> {
    let mut index = 0;
    for key in path {
        index = keys_in(source, index, key).next()?;
    }
    Some(location_of_key(file, source, index, path.last()?, label))
}

enum YamlErrorKind<'a> {
    Unknown {
        key: &'a str,
        known: Vec<&'a str>,
    },
    Duplicate {
        key: &'a str,
    },
    Invalid {
        found: Option<&'static str>,
        rule: String,
    },
}

/// Parses serde's message into the path of the mapping or value and the kind of the error.
fn parse_message(text: &str) -> Option<(&str, YamlErrorKind<'_>)> {
    let openings = [
        "unknown field `",
        "duplicate field `",
        "invalid type: ",
        "invalid value: ",
    ];
    let (at, opening) = openings
        .iter()
        .filter_map(|opening| Some((text.find(opening)?, *opening)))
        .min()?;
    let path = text[..at].trim_end_matches(": ");
    let rest = &text[at + opening.len()..];
    let kind = match opening {
        "unknown field `" => {
            let (key, known) = rest.split_once("`, ").unwrap_or((rest, ""));
            let known = known.split('`').skip(1).step_by(2).collect();
            YamlErrorKind::Unknown { key, known }
        }
        "duplicate field `" => YamlErrorKind::Duplicate {
            key: rest.trim_end_matches('`'),
        },
        _ => {
            let (found, expected) = rest.rsplit_once(", expected ")?;
            YamlErrorKind::Invalid {
                found: (opening == "invalid type: ").then(|| kind_of(found)),
                rule: rule_of(expected),
            }
        }
    };
    Some((path, kind))
}

/// Returns the name of the type that serde found, without the value.
fn kind_of(found: &str) -> &'static str {
    match found.split([' ', '`']).next() {
        Some("map") => "a mapping",
        Some("sequence") => "a list",
        Some("string" | "character") => "text",
        Some("integer" | "floating") => "a number",
        Some("boolean") => "true or false",
        Some("unit") => "nothing",
        _ => "this",
    }
}

/// Returns the rule for the type that serde expected.
fn rule_of(expected: &str) -> String {
    match expected {
        rule if rule.starts_with("must ") => rule.to_string(),
        "a map" => String::from("must be a mapping of keys"),
        "a sequence" => String::from("must be a list"),
        "a boolean" => String::from("must be true or false"),
        "a string" | "path string" => String::from("must be text"),
        "field identifier" => String::from("must have plain names as keys"),
        name if name.starts_with("struct ") => String::from("must be a mapping of keys"),
        other => format!("must be {other}"),
    }
}

/// Returns the index of the first `key` at or after `index`.
fn key_at(source: &str, index: usize, key: &str) -> usize {
    let rest = source.get(index..).unwrap_or_default();
    if rest.trim_start_matches(['"', '\'']).starts_with(key) {
        index
    } else {
        keys(source, index, key).next().unwrap_or(index)
    }
}

/// Returns the indexes of `key` in the mapping that begins at `index`.
///
/// In block style these are the keys of the same column, in flow style all later ones.
fn keys<'a>(source: &'a str, index: usize, key: &'a str) -> impl Iterator<Item = usize> + 'a {
    let column = column_of(source, index);
    let is_flow = source
        .get(index..)
        .is_some_and(|rest| rest.starts_with('{'));
    keys_in(source, index, key).filter(move |at| is_flow || column_of(source, *at) == column)
}

/// Returns the indexes of `key` as a key of any mapping at or after `index`.
fn keys_in<'a>(source: &'a str, index: usize, key: &'a str) -> impl Iterator<Item = usize> + 'a {
    let rest = source.get(index..).unwrap_or_default();
    rest.match_indices(key).filter_map(move |(at, _)| {
        let before = &rest[..at];
        let quote = before.ends_with(['"', '\'']);
        let before = if quote { &before[..at - 1] } else { before };
        let after = rest[at + key.len()..]
            .trim_start_matches(['"', '\''])
            .trim_start_matches(' ');
        let line = before.rsplit('\n').next().unwrap_or_default();
        let starts = line.trim().is_empty() || line.trim_end().ends_with(['{', ',', '-']);
        (starts && after.starts_with(':')).then_some(index + before.len())
    })
}

/// Returns the column of `index` in characters, from 1.
fn column_of(source: &str, index: usize) -> usize {
    let before = source.get(..index).unwrap_or(source);
    before
        .rsplit('\n')
        .next()
        .unwrap_or_default()
        .chars()
        .count()
        + 1
}

/// Returns the number of characters of the value at `index` on its first line.
fn value_length(source: &str, index: usize) -> usize {
    let line = source
        .get(index..)
        .unwrap_or_default()
        .lines()
        .next()
        .unwrap_or_default();
    let start = source.get(..index).unwrap_or_default();
    let before = start.rsplit('\n').next().unwrap_or_default();
    let end = match line.chars().next() {
        Some(quote @ ('"' | '\'')) => line[1..].find(quote).map_or(line.len(), |at| at + 2),
        _ if before.contains(['{', '[']) => line.find([',', '}', ']']).unwrap_or(line.len()),
        _ => line.find(" #").unwrap_or(line.len()),
    };
    line[..end].trim_end().chars().count().max(1)
}

fn location_of_key(file: &str, source: &str, index: usize, key: &str, label: String) -> Location {
    let rest = source.get(index..).unwrap_or_default();
    let quotes = if rest.starts_with(['"', '\'']) { 2 } else { 0 };
    let length = key.chars().count() + quotes;
    location_at(file, source, index, length, label).reveal_marked(source)
}

/// Returns the location of `length` characters at `index`, with all secrets redacted.
fn location_at(file: &str, source: &str, index: usize, length: usize, label: String) -> Location {
    let before = source.get(..index).unwrap_or(source);
    Location {
        file: file.to_string(),
        source: redact_secrets(source),
        line: before.matches('\n').count() + 1,
        column: column_of(source, index),
        length,
        label,
    }
}

impl Location {
    /// Shows the marked text, and keeps the rest of the line redacted.
    fn reveal_marked(self, source: &str) -> Self {
        self.redraw(source, |original, shown_line, at| {
            let marked = original.chars().skip(at).take(self.length);
            let head = shown_line.chars().take(at);
            head.chain(marked)
                .chain(shown_line.chars().skip(at + self.length))
                .collect()
        })
    }

    /// Redacts the marked text and the rest of its line.
    fn redact_marked(self, source: &str) -> Self {
        self.redraw(source, |_, shown_line, at| redact(shown_line, at))
    }

    /// Redacts the value after the marked key, and the rest of its line.
    fn redact_rest(self, source: &str) -> Self {
        self.redraw(source, |original, shown_line, at| {
            let colon = original.chars().skip(at).position(|c| c == ':');
            redact(
                shown_line,
                at + colon.map_or(self.length, |colon| colon + 1),
            )
        })
    }

    /// Redacts the rest of the line unless it is one plain value: other keys may be misspelt too.
    fn redact_other_keys(self, source: &str) -> Self {
        let line = source.lines().nth(self.line - 1).unwrap_or_default();
        if line.contains(['{', ',']) || line.contains("//") {
            self.redact_rest(source)
        } else {
            self
        }
    }

    /// Replaces the marked line; `draw` gets its original text, its shown text and the mark's offset.
    fn redraw(&self, source: &str, draw: impl Fn(&str, &str, usize) -> String) -> Self {
        let lines = self
            .source
            .split_inclusive('\n')
            .zip(source.split_inclusive('\n'));
        let shown = lines.enumerate().map(|(number, (shown, original))| {
            if number + 1 == self.line {
                draw(original, shown, self.column - 1)
            } else {
                shown.to_string()
            }
        });
        Self {
            source: shown.collect(),
            ..self.clone()
        }
    }
}

/// Returns true if the value of the key is neither a secret nor a mapping with one.
fn is_harmless(key: &str) -> bool {
    !SECRET_KEYS.contains(&key) && !matches!(key, "database" | "source")
}

/// Redacts all values that may be secrets; positions stay the same.
fn redact_secrets(source: &str) -> String {
    let mut shown = String::with_capacity(source.len());
    // The indentation of a secret key whose value continues on the next lines.
    let mut open: Option<usize> = None;
    for line in source.split_inclusive('\n') {
        let indent = line.len() - line.trim_start().len();
        if let Some(outer) = open {
            if line.trim().is_empty() || indent > outer {
                let start = line.find(": ").map_or(indent, |at| at + 1);
                shown.push_str(&redact(line, line[..start].chars().count()));
                continue;
            }
            open = None;
        }
        match SECRET_KEYS
            .iter()
            .filter_map(|key| secret_value(line, key))
            .min()
        {
            Some(start) => {
                open = Some(indent);
                shown.push_str(&redact(line, line[..start].chars().count()));
            }
            None => shown.push_str(line),
        }
    }
    shown
}

/// Returns the index of the value of the secret `key` in a line.
fn secret_value(line: &str, key: &str) -> Option<usize> {
    line.match_indices(key).find_map(|(at, _)| {
        let after = line[at + key.len()..].trim_start_matches(['"', '\'', ' ']);
        let is_whole = !line[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_');
        (is_whole && after.starts_with(':')).then(|| line.len() - after.len() + 1)
    })
}

/// Replaces all characters except blanks by `*`, from the character `start` on.
fn redact(line: &str, start: usize) -> String {
    let keep = |(at, c): (usize, char)| {
        if at < start || c.is_whitespace() {
            c
        } else {
            '*'
        }
    };
    line.chars().enumerate().map(keep).collect()
}
