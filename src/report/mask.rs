//! Masks tokens in reports, for readers who may see the outcomes but not the tokens.

use std::fmt::Write as _;

use sha2::{Digest, Sha256};

/// How reports show tokens. The database and the journal always get the whole token.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mask {
    /// The whole token.
    #[default]
    None,
    /// The first four characters, but at most half of the token.
    Prefix,
    /// A digest: it shows which tokens are equal, and can be searched for with the token.
    Sha256,
}

impl Mask {
    /// All masks with their names on the command line.
    pub const ALL: [(&str, Self); 3] = [
        ("none", Self::None),
        ("prefix", Self::Prefix),
        ("sha256", Self::Sha256),
    ];

    /// Returns the mask of `token`, or `None` if it is not masked.
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
    fn prefix_is_at_most_half_of_the_token() {
        let shown = |token| Mask::Prefix.of(token).unwrap();
        assert_eq!(shown("UNFvwishxzYsXUUchI4NBw"), "UNFv…");
        assert_eq!(shown("日本日本日本日本"), "日本日本…");
        assert_eq!(shown("abcdef"), "abc…");
        assert_eq!(shown("a"), "…");
        assert_eq!(shown(""), "…");
    }

    #[test]
    fn digest_matches_the_standard() {
        // FIPS 180-2, appendix B.1.
        assert_eq!(
            Mask::Sha256.of("abc").unwrap(),
            "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
        assert_eq!(Mask::None.of("abc"), None);
    }
}
