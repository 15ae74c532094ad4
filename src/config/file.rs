//! The configuration file: reads the keys that the option tables name, and hides what may be a secret in
//! messages.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::path::Path;

use serde_json::{Map, Value};

use crate::cli::table::{Row, Shape};
use crate::cli::value;
use crate::config::keys::all_rows;
use crate::config::suggestions::setting_named;
use crate::config::yaml::{Field, Mapping, Secrecy, TextSpan, YamlContent, YamlNode, YamlText};
use crate::error::escape::escape;
use crate::error::suggest::nearest;
use crate::error::{Error, Location, usage};
use crate::runtime::files;

/// Limit of the file, in bytes.
const MAX_FILE: u64 = 1 << 20;

/// The settings of the file, by the `id` of their row. They are valid.
#[derive(Default)]
pub(super) struct ConfigFile {
    values: BTreeMap<&'static str, FileValue>,
    /// `source.headers`: names in lower case, and values.
    pub headers: Vec<(String, String)>,
    /// `script.vars`.
    pub vars: Map<String, Value>,
}

/// The values of one key, as text.
struct FileValue {
    texts: Vec<OsString>,
    location: Option<Location>,
}

impl ConfigFile {
    /// Returns the values of a row; empty if it is not set.
    pub(super) fn values(&self, row: &Row) -> &[OsString] {
        let found = self.values.get(row.id);
        found.map_or(&[], |value| value.texts.as_slice())
    }

    /// Returns the text of a row; `None` if it is not set or empty.
    pub(super) fn text(&self, row: &Row) -> Option<&str> {
        let text = self.values(row).first()?.to_str();
        text.filter(|text| !text.is_empty())
    }

    /// Returns true if the file sets a row.
    pub(super) fn has(&self, row: &Row) -> bool {
        !self.values(row).is_empty()
    }

    /// Adds the location of a row's key, if the file has it.
    pub(super) fn at_key(&self, error: Error, row: &Row) -> Error {
        let found = self.values.get(row.id);
        match found.and_then(|value| value.location.clone()) {
            Some(location) => error.location(location),
            None => error,
        }
    }

    /// Sets a row without regard to its key.
    pub(super) fn set(&mut self, row: &Row, text: impl Into<OsString>) {
        let value = FileValue {
            texts: vec![text.into()],
            location: None,
        };
        self.values.insert(row.id, value);
    }

    /// Takes over the value of a row's key, or records what is wrong with it.
    pub(super) fn read_row(&mut self, row: &Row, key: &str, from: &mut Mapping) {
        let Some(field) = from.get(key) else { return };
        let texts: Vec<String> = match row.shape {
            Shape::Texts => return self.headers = headers(&field),
            Shape::Tree => return self.vars = tree(&field),
            Shape::List => {
                let items = field.items();
                items
                    .iter()
                    .filter_map(|item| item.value(checked(row)))
                    .collect()
            }
            Shape::Value => Vec::from_iter(field.value(checked(row))),
            Shape::Text => Vec::from_iter(field.text("must be text")),
            Shape::Switch => Vec::from_iter(field.switch().map(|truth| truth.to_string())),
        };
        let location = Some(from.location_of(key));
        let texts = texts.into_iter().map(OsString::from).collect();
        self.values.insert(row.id, FileValue { texts, location });
    }
}

/// Returns a parser that keeps the text of a valid value.
fn checked(row: &Row) -> impl Fn(&str) -> value::ParseResult<String> {
    let check = row.check;
    move |text| check(OsStr::new(text)).map(|()| text.to_owned())
}

fn headers(field: &Field) -> Vec<(String, String)> {
    let mapping = field.mapping();
    let entries = mapping.iter().flat_map(Mapping::entries);
    let headers: BTreeMap<String, String> = entries
        .filter_map(|(key, value)| {
            let name = value::header_name(&key.value);
            let name = name.map_err(|rule| {
                let location = field.yaml.locate(&TextSpan::of(key.referenced), "");
                let error = usage(format!("`{}` {rule}", field.path));
                field.yaml.report(error.location(location));
            });
            let value = value.value(value::header_value)?;
            Some((name.ok()?, value))
        })
        .collect();
    headers.into_iter().collect()
}

pub(super) fn tree(field: &Field) -> Map<String, Value> {
    let is_map = matches!(field.node.content, YamlContent::Map(_));
    match field.tree() {
        Value::Object(map) if is_map => map,
        _ => {
            field.has_wrong_type("must be a mapping of plain values, lists and mappings");
            Map::new()
        }
    }
}

/// Reads the file at `path`.
pub(super) fn read(path: &Path) -> (ConfigFile, Vec<Error>) {
    let name = path.display().to_string();
    match files::read_text(path, MAX_FILE) {
        Ok(text) => parse(&name, &text),
        Err(error) => {
            let failure = usage(format!(
                "cannot read the configuration file `{}`",
                escape(&name)
            ))
            .cause(error.to_string())
            .hint("set --config or TOKEN_SERVICE_CONFIG to a YAML file that this user can read");
            (ConfigFile::default(), vec![failure])
        }
    }
}

/// Parses `text`; messages call it `path`. Returns the valid settings, and all mistakes.
pub(super) fn parse(path: &str, text: &str) -> (ConfigFile, Vec<Error>) {
    let mut yaml = YamlText::new("the configuration file", path, text);
    yaml.secrecy = Secrecy::Hidden(hidden_while_broken(yaml.text));
    let root = yaml.parse();
    let mut file = ConfigFile::default();
    if let Some(root) = &root {
        yaml.secrecy = Secrecy::Hidden(hidden_parts(root));
        file.read_root(&yaml.root(root, "the file"));
    }
    (file, yaml.into_errors())
}

impl ConfigFile {
    fn read_root(&mut self, root: &Field) {
        let rows = all_rows().filter(|row| !row.key.is_empty());
        let rows: Vec<_> = rows.map(|row| (row, row.key)).collect();
        if let Some(mut root) = root.mapping() {
            self.read_section(&rows, &mut root);
        }
    }

    /// Reads the keys of one mapping; each row comes with the rest of its path.
    fn read_section(&mut self, rows: &[(&'static Row, &'static str)], keys: &mut Mapping) {
        for (index, (row, path)) in rows.iter().enumerate() {
            let Some((section, _)) = path.split_once('.') else {
                self.read_row(row, path, keys);
                continue;
            };
            let inner = |(row, path): &(&'static Row, &'static str)| {
                let rest = path.strip_prefix(section)?.strip_prefix('.')?;
                Some((*row, rest))
            };
            if rows[..index].iter().any(|row| inner(row).is_some()) {
                continue;
            }
            let rows: Vec<_> = rows.iter().filter_map(inner).collect();
            let field = keys.get(section);
            if let Some(mut keys) = field.and_then(|field| field.mapping()) {
                self.read_section(&rows, &mut keys);
            }
        }
        keys.report_unknown(setting_named);
    }
}

/// Returns which bytes of a valid file may be secrets: the values of secret and of unknown keys, which may
/// be misspelt, and values in place of a section with secrets.
fn hidden_parts(root: &YamlNode) -> BTreeMap<usize, bool> {
    let mut hidden = BTreeMap::new();
    hidden.insert(root.span.bytes.start, !is_map(root));
    hide_values(root, "", &mut hidden);
    hidden
}

/// Adds what is hidden in the mapping at `path`.
fn hide_values(mapping: &YamlNode, path: &str, hidden: &mut BTreeMap<usize, bool>) {
    let below = |prefix: &str| {
        let prefix = prefix.to_owned();
        all_rows().filter_map(move |row| Some((row, row.key.strip_prefix(&prefix)?)))
    };
    let known: Vec<&str> = below(path)
        .filter_map(|(_, rest)| rest.split('.').next())
        .collect();
    for (key, value) in entries(mapping) {
        hidden.insert(key.start, false);
        let section = format!("{path}{}.", key.name);
        let mut inner = below(&section).peekable();
        let is_shown = if inner.peek().is_some() {
            is_map(value) || inner.all(|(row, _)| !row.is_secret)
        } else {
            // The section of a key that is nearly known is certain only if it is known itself.
            let near = nearest(key.name, &known).filter(|_| !path.is_empty());
            let is_url = matches!(&value.content, YamlContent::Text(text) if text.contains("//"));
            is_harmless(&format!("{path}{}", near.unwrap_or(key.name))) && !is_url
        };
        hidden.insert(value.span.bytes.start, !is_shown);
        if below(&section).next().is_some() {
            hide_values(value, &section, hidden);
        }
    }
}

fn is_map(node: &YamlNode) -> bool {
    matches!(node.content, YamlContent::Map(_))
}

struct KeyStart<'a> {
    name: &'a str,
    start: usize,
}

fn entries(node: &YamlNode) -> impl Iterator<Item = (KeyStart<'_>, &YamlNode)> {
    let entries = match &node.content {
        YamlContent::Map(entries) => entries.as_slice(),
        _ => &[],
    };
    entries.iter().map(|(key, value)| {
        let start = TextSpan::of(key.referenced).bytes.start;
        let name = key.value.as_str();
        (KeyStart { name, start }, value)
    })
}

/// Returns true for the path of a known key whose value is no secret.
fn is_harmless(path: &str) -> bool {
    all_rows().any(|row| row.key == path && !row.is_secret)
}

/// Returns which bytes of a file that is not valid YAML may be secrets: all but the first key of a line,
/// unless this key and the keys of the lines around it are known and harmless.
fn hidden_while_broken(text: &str) -> BTreeMap<usize, bool> {
    let mut hidden = BTreeMap::new();
    // The keys of the enclosing lines with their indentation.
    let mut outer: Vec<(usize, &str)> = Vec::new();
    let mut start = 0;
    for line in text.split_inclusive('\n') {
        let content = line.trim_start();
        let indent = line.len() - content.len();
        let key = content
            .split_once(':')
            .map_or("", |(key, _)| key.trim_end());
        let is_key = !key.is_empty() && key.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
        if !content.is_empty() {
            outer.retain(|(outer, _)| *outer < indent);
            outer.push((indent, if is_key { key } else { "?" }));
        }
        let path: Vec<&str> = outer.iter().map(|(_, key)| *key).collect();
        let value = if is_key {
            &content[key.len()..]
        } else {
            content
        };
        let has_more_keys = value.matches(':').count() > 1 || value.contains('{');
        hidden.insert(start, !is_key);
        let value_start = start + line.len() - value.trim_start_matches([' ', ':']).len();
        hidden.insert(value_start, !is_harmless(&path.join(".")) || has_more_keys);
        start += line.len();
    }
    hidden
}
