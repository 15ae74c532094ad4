//! The effect of a column's length limit on tokens.

/// The length limit of the column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::store) enum LengthLimit {
    /// No limit.
    Any,
    /// `varchar(n)`: blanks beyond `n` characters are cut off.
    Varchar(usize),
    /// `char(n)` or `bpchar` (no limit): trailing blanks are not significant.
    Char(Option<usize>),
}

impl LengthLimit {
    /// Returns why an accepted token would not be stored completely.
    pub(in crate::store) fn loss(self, token: &str) -> Option<&'static str> {
        match self {
            Self::Any => None,
            Self::Varchar(most) => {
                let excess = token.char_indices().nth(most);
                let excess = excess.map_or("", |(at, _)| &token[at..]);
                (!excess.is_empty() && excess.bytes().all(|byte| byte == b' '))
                    .then_some("the column would cut its trailing blanks")
            }
            Self::Char(_) => token
                .ends_with(' ')
                .then_some("the column does not keep trailing blanks"),
        }
    }

    /// Returns true if the column's type refuses the token for its length.
    pub(in super::super) fn is_exceeded(self, token: &str) -> bool {
        match self {
            Self::Any | Self::Char(None) => false,
            Self::Varchar(most) | Self::Char(Some(most)) => token.chars().count() > most,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loss_is_reported_only_when_trailing_blanks_are_cut() {
        for (length_limit, token, is_lost) in [
            (LengthLimit::Any, "abc  ", false),
            (LengthLimit::Varchar(3), "abc", false),
            (LengthLimit::Varchar(3), "abc ", true),
            (LengthLimit::Varchar(3), "ab ", false),
            // The server refuses these itself.
            (LengthLimit::Varchar(3), "abcd", false),
            (LengthLimit::Varchar(3), "abc d", false),
            (LengthLimit::Varchar(3), "äöü ", true),
            (LengthLimit::Char(Some(3)), "ab", false),
            (LengthLimit::Char(Some(3)), "ab ", true),
            (LengthLimit::Char(None), "a ", true),
        ] {
            assert_eq!(
                length_limit.loss(token).is_some(),
                is_lost,
                "{length_limit:?} {token:?}"
            );
        }
        assert!(LengthLimit::Varchar(3).is_exceeded("äöüß"));
        assert!(!LengthLimit::Char(Some(4)).is_exceeded("äöüß"));
        assert!(!LengthLimit::Char(None).is_exceeded("abcd"));
    }
}
