//! YAML texts as trees in which every key and value has its place. The configuration file and the test
//! files are read through a cursor, [`Field`], which records each mistake with its place and goes on.

mod field;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_yaml::{DuplicateKeyPolicy, MergeKeyPolicy, NonFiniteFloatPolicy, Spanned};

pub(crate) use crate::config::yaml::field::{Field, Mapping};
use crate::error::{Error, Location, usage};

/// How deep collections may be nested; the parser's cost grows with the square of the depth.
const MAX_DEPTH: usize = 64;

/// How many mistakes of one text are reported. Their places cost a look at the whole text each.
const MAX_ERRORS: usize = 100;

/// A step of the path to a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PathStep<'a> {
    /// A key of a mapping.
    Key(&'a str),
    /// An index of a list, from 0.
    Item(usize),
}

/// A span of the text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TextSpan {
    /// The byte range; of a list or mapping only its first character.
    pub bytes: Range<usize>,
    /// The line, from 1.
    pub line: usize,
    /// The column in characters, from 1.
    pub column: usize,
}

/// A key or value.
#[derive(Debug)]
pub(crate) struct YamlNode {
    pub span: TextSpan,
    pub content: YamlContent,
}

/// The content of a value, typed as in YAML 1.2.
#[derive(Debug)]
pub(crate) enum YamlContent {
    Null,
    Bool(bool),
    Integer(i128),
    Float(f64),
    Text(String),
    List(Vec<YamlNode>),
    /// The keys as written, with their values; a key may occur twice.
    Map(Vec<(Spanned<String>, YamlNode)>),
}

impl<'de> Deserialize<'de> for YamlNode {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let node = Spanned::<YamlContent>::deserialize(from)?;
        Ok(Self {
            span: TextSpan::of(node.referenced),
            content: node.value,
        })
    }
}

impl<'de> Deserialize<'de> for YamlContent {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(ContentVisitor)
    }
}

struct ContentVisitor;

impl<'de> Visitor<'de> for ContentVisitor {
    type Value = YamlContent;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E>(self) -> Result<YamlContent, E> {
        Ok(YamlContent::Null)
    }

    fn visit_none<E>(self) -> Result<YamlContent, E> {
        Ok(YamlContent::Null)
    }

    fn visit_bool<E>(self, truth: bool) -> Result<YamlContent, E> {
        Ok(YamlContent::Bool(truth))
    }

    fn visit_i64<E>(self, number: i64) -> Result<YamlContent, E> {
        Ok(YamlContent::Integer(number.into()))
    }

    fn visit_u64<E>(self, number: u64) -> Result<YamlContent, E> {
        Ok(YamlContent::Integer(number.into()))
    }

    fn visit_i128<E>(self, number: i128) -> Result<YamlContent, E> {
        Ok(YamlContent::Integer(number))
    }

    fn visit_f64<E>(self, number: f64) -> Result<YamlContent, E> {
        Ok(YamlContent::Float(number))
    }

    fn visit_str<E>(self, text: &str) -> Result<YamlContent, E> {
        Ok(YamlContent::Text(text.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut from: A) -> Result<YamlContent, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = from.next_element()? {
            items.push(item);
        }
        Ok(YamlContent::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut from: A) -> Result<YamlContent, A::Error> {
        let mut entries = Vec::new();
        while let Some(entry) = from.next_entry()? {
            entries.push(entry);
        }
        Ok(YamlContent::Map(entries))
    }
}

impl TextSpan {
    pub(crate) fn of(location: serde_yaml::Location) -> Self {
        let number = |number: u64| usize::try_from(number).unwrap_or(usize::MAX);
        let span = location.span();
        let start = number(span.byte_offset().unwrap_or_default());
        Self {
            bytes: start..start + number(span.byte_len().unwrap_or_default()),
            line: number(location.line()).max(1),
            column: number(location.column()).max(1),
        }
    }
}

/// Which parts of a text its messages may show.
#[derive(Debug, Default)]
pub(crate) enum Secrecy {
    /// All.
    #[default]
    Open,
    /// From each of these bytes on, true if the text is hidden.
    Hidden(BTreeMap<usize, bool>),
}

/// A YAML text, and the mistakes found in it.
pub(crate) struct YamlText<'a> {
    /// What messages call it, such as `the configuration file`.
    pub what: &'static str,
    /// Its path as the user knows it.
    pub path: &'a str,
    pub text: &'a str,
    pub secrecy: Secrecy,
    /// Behind a cell, so that several cursors record mistakes.
    errors: RefCell<Vec<Error>>,
}

impl<'a> YamlText<'a> {
    pub(crate) fn new(what: &'static str, path: &'a str, text: &'a str) -> Self {
        // A byte order mark is no character of the first key.
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        Self {
            what,
            path,
            text,
            secrecy: Secrecy::Open,
            errors: RefCell::default(),
        }
    }

    /// Parses the text; `None` if it has no value or is invalid.
    pub(crate) fn parse(&self) -> Option<YamlNode> {
        // As in YAML 1.2, only `true` and `false` are booleans, and `010` and `1_000` are texts.
        let options = serde_yaml::options! {
            duplicate_keys: DuplicateKeyPolicy::PassThrough,
            merge_keys: MergeKeyPolicy::AsOrdinary,
            leading_zero_numbers_as_strings: true,
            underscored_numbers_as_strings: true,
            strict_booleans: true,
            null_as_string: true,
            budget: serde_yaml::budget! {
                flow_nesting_limit: MAX_DEPTH,
                max_depth: MAX_DEPTH,
            },
            non_finite_float_policy: NonFiniteFloatPolicy::PassThrough,
            with_snippet: false,
        };
        match serde_yaml::from_str_with_options(self.text, options) {
            Ok(root) => root,
            Err(error) => {
                self.report(self.syntax_error(&error));
                None
            }
        }
    }

    fn syntax_error(&self, error: &serde_yaml::Error) -> Error {
        let failure = usage(format!("{} is not valid YAML", self.what));
        let Some(at) = error.location() else {
            return failure.cause(error.to_string());
        };
        let (line, column) = (at.line(), at.column());
        let label = match error {
            serde_yaml::Error::MultipleDocuments { .. } => {
                String::from("the file has more than one document")
            }
            error => {
                let label = error.to_string();
                let label = label.replace(&format!(" at line {line}, column {column}"), "");
                if label.contains("recursion limit") || label.starts_with("budget breached: Depth")
                {
                    format!("more than {MAX_DEPTH} levels are nested")
                } else {
                    label
                }
            }
        };
        let span = TextSpan::of(at);
        let lines = self.text.lines();
        let is_tabbed = lines
            .skip(span.line - 1)
            .take(2)
            .any(|line| line.trim_start_matches(' ').starts_with('\t'));
        let failure = if is_tabbed {
            failure.hint("indent YAML with spaces, not tabs")
        } else {
            failure
        };
        failure.location(self.location(&span, 1, &label))
    }

    /// Returns the root as a cursor; messages call a value without a path `name`.
    pub(crate) fn root<'n>(&'n self, node: &'n YamlNode, name: &'static str) -> Field<'n> {
        Field {
            yaml: self,
            node,
            name,
            path: String::new(),
        }
    }

    /// Records a mistake; those beyond the limit are left out.
    pub(crate) fn report(&self, error: Error) {
        if !self.has_many_errors() {
            self.errors.borrow_mut().push(error);
        }
    }

    fn has_many_errors(&self) -> bool {
        self.errors.borrow().len() >= MAX_ERRORS
    }

    /// Returns the mistakes in the order of their places.
    pub(crate) fn into_errors(self) -> Vec<Error> {
        let mut errors = self.errors.into_inner();
        errors.sort_by_key(|error| {
            let place = error.location.as_ref();
            place.map(|place| (place.line, place.column))
        });
        errors
    }

    /// Returns the location of a key or value.
    pub(crate) fn locate(&self, span: &TextSpan, label: &str) -> Location {
        let marked = self.text.get(span.bytes.clone()).unwrap_or_default();
        let length = marked.trim_end().chars().count();
        self.location(span, length, label)
    }

    pub(super) fn location(&self, span: &TextSpan, length: usize, label: &str) -> Location {
        Location {
            file: self.path.to_owned(),
            source: match &self.secrecy {
                _ if self.has_many_errors() => String::new(),
                Secrecy::Open => self.text.to_owned(),
                Secrecy::Hidden(changes) => self.line_alone(span.line, changes),
            },
            line: span.line,
            column: span.column,
            length: length.max(1),
            label: label.to_owned(),
        }
    }

    /// Returns the text with one line only, in which hidden characters are `*`; columns stay the same.
    fn line_alone(&self, line: usize, changes: &BTreeMap<usize, bool>) -> String {
        let mut shown = "\n".repeat(line - 1);
        let Some(text) = self.text.split_inclusive('\n').nth(line - 1) else {
            return shown;
        };
        let before = self.text.split_inclusive('\n').take(line - 1);
        let start: usize = before.map(str::len).sum();
        shown.extend(text.char_indices().map(|(at, char)| {
            let last = changes.range(..=start + at).next_back();
            let is_hidden = last.is_some_and(|(_, is_hidden)| *is_hidden);
            if is_hidden && !char.is_whitespace() {
                '*'
            } else {
                char
            }
        }));
        shown
    }
}

impl YamlNode {
    /// Returns the value at `path`, with the span of its key if its last step is one.
    pub(crate) fn find(&self, path: &[PathStep]) -> Option<(&Self, Option<TextSpan>)> {
        let mut found = (self, None);
        for step in path {
            found = match (step, &found.0.content) {
                (PathStep::Item(index), YamlContent::List(items)) => (items.get(*index)?, None),
                (PathStep::Key(name), YamlContent::Map(entries)) => {
                    let (key, value) = entries.iter().find(|(known, _)| known.value == *name)?;
                    (value, Some(TextSpan::of(key.referenced)))
                }
                _ => return None,
            };
        }
        Some(found)
    }

    /// Returns the span of the last key of `path`, or of the value if it is an item of a list.
    ///
    /// If the key does not exist, returns that of the longest existing prefix of `path`.
    pub(crate) fn key(&self, path: &[PathStep]) -> TextSpan {
        let longest = (0..=path.len()).rev();
        let mut found = longest.filter_map(|length| self.find(&path[..length]));
        let (node, key) = found.next().unwrap_or((self, None));
        key.unwrap_or_else(|| node.span.clone())
    }
}
