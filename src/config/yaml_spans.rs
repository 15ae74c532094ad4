//! Where the keys and values of a YAML text stand: for places in messages that come after reading,
//! and for putting a new value where an old one stood without touching anything else. The one place
//! that knows the YAML parser with positions; values are read by the other one.

use std::ops::Range;

use saphyr_parser::{Event, Parser, ScalarStyle, Span};

use crate::error::diagnostic::Location;

/// A step on the way to a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PathStep<'a> {
    /// Into a mapping.
    Key(&'a str),
    /// Into a list, from 0.
    Item(usize),
}

/// The form in which a value is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ValueStyle {
    /// Lines under a `|`.
    Literal,
    /// Lines under a `>`.
    Folded,
    /// Text in quotes or bare.
    Inline,
    /// A list, a mapping or a reference.
    Other,
}

/// A piece of the text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TextSpan {
    /// Its bytes; of what stands on lines of its own beneath its key they are no more than a hint.
    pub bytes: Range<usize>,
    /// Its line, from 1.
    pub line: usize,
    /// Its column in characters, from 1.
    pub column: usize,
    /// How it is written.
    pub form: ValueStyle,
}

struct YamlNode {
    mark: TextSpan,
    inside: NodeContent,
}

enum NodeContent {
    Nothing,
    List(Vec<YamlNode>),
    Map(Vec<(String, YamlNode, YamlNode)>),
}

/// The keys and values of a text.
pub(crate) struct YamlSpans(Option<YamlNode>);

impl YamlSpans {
    /// The outline of a text; empty where it is no YAML.
    pub(crate) fn of(text: &str) -> Self {
        let offsets: Vec<usize> = text
            .char_indices()
            .map(|(at, _)| at)
            .chain([text.len()])
            .collect();
        let mut events = Parser::new_from_str(text).map_while(Result::ok);
        Self(node(&mut events, &offsets))
    }

    /// Where the value stands that `path` leads to.
    pub(crate) fn value(&self, path: &[PathStep]) -> Option<&TextSpan> {
        let found = self.find(path)?;
        Some(&found.0.mark)
    }

    /// Where the key stands that `path` ends with; the value itself where that is an item of a list.
    /// Where there is no such key, that of the way there which is the longest.
    pub(crate) fn key(&self, path: &[PathStep]) -> Option<&TextSpan> {
        let longest = (0..=path.len()).rev();
        longest
            .filter_map(|length| self.find(&path[..length]))
            .map(|(node, key)| &key.unwrap_or(node).mark)
            .next()
    }

    /// The same as a place in the text of `file`.
    pub(crate) fn place(&self, file: &str, text: &str, path: &[PathStep], label: &str) -> Location {
        let mark = self.key(path);
        let (line, column) = mark.map_or((1, 1), |mark| (mark.line, mark.column));
        let length = mark.map_or(1, |mark| {
            text[mark.bytes.clone()].trim_end().chars().count()
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
            found = match (step, &found.0.inside) {
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

/// The next node; `None` where there is none.
fn node<'a>(
    events: &mut impl Iterator<Item = (Event<'a>, Span)>,
    offsets: &[usize],
) -> Option<YamlNode> {
    loop {
        let (event, span) = events.next()?;
        let mark = |form| mark_of(&span, offsets, form);
        return match event {
            Event::Scalar(_, style, ..) => Some(YamlNode {
                mark: mark(match style {
                    ScalarStyle::Literal => ValueStyle::Literal,
                    ScalarStyle::Folded => ValueStyle::Folded,
                    _ => ValueStyle::Inline,
                }),
                inside: NodeContent::Nothing,
            }),
            Event::Alias(_) => Some(YamlNode {
                mark: mark(ValueStyle::Other),
                inside: NodeContent::Nothing,
            }),
            Event::SequenceStart(..) => {
                let mut items = Vec::new();
                while let Some(item) = node(events, offsets) {
                    items.push(item);
                }
                Some(YamlNode {
                    mark: mark(ValueStyle::Other),
                    inside: NodeContent::List(items),
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
                    mark: mark(ValueStyle::Other),
                    inside: NodeContent::Map(entries),
                })
            }
            Event::SequenceEnd | Event::MappingEnd | Event::DocumentEnd | Event::StreamEnd => None,
            Event::Nothing | Event::StreamStart | Event::DocumentStart(_) => continue,
        };
    }
}

/// A key, which is always a single value.
fn key<'a>(
    events: &mut impl Iterator<Item = (Event<'a>, Span)>,
    offsets: &[usize],
) -> Option<(String, YamlNode)> {
    match events.next()? {
        (Event::Scalar(name, ..), span) => {
            let mark = mark_of(&span, offsets, ValueStyle::Inline);
            let inside = NodeContent::Nothing;
            Some((name.into_owned(), YamlNode { mark, inside }))
        }
        _ => None,
    }
}

fn mark_of(span: &Span, offsets: &[usize], form: ValueStyle) -> TextSpan {
    let byte = |index: usize| offsets.get(index).or(offsets.last()).copied();
    let start = byte(span.start.index()).unwrap_or_default();
    let end = byte(span.end.index()).unwrap_or_default();
    TextSpan {
        bytes: start..end.max(start),
        line: span.start.line(),
        column: span.start.col() + 1,
        form,
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
        let mark = spans.key(path).unwrap();
        (mark.line, mark.column, &TEXT[mark.bytes.clone()])
    }

    #[test]
    fn keys_and_values_are_found_by_the_way_there() {
        use PathStep::{Item, Key};
        let report = [Item(0), Key("expect"), Key("report")];
        assert_eq!(shown(&report), (3, 21, "\"report\""));
        let spans = YamlSpans::of(TEXT);
        let value = spans.value(&report).unwrap();
        assert_eq!(&TEXT[value.bytes.clone()], "'x'");
        assert_eq!(value.form, ValueStyle::Inline);
        let counts = [Item(1), Key("expect"), Key("counts")];
        assert_eq!(shown(&counts), (10, 5, "counts"));
        let missing = [Item(1), Key("expect"), Key("nothing"), Key("below")];
        assert_eq!(shown(&missing), (5, 3, "expect"));
        let block = [Item(1), Key("expect"), Key("report")];
        assert_eq!(spans.value(&block).unwrap().form, ValueStyle::Literal);
        assert_eq!(shown(&block), (6, 5, "report"));
    }

    #[test]
    fn what_is_no_yaml_has_no_outline() {
        assert!(YamlSpans::of("a: [").value(&[PathStep::Key("b")]).is_none());
        assert!(YamlSpans::of("").key(&[]).is_none());
    }
}
