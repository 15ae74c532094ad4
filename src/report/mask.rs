//! What a report shows instead of a token, for readers who may know what became of each and must
//! not have it.

use std::fmt::Write as _;

use sha2::{Digest, Sha256};

/// How much of a token a report shows. What is stored and what the journal keeps is always whole.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mask {
    /// All of it.
    #[default]
    None,
    /// The first four characters, of a short token at most half.
    Prefix,
    /// A digest, by which equal tokens are seen to be equal, and a token can be looked for by whoever
    /// has it.
    Sha256,
}

impl Mask {
    /// All of them, by the names that users write.
    pub const ALL: [(&str, Self); 3] = [
        ("none", Self::None),
        ("prefix", Self::Prefix),
        ("sha256", Self::Sha256),
    ];

    /// What is shown instead of `token`; `None` where it is shown as it is.
    pub fn of(self, token: &str) -> Option<String> {
        match self {
            Self::None => None,
            Self::Prefix => Some(prefix(token)),
            Self::Sha256 => Some(sha256(token)),
        }
    }
}

fn prefix(token: &str) -> String {
    let shown = (token.chars().count() / 2).min(4);
    token.chars().take(shown).chain(['…']).collect()
}

fn sha256(token: &str) -> String {
    let mut shown = String::from("sha256:");
    for byte in Sha256::digest(token.as_bytes()) {
        let _ = write!(shown, "{byte:02x}");
    }
    shown
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_is_never_more_than_half_of_a_token() {
        let shown = |token| Mask::Prefix.of(token).unwrap();
        assert_eq!(shown("UNFvwishxzYsXUUchI4NBw"), "UNFv…");
        assert_eq!(shown("日本日本日本日本"), "日本日本…");
        assert_eq!(shown("abcdef"), "abc…");
        assert_eq!(shown("a"), "…");
        assert_eq!(shown(""), "…");
    }

    #[test]
    fn a_digest_is_that_of_the_standard() {
        // FIPS 180-2, appendix B.1.
        assert_eq!(
            Mask::Sha256.of("abc").unwrap(),
            "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
        assert_eq!(Mask::None.of("abc"), None);
    }
}
