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
pub fn write_fragment(out: &mut (impl Write + ?Sized), fragment: &str) -> io::Result<()> {
    let mut rest = fragment;
    while let Some((at, hostile)) = rest.char_indices().find(|(_, c)| is_hostile(*c)) {
        out.write_all(&rest.as_bytes()[..at])?;
        write!(out, "\\u{:04x}", u32::from(hostile))?;
        rest = &rest[at + hostile.len_utf8()..];
    }
    out.write_all(rest.as_bytes())
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

/// Returns true for characters that could deceive a reader or control a terminal.
///
/// These are control characters, Unicode line breaks, invisible and bidirectional marks, and
/// noncharacters, which YAML refuses. All fit four hex digits.
pub fn is_hostile(character: char) -> bool {
    character.is_control()
        || matches!(
            character,
            '\u{200b}'..='\u{200f}'
                | '\u{2028}'..='\u{202e}'
                | '\u{2060}'..='\u{206f}'
                | '\u{feff}'
                | '\u{fff9}'..='\u{fffb}'
                | '\u{fffe}'..='\u{ffff}'
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
        let text = "ü \x1b[2J\x7f\n\u{9b}31m\u{202e}\"end\u{feff}";
        let mut json = Vec::new();
        write_json(&mut json, &text).unwrap();
        let json = String::from_utf8(json).unwrap();
        assert_eq!(json, r#""ü \u001b[2J\u007f\n\u009b31m\u202e\"end\ufeff""#);
        assert_eq!(serde_json::from_str::<String>(&json).unwrap(), text);
    }
}
