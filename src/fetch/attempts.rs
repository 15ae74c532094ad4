//! A request with its repetitions: what has arrived, what to ask for, and what may have been issued unseen.
//! Without I/O.

use crate::journal::UnansweredRequest;
use crate::pipeline::token::{Page, Token};

/// A request, whose repetitions have the same number.
pub(super) struct Request {
    /// Its number in the run, from 1, in order of sending.
    pub number: u64,
    /// The number of tokens.
    pub count: u64,
    /// The idempotency key, if the source honours one.
    pub key: Option<String>,
    /// The tokens of failed answers.
    pub kept: Vec<Token>,
    /// True if `kept` comes from a journal, which has no invalid tokens.
    is_journalled: bool,
    /// True if the source may have issued tokens for the key that have not arrived.
    pub may_be_issued: bool,
    /// True if the journal says that no further token of the request is to be expected.
    pub is_closed: bool,
}

impl Request {
    pub(super) fn new(number: u64, count: u64, key: Option<String>) -> Self {
        Self {
            number,
            count,
            key,
            kept: Vec::new(),
            is_journalled: false,
            may_be_issued: false,
            is_closed: false,
        }
    }

    /// Returns a request of an earlier process.
    pub(super) fn of_journal(earlier: &UnansweredRequest) -> Self {
        Self {
            kept: earlier.tokens(),
            is_journalled: true,
            may_be_issued: true,
            ..Self::new(earlier.number, earlier.size, Some(earlier.key.clone()))
        }
    }

    /// Returns the number of tokens that have not arrived.
    pub(super) fn missing(&self) -> u64 {
        self.count.saturating_sub(self.kept.len() as u64)
    }

    /// Returns the number of tokens that were issued for the key and have not arrived, at most, if the
    /// last answer brought `arrived`.
    pub(super) fn unseen(&self, arrived: usize) -> u64 {
        let seen = self.kept.len() + arrived;
        self.count.saturating_sub(seen as u64)
    }

    /// Returns the number of tokens to ask for. With a key it does not change.
    pub(super) fn to_request(&self) -> u64 {
        match self.key {
            Some(_) => self.count,
            None => self.missing(),
        }
    }

    /// Removes the tokens from a page that an earlier answer to the same key has brought.
    ///
    /// Returns false if the page has other tokens, so that the source did not honour the key.
    pub(super) fn remove_repeated(&self, page: &mut Page) -> bool {
        let mut earlier = self.kept.iter().peekable();
        if earlier.peek().is_none() {
            return true;
        }
        let mut others = Vec::new();
        for token in page.iter() {
            match earlier.peek() {
                Some(first) if first.as_str() == token.as_str() => drop(earlier.next()),
                Some(_) if self.is_journalled && token.defect().is_some() => others.push(token),
                Some(_) => return false,
                None => others.push(token),
            }
        }
        *page = Page::from_tokens(&others);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::token::TokenDefect;

    fn request(kept: &[&str]) -> Request {
        let mut request = Request::new(1, 4, Some("key".to_owned()));
        request.kept = kept.iter().map(|text| Token::new(text, None)).collect();
        request
    }

    /// Returns the tokens that are new in this answer; `None` if they are other ones.
    fn new_tokens(request: &Request, answer: &[&str]) -> Option<Vec<String>> {
        let texts = answer.iter().map(|text| {
            let defect = TokenDefect::of(text, 10);
            (*text, defect)
        });
        let mut page = Page::from_texts(texts);
        let is_same = request.remove_repeated(&mut page);
        let tokens = page.iter().map(|token| token.as_str().to_owned());
        is_same.then(|| tokens.collect())
    }

    #[test]
    fn repeated_tokens_are_removed_from_an_answer() {
        for (kept, answer, new) in [
            (&[][..], &["a", "b"][..], Some(&["a", "b"][..])),
            (&["a"], &["a", "b", "a"], Some(&["b", "a"])),
            (&["a", "b"], &["a"], Some(&[])),
            (&["a", "b"], &[], Some(&[])),
            (&["a", "b"], &["b", "a"], None),
            (&["a", "b"], &["a", "c"], None),
        ] {
            let found = new_tokens(&request(kept), answer);
            assert_eq!(
                found
                    .as_deref()
                    .map(|found| found.iter().map(String::as_str).collect::<Vec<_>>()),
                new.map(<[_]>::to_vec),
                "{kept:?} {answer:?}"
            );
        }
    }

    #[test]
    fn invalid_tokens_that_a_journal_lacks_are_new() {
        let mut request = request(&["a", "b"]);
        let answer = ["a", "too long a token", "b", "c"];
        assert_eq!(new_tokens(&request, &answer), None);
        request.is_journalled = true;
        let new = new_tokens(&request, &answer);
        assert_eq!(new.unwrap(), ["too long a token", "c"]);
    }

    #[test]
    fn request_with_a_key_keeps_its_size() {
        let mut request = request(&["a"]);
        assert_eq!((request.to_request(), request.unseen(1)), (4, 2));
        request.key = None;
        assert_eq!(request.to_request(), 3);
    }
}
