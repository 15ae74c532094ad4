//! Reads the headers that say what an answer is: its type, encoding and content coding.

use reqwest::header::{CONTENT_ENCODING, CONTENT_TYPE, HeaderMap};

/// Returns the content type if it is not plain text in a known encoding.
pub(super) fn unexpected_content_type(headers: &HeaderMap) -> Option<String> {
    let value = content_type(headers)?;
    let essence = value.split(';').next().unwrap_or_default().trim();
    let is_plain = matches!(essence, "" | "text/plain" | "application/octet-stream");
    // Truncated for the message: the source could send a megabyte.
    let shown = |text: &str| -> String { text.escape_default().take(80).collect() };
    if !is_plain {
        return Some(shown(essence));
    }
    let charset = charset(headers)?;
    let is_known = matches!(
        charset.as_str(),
        "" | "utf-8" | "utf8" | "us-ascii" | "ascii"
    ) || is_latin_1(&charset);
    (!is_known).then(|| format!("text in the encoding {}", shown(&charset)))
}

/// Returns the content type in lower case.
fn content_type(headers: &HeaderMap) -> Option<String> {
    let value = headers.get(CONTENT_TYPE)?;
    Some(String::from_utf8_lossy(value.as_bytes()).to_lowercase())
}

/// Returns the encoding that the content type declares, in lower case.
pub(super) fn charset(headers: &HeaderMap) -> Option<String> {
    let value = content_type(headers)?;
    let mut parameters = value.split(';').skip(1);
    parameters.find_map(|parameter| {
        let (name, value) = parameter.split_once('=')?;
        (name.trim() == "charset").then(|| value.trim().trim_matches(['"', '\'']).to_owned())
    })
}

/// Returns true for ISO 8859-1, which some application servers declare by default.
pub(super) fn is_latin_1(charset: &str) -> bool {
    matches!(
        charset,
        "iso-8859-1" | "iso_8859-1" | "iso8859-1" | "latin1" | "l1"
    )
}

/// Returns the content coding, if any. Nothing is decompressed: a small body could expand to a huge
/// one.
pub(super) fn content_encoding(headers: &HeaderMap) -> Option<String> {
    let codings = headers.get_all(CONTENT_ENCODING).into_iter();
    let codings = codings.map(|value| String::from_utf8_lossy(value.as_bytes()).to_lowercase());
    let mut codings = codings.filter(|value| !matches!(value.trim(), "" | "identity"));
    codings
        .next()
        .map(|coding| coding.escape_default().take(80).collect())
}

#[cfg(test)]
mod tests {
    use reqwest::header::{HeaderName, HeaderValue};

    use super::*;

    fn headers(name: HeaderName, value: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(name, HeaderValue::from_static(value))])
    }

    #[test]
    fn content_type_is_unexpected_when_not_plain_text() {
        assert_eq!(unexpected_content_type(&HeaderMap::new()), None);
        let plain = headers(CONTENT_TYPE, "text/plain; charset=utf-8");
        assert_eq!(unexpected_content_type(&plain), None);
        for value in [
            "text/plain;charset=\"UTF-8\"",
            "application/octet-stream; charset=us-ascii",
            "text/plain; format=flowed; Charset = ISO-8859-1",
            "text/plain;",
        ] {
            assert_eq!(
                unexpected_content_type(&headers(CONTENT_TYPE, value)),
                None,
                "{value}"
            );
        }
        for charset in [
            "utf-16",
            "UTF-16LE",
            "windows-1252",
            "ebcdic-cp-us",
            "iso-8859-15",
        ] {
            let value = HeaderValue::from_str(&format!("text/plain; charset={charset}")).unwrap();
            let found = unexpected_content_type(&HeaderMap::from_iter([(CONTENT_TYPE, value)]));
            assert!(found.unwrap().contains(&charset.to_lowercase()));
        }
        let html = headers(CONTENT_TYPE, "Text/HTML; charset=utf-8");
        assert_eq!(unexpected_content_type(&html).as_deref(), Some("text/html"));
    }
}
