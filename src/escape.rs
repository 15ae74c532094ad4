//! How text from elsewhere is shown: every character that could drive a terminal, break a line or
//! hide what is written is escaped. Sources, scripts and tokens may be hostile.

use std::borrow::Cow;

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

/// Control characters, line breaks of Unicode, and marks that are invisible or turn the direction
/// of writing. All of them lie within the first 65,536 characters, so that four hex digits name
/// them.
pub fn is_hostile(character: char) -> bool {
    character.is_control()
        || matches!(
            character,
            '\u{200b}'..='\u{200f}'
                | '\u{2028}'..='\u{202e}'
                | '\u{2060}'..='\u{206f}'
                | '\u{feff}'
        )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_drives_a_terminal_is_shown_and_not_obeyed() {
        assert_eq!(escape("plain ü"), "plain ü");
        assert_eq!(escape("a\x1b[2Jb\n\u{202e}"), "a\\u{1b}[2Jb\\n\\u{202e}");
    }
}
