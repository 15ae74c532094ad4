//! Detects an answer that is one JSON array or object instead of a list of tokens. A token may
//! begin like JSON, so only the complete answer proves it. Without I/O.

use serde::de::IgnoredAny;

/// Number of bytes before the first check.
const FIRST_CHECK: usize = 1024;

/// Collects the bytes of one answer while they may be a JSON document.
#[derive(Default)]
pub struct JsonDetector {
    /// The bytes so far, from the first bracket on.
    text: Vec<u8>,
    /// Length of `text` at the last check that found a prefix of JSON.
    checked: usize,
    is_ruled_out: bool,
}

impl JsonDetector {
    /// Adds the next bytes. They are kept only while they can be JSON, so a list of tokens costs little.
    ///
    /// The caller limits the total.
    pub fn feed(&mut self, bytes: &[u8]) {
        if self.is_ruled_out {
            return;
        }
        let bytes = if self.text.is_empty() {
            trim_prefix(bytes)
        } else {
            bytes
        };
        self.text.extend_from_slice(bytes);
        if !self.text.is_empty() && !self.text.starts_with(b"[") && !self.text.starts_with(b"{") {
            self.rule_out();
        } else if self.text.len() >= 2 * self.checked.max(FIRST_CHECK / 2) {
            // Checking only after the text has doubled keeps the total cost linear.
            self.checked = self.text.len();
            if parsed(&self.text).is_err_and(|error| !error.is_eof()) {
                self.rule_out();
            }
        }
    }

    /// Returns true if the bytes are exactly one JSON array or object.
    pub fn is_document(&self) -> bool {
        !self.is_ruled_out && parsed(&self.text).is_ok()
    }

    fn rule_out(&mut self) {
        self.is_ruled_out = true;
        self.text = Vec::new();
    }
}

fn parsed(text: &[u8]) -> serde_json::Result<IgnoredAny> {
    serde_json::from_slice(text)
}

/// Strips what may precede a document: a byte order mark and white space.
fn trim_prefix(bytes: &[u8]) -> &[u8] {
    bytes
        .strip_prefix(b"\xef\xbb\xbf")
        .unwrap_or(bytes)
        .trim_ascii_start()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_document(text: &[u8], chunk: usize) -> bool {
        let mut detector = JsonDetector::default();
        for part in text.chunks(chunk) {
            detector.feed(part);
        }
        detector.is_document()
    }

    #[test]
    fn json_arrays_and_objects_are_detected_over_several_lines() {
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
    fn tokens_that_begin_like_json_are_not_detected() {
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
    fn buffer_is_dropped_when_text_cannot_be_json() {
        let mut detector = JsonDetector::default();
        for _ in 0..1000 {
            detector.feed(b"[not JSON]\n");
        }
        assert!(detector.text.capacity() == 0);
    }
}
