//! Escapes untrusted text for display: characters that control a terminal, break a line or hide
//! other characters. Sources, scripts and tokens may be hostile.

use std::borrow::Cow;
use std::io::{self, Write};

use serde::Serialize;
use serde_json::Serializer;
use serde_json::ser::Formatter;

/// Escapes hostile characters as in a Rust string literal.
pub fn escape(text: &str) -> Cow<'_, str> {
    if !text.chars().any(is_hostile) {
        return text.into();
    }
    let mut safe = String::with_capacity(text.len() + 8);
    for character in text.chars() {
        if is_hostile(character) {
            safe.extend(character.escape_default());
        } else {
            safe.push(character);
        }
    }
    safe.into()
}

/// Escapes text as [`escape`] does, but keeps tabs and line breaks.
pub fn escape_line(text: &str) -> Cow<'_, str> {
    if !text.contains(['\t', '\n']) {
        return escape(text);
    }
    let mut escaped = String::with_capacity(text.len() + 8);
    for part in text.split_inclusive(['\t', '\n']) {
        let body = part.trim_end_matches(['\t', '\n']);
        escaped.push_str(&escape(body));
        escaped.push_str(&part[body.len()..]);
    }
    escaped.into()
}

/// Writes `value` as JSON on one line, with hostile characters escaped.
///
/// `serde_json` itself escapes only some of ASCII's control characters.
pub fn write_json(out: impl Write, value: &impl Serialize) -> io::Result<()> {
    value.serialize(&mut Serializer::with_formatter(out, EscapingFormatter))?;
    Ok(())
}

/// Returns `value` as [`write_json`] writes it; `{}` if it does not serialize.
pub fn json_of(value: &impl Serialize) -> String {
    let mut json = Vec::new();
    match write_json(&mut json, value) {
        Ok(()) => String::from_utf8(json).unwrap_or_default(),
        // Avoids a panic.
        Err(_) => String::from("{}"),
    }
}

/// The compact formatter, with [`is_hostile`] characters as `\uXXXX`.
struct EscapingFormatter;

impl Formatter for EscapingFormatter {
    fn write_string_fragment<W: Write + ?Sized>(
        &mut self,
        out: &mut W,
        fragment: &str,
    ) -> io::Result<()> {
        write_fragment(out, fragment)
    }
}

/// Writes a fragment that `serde_json` does not escape, with [`is_hostile`] characters as `\uXXXX`.
fn write_fragment(out: &mut (impl Write + ?Sized), fragment: &str) -> io::Result<()> {
    write_escaped(out, fragment, |out, hostile| {
        // JSON escapes a character above U+FFFF as two surrogates.
        for unit in hostile.encode_utf16(&mut [0; 2]) {
            write!(out, "\\u{unit:04x}")?;
        }
        Ok(())
    })
}

/// Writes a fragment, and calls `escape` to write each [`is_hostile`] character.
pub fn write_escaped<W: Write + ?Sized>(
    out: &mut W,
    fragment: &str,
    escape: impl Fn(&mut W, char) -> io::Result<()>,
) -> io::Result<()> {
    let mut rest = fragment;
    while let Some((at, hostile)) = rest.char_indices().find(|(_, c)| is_hostile(*c)) {
        out.write_all(&rest.as_bytes()[..at])?;
        escape(out, hostile)?;
        rest = &rest[at + hostile.len_utf8()..];
    }
    out.write_all(rest.as_bytes())
}

/// The most characters that a message shows of a text from outside.
const MAX_SHOWN: usize = 2000;

/// Returns the text, cut to a length that a message can show.
pub fn cut(text: &str) -> Cow<'_, str> {
    match text.char_indices().nth(MAX_SHOWN) {
        None => text.into(),
        Some((end, _)) => format!("{}…", &text[..end]).into(),
    }
}

/// Replaces each occurrence of `secret` by `replacement`.
///
/// Replaces a secret of fewer than 8 bytes only as a separate word: "a" is part of many words.
pub fn replace_secret(text: &str, secret: &str, replacement: &str) -> String {
    if secret.is_empty() {
        return text.to_owned();
    }
    let mut clean = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find(secret) {
        let (before, found) = rest.split_at(at);
        let after = &found[secret.len()..];
        let is_word =
            !before.ends_with(char::is_alphanumeric) && !after.starts_with(char::is_alphanumeric);
        clean.push_str(before);
        clean.push_str(if is_word || secret.len() >= 8 {
            replacement
        } else {
            secret
        });
        rest = after;
    }
    clean.push_str(rest);
    clean
}

/// Returns true for characters that could deceive a reader or control a terminal: all that control,
/// hide or reorder text.
///
/// These are control characters, Unicode line breaks, the characters that Unicode lets a display ignore
/// (`Default_Ignorable_Code_Point`: invisible and bidirectional marks, fillers, variation selectors,
/// tags), the marks of annotations, and noncharacters, which YAML refuses.
pub fn is_hostile(character: char) -> bool {
    if character.is_ascii() {
        return character.is_ascii_control();
    }
    character.is_control()
        || u32::from(character) & 0xfffe == 0xfffe
        || matches!(
            character,
            '\u{ad}'
                | '\u{34f}'
                | '\u{61c}'
                | '\u{115f}'..='\u{1160}'
                | '\u{17b4}'..='\u{17b5}'
                | '\u{180b}'..='\u{180f}'
                | '\u{200b}'..='\u{200f}'
                | '\u{2028}'..='\u{202e}'
                | '\u{2060}'..='\u{206f}'
                | '\u{3164}'
                | '\u{fdd0}'..='\u{fdef}'
                | '\u{fe00}'..='\u{fe0f}'
                | '\u{feff}'
                | '\u{ffa0}'
                | '\u{fff0}'..='\u{fffb}'
                | '\u{1bca0}'..='\u{1bca3}'
                | '\u{1d173}'..='\u{1d17a}'
                | '\u{e0000}'..='\u{e0fff}'
        )
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn terminal_controls_are_escaped() {
        assert_eq!(escape("plain ü"), "plain ü");
        assert_eq!(escape("a\x1b[2Jb\n\u{202e}"), "a\\u{1b}[2Jb\\n\\u{202e}");
    }

    #[test]
    fn json_escapes_hostile_characters_and_parses_back() {
        let text = "ü \x1b[2J\x7f\n\u{9b}31m\u{202e}\"end\u{feff}\u{e0041}";
        let mut json = Vec::new();
        write_json(&mut json, &text).unwrap();
        let json = String::from_utf8(json).unwrap();
        assert_eq!(
            json,
            r#""ü \u001b[2J\u007f\n\u009b31m\u202e\"end\ufeff\udb40\udc41""#
        );
        assert_eq!(serde_json::from_str::<String>(&json).unwrap(), text);
    }
    #[test]
    fn text_that_hides_or_reorders_is_escaped() {
        let hidden = "\u{61c}\u{180e}\u{ad}\u{e0041}\u{e007f}\u{200b}\u{200d}\u{2060}\u{fe0f}\u{e0100}\
            \u{115f}\u{3164}\u{ffa0}\u{2066}\u{2069}\u{202a}\u{202e}\u{2028}\u{85}\u{fffe}\u{10ffff}\u{1d173}";
        assert!(hidden.chars().all(is_hostile));
        assert!(escape(hidden).is_ascii());
        let visible = "aü€日本語אبÀ\u{301}é-＝😀\u{a0}\u{3000}";
        assert_eq!(escape(visible), visible);
    }

    #[test]
    fn long_text_is_cut_between_characters() {
        assert_eq!(cut("short"), "short");
        let long = "€".repeat(3_000_000);
        assert_eq!(cut(&long), format!("{}…", "€".repeat(MAX_SHOWN)));
    }
}
