//! The checksum of a journal's line. A flipped bit would otherwise change a token without notice.
//!
//! The first key of the line's object is `sha256`: the first 16 digits of the SHA-256 of all that
//! follows it in the line.

use std::fmt::Write as _;

use sha2::{Digest, Sha256};

const START: &str = r#"{"sha256":""#;
const END: &str = r#"","#;
/// The number of bytes of the digest that are kept.
const BYTES: usize = 8;

/// What the checksum of a line shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Checksum {
    /// The line is as it was written.
    Matches,
    /// The line was changed.
    Differs,
    /// The line has no checksum, as in journals of version 1 and in reports.
    Missing,
}

/// Adds the checksum to a JSON object of at least one key.
pub(super) fn add(object: &[u8]) -> Vec<u8> {
    let fields = object.get(1..).unwrap_or_default();
    let sum = sum(fields.trim_ascii_end());
    [START.as_bytes(), sum.as_bytes(), END.as_bytes(), fields].concat()
}

/// Checks the checksum of a line.
pub(super) fn check(line: &str) -> Checksum {
    let Some(rest) = line.strip_prefix(START) else {
        return Checksum::Missing;
    };
    let is_same = rest
        .split_at_checked(2 * BYTES)
        .is_some_and(|(given, rest)| {
            let fields = rest.strip_prefix(END);
            fields.is_some_and(|fields| given == sum(fields.as_bytes()))
        });
    if is_same {
        Checksum::Matches
    } else {
        Checksum::Differs
    }
}

/// Returns a line without its checksum, whether it matches or not.
pub(super) fn without(line: &[u8]) -> &[u8] {
    let length = START.len() + 2 * BYTES + END.len();
    match line.strip_prefix(START.as_bytes()) {
        Some(_) => line.get(length..).unwrap_or_default(),
        None => line.get(1..).unwrap_or_default(),
    }
}

fn sum(fields: &[u8]) -> String {
    let mut sum = String::with_capacity(2 * BYTES);
    for byte in &Sha256::digest(fields)[..BYTES] {
        // Writing into a string cannot fail.
        let _ = write!(sum, "{byte:02x}");
    }
    sum
}
