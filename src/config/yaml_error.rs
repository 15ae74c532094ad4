//! Where in a file a mistake lies, and how it is shown: the YAML crate's error becomes a problem with
//! the key or value marked and the nearest known key named.
//!
//! The line that is shown may hold a secret beside the mistake. Such values are struck out here,
//! character by character so that the mark still fits.

use crate::config::options;
use crate::error::diagnostic::usage;
use crate::error::diagnostic::{Location, Problem};
use crate::error::suggest::nearest_option;

/// The keys whose values are never shown.
const SECRET_KEYS: [&str; 3] = ["password", "url", "headers"];

/// What the configuration file is called.
pub(super) const CONFIGURATION: &str = "the configuration file";

/// Turns the YAML crate's error about `source`, the text of `file`, into a problem. `what` says what
/// the file is.
pub(super) fn explain(what: &str, file: &str, source: &str, error: &serde_yaml::Error) -> Problem {
    let index = error.location().map(|location| location.index());
    let text = error.to_string();
    let text = match error.location() {
        Some(at) => {
            let end = format!(" at line {} column {}", at.line(), at.column());
            text.replacen(&end, "", 1)
        }
        None => text,
    };
    let Some((path, complaint)) = split(&text) else {
        let Some(index) = index else {
            return usage(format!("{what} `{file}` cannot be read as YAML")).cause(text);
        };
        let problem = usage(format!("{what} is not valid YAML"));
        let problem = if source
            .get(index..)
            .is_some_and(|rest| rest.starts_with('\t'))
        {
            problem.hint("YAML is indented with blanks, not with tabs")
        } else {
            problem
        };
        return problem.place(mark(file, source, index, 1, text));
    };
    let index = index.unwrap_or_default();
    // Which item of the file it is, its place says.
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
    match complaint {
        YamlErrorKind::Unknown { key, known } => {
            let found = key_at(source, index, key);
            // Nothing but the file itself has to do with options.
            let option = options::meant_by(key).filter(|_| what == CONFIGURATION);
            let (label, hint) = match (option, nearest_option(key, &known)) {
                (Some(option), _) => (option, None),
                (None, Some(near)) => (format!("did you mean `{near}`?"), None),
                (None, None) => (
                    String::from("no such key"),
                    Some(format!("the keys known here: {}", known.join(", "))),
                ),
            };
            let place = mark_key(file, source, found, key, label);
            let place = match nearest_option(key, &known) {
                Some(near) if is_harmless(near) => place.hide_other_keys(source),
                // A mistyped key may be that of a secret.
                _ => place.hide_rest(source),
            };
            let problem = usage(format!("unknown key `{key}`{parent}")).place(place);
            match hint {
                Some(hint) => problem.hint(hint),
                None => problem,
            }
        }
        YamlErrorKind::Twice { key } => {
            let second = keys(source, index, key).nth(1).unwrap_or(index);
            let label = String::from("it stands above already");
            usage(format!("key `{key}` stands twice{parent}"))
                .place(mark_key(file, source, second, key, label).hide_other_keys(source))
        }
        YamlErrorKind::Wrong { found, rule } => {
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
            let place = mark(file, source, index, length, String::new());
            // Text where a mapping belongs is as likely a URL with its password as not.
            let is_secret = matches!(path, "" | "database" | "source")
                || path.split('.').any(|key| SECRET_KEYS.contains(&key));
            usage(message).place(if is_secret {
                place.hide(source)
            } else {
                place.reveal(source)
            })
        }
    }
}

/// The place of a key, found by the names that lead to it.
pub(super) fn of_key(file: &str, source: &str, path: &[&str], label: String) -> Option<Location> {
    let mut index = 0;
    for key in path {
        index = keys_in(source, index, key).next()?;
    }
    Some(mark_key(file, source, index, path.last()?, label))
}

enum YamlErrorKind<'a> {
    Unknown {
        key: &'a str,
        known: Vec<&'a str>,
    },
    Twice {
        key: &'a str,
    },
    Wrong {
        found: Option<&'static str>,
        rule: String,
    },
}

/// Takes serde's sentence apart: the path of the mapping or value, and what is wrong with it.
fn split(text: &str) -> Option<(&str, YamlErrorKind<'_>)> {
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
    let complaint = match opening {
        "unknown field `" => {
            let (key, known) = rest.split_once("`, ").unwrap_or((rest, ""));
            let known = known.split('`').skip(1).step_by(2).collect();
            YamlErrorKind::Unknown { key, known }
        }
        "duplicate field `" => YamlErrorKind::Twice {
            key: rest.trim_end_matches('`'),
        },
        _ => {
            let (found, expected) = rest.rsplit_once(", expected ")?;
            YamlErrorKind::Wrong {
                found: (opening == "invalid type: ").then(|| kind_of(found)),
                rule: rule_of(expected),
            }
        }
    };
    Some((path, complaint))
}

/// serde's name for what it found, without the value.
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

/// serde's name for what it expected, in a user's words.
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

/// The first place at or after `index` where `key` stands, itself included.
fn key_at(source: &str, index: usize, key: &str) -> usize {
    let rest = source.get(index..).unwrap_or_default();
    if rest.trim_start_matches(['"', '\'']).starts_with(key) {
        index
    } else {
        keys(source, index, key).next().unwrap_or(index)
    }
}

/// Where `key` stands as a key in the mapping that begins at `index`: in its column in block style,
/// anywhere after it in flow style.
fn keys<'a>(source: &'a str, index: usize, key: &'a str) -> impl Iterator<Item = usize> + 'a {
    let column = column_of(source, index);
    let is_flow = source
        .get(index..)
        .is_some_and(|rest| rest.starts_with('{'));
    keys_in(source, index, key).filter(move |at| is_flow || column_of(source, *at) == column)
}

/// Where `key` stands as a key at or after `index`, whatever mapping it belongs to.
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

/// The column in characters, from 1.
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

/// How many characters the value at `index` has on its first line.
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

fn mark_key(file: &str, source: &str, index: usize, key: &str, label: String) -> Location {
    let rest = source.get(index..).unwrap_or_default();
    let quotes = if rest.starts_with(['"', '\'']) { 2 } else { 0 };
    mark(file, source, index, key.chars().count() + quotes, label).reveal(source)
}

/// The place at `index`, the secrets around it and in it struck out.
fn mark(file: &str, source: &str, index: usize, length: usize, label: String) -> Location {
    let before = source.get(..index).unwrap_or(source);
    Location {
        file: file.to_string(),
        source: without_secrets(source),
        line: before.matches('\n').count() + 1,
        column: column_of(source, index),
        length,
        label,
    }
}

impl Location {
    /// Shows what is marked as it stands in `source`, though a secret stands beside it.
    fn reveal(self, source: &str) -> Self {
        self.redraw(source, |true_line, shown_line, at| {
            let marked = true_line.chars().skip(at).take(self.length);
            let head = shown_line.chars().take(at);
            head.chain(marked)
                .chain(shown_line.chars().skip(at + self.length))
                .collect()
        })
    }

    /// Strikes out what is marked and all that follows on its line.
    fn hide(self, source: &str) -> Self {
        self.redraw(source, |_, shown_line, at| strike(shown_line, at))
    }

    /// Strikes out the value that follows the mark, and whatever else stands on its line.
    fn hide_rest(self, source: &str) -> Self {
        self.redraw(source, |true_line, shown_line, at| {
            let colon = true_line.chars().skip(at).position(|c| c == ':');
            strike(
                shown_line,
                at + colon.map_or(self.length, |colon| colon + 1),
            )
        })
    }

    /// The same, where there is more on the line than one plain value: its other keys may be
    /// mistyped too.
    fn hide_other_keys(self, source: &str) -> Self {
        let line = source.lines().nth(self.line - 1).unwrap_or_default();
        if line.contains(['{', ',']) || line.contains("//") {
            self.hide_rest(source)
        } else {
            self
        }
    }

    /// Draws the marked line anew from its true text, the shown one and the mark's offset.
    fn redraw(&self, source: &str, draw: impl Fn(&str, &str, usize) -> String) -> Self {
        let lines = self
            .source
            .split_inclusive('\n')
            .zip(source.split_inclusive('\n'));
        let shown = lines.enumerate().map(|(number, (shown, truth))| {
            if number + 1 == self.line {
                draw(truth, shown, self.column - 1)
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

/// True for a key whose value is no secret, nor a mapping that may hold one.
fn is_harmless(key: &str) -> bool {
    !SECRET_KEYS.contains(&key) && !matches!(key, "database" | "source")
}

/// The text with every value struck out that may be a secret; characters and lines keep their place.
fn without_secrets(source: &str) -> String {
    let mut shown = String::with_capacity(source.len());
    // The indentation of the secret key whose value goes on over the following lines.
    let mut open: Option<usize> = None;
    for line in source.split_inclusive('\n') {
        let indent = line.len() - line.trim_start().len();
        if let Some(outer) = open {
            if line.trim().is_empty() || indent > outer {
                let start = line.find(": ").map_or(indent, |at| at + 1);
                shown.push_str(&strike(line, line[..start].chars().count()));
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
                shown.push_str(&strike(line, line[..start].chars().count()));
            }
            None => shown.push_str(line),
        }
    }
    shown
}

/// Where the value of the secret `key` begins in a line, if it stands there.
fn secret_value(line: &str, key: &str) -> Option<usize> {
    line.match_indices(key).find_map(|(at, _)| {
        let after = line[at + key.len()..].trim_start_matches(['"', '\'', ' ']);
        let is_whole = !line[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_');
        (is_whole && after.starts_with(':')).then(|| line.len() - after.len() + 1)
    })
}

/// The line with everything but blanks struck out from the character `start` on.
fn strike(line: &str, start: usize) -> String {
    let keep = |(at, c): (usize, char)| {
        if at < start || c.is_whitespace() {
            c
        } else {
            '*'
        }
    };
    line.chars().enumerate().map(keep).collect()
}
