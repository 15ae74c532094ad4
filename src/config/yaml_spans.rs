//! The positions of keys and values in a YAML text: for locations in messages, and for replacing a
//! value without changing the rest of the text.

use std::ops::Range;

use saphyr_parser::{Event, Parser, ScalarStyle, Span};

use crate::error::Location;

/// A step of the path to a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PathStep<'a> {
    /// A key of a mapping.
    Key(&'a str),
    /// An index of a list, from 0.
    Item(usize),
}

/// The style of a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ValueStyle {
    /// A literal block, after `|`.
    Literal,
    /// A folded block, after `>`.
    Folded,
    /// Plain or quoted text.
    Inline,
    /// A list, a mapping or an alias.
    Other,
}

/// A span of the text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TextSpan {
    /// The byte range; only approximate for a block value.
    pub bytes: Range<usize>,
    /// The line, from 1.
    pub line: usize,
    /// The column in characters, from 1.
    pub column: usize,
    /// The style.
    pub style: ValueStyle,
}

struct YamlNode {
    span: TextSpan,
    content: NodeContent,
}

enum NodeContent {
    Scalar,
    List(Vec<YamlNode>),
    Map(Vec<(String, YamlNode, YamlNode)>),
}

/// The spans of a text's keys and values.
pub(crate) struct YamlSpans(Option<YamlNode>);

impl YamlSpans {
    /// Parses a text; the result is empty if it is not valid YAML.
    pub(crate) fn of(text: &str) -> Self {
        let offsets: Vec<usize> = text
            .char_indices()
            .map(|(at, _)| at)
            .chain([text.len()])
            .collect();
        let mut events = Parser::new_from_str(text).map_while(Result::ok);
        Self(node(&mut events, &offsets))
    }

    /// Returns the span of the value at `path`.
    pub(crate) fn value(&self, path: &[PathStep]) -> Option<&TextSpan> {
        let found = self.find(path)?;
        Some(&found.0.span)
    }

    /// Returns the span of the last key of `path`, or of the value if it is an item of a list.
    ///
    /// If the key does not exist, returns that of the longest existing prefix of `path`.
    pub(crate) fn key(&self, path: &[PathStep]) -> Option<&TextSpan> {
        let longest = (0..=path.len()).rev();
        longest
            .filter_map(|length| self.find(&path[..length]))
            .map(|(node, key)| &key.unwrap_or(node).span)
            .next()
    }

    /// Returns the span of [`YamlSpans::key`] as a location in `file`.
    pub(crate) fn location(
        &self,
        file: &str,
        text: &str,
        path: &[PathStep],
        label: &str,
    ) -> Location {
        let span = self.key(path);
        let (line, column) = span.map_or((1, 1), |span| (span.line, span.column));
        let length = span.map_or(1, |span| {
            text[span.bytes.clone()].trim_end().chars().count()
        });
        Location {
            file: file.to_owned(),
            source: text.to_owned(),
            line,
            column,
            length: length.max(1),
            label: label.to_owned(),
        }
    }

    fn find(&self, path: &[PathStep]) -> Option<(&YamlNode, Option<&YamlNode>)> {
        let mut found = (self.0.as_ref()?, None);
        for step in path {
            found = match (step, &found.0.content) {
                (PathStep::Item(index), NodeContent::List(items)) => (items.get(*index)?, None),
                (PathStep::Key(name), NodeContent::Map(entries)) => {
                    let (_, key, value) = entries.iter().find(|(known, ..)| known == name)?;
                    (value, Some(key))
                }
                _ => return None,
            };
        }
        Some(found)
    }
}

/// Returns the next node, or `None` at the end.
fn node<'a>(
    events: &mut impl Iterator<Item = (Event<'a>, Span)>,
    offsets: &[usize],
) -> Option<YamlNode> {
    loop {
        let (event, span) = events.next()?;
        let text_span = |style| text_span_of(&span, offsets, style);
        return match event {
            Event::Scalar(_, style, ..) => Some(YamlNode {
                span: text_span(match style {
                    ScalarStyle::Literal => ValueStyle::Literal,
                    ScalarStyle::Folded => ValueStyle::Folded,
                    _ => ValueStyle::Inline,
                }),
                content: NodeContent::Scalar,
            }),
            Event::Alias(_) => Some(YamlNode {
                span: text_span(ValueStyle::Other),
                content: NodeContent::Scalar,
            }),
            Event::SequenceStart(..) => {
                let mut items = Vec::new();
                while let Some(item) = node(events, offsets) {
                    items.push(item);
                }
                Some(YamlNode {
                    span: text_span(ValueStyle::Other),
                    content: NodeContent::List(items),
                })
            }
            Event::MappingStart(..) => {
                let mut entries = Vec::new();
                while let Some((name, key)) = key(events, offsets) {
                    let Some(value) = node(events, offsets) else {
                        break;
                    };
                    entries.push((name, key, value));
                }
                Some(YamlNode {
                    span: text_span(ValueStyle::Other),
                    content: NodeContent::Map(entries),
                })
            }
            Event::SequenceEnd | Event::MappingEnd | Event::DocumentEnd | Event::StreamEnd => None,
            Event::Nothing | Event::StreamStart | Event::DocumentStart(_) => continue,
        };
    }
}

/// Returns the next key, which must be a scalar.
fn key<'a>(
    events: &mut impl Iterator<Item = (Event<'a>, Span)>,
    offsets: &[usize],
) -> Option<(String, YamlNode)> {
    match events.next()? {
        (Event::Scalar(name, ..), span) => {
            let span = text_span_of(&span, offsets, ValueStyle::Inline);
            let content = NodeContent::Scalar;
            Some((name.into_owned(), YamlNode { span, content }))
        }
        _ => None,
    }
}

fn text_span_of(span: &Span, offsets: &[usize], style: ValueStyle) -> TextSpan {
    let byte = |index: usize| offsets.get(index).or(offsets.last()).copied();
    let start = byte(span.start.index()).unwrap_or_default();
    let end = byte(span.end.index()).unwrap_or_default();
    TextSpan {
        bytes: start..end.max(start),
        line: span.start.line(),
        column: span.start.col() + 1,
        style,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "\
# über
- name: a
  expect: {exit: 3, \"report\": 'x'}
- name: b   # second
  expect:
    report: |  # kept
      stored    aa

      stored    bb
    counts: {stored: 2}
";

    fn shown(path: &[PathStep]) -> (usize, usize, &'static str) {
        let spans = YamlSpans::of(TEXT);
        let span = spans.key(path).unwrap();
        (span.line, span.column, &TEXT[span.bytes.clone()])
    }

    #[test]
    fn keys_and_values_are_found_by_path() {
        use PathStep::{Item, Key};
        let report = [Item(0), Key("expect"), Key("report")];
        assert_eq!(shown(&report), (3, 21, "\"report\""));
        let spans = YamlSpans::of(TEXT);
        let value = spans.value(&report).unwrap();
        assert_eq!(&TEXT[value.bytes.clone()], "'x'");
        assert_eq!(value.style, ValueStyle::Inline);
        let counts = [Item(1), Key("expect"), Key("counts")];
        assert_eq!(shown(&counts), (10, 5, "counts"));
        let missing = [Item(1), Key("expect"), Key("nothing"), Key("below")];
        assert_eq!(shown(&missing), (5, 3, "expect"));
        let block = [Item(1), Key("expect"), Key("report")];
        assert_eq!(spans.value(&block).unwrap().style, ValueStyle::Literal);
        assert_eq!(shown(&block), (6, 5, "report"));
    }

    #[test]
    fn invalid_yaml_has_no_spans() {
        assert!(YamlSpans::of("a: [").value(&[PathStep::Key("b")]).is_none());
        assert!(YamlSpans::of("").key(&[]).is_none());
    }
}
