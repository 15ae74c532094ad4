//! Recognises answers and inputs that are not a list of tokens by their first line. Without I/O.

use serde::de::IgnoredAny;

use crate::pipeline::token::Status;

/// A document of HTML or XML.
pub const MARKUP: &str = "an HTML or XML document";
/// A document of JSON.
pub const JSON: &str = "a JSON document";
/// A report or a journal of this program.
const REPORT: &str = "a report or a journal of token_service";
/// Text in another encoding than UTF-8.
const UTF_16: &str = "UTF-16 text";

/// The bytes with which compressed data and other encodings begin.
const SIGNATURES: [(&[u8], &str); 14] = [
    (b"\x1f\x8b", "gzip data"),
    (b"\x1f\x9d", "compress data"),
    (b"x\x01", "zlib data"),
    (b"x\x9c", "zlib data"),
    (b"x\xda", "zlib data"),
    (b"\x28\xb5\x2f\xfd", "zstd data"),
    (b"\xfd7zXZ\0", "xz data"),
    (b"\x04\x22\x4d\x18", "lz4 data"),
    (b"BZh91AY&SY", "bzip2 data"),
    (b"PK\x03\x04", "a ZIP archive"),
    (b"\xff\xfe", UTF_16),
    (b"\xfe\xff", UTF_16),
    (b"\0\0\xfe\xff", "UTF-32 text"),
    (b"%PDF-", "a PDF document"),
];

/// The beginnings of HTML and XML, in lower case.
const TAGS: [&[u8]; 9] = [
    b"<!doctype",
    b"<html",
    b"<?xml",
    b"<head",
    b"<body",
    b"<title",
    b"<h1",
    b"<center",
    b"<!--",
];

/// Returns what a text is that begins with this line, unless it may be a list of tokens.
pub fn of_first_line(line: &[u8]) -> Option<&'static str> {
    let mut signatures = SIGNATURES.iter();
    if let Some((_, name)) = signatures.find(|(start, _)| line.starts_with(start)) {
        return Some(name);
    }
    // Without a byte order mark, every second byte of Latin letters is NUL.
    let every_second_is_nul =
        |start: usize| line.iter().skip(start).step_by(2).all(|byte| *byte == 0);
    if line.len() > 3 && (every_second_is_nul(0) || every_second_is_nul(1)) {
        return Some(UTF_16);
    }
    // Brotli and others have no signature.
    let is_control = |byte: &u8| byte.is_ascii_control() && *byte != b'\t';
    let invalid = std::str::from_utf8(line).err();
    // A character at the end may be cut off.
    if invalid.is_some_and(|error| error.error_len().is_some()) && line.iter().any(is_control) {
        return Some("binary data");
    }
    let line = line.trim_ascii_start();
    let lower = line.to_ascii_lowercase();
    if TAGS.iter().any(|tag| lower.starts_with(tag)) {
        return Some(MARKUP);
    }
    let statuses = Status::ALL.iter().map(|status| status.as_str().as_bytes());
    let mut rows = statuses.filter_map(|status| line.strip_prefix(status));
    let is_report = line.starts_with(b"{\"token\":")
        || line.starts_with(b"{\"journal\":")
        || line.starts_with(b"token,status,")
        || line == b"version: 1"
        || rows.any(|row| row.starts_with(b"  "));
    is_report.then_some(REPORT)
}

/// Returns true for the first line of a JSON array or object that holds texts or further ones.
pub fn begins_json(line: &[u8]) -> bool {
    let line = line.trim_ascii();
    let Some((b'[' | b'{', rest)) = line.split_first() else {
        return false;
    };
    let is_typical = matches!(
        rest.trim_ascii_start().first(),
        None | Some(b'"' | b'[' | b'{')
    );
    let parsed: serde_json::Result<IgnoredAny> = serde_json::from_slice(line);
    is_typical && parsed.map_or_else(|error| error.is_eof(), |_| true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn compressed_and_encoded_data_is_recognised() {
        for (line, expected) in [
            (&b"\x1f\x8b\x08\0\0"[..], Some("gzip data")),
            (b"\x28\xb5\x2f\xfd\x04", Some("zstd data")),
            (b"x\x9c\x4b\x4c", Some("zlib data")),
            (b"\xff\xfea\0b\0", Some("UTF-16 text")),
            (b"a\0b\0c\0", Some("UTF-16 text")),
            (b"\0a\0b\0c\0", Some("UTF-16 text")),
            (b"\x0b\x05\x80aaaa", Some("binary data")),
            // Malformed tokens, which are rejected one by one.
            (b"a\0b", None),
            (b"aa\xff", None),
            (b"aa\x07\xc3", None),
            ("é\u{7f}".as_bytes(), None),
            (b"xylophone", None),
            (b"PK-1", None),
        ] {
            assert_eq!(of_first_line(line), expected, "{line:?}");
        }
    }

    #[test]
    fn reports_and_markup_are_recognised() {
        for line in [
            r#"{"token":"aa","status":"stored"}"#,
            r#"{"journal":{"version":1}}"#,
            "token,status,attempts,ms,sqlstate,constraint,reason,message",
            "version: 1",
            "stored    aa",
            "not_attempted  aa",
        ] {
            assert_eq!(of_first_line(line.as_bytes()), Some(REPORT), "{line}");
        }
        for line in ["  <!DOCTYPE html>", "<h1>502 Bad Gateway</h1>", "<Html>"] {
            assert_eq!(of_first_line(line.as_bytes()), Some(MARKUP), "{line}");
        }
        for line in ["stored", "stored aa", "token", "<a", "version: 1.5", ""] {
            assert_eq!(of_first_line(line.as_bytes()), None, "{line}");
        }
    }

    #[test]
    fn json_is_recognised_by_its_first_line() {
        for line in [
            "[",
            "{",
            "[\"aa\"",
            "[\"aa\"]",
            "{\"a\": 1}",
            "[{",
            " [ \"aa\", \"b",
        ] {
            assert!(begins_json(line.as_bytes()), "{line}");
        }
        for line in [
            "", "[]", "{}", "[1]", "[bb", "[\"aa\"x", "{cc}", "\"aa\"", "12",
        ] {
            assert!(!begins_json(line.as_bytes()), "{line}");
        }
    }
}
