//! `Tokens`: the stream of tokens that scripts hold. It is lazy and can be read once.
//!
//! Clones share it. When the last one is dropped, unread tokens go back to the host.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use rhai::ImmutableString;

use crate::error::Error;
use crate::pipeline::channel::PageStream;
use crate::pipeline::token::{Page, Token};
use crate::report::ledger::EntryId;
use crate::script::api::stream_iter::{StreamIter, StreamReader};
use crate::script::host::{AbandonedStream, HeldStream, ScriptHost};
use crate::script::native::{NativeResult, consumed_error, lock, thrown};

/// The stream of tokens that `fetch` and `tokens` return to scripts.
#[derive(Clone)]
pub struct Tokens(Arc<TokensCell>);

/// The state that the clones of one [`Tokens`] share.
pub struct TokensCell {
    host: Arc<ScriptHost>,
    requested: Option<u64>,
    len: Mutex<Option<u64>>,
    /// `None` once the tokens were read.
    source: Mutex<Option<TokenSource>>,
}

/// Where tokens come from.
pub enum TokenSource {
    /// A stream of pages.
    Pages(PageStream<Error>),
    /// Ledger entries of tokens that failed before and are still open.
    Open(VecDeque<EntryId>),
}

impl Tokens {
    /// Wraps `pages` for a script.
    pub fn new(host: &Arc<ScriptHost>, pages: PageStream<Error>, requested: Option<u64>) -> Self {
        let len = pages.known_len().map(|len| len as u64);
        Self::of(host, TokenSource::Pages(pages), requested, len)
    }

    /// Wraps tokens of which `requested` were requested and `len` are there, if that is known.
    pub fn of(
        host: &Arc<ScriptHost>,
        source: TokenSource,
        requested: Option<u64>,
        len: Option<u64>,
    ) -> Self {
        let cell = Arc::new(TokensCell {
            host: Arc::clone(host),
            requested,
            len: Mutex::new(len),
            source: Mutex::new(Some(source)),
        });
        let stream = Arc::downgrade(&cell);
        host.track_tokens(stream);
        Self(cell)
    }

    /// Returns the number of tokens that were requested.
    pub fn requested(&self) -> Option<u64> {
        self.0.requested
    }

    /// Returns the number of tokens in the stream, once it is known.
    pub fn count(&self) -> Option<u64> {
        *lock(&self.0.len)
    }

    /// Returns the host of the run.
    pub fn host(&self) -> &Arc<ScriptHost> {
        &self.0.host
    }

    /// Takes the tokens out of the stream, for the store.
    pub fn take_pages(&self) -> NativeResult<PageStream<Error>> {
        self.pages_to_read().map_err(thrown)
    }

    fn pages_to_read(&self) -> Result<PageStream<Error>, Error> {
        match self.0.take()? {
            TokenSource::Pages(pages) => Ok(pages),
            TokenSource::Open(entries) => {
                let mut ledger = self.0.host.ledger();
                let tokens: Vec<Token> = entries
                    .into_iter()
                    .filter_map(|entry| ledger.claim_entry(entry))
                    .collect();
                Ok(PageStream::ready([Page::from_tokens(&tokens)]))
            }
        }
    }

    /// Returns the stream page by page.
    pub fn pages(&self) -> NativeResult<Pages> {
        let pages = self.take_pages()?;
        Ok(Pages(Self::new(self.host(), pages, self.requested())))
    }
}

impl TokensCell {
    fn take(&self) -> Result<TokenSource, Error> {
        let source = lock(&self.source).take();
        source.ok_or_else(|| consumed_error("Tokens"))
    }
}

impl HeldStream for TokensCell {
    fn abandon(&self) {
        if let Ok(TokenSource::Pages(pages)) = self.take() {
            self.host.abandon(AbandonedStream::Pages(pages));
        }
    }
}

impl Drop for TokensCell {
    fn drop(&mut self) {
        self.abandon();
    }
}

impl IntoIterator for Tokens {
    type Item = NativeResult<ImmutableString>;
    type IntoIter = StreamIter<TokenReader>;

    fn into_iter(self) -> Self::IntoIter {
        let host = Arc::clone(self.host());
        let reader = self.0.take().map(|source| TokenReader {
            source,
            page: Page::from_texts([]),
            count: 0,
            owner: self,
        });
        StreamIter::new(&host, reader)
    }
}

/// Reads tokens as strings.
///
/// Each token has an open ledger entry until the script stores or rejects the string.
pub struct TokenReader {
    owner: Tokens,
    source: TokenSource,
    page: Page,
    count: u64,
}

impl StreamReader for TokenReader {
    type Item = ImmutableString;

    fn read(&mut self) -> NativeResult<Option<Result<ImmutableString, Error>>> {
        let host = self.owner.host();
        let text = match &mut self.source {
            TokenSource::Open(entries) => {
                let ledger = host.ledger();
                std::iter::from_fn(|| entries.pop_front())
                    .find_map(|entry| ledger.open_text(entry))
                    .map(Into::into)
            }
            TokenSource::Pages(pages) => {
                if self.page.is_empty() {
                    match host.wait(pages.next())? {
                        Some(Ok(page)) => self.page = page,
                        end => {
                            self.source = TokenSource::Open(VecDeque::new());
                            if let Some(Err(error)) = end {
                                return Ok(Some(Err(error)));
                            }
                        }
                    }
                }
                self.page.take_first().map(|token| {
                    let text = token.as_str().into();
                    host.ledger().add_script_token(token);
                    text
                })
            }
        };
        if text.is_some() {
            self.count += 1;
        } else {
            *lock(&self.owner.0.len) = Some(self.count);
        }
        Ok(text.map(Ok))
    }
}

impl Drop for TokenReader {
    fn drop(&mut self) {
        let source = std::mem::replace(&mut self.source, TokenSource::Open(VecDeque::new()));
        if let TokenSource::Pages(mut pages) = source {
            pages.put_back(std::mem::replace(&mut self.page, Page::from_texts([])));
            pages.stop();
            self.owner.host().abandon(AbandonedStream::Pages(pages));
        }
    }
}

/// The pages of a `Tokens`, each of which is a `Tokens`.
///
/// It wraps a tracked `Tokens`, so the end of the run finds it even in a cycle of values.
#[derive(Clone)]
pub struct Pages(Tokens);

impl IntoIterator for Pages {
    type Item = NativeResult<Tokens>;
    type IntoIter = StreamIter<PageReader>;

    fn into_iter(self) -> Self::IntoIter {
        let host = Arc::clone(self.0.host());
        let reader = self.0.pages_to_read().map(|pages| PageReader {
            pages: Some(pages),
            owner: self.0,
        });
        StreamIter::new(&host, reader)
    }
}

/// Reads pages.
pub struct PageReader {
    /// `None` after the end.
    pages: Option<PageStream<Error>>,
    owner: Tokens,
}

impl StreamReader for PageReader {
    type Item = Tokens;

    fn read(&mut self) -> NativeResult<Option<Result<Tokens, Error>>> {
        let host = self.owner.host();
        let Some(pages) = &mut self.pages else {
            return Ok(None);
        };
        let page = host.wait(pages.next())?;
        if !matches!(page, Some(Ok(_))) {
            self.pages = None;
        }
        let tokens = |page: Page| {
            let requested = Some(page.len() as u64);
            Tokens::new(host, PageStream::ready([page]), requested)
        };
        Ok(page.map(|page| page.map(tokens)))
    }
}

impl Drop for PageReader {
    fn drop(&mut self) {
        if let Some(mut pages) = self.pages.take() {
            pages.stop();
            self.owner.host().abandon(AbandonedStream::Pages(pages));
        }
    }
}
