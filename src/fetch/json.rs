//! Whether an answer as a whole is a JSON array or object, which is no list of tokens however it is cut
//! into lines. A token may begin as JSON does, so that nothing but the whole of it proves it. Pure.

use serde::de::IgnoredAny;

/// So much is read before it is first looked at.
const FIRST_LOOK: usize = 1024;

/// Follows the bytes of one answer for as long as they may be such a document.
#[derive(Default)]
pub struct JsonDetector {
    /// What came so far, from the first bracket on.
    text: Vec<u8>,
    /// How much of it was last seen to be the beginning of JSON.
    seen: usize,
    is_something_else: bool,
}

impl JsonDetector {
    /// Takes the next bytes. They are kept only while they can be JSON, so that a list of tokens costs
    /// next to nothing; who feeds it bounds the whole.
    pub fn feed(&mut self, bytes: &[u8]) {
        if self.is_something_else {
            return;
        }
        let bytes = if self.text.is_empty() {
            beginning(bytes)
        } else {
            bytes
        };
        self.text.extend_from_slice(bytes);
        if !self.text.is_empty() && !self.text.starts_with(b"[") && !self.text.starts_with(b"{") {
            self.give_up();
        } else if self.text.len() >= 2 * self.seen.max(FIRST_LOOK / 2) {
            // Looked at anew when it has doubled, what is long is not read again for each chunk.
            self.seen = self.text.len();
            if parsed(&self.text).is_err_and(|error| !error.is_eof()) {
                self.give_up();
            }
        }
    }

    /// True where what came is one JSON array or object and nothing else.
    pub fn is_document(&self) -> bool {
        !self.is_something_else && parsed(&self.text).is_ok()
    }

    fn give_up(&mut self) {
        self.is_something_else = true;
        self.text = Vec::new();
    }
}

fn parsed(text: &[u8]) -> serde_json::Result<IgnoredAny> {
    serde_json::from_slice(text)
}

/// Without what may stand before a document: blanks and a byte order mark.
fn beginning(bytes: &[u8]) -> &[u8] {
    bytes
        .strip_prefix(b"\xef\xbb\xbf")
        .unwrap_or(bytes)
        .trim_ascii_start()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_document(text: &[u8], chunk: usize) -> bool {
        let mut watch = JsonDetector::default();
        for part in text.chunks(chunk) {
            watch.feed(part);
        }
        watch.is_document()
    }

    #[test]
    fn arrays_and_objects_are_documents_over_one_line_or_several() {
        let long = format!("{{\"tokens\": [{}\"é\"]}}", "\"aaaa\",\n".repeat(1000));
        for text in [
            "[]",
            "{}",
            "[\"aa\", \"bb\"]\n",
            " \r\n{\n  \"a\": [1]\n}\n",
            &long,
        ] {
            for chunk in [1, 7, 4096] {
                assert!(is_document(text.as_bytes(), chunk), "{text} by {chunk}");
            }
        }
        assert!(is_document(b"\xef\xbb\xbf[1]", 4096));
    }

    #[test]
    fn a_token_that_begins_as_json_does_is_none() {
        for text in [
            "",
            "[",
            "[aa]\n",
            "{aa",
            "[1]\n[2]\n",
            "[\"aa\"]\nbb\n",
            "\"aa\"\n",
            "12\n",
            "null",
        ] {
            for chunk in [1, 4096] {
                assert!(!is_document(text.as_bytes(), chunk), "{text} by {chunk}");
            }
        }
    }

    #[test]
    fn what_cannot_become_json_is_not_kept() {
        let mut watch = JsonDetector::default();
        for _ in 0..1000 {
            watch.feed(b"[not JSON]\n");
        }
        assert!(watch.text.capacity() == 0);
    }
}
