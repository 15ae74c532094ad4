//! Splits the source's answer into tokens, one per line, chunk by chunk as it arrives. Memory is
//! bounded whatever the source sends. Without I/O, so that it can be fuzzed.

use crate::fetch::document::{self, JSON};
use crate::fetch::json::JsonDetector;
use crate::pipeline::token::{Page, PageBuilder, TokenDefect};

/// Collects the tokens of one answer from its bytes.
pub struct LineParser {
    page: PageBuilder,
    /// The current incomplete line, at most `max_token + 2` bytes of it.
    line: Vec<u8>,
    max_token: usize,
    wanted: u64,
    surplus: u64,
    document: Option<&'static str>,
    seen_line: bool,
    json: Option<JsonDetector>,
    is_latin_1: bool,
}

/// The content of an answer.
pub struct ParsedLines {
    /// The tokens, at most as many as wanted.
    pub page: Page,
    /// Number of tokens beyond the wanted ones; they are dropped.
    pub surplus: u64,
    /// What the answer is, such as `a JSON document`, if it is not a list of tokens.
    pub document: Option<&'static str>,
}

impl LineParser {
    /// Creates a parser that keeps at most `wanted` tokens of at most `max_token` bytes each.
    pub fn new(wanted: u64, max_token: usize) -> Self {
        Self {
            page: PageBuilder::default(),
            line: Vec::new(),
            max_token,
            wanted,
            surplus: 0,
            document: None,
            seen_line: false,
            json: None,
            is_latin_1: false,
        }
    }

    /// Detects a JSON document by its complete text instead of its first line. The text is kept while it
    /// may be one, so its length must be bounded.
    #[must_use]
    pub fn detecting_json(mut self) -> Self {
        self.json = Some(JsonDetector::default());
        self
    }

    /// Decodes the answer from ISO 8859-1 instead of UTF-8.
    #[must_use]
    pub fn decoding_latin_1(mut self, is_latin_1: bool) -> Self {
        self.is_latin_1 = is_latin_1;
        self
    }

    /// Treats the next bytes as the middle of an answer, not its start.
    pub fn resume(&mut self) {
        self.seen_line = true;
    }

    /// Returns the number of tokens so far.
    pub fn taken(&self) -> u64 {
        self.page.len() as u64
    }

    /// Returns true if the last line is incomplete.
    pub fn is_in_line(&self) -> bool {
        !self.line.is_empty()
    }

    /// Adds the next bytes of the answer.
    pub fn feed(&mut self, bytes: &[u8]) {
        if self.is_latin_1 {
            // Its 256 characters are the first ones of Unicode.
            let text: String = bytes.iter().copied().map(char::from).collect();
            self.feed_utf_8(text.as_bytes());
        } else {
            self.feed_utf_8(bytes);
        }
    }

    fn feed_utf_8(&mut self, mut bytes: &[u8]) {
        if let Some(json) = &mut self.json {
            json.feed(bytes);
        }
        while let Some(end) = bytes.iter().position(|byte| *byte == b'\n') {
            self.extend(&bytes[..end]);
            self.end_line();
            bytes = &bytes[end + 1..];
        }
        self.extend(bytes);
    }

    /// Ends the answer. A last line without a line feed counts only if the answer is `complete`;
    /// otherwise the line may be truncated.
    pub fn finish(mut self, complete: bool) -> ParsedLines {
        if complete {
            self.end_line();
        }
        let json = self.json.as_ref();
        let is_json = complete && json.is_some_and(JsonDetector::is_document);
        ParsedLines {
            page: self.page.build(),
            surplus: self.surplus,
            document: self.document.or(is_json.then_some(JSON)),
        }
    }

    /// Keeps one byte more than a token with CR may have, which shows that it is too long.
    fn extend(&mut self, bytes: &[u8]) {
        let capacity = (self.max_token + 2).saturating_sub(self.line.len());
        self.line
            .extend_from_slice(&bytes[..bytes.len().min(capacity)]);
    }

    fn end_line(&mut self) {
        let mut line = std::mem::take(&mut self.line);
        self.push_line(line.strip_suffix(b"\r").unwrap_or(&line));
        line.clear();
        self.line = line;
    }

    fn push_line(&mut self, line: &[u8]) {
        // A byte order mark is not part of the first token.
        let line = match line.strip_prefix(b"\xef\xbb\xbf") {
            Some(rest) if !self.seen_line => rest,
            _ => line,
        };
        // A line that is too long is not kept completely: the rest may not be blank.
        let all_kept = line.len() <= self.max_token;
        if all_kept && line.iter().all(u8::is_ascii_whitespace) {
            return;
        }
        if !self.seen_line {
            self.seen_line = true;
            self.document = document::of_first_line(line);
            if self.json.is_none() && document::begins_json(line) {
                self.document = self.document.or(Some(JSON));
            }
        }
        if self.page.len() as u64 >= self.wanted {
            self.surplus += 1;
            return;
        }
        let too_long = line.len() > self.max_token;
        let kept = &line[..line.len().min(self.max_token)];
        match std::str::from_utf8(kept) {
            Ok(text) if too_long => self.page.push(text, Some(TokenDefect::TooLong)),
            Ok(text) => self.page.push(text, TokenDefect::of(text, self.max_token)),
            Err(_) => {
                // Truncation may have split a character; then the encoding is not the defect.
                let defect = if too_long {
                    TokenDefect::TooLong
                } else {
                    TokenDefect::InvalidUtf8
                };
                self.page.push(&String::from_utf8_lossy(kept), Some(defect));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fetch::document::MARKUP;

    fn parse(
        chunks: &[&[u8]],
        wanted: u64,
        complete: bool,
    ) -> (Vec<(String, Option<TokenDefect>)>, u64) {
        let mut parser = LineParser::new(wanted, 8);
        for chunk in chunks {
            parser.feed(chunk);
        }
        let lines = parser.finish(complete);
        let tokens = lines
            .page
            .iter()
            .map(|token| (token.as_str().to_owned(), token.defect()))
            .collect();
        (tokens, lines.surplus)
    }

    fn good(text: &str) -> (String, Option<TokenDefect>) {
        (text.to_owned(), None)
    }

    #[test]
    fn lines_end_in_lf_crlf_or_end_of_input_and_blank_lines_are_skipped() {
        let (tokens, surplus) = parse(&[b"aa\r\n\n  \nb", b"b\ncc"], 9, true);
        assert_eq!(tokens, [good("aa"), good("bb"), good("cc")]);
        assert_eq!(surplus, 0);
    }

    #[test]
    fn byte_order_mark_is_not_part_of_the_token() {
        let (tokens, _) = parse(&[b"\xef\xbb\xbfaa\nbb\n"], 9, true);
        assert_eq!(tokens, [good("aa"), good("bb")]);
    }

    #[test]
    fn long_line_is_kept_when_it_begins_with_blanks() {
        let (tokens, _) = parse(&[b"           token\n"], 9, true);
        assert_eq!(tokens[0].1, Some(TokenDefect::TooLong));
    }

    #[test]
    fn truncated_last_line_is_dropped() {
        assert_eq!(parse(&[b"aa\nbb"], 9, false).0, [good("aa")]);
    }

    #[test]
    fn surplus_tokens_are_counted_and_dropped() {
        assert_eq!(parse(&[b"aa\nbb\ncc\n"], 1, true), (vec![good("aa")], 2));
    }

    #[test]
    fn malformed_lines_are_kept_with_their_defect() {
        let (tokens, _) = parse(&[b"a\0b\n\xff\xfe\n123456789\n12345678\r\n"], 9, true);
        assert_eq!(
            tokens,
            [
                ("a\0b".to_owned(), Some(TokenDefect::ControlCharacter)),
                (
                    "\u{fffd}\u{fffd}".to_owned(),
                    Some(TokenDefect::InvalidUtf8)
                ),
                ("12345678".to_owned(), Some(TokenDefect::TooLong)),
                good("12345678"),
            ]
        );
    }

    #[test]
    fn memory_is_bounded_when_a_line_has_a_hundred_megabytes() {
        let mut parser = LineParser::new(1, 1024);
        let chunk = vec![b'x'; 1024 * 1024];
        for _ in 0..100 {
            parser.feed(&chunk);
        }
        assert!(parser.line.capacity() < 8 * 1024);
    }

    #[test]
    fn html_document_is_detected() {
        let mut parser = LineParser::new(9, 1024);
        parser.feed(b"\r\n  <!DOCTYPE html>\n<html>\n");
        assert_eq!(parser.finish(true).document, Some(MARKUP));
    }

    #[test]
    fn json_document_is_detected_by_its_first_line_or_its_complete_text() {
        let document = |parser: LineParser, complete| {
            let mut parser = parser;
            parser.feed(b"[\"aa\",\n \"bb\"]\n");
            parser.finish(complete).document
        };
        let parser = || LineParser::new(9, 1024);
        assert_eq!(document(parser(), false), Some(JSON));
        assert_eq!(document(parser().detecting_json(), false), None);
        let found = document(parser().detecting_json(), true);
        assert_eq!(found, Some(JSON));
    }

    #[test]
    fn latin_1_is_decoded_when_the_answer_declares_it() {
        let mut parser = LineParser::new(9, 8).decoding_latin_1(true);
        parser.feed(b"caf\xe9\nbb\n");
        let page = parser.finish(true).page;
        let texts: Vec<_> = page.iter().map(|token| token.as_str().to_owned()).collect();
        assert_eq!(texts, ["café", "bb"]);
    }
}
