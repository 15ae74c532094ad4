//! How text from elsewhere is shown: every character that could drive a terminal, break a line or
//! hide what is written is escaped. Sources, scripts and tokens may be hostile.

use std::borrow::Cow;
use std::io::{self, Write};

use serde::Serialize;
use serde_json::Serializer;
use serde_json::ser::Formatter;

/// The text with hostile characters escaped as in Rust's string literals.
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

/// A script's own line: what [`escape`] escapes is escaped, but for tabs and line breaks.
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

/// Writes `value` as JSON on one line in which hostile characters are escaped. `serde_json` escapes
/// ASCII's control characters only, and not all of those.
pub fn write_json(out: impl Write, value: &impl Serialize) -> io::Result<()> {
    value.serialize(&mut Serializer::with_formatter(out, EscapingFormatter))?;
    Ok(())
}

/// `value` as [`write_json`] writes it; for what always serialises, such as strings and numbers.
pub fn json_of(value: &impl Serialize) -> String {
    let mut json = Vec::new();
    match write_json(&mut json, value) {
        Ok(()) => String::from_utf8(json).unwrap_or_default(),
        // Keeps this free of panics.
        Err(_) => String::from("{}"),
    }
}

/// The compact form, with [`is_hostile`] characters as `\uXXXX`.
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

/// A part of a JSON text that `serde_json` sees nothing to escape in, with [`is_hostile`] characters
/// as `\uXXXX`.
pub fn write_fragment(out: &mut (impl Write + ?Sized), fragment: &str) -> io::Result<()> {
    let mut rest = fragment;
    while let Some((at, hostile)) = rest.char_indices().find(|(_, c)| is_hostile(*c)) {
        out.write_all(&rest.as_bytes()[..at])?;
        write!(out, "\\u{:04x}", u32::from(hostile))?;
        rest = &rest[at + hostile.len_utf8()..];
    }
    out.write_all(rest.as_bytes())
}

/// Puts `instead` wherever `secret` stands; where that is short, only where it stands alone, because
/// "a" is a part of many words.
pub fn replace_secret(text: &str, secret: &str, instead: &str) -> String {
    if secret.is_empty() {
        return text.to_owned();
    }
    let mut clean = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find(secret) {
        let (before, found) = rest.split_at(at);
        let after = &found[secret.len()..];
        let alone =
            !before.ends_with(char::is_alphanumeric) && !after.starts_with(char::is_alphanumeric);
        clean.push_str(before);
        clean.push_str(if alone || secret.len() >= 8 {
            instead
        } else {
            secret
        });
        rest = after;
    }
    clean.push_str(rest);
    clean
}

/// Control characters, line breaks of Unicode, marks that are invisible or turn the direction of
/// writing, and what is no character at all, which YAML refuses. All of them lie within the first 65,536 characters, so that four hex digits name
/// them.
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
    fn what_drives_a_terminal_is_shown_and_not_obeyed() {
        assert_eq!(escape("plain ü"), "plain ü");
        assert_eq!(escape("a\x1b[2Jb\n\u{202e}"), "a\\u{1b}[2Jb\\n\\u{202e}");
    }

    #[test]
    fn json_holds_nothing_hostile_and_reads_back_whole() {
        let text = "ü \x1b[2J\x7f\n\u{9b}31m\u{202e}\"end\u{feff}";
        let mut json = Vec::new();
        write_json(&mut json, &text).unwrap();
        let json = String::from_utf8(json).unwrap();
        assert_eq!(json, r#""ü \u001b[2J\u007f\n\u009b31m\u202e\"end\ufeff""#);
        assert_eq!(serde_json::from_str::<String>(&json).unwrap(), text);
    }
}
