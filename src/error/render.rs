//! The text form of an error, with the marked source line, and its JSON form.
//!
//! All text is escaped here, so that no source, script or token can control a terminal.

use std::borrow::Cow;
use std::fmt::{self, Write as _};

use annotate_snippets::renderer::{
    DEFAULT_ERROR_STYLE, DEFAULT_HELP_STYLE, DEFAULT_NOTE_STYLE, DecorStyle, Style,
};
use annotate_snippets::{AnnotationKind, Group, Level, Origin, Renderer, Snippet};
use serde::Serialize;

use crate::error::escape::{cut, escape, is_hostile, json_of};
use crate::error::{CallFrame, Error, ErrorKind, Location, Severity};

impl Error {
    /// Returns the first line of the text form.
    pub fn headline(&self) -> String {
        let level = match self.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
        };
        format!("{level}: {}", self.title())
    }

    fn title(&self) -> String {
        let message = shown(&self.message);
        match (&self.kind, &self.location) {
            (Some(kind @ ErrorKind::Thrown(_)), _) | (Some(kind), Some(_)) => {
                format!("{}: {message}", escape(kind.as_str()))
            }
            _ => message,
        }
    }

    /// Returns the text form, without a trailing line break; with ANSI styles if `color`.
    pub fn render(&self, color: bool) -> String {
        let renderer = if color {
            Renderer::styled()
        } else {
            Renderer::plain()
        };
        let renderer = renderer.decor_style(DecorStyle::Unicode);
        let title = self.title();
        let level = match self.severity {
            Severity::Error => Level::ERROR,
            Severity::Warning => Level::WARNING,
        };
        let mut group = Group::with_title(level.primary_title(title));
        if let Some(location) = &self.location {
            group = location.draw(group);
        }
        let mut text = renderer.render(&[group]).trim_end().to_string();
        // Writing into a string cannot fail.
        let _ = self.write_details(&mut text, color);
        text
    }

    fn write_details(&self, text: &mut String, color: bool) -> fmt::Result {
        let styles = [DEFAULT_ERROR_STYLE, DEFAULT_NOTE_STYLE, DEFAULT_HELP_STYLE];
        let [cause, note, hint] = styles.map(|style| if color { style } else { Style::new() });
        if let Some(location) = &self.location
            && !location.label.is_empty()
            && location.span().is_none()
        {
            write!(text, "\n  {note}={note:#} {}", shown(&location.label))?;
        }
        for frame in &self.frames {
            let CallFrame { line, column, .. } = frame;
            write!(
                text,
                "\n  called from {}:{line}:{column}",
                escape(&frame.file)
            )?;
            if frame.name.contains(' ') {
                write!(text, " in {}", escape(&frame.name))?;
            } else if !frame.name.is_empty() {
                write!(text, " in `{}`", escape(&frame.name))?;
            }
        }
        for line in &self.causes {
            write!(text, "\n  {cause}caused by:{cause:#} {}", shown(line))?;
        }
        for line in &self.notes {
            write!(text, "\n  {note}={note:#} {}", shown(line))?;
        }
        if let Some(line) = &self.hint {
            write!(text, "\n{hint}hint:{hint:#} {}", shown(line))?;
        }
        Ok(())
    }

    /// Returns the JSON form: one object on one line, without the keys that have no value.
    pub fn to_json(&self) -> String {
        let location = self.location.as_ref();
        let object = ErrorJson {
            severity: self.severity,
            message: cut(&self.message),
            kind: self.kind.as_ref().map(ErrorKind::as_str),
            causes: self.causes.iter().map(|text| cut(text)).collect(),
            file: location.map(|location| location.file.as_str()),
            line: location.map(|location| location.line),
            column: location.map(|location| location.column),
            end_column: location.and_then(Location::end_column),
            label: location
                .map(|location| location.label.as_str())
                .filter(|label| !label.is_empty()),
            frames: &self.frames,
            notes: self.notes.iter().map(|text| cut(text)).collect(),
            hint: self.hint.as_deref(),
            exit_code: self.exit.code(),
        };
        json_of(&object)
    }
}

/// The JSON form. The order of the fields is the order of the keys.
#[derive(Serialize)]
struct ErrorJson<'a> {
    severity: Severity,
    message: Cow<'a, str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    kind: Option<&'a str>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    causes: Vec<Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    file: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    line: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    column: Option<usize>,
    /// The column after the marked text.
    #[serde(skip_serializing_if = "Option::is_none")]
    end_column: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    label: Option<&'a str>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    frames: &'a [CallFrame],
    #[serde(skip_serializing_if = "Vec::is_empty")]
    notes: Vec<Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    hint: Option<&'a str>,
    exit_code: u8,
}

/// Returns a text from outside as messages show it.
fn shown(text: &str) -> String {
    escape(&cut(text)).into_owned()
}

/// Replaces each hostile character of a script by one that is visible, so that columns stay the same.
fn visible_source(source: &str) -> Cow<'_, str> {
    let is_replaced = |char: char| is_hostile(char) && !matches!(char, '\n' | '\r' | '\t');
    if source.contains(is_replaced) {
        source.replace(is_replaced, "\u{fffd}").into()
    } else {
        source.into()
    }
}

impl Location {
    /// Adds the marked line, or only the position if the text has no such line.
    fn draw<'a>(&'a self, group: Group<'a>) -> Group<'a> {
        let source = visible_source(&self.source);
        let Some(span) = self.span_in(&source) else {
            return group.element(
                Origin::path(escape(&self.file))
                    .line(self.line)
                    .char_column(self.column),
            );
        };
        let mark = AnnotationKind::Primary.span(span);
        let mark = if self.label.is_empty() {
            mark
        } else {
            mark.label(shown(&self.label))
        };
        group.element(
            Snippet::source(source)
                .path(escape(&self.file))
                .annotation(mark),
        )
    }

    /// Returns the column after the marked text, if the text has the line.
    fn end_column(&self) -> Option<usize> {
        let marked = self.source.get(self.span()?)?;
        Some(self.column + marked.chars().count())
    }

    /// Returns the marked bytes, if the location lies in the text.
    fn span(&self) -> Option<std::ops::Range<usize>> {
        self.span_in(&self.source)
    }

    /// Returns the marked bytes of `source`, whose characters are in the same columns.
    fn span_in(&self, source: &str) -> Option<std::ops::Range<usize>> {
        let lines = source.split_inclusive('\n');
        let start: usize = lines
            .clone()
            .take(self.line.checked_sub(1)?)
            .map(str::len)
            .sum();
        let line = lines
            .clone()
            .nth(self.line - 1)?
            .trim_end_matches(['\n', '\r']);
        let mut offsets = line.char_indices().map(|(at, _)| at).chain([line.len()]);
        let first = offsets.nth(self.column.checked_sub(1)?)?;
        let last = offsets
            .nth(self.length.saturating_sub(1))
            .unwrap_or(line.len());
        Some(start + first..start + last)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::error::exit::Exit;

    const SCRIPT: &str = "fn drain() {\n    // über\n    report(stroe(page));\n}\ndrain();\n";

    fn in_script() -> Error {
        Error::new(Exit::Script, "unknown function `stroe` (Tokens)")
            .location(Location {
                file: "scripts/mine.rhai".into(),
                source: SCRIPT.into(),
                line: 3,
                column: 12,
                length: 5,
                label: "did you mean `store`?".into(),
            })
            .frame(CallFrame {
                name: "drain".into(),
                file: "scripts/mine.rhai".into(),
                line: 5,
                column: 1,
            })
            .hint("`token_service check scripts/mine.rhai` finds such mistakes before a run")
    }

    #[test]
    fn location_is_marked_and_call_stack_follows() {
        insta::assert_snapshot!(in_script().render(false), @"
        error: unknown function `stroe` (Tokens)
          ╭▸ scripts/mine.rhai:3:12
          │
        3 │     report(stroe(page));
          ╰╴           ━━━━━ did you mean `store`?
          called from scripts/mine.rhai:5:1 in `drain`
        hint: `token_service check scripts/mine.rhai` finds such mistakes before a run
        ");
        insta::assert_snapshot!(in_script().to_json(), @r#"{"severity":"error","message":"unknown function `stroe` (Tokens)","file":"scripts/mine.rhai","line":3,"column":12,"end_column":17,"label":"did you mean `store`?","frames":[{"name":"drain","file":"scripts/mine.rhai","line":5,"column":1}],"hint":"`token_service check scripts/mine.rhai` finds such mistakes before a run","exit_code":3}"#);
    }

    #[test]
    fn color_adds_only_styles() {
        let colored = in_script().cause("a").note("b").render(true);
        assert!(colored.contains("\x1b["));
        let mut bare = String::new();
        for (number, part) in colored.split('\x1b').enumerate() {
            bare += if number == 0 {
                part
            } else {
                part.split_once('m').unwrap().1
            };
        }
        assert_eq!(bare, in_script().cause("a").note("b").render(false));
    }

    #[test]
    fn causes_and_hint_follow_message_without_location() {
        let error = Error::new(Exit::Database, "the database refused the connection")
            .cause("password authentication failed for user \"tokens\" (28P01)")
            .hint("DB_USER and DB_PASS must match a role of db.internal:5432");
        insta::assert_snapshot!(error.render(false), @r#"
        error: the database refused the connection
          caused by: password authentication failed for user "tokens" (28P01)
        hint: DB_USER and DB_PASS must match a role of db.internal:5432
        "#);
        insta::assert_snapshot!(error.to_json(), @r#"{"severity":"error","message":"the database refused the connection","causes":["password authentication failed for user \"tokens\" (28P01)"],"hint":"DB_USER and DB_PASS must match a role of db.internal:5432","exit_code":5}"#);
    }

    #[test]
    fn error_keeps_kind_and_retry_delay() {
        let kind = ErrorKind::HttpStatus {
            status: 503,
            retry_after: Some(Duration::from_secs(2)),
        };
        let error = Error::of(kind, "the token source answered 503 Service Unavailable")
            .retryable()
            .hint("catch it and call `sleep`, or use `retry(5, || fetch_once(100))`");
        let error = error.location(Location {
            file: "mine.rhai".into(),
            source: "\tlet page = fetch_once(100);".into(),
            line: 1,
            column: 13,
            length: 200,
            label: String::new(),
        });
        assert_eq!(error.exit, Exit::Source);
        insta::assert_snapshot!(error.render(false), @"
        error: http_status: the token source answered 503 Service Unavailable
          ╭▸ mine.rhai:1:13
          │
        1 │     let page = fetch_once(100);
          ╰╴               ━━━━━━━━━━━━━━━━
          = retry_after_ms 2000
        hint: catch it and call `sleep`, or use `retry(5, || fetch_once(100))`
        ");
    }

    #[test]
    fn location_outside_text_has_no_mark() {
        let mut location = in_script().location.clone().unwrap();
        for (line, column, source) in [(99, 1, SCRIPT), (0, 1, SCRIPT), (3, 99, SCRIPT), (3, 9, "")]
        {
            (location.line, location.column, location.source) = (line, column, source.into());
            let text = Error::new(Exit::Script, "broken")
                .location(location.clone())
                .render(false);
            assert!(
                text.contains(&format!("scripts/mine.rhai:{line}:{column}")),
                "{text}"
            );
        }
        (location.line, location.column, location.source) = (1, 4, "abc".into());
        insta::assert_snapshot!(Error::new(Exit::Script, "ends too early").location(location).render(false), @"
        error: ends too early
          ╭▸ scripts/mine.rhai:1:4
          │
        1 │ abc
          ╰╴   ━ did you mean `store`?
        ");
    }

    #[test]
    fn terminal_controls_are_escaped_everywhere() {
        let evil = "\x1b]0;owned\x07 a\r\nb \u{202e}c\u{200b}\u{9b}31m\u{61c}\u{ad}\u{e0041}";
        let error = Error::of(ErrorKind::Thrown(evil.into()), evil)
            .cause(evil)
            .note(evil)
            .hint(evil)
            .frame(CallFrame {
                name: evil.into(),
                file: evil.into(),
                line: 1,
                column: 1,
            })
            .location(Location {
                file: evil.into(),
                source: evil.into(),
                line: 1,
                column: 1,
                length: 1,
                label: evil.into(),
            });
        let text = error.render(false);
        let is_clean = |char: char| char == '\n' || !is_hostile(char);
        assert!(text.chars().all(is_clean), "{text:?}");
        let json = error.to_json();
        assert!(!json.contains(is_hostile), "{json:?}");
        let read: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!(read["message"], evil);
    }
}
