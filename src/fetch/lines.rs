//! Cutting the source's answer into tokens, chunk by chunk as it arrives: one token a line, within
//! bounded memory whatever the source sends. Pure, so that it can be fuzzed.

use crate::fetch::json::JsonDetector;
use crate::pipeline::token::{Page, PageBuilder, TokenDefect};

/// Takes bytes and collects the tokens of one answer.
pub struct LineParser {
    page: PageBuilder,
    /// The line that has not ended yet, at most `max_token + 2` bytes of it.
    line: Vec<u8>,
    max_token: usize,
    wanted: u64,
    surplus: u64,
    markup: bool,
    seen_line: bool,
    json: Option<JsonDetector>,
}

/// What an answer held.
pub struct ParsedLines {
    /// The tokens, at most as many as were wanted.
    pub page: Page,
    /// How many tokens came beyond what was wanted; they are dropped.
    pub surplus: u64,
    /// What the answer is instead of a list of tokens.
    pub document: Option<DocumentKind>,
}

/// What is no list of tokens, though it has lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DocumentKind {
    /// Its first line is the beginning of an HTML or XML document.
    Markup,
    /// The whole of it is a JSON array or object.
    Json,
}

impl LineParser {
    /// A parser that keeps at most `wanted` tokens of at most `max_token` bytes each.
    pub fn new(wanted: u64, max_token: usize) -> Self {
        Self {
            page: PageBuilder::default(),
            line: Vec::new(),
            max_token,
            wanted,
            surplus: 0,
            markup: false,
            seen_line: false,
            json: None,
        }
    }

    /// Looks whether the whole is JSON too, for which it is kept while it may be: for answers, whose
    /// length is bounded.
    #[must_use]
    pub fn watching_for_json(mut self) -> Self {
        self.json = Some(JsonDetector::default());
        self
    }

    /// Takes what follows as the middle of an answer, not its beginning.
    pub fn go_on(&mut self) {
        self.seen_line = true;
    }

    /// How many tokens it has.
    pub fn taken(&self) -> u64 {
        self.page.len() as u64
    }

    /// True where a line has begun and not ended.
    pub fn is_in_line(&self) -> bool {
        !self.line.is_empty()
    }

    /// Takes the next bytes of the answer.
    pub fn feed(&mut self, mut bytes: &[u8]) {
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

    /// Ends the answer. A last line without a line feed counts only where the answer is `whole`:
    /// of one that broke off nobody knows how long it would have been.
    pub fn finish(mut self, whole: bool) -> ParsedLines {
        if whole {
            self.end_line();
        }
        let json = self.json.as_ref();
        let document = if self.markup {
            Some(DocumentKind::Markup)
        } else if whole && json.is_some_and(JsonDetector::is_document) {
            Some(DocumentKind::Json)
        } else {
            None
        };
        ParsedLines {
            page: self.page.build(),
            surplus: self.surplus,
            document,
        }
    }

    /// Keeps one byte more than a token with its CR may have: enough to know that it is too long.
    fn extend(&mut self, bytes: &[u8]) {
        let room = (self.max_token + 2).saturating_sub(self.line.len());
        self.line.extend_from_slice(&bytes[..bytes.len().min(room)]);
    }

    fn end_line(&mut self) {
        let mut line = std::mem::take(&mut self.line);
        self.judge(line.strip_suffix(b"\r").unwrap_or(&line));
        line.clear();
        self.line = line;
    }

    fn judge(&mut self, line: &[u8]) {
        // A byte order mark belongs to the answer, not to its first token.
        let line = match line.strip_prefix(b"\xef\xbb\xbf") {
            Some(rest) if !self.seen_line => rest,
            _ => line,
        };
        // Of a line that is too long not all is kept: what was not may be no blank.
        let all_kept = line.len() <= self.max_token;
        if all_kept && line.iter().all(u8::is_ascii_whitespace) {
            return;
        }
        if !self.seen_line {
            self.seen_line = true;
            self.markup = is_markup(line);
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
                // Cutting may have split a character; that is no fault of the token's encoding.
                let flaw = if too_long {
                    TokenDefect::TooLong
                } else {
                    TokenDefect::InvalidUtf8
                };
                self.page.push(&String::from_utf8_lossy(kept), Some(flaw));
            }
        }
    }
}

fn is_markup(line: &[u8]) -> bool {
    let line = line.trim_ascii_start().to_ascii_lowercase();
    [&b"<!doctype"[..], b"<html", b"<?xml"]
        .iter()
        .any(|start| line.starts_with(start))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(
        chunks: &[&[u8]],
        wanted: u64,
        whole: bool,
    ) -> (Vec<(String, Option<TokenDefect>)>, u64) {
        let mut parser = LineParser::new(wanted, 8);
        for chunk in chunks {
            parser.feed(chunk);
        }
        let lines = parser.finish(whole);
        let tokens = lines
            .page
            .iter()
            .map(|token| (token.as_str().to_owned(), token.flaw()))
            .collect();
        (tokens, lines.surplus)
    }

    fn good(text: &str) -> (String, Option<TokenDefect>) {
        (text.to_owned(), None)
    }

    #[test]
    fn lines_may_end_in_lf_crlf_or_nothing_and_blank_ones_do_not_count() {
        let (tokens, surplus) = parse(&[b"aa\r\n\n  \nb", b"b\ncc"], 9, true);
        assert_eq!(tokens, [good("aa"), good("bb"), good("cc")]);
        assert_eq!(surplus, 0);
    }

    #[test]
    fn a_byte_order_mark_is_no_part_of_a_token() {
        let (tokens, _) = parse(&[b"\xef\xbb\xbfaa\nbb\n"], 9, true);
        assert_eq!(tokens, [good("aa"), good("bb")]);
    }

    #[test]
    fn a_long_line_that_begins_with_blanks_is_not_overlooked() {
        let (tokens, _) = parse(&[b"           token\n"], 9, true);
        assert_eq!(tokens[0].1, Some(TokenDefect::TooLong));
    }

    #[test]
    fn a_line_that_broke_off_is_no_token() {
        assert_eq!(parse(&[b"aa\nbb"], 9, false).0, [good("aa")]);
    }

    #[test]
    fn what_was_not_asked_for_is_counted_and_dropped() {
        assert_eq!(parse(&[b"aa\nbb\ncc\n"], 1, true), (vec![good("aa")], 2));
    }

    #[test]
    fn malformed_lines_are_kept_with_their_flaw() {
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
    fn a_line_of_a_hundred_megabytes_takes_no_memory() {
        let mut parser = LineParser::new(1, 1024);
        let chunk = vec![b'x'; 1024 * 1024];
        for _ in 0..100 {
            parser.feed(&chunk);
        }
        assert!(parser.line.capacity() < 8 * 1024);
    }

    #[test]
    fn a_page_of_html_is_recognised() {
        let mut parser = LineParser::new(9, 1024);
        parser.feed(b"\r\n  <!DOCTYPE html>\n<html>\n");
        assert_eq!(parser.finish(true).document, Some(DocumentKind::Markup));
    }

    #[test]
    fn json_is_recognised_where_it_is_looked_for_and_whole() {
        let document = |parser: LineParser, whole| {
            let mut parser = parser;
            parser.feed(b"[\"aa\",\n \"bb\"]\n");
            parser.finish(whole).document
        };
        let parser = || LineParser::new(9, 1024);
        assert_eq!(document(parser(), true), None);
        assert_eq!(document(parser().watching_for_json(), false), None);
        let found = document(parser().watching_for_json(), true);
        assert_eq!(found, Some(DocumentKind::Json));
    }
}
