//! Reads small files whole, up to a limit: a path may name a device without end.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;

use bytesize::ByteSize;

/// Limit of a file with certificates or a key, in bytes; the authorities of a system take 200 KB.
pub(crate) const MAX_PEM: u64 = 16 << 20;

/// Reads a file of at most `limit` bytes.
///
/// # Errors
/// If it cannot be read or is larger.
pub(crate) fn read(path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let length = File::open(path)?.take(limit + 1).read_to_end(&mut bytes)?;
    if length as u64 > limit {
        let limit = ByteSize(limit).display().iec();
        return Err(io::Error::other(format!("it is larger than {limit}")));
    }
    Ok(bytes)
}

/// Reads a text of at most `limit` bytes, without a byte order mark.
///
/// # Errors
/// If it cannot be read, is larger, or is not UTF-8.
pub(crate) fn read_text(path: &Path, limit: u64) -> io::Result<String> {
    decode(read(path, limit)?)
}

/// Decodes UTF-8 without its byte order mark.
///
/// # Errors
/// If it is not UTF-8.
pub(crate) fn decode(mut bytes: Vec<u8>) -> io::Result<String> {
    if bytes.starts_with(b"\xff\xfe") || bytes.starts_with(b"\xfe\xff") {
        return Err(io::Error::other("it is UTF-16 text, not UTF-8"));
    }
    if bytes.starts_with(b"\xef\xbb\xbf") {
        bytes.drain(..3);
    }
    String::from_utf8(bytes).map_err(|_| io::Error::other("it is not UTF-8 text"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn byte_order_mark_is_removed_and_other_encodings_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        let text = |bytes: &[u8]| {
            std::fs::write(&path, bytes).unwrap();
            read_text(&path, 8).map_err(|error| error.to_string())
        };
        assert_eq!(text(b"\xef\xbb\xbfa: b"), Ok("a: b".to_owned()));
        assert!(text(b"\xff\xfea\0").unwrap_err().contains("UTF-16"));
        assert_eq!(text(b"\xffa").unwrap_err(), "it is not UTF-8 text");
        assert_eq!(text(b"123456789").unwrap_err(), "it is larger than 8 B");
    }

    #[test]
    fn device_without_end_is_refused() {
        let error = read(Path::new("/dev/zero"), 1024).unwrap_err();
        assert_eq!(error.to_string(), "it is larger than 1.0 KiB");
    }
}
