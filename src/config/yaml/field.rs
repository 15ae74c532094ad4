//! Cursors into a YAML text: a value and a mapping, which record what is wrong with them.

use std::collections::HashSet;

use serde_json::{Map, Value};
use serde_yaml::Spanned;

use crate::cli::value::{self, ParseResult};
use crate::config::yaml::{TextSpan, YamlContent, YamlNode, YamlText};
use crate::error::suggest::nearest;
use crate::error::{Location, usage};

/// A value of a text, with its path for messages.
#[derive(Clone)]
pub(crate) struct Field<'a> {
    pub yaml: &'a YamlText<'a>,
    pub node: &'a YamlNode,
    pub name: &'static str,
    pub path: String,
}

impl<'a> Field<'a> {
    /// Returns the value as a root, whose keys have paths of their own.
    pub(crate) fn as_root(&self, name: &'static str) -> Self {
        Self {
            name,
            path: String::new(),
            ..self.clone()
        }
    }

    /// Records a mistake at this value.
    pub(crate) fn fail(&self, message: impl Into<String>) {
        let location = self.yaml.locate(&self.node.span, "");
        self.yaml.report(usage(message).location(location));
    }

    /// Records that the value breaks a rule, such as "must be a list".
    pub(crate) fn breaks(&self, rule: &str) {
        let span = &self.node.span;
        let text = self.yaml.text.get(span.bytes.start..self.end());
        let first_line = text.and_then(|text| text.lines().next());
        let length = first_line.unwrap_or_default().trim_end().chars().count();
        let subject = match self.path.as_str() {
            "" => self.name.to_owned(),
            path => format!("`{path}`"),
        };
        let error = usage(format!("{subject} {rule}"));
        let location = self.yaml.location(span, length, "");
        self.yaml.report(error.location(location));
    }

    /// Records that the value has the wrong type.
    pub(crate) fn has_wrong_type(&self, rule: &str) {
        let found = match self.node.content {
            YamlContent::Null => "nothing",
            YamlContent::Bool(_) => "true or false",
            YamlContent::Integer(_) | YamlContent::Float(_) => "a number",
            YamlContent::Text(_) => "text",
            YamlContent::List(_) => "a list",
            YamlContent::Map(_) => "a mapping",
        };
        self.breaks(&format!("{rule}, not {found}"));
    }

    /// Returns the byte after the value.
    fn end(&self) -> usize {
        fn of(node: &YamlNode, text: &str) -> usize {
            let last = match &node.content {
                YamlContent::List(items) => items.last(),
                YamlContent::Map(entries) => entries.last().map(|(_, value)| value),
                _ => None,
            };
            let end = last.map_or(node.span.bytes.end, |last| of(last, text));
            let first = text.get(node.span.bytes.clone()).unwrap_or_default();
            let rest = text.get(end..).unwrap_or_default();
            let close = rest.find([']', '}']);
            let close = close.filter(|_| first.starts_with(['[', '{']));
            close.map_or(end, |close| end + close + 1)
        }
        of(self.node, self.yaml.text).max(self.node.span.bytes.start)
    }

    pub(crate) fn is_null(&self) -> bool {
        matches!(self.node.content, YamlContent::Null)
    }

    pub(crate) fn is_list(&self) -> bool {
        matches!(self.node.content, YamlContent::List(_))
    }

    /// Parses a single value; numbers and booleans as their text.
    pub(crate) fn value<T>(&self, parse: impl Fn(&str) -> ParseResult<T>) -> Option<T> {
        let text = match &self.node.content {
            YamlContent::Text(text) => text.clone(),
            YamlContent::Integer(number) => number.to_string(),
            YamlContent::Float(number) => number.to_string(),
            YamlContent::Bool(truth) => truth.to_string(),
            YamlContent::Null | YamlContent::List(_) | YamlContent::Map(_) => {
                self.has_wrong_type("must be a single value");
                return None;
            }
        };
        // The message leaves out the value, since it may be a secret.
        parse(&text).map_err(|rule| self.breaks(&rule)).ok()
    }

    /// Returns a text, which must be quoted if YAML takes it for another type.
    pub(crate) fn text(&self, rule: &str) -> Option<String> {
        if let YamlContent::Text(text) = &self.node.content {
            return Some(text.clone());
        }
        self.has_wrong_type(rule);
        None
    }

    /// Returns a boolean, also written with the words of the environment.
    pub(crate) fn switch(&self) -> Option<bool> {
        let found = match &self.node.content {
            YamlContent::Bool(truth) => Some(*truth),
            YamlContent::Text(text) => value::switch(text).ok(),
            YamlContent::Integer(number) => value::switch(&number.to_string()).ok(),
            _ => None,
        };
        if found.is_none() {
            self.has_wrong_type("must be true or false");
        }
        found
    }

    /// Returns the items of a list; none if the value is empty.
    pub(crate) fn items(&self) -> Vec<Field<'a>> {
        match &self.node.content {
            YamlContent::List(items) => {
                let item = |(index, node)| Field {
                    node,
                    path: format!("{}[{index}]", self.path),
                    ..self.clone()
                };
                items.iter().enumerate().map(item).collect()
            }
            YamlContent::Null => Vec::new(),
            _ => {
                self.has_wrong_type("must be a list");
                Vec::new()
            }
        }
    }

    /// Returns a mapping; `None` if the value is empty.
    pub(crate) fn mapping(&self) -> Option<Mapping<'a>> {
        match &self.node.content {
            YamlContent::Map(entries) => {
                let mapping = Mapping {
                    field: self.clone(),
                    entries,
                    known: Vec::new(),
                };
                mapping.report_duplicates();
                Some(mapping)
            }
            YamlContent::Null => None,
            _ => {
                self.has_wrong_type("must be a mapping of keys");
                None
            }
        }
    }

    /// Returns a tree of values, such as `script.vars`.
    pub(crate) fn tree(&self) -> Value {
        match &self.node.content {
            YamlContent::Null => Value::Null,
            YamlContent::Bool(truth) => Value::Bool(*truth),
            YamlContent::Text(text) => Value::String(text.clone()),
            // A script's integers are signed; a conversion to a float would lose digits.
            YamlContent::Integer(number) => i64::try_from(*number).map_or_else(
                |_| {
                    self.breaks("must be at most 9223372036854775807; quote it to keep it as text");
                    Value::Null
                },
                Value::from,
            ),
            YamlContent::Float(number) if number.is_finite() => Value::from(*number),
            YamlContent::Float(_) => {
                self.breaks("must be a finite number");
                Value::Null
            }
            YamlContent::List(_) => self.items().iter().map(Field::tree).collect(),
            YamlContent::Map(_) => {
                let mapping = self.mapping();
                let entries = mapping.iter().flat_map(Mapping::entries);
                let entries = entries.map(|(key, field)| (key.value.clone(), field.tree()));
                Value::Object(entries.collect::<Map<String, Value>>())
            }
        }
    }
}

/// A mapping of a text.
pub(crate) struct Mapping<'a> {
    pub field: Field<'a>,
    entries: &'a [(Spanned<String>, YamlNode)],
    /// The keys that were asked for.
    known: Vec<String>,
}

impl<'a> Mapping<'a> {
    /// Returns the value of a known key, if it is not empty.
    pub(crate) fn get(&mut self, key: &str) -> Option<Field<'a>> {
        self.known.push(key.to_owned());
        let found = self.entries().find(|(name, _)| name.value == key);
        found
            .map(|(_, field)| field)
            .filter(|field| !field.is_null())
    }

    /// Returns all keys and values.
    pub(crate) fn entries(
        &self,
    ) -> impl Iterator<Item = (&'a Spanned<String>, Field<'a>)> + use<'a> {
        let outer = self.field.clone();
        self.entries.iter().map(move |(key, node)| {
            let path = match outer.path.as_str() {
                "" => key.value.clone(),
                path => format!("{path}.{}", key.value),
            };
            let field = Field {
                node,
                path,
                ..outer.clone()
            };
            (key, field)
        })
    }

    /// Returns the location of a key, or of the mapping if it lacks the key.
    pub(crate) fn location_of(&self, key: &str) -> Location {
        let found = self.entries.iter().find(|(name, _)| name.value == key);
        let span = found.map(|(key, _)| TextSpan::of(key.referenced));
        let span = span.unwrap_or_else(|| self.field.node.span.clone());
        self.field.yaml.locate(&span, "")
    }

    /// Records a mistake at a key.
    pub(crate) fn fail_at(&self, key: &str, message: impl Into<String>) {
        let error = usage(message).location(self.location_of(key));
        self.field.yaml.report(error);
    }

    fn report_duplicates(&self) {
        let mut earlier = HashSet::new();
        for (key, _) in self.entries {
            if !earlier.insert(key.value.as_str()) {
                self.report_key("duplicate", key, "already set above", None);
            }
        }
    }

    /// Records the keys that were not asked for, and returns true if there are any; `label_of` knows better than the nearest known key what
    /// some of them mean.
    pub(crate) fn report_unknown(&self, label_of: impl Fn(&str) -> Option<String>) -> bool {
        let known: Vec<&str> = self.known.iter().map(String::as_str).collect();
        let is_unknown = |name: &str| !known.contains(&name);
        let unknown = self
            .entries
            .iter()
            .filter(|(key, _)| is_unknown(&key.value));
        for (key, _) in unknown.clone() {
            let label = label_of(&key.value);
            let near = nearest(&key.value, &known);
            let label = label.or_else(|| near.map(|near| format!("did you mean `{near}`?")));
            let hint = format!("known keys: {}", known.join(", "));
            let hint = Some(hint).filter(|_| label.is_none());
            let label = label.unwrap_or_else(|| String::from("no such key"));
            self.report_key("unknown", key, &label, hint);
        }
        unknown.count() > 0
    }

    fn report_key(&self, what: &str, key: &Spanned<String>, label: &str, hint: Option<String>) {
        let parent = match self.field.path.as_str() {
            "" => String::new(),
            path => format!(" in `{path}`"),
        };
        let error = usage(format!("{what} key `{}`{parent}", key.value));
        let yaml = self.field.yaml;
        let error = error.location(yaml.locate(&TextSpan::of(key.referenced), label));
        yaml.report(match hint {
            Some(hint) => error.hint(hint),
            None => error,
        });
    }
}
