//! Parses the fields of an error or notice with bounded memory: a trigger may raise a message of
//! many megabytes.

/// The bytes kept of the primary message.
const MESSAGE: usize = 2048;
/// The bytes kept of the context's start and of its end: the last line is the outermost frame.
const CONTEXT: usize = 2048;
/// The bytes kept of any other field.
const OTHER: usize = 256;
/// The most fields that are kept; PostgreSQL has 18.
const MAX_FIELDS: usize = 24;
/// Marks truncated text.
const ELLIPSIS: &str = "…";

/// The severities that tokio-postgres accepts.
const SEVERITIES: [&[u8]; 8] = [
    b"PANIC", b"FATAL", b"ERROR", b"WARNING", b"NOTICE", b"DEBUG", b"INFO", b"LOG",
];

/// Collects the fields of an `ErrorResponse` or `NoticeResponse`.
#[derive(Debug, Default)]
pub(super) struct ErrorFields {
    complete: Vec<Field>,
    current: Option<Field>,
    ended: bool,
}

#[derive(Debug)]
struct Field {
    kind: u8,
    head: Vec<u8>,
    /// The last bytes after `head`, and sometimes more.
    tail: Vec<u8>,
    /// The number of bytes after `head`, kept or not.
    tail_len: u64,
}

impl ErrorFields {
    /// Reads the next bytes of the body.
    pub(super) fn push(&mut self, mut bytes: &[u8]) {
        while let (Some((first, rest)), false) = (bytes.split_first(), self.ended) {
            let Some(field) = &mut self.current else {
                bytes = rest;
                if *first == 0 {
                    self.ended = true;
                } else {
                    self.current = Some(Field::new(*first));
                }
                continue;
            };
            let end = bytes.iter().position(|byte| *byte == 0);
            field.push(&bytes[..end.unwrap_or(bytes.len())]);
            let Some(end) = end else {
                return;
            };
            bytes = &bytes[end + 1..];
            self.finish_field();
        }
    }

    fn finish_field(&mut self) {
        if let Some(field) = self.current.take()
            && field.is_kept()
            && self.complete.len() < MAX_FIELDS
            && self.get(field.kind).is_none()
        {
            self.complete.push(field);
        }
    }

    fn get(&self, kind: u8) -> Option<&Field> {
        self.complete.iter().find(|field| field.kind == kind)
    }

    /// Returns the server function that raised it.
    pub(super) fn routine(&self) -> Option<&[u8]> {
        self.get(b'R').map(|field| field.head.as_slice())
    }

    /// Appends an `ErrorResponse` of these fields that tokio-postgres can parse.
    pub(super) fn encode(mut self, out: &mut Vec<u8>) {
        // The body may end within a field.
        self.finish_field();
        let fields: Vec<(u8, Vec<u8>)> = self
            .complete
            .iter()
            .map(|field| (field.kind, field.text()))
            .filter(|(kind, text)| is_readable(*kind, text))
            .collect();
        let missing = [
            (b'S', "ERROR"),
            (b'C', "08P01"),
            (b'M', "the server's error cannot be read"),
        ];
        let missing = missing
            .iter()
            .filter(|(kind, _)| fields.iter().all(|(given, _)| given != kind))
            .map(|(kind, text)| (*kind, text.as_bytes()));
        let fields = fields.iter().map(|(kind, text)| (*kind, text.as_slice()));
        encode_error(fields.chain(missing), out);
    }
}

/// Appends an `ErrorResponse` of these fields.
pub(super) fn encode_error<'a>(fields: impl Iterator<Item = (u8, &'a [u8])>, out: &mut Vec<u8>) {
    let start = out.len();
    out.extend_from_slice(b"E\0\0\0\0");
    for (kind, text) in fields {
        out.push(kind);
        out.extend_from_slice(text);
        out.push(0);
    }
    out.push(0);
    let length = u32::try_from(out.len() - start - 1).unwrap_or(u32::MAX);
    out[start + 1..start + 5].copy_from_slice(&length.to_be_bytes());
}

/// Returns true if tokio-postgres can parse the field; it fails on an unknown number or severity.
fn is_readable(kind: u8, text: &[u8]) -> bool {
    match kind {
        b'P' | b'L' => std::str::from_utf8(text).is_ok_and(|text| text.parse::<u32>().is_ok()),
        b'V' => SEVERITIES.contains(&text),
        _ => true,
    }
}

impl Field {
    fn new(kind: u8) -> Self {
        Self {
            kind,
            head: Vec::new(),
            tail: Vec::new(),
            tail_len: 0,
        }
    }

    /// Detail and internal query contain rows and statements, so they are dropped.
    fn is_kept(&self) -> bool {
        !matches!(self.kind, b'D' | b'q' | b'p')
    }

    fn head_limit(&self) -> usize {
        match self.kind {
            _ if !self.is_kept() => 0,
            b'M' => MESSAGE,
            b'W' => CONTEXT,
            _ => OTHER,
        }
    }

    fn push(&mut self, bytes: &[u8]) {
        let free = self.head_limit() - self.head.len();
        let (head, rest) = bytes.split_at(free.min(bytes.len()));
        self.head.extend_from_slice(head);
        self.tail_len += rest.len() as u64;
        if self.kind == b'W' {
            self.tail
                .extend_from_slice(&rest[rest.len().saturating_sub(CONTEXT)..]);
            if self.tail.len() > 2 * CONTEXT {
                self.tail.drain(..self.tail.len() - CONTEXT);
            }
        }
    }

    fn text(&self) -> Vec<u8> {
        let mut text = self.head.clone();
        if self.tail_len <= self.tail.len() as u64 {
            text.extend_from_slice(&self.tail);
            return text;
        }
        text.truncate(complete_len(&text));
        match self.kind {
            b'M' => text.extend_from_slice(ELLIPSIS.as_bytes()),
            b'W' => {
                let tail = &self.tail[self.tail.len().saturating_sub(CONTEXT)..];
                // A truncated frame may look like another one.
                let line = tail.iter().position(|byte| *byte == b'\n');
                let start = match line {
                    Some(at) if at + 1 < tail.len() => at + 1,
                    _ => tail.iter().take_while(|byte| *byte & 0xC0 == 0x80).count(),
                };
                text.push(b'\n');
                text.extend_from_slice(ELLIPSIS.as_bytes());
                text.push(b'\n');
                text.extend_from_slice(&tail[start..]);
            }
            _ => {}
        }
        text
    }
}

/// Returns the length without a last, truncated character.
fn complete_len(text: &[u8]) -> usize {
    for back in 1..=text.len().min(3) {
        let at = text.len() - back;
        let length = match text[at] {
            0x80..=0xBF => continue,
            0xC0..=0xDF => 2,
            0xE0..=0xEF => 3,
            0xF0..=0xF7 => 4,
            _ => 1,
        };
        return if length > back { at } else { text.len() };
    }
    text.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encoded(fields: &[(u8, &[u8])], piece: usize) -> Vec<(u8, String)> {
        let mut body = Vec::new();
        for (kind, text) in fields {
            body.push(*kind);
            body.extend_from_slice(text);
            body.push(0);
        }
        body.push(0);
        let mut read = ErrorFields::default();
        for piece in body.chunks(piece) {
            read.push(piece);
        }
        let mut out = Vec::new();
        read.encode(&mut out);
        assert_eq!(out[0], b'E');
        let length = u32::from_be_bytes(out[1..5].try_into().unwrap());
        assert_eq!(length as usize + 1, out.len());
        assert_eq!(out.last(), Some(&0));
        out[5..out.len() - 1]
            .split_inclusive(|byte| *byte == 0)
            .map(|field| {
                let text = &field[1..field.len() - 1];
                (field[0], String::from_utf8(text.to_vec()).unwrap())
            })
            .collect()
    }

    #[test]
    fn short_fields_are_forwarded_unchanged() {
        let fields: [(u8, &[u8]); 5] = [
            (b'S', b"ERROR"),
            (b'V', b"ERROR"),
            (b'C', b"23514"),
            (b'M', b"violates"),
            (b'n', b"a_check"),
        ];
        for piece in [1, 3, 1000] {
            let read = encoded(&fields, piece);
            let expected = fields.map(|(kind, text)| (kind, String::from_utf8_lossy(text).into()));
            assert_eq!(read, expected);
        }
    }

    #[test]
    fn detail_and_internal_query_are_dropped() {
        let fields: [(u8, &[u8]); 6] = [
            (b'S', b"ERROR"),
            (b'C', b"23514"),
            (b'M', b"violates"),
            (b'D', b"Failing row contains (secret)."),
            (b'q', b"SELECT 'secret'"),
            (b'p', b"7"),
        ];
        let kinds: Vec<u8> = encoded(&fields, 2).iter().map(|field| field.0).collect();
        assert_eq!(kinds, b"SCM");
    }

    #[test]
    fn long_message_and_context_are_truncated_between_characters() {
        // Three bytes each, so that 2048 is not a boundary.
        let message = "€".repeat(3000);
        let context = format!(
            "first\n{}\noutermost frame",
            "€€€€€€€€€€€€€€€\n".repeat(500)
        );
        let fields: [(u8, &[u8]); 4] = [
            (b'S', b"ERROR"),
            (b'C', b"P0001"),
            (b'M', message.as_bytes()),
            (b'W', context.as_bytes()),
        ];
        for piece in [1, 7, 100_000] {
            let read = encoded(&fields, piece);
            let message = &read[2].1;
            assert_eq!(message, &format!("{}…", "€".repeat(682)));
            let context = &read[3].1;
            assert!(context.starts_with("first\n€"), "{context}");
            assert!(context.ends_with("€\n\noutermost frame"), "{context}");
            assert!(context.contains("\n…\n€"), "{context}");
            assert!(context.len() <= 2 * CONTEXT + 5, "{}", context.len());
        }
    }

    #[test]
    fn context_of_one_long_line_keeps_both_ends() {
        let context = format!("a{}z", "é".repeat(4000));
        let read = encoded(&[(b'W', context.as_bytes())], 1000);
        let kept = &read[0].1;
        assert!(kept.starts_with("aé") && kept.ends_with("éz"), "{kept}");
    }

    #[test]
    fn missing_and_unreadable_fields_do_not_hide_the_error() {
        let fields: [(u8, &[u8]); 4] = [(b'V', b"DIRE"), (b'P', b"x"), (b'L', b"-1"), (b'R', b"f")];
        let read = encoded(&fields, 1);
        let kinds: Vec<u8> = read.iter().map(|field| field.0).collect();
        assert_eq!(kinds, b"RSCM");
        assert_eq!(read[2].1, "08P01");
    }

    #[test]
    fn fields_without_end_are_bounded() {
        let mut read = ErrorFields::default();
        for _ in 0..10_000 {
            for kind in 1..=u8::MAX {
                read.push(&[kind, b'a', 0]);
            }
        }
        assert_eq!(read.complete.len(), MAX_FIELDS);
    }
}
