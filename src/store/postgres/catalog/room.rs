//! What a column of a limited length does to a token.

/// The limit of the column's length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::store) enum Room {
    /// Any text is kept as it is.
    Any,
    /// `varchar(n)`: blanks beyond `n` characters are cut.
    Varchar(usize),
    /// `char(n)` or `bpchar` (no limit): trailing blanks carry no meaning.
    Char(Option<usize>),
}

impl Room {
    /// Why a token would not be kept whole although the server accepts it.
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

    /// True if the column's type refuses the token for its length.
    pub(in super::super) fn is_exceeded(self, token: &str) -> bool {
        match self {
            Self::Any | Self::Char(None) => false,
            Self::Varchar(most) | Self::Char(Some(most)) => token.chars().count() > most,
        }
    }
}
