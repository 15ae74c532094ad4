//! `Tokens`: the stream of tokens that scripts hold. It is lazy and can be read once.
//!
//! Clones share it. When the last one is dropped, unread tokens go back to the host.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use rhai::{EvalAltResult, ImmutableString};

use crate::error::Error;
use crate::pipeline::channel::PageStream;
use crate::pipeline::token::{Page, Token};
use crate::report::ledger::EntryId;
use crate::script::host::{AbandonedStream, HeldStream, ScriptHost};
use crate::script::native::{NativeResult, consumed_error, consumed_fault, lock, thrown};

/// The stream of tokens that `fetch` and `tokens` return to scripts.
#[derive(Clone)]
pub struct Tokens(Arc<TokensCell>);

/// The state that the clones of one [`Tokens`] share.
pub struct TokensCell {
    host: Arc<ScriptHost>,
    requested: Option<u64>,
    len: Mutex<Option<u64>>,
    state: Mutex<TokensState>,
}

enum TokensState {
    Stream(PageStream<Error>),
    /// Ledger entries of tokens that failed before and are still open.
    Open(Vec<EntryId>),
    Taken,
}

impl Tokens {
    /// Wraps `pages` for a script.
    pub fn new(host: &Arc<ScriptHost>, pages: PageStream<Error>, requested: Option<u64>) -> Self {
        let len = pages.known_len().map(|len| len as u64);
        Self::build(host, TokensState::Stream(pages), requested, len)
    }

    /// Wraps the response to one request for `requested` tokens, which has `len` tokens.
    pub fn from_one_page(
        host: &Arc<ScriptHost>,
        pages: PageStream<Error>,
        requested: u64,
        len: u64,
    ) -> Self {
        Self::build(host, TokensState::Stream(pages), Some(requested), Some(len))
    }

    /// Wraps tokens whose ledger entries are still open.
    pub fn from_open_entries(host: &Arc<ScriptHost>, entries: Vec<EntryId>) -> Self {
        let len = entries.len() as u64;
        Self::build(host, TokensState::Open(entries), Some(len), Some(len))
    }

    fn build(
        host: &Arc<ScriptHost>,
        state: TokensState,
        requested: Option<u64>,
        len: Option<u64>,
    ) -> Self {
        let cell = Arc::new(TokensCell {
            host: Arc::clone(host),
            requested,
            len: Mutex::new(len),
            state: Mutex::new(state),
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
        match self.0.take()? {
            TokensState::Stream(pages) => Ok(pages),
            TokensState::Open(entries) => {
                let mut ledger = self.0.host.ledger();
                let tokens: Vec<Token> = entries
                    .into_iter()
                    .filter_map(|entry| ledger.claim_entry(entry))
                    .collect();
                Ok(PageStream::ready([Page::from_tokens(&tokens)]))
            }
            TokensState::Taken => Err(consumed_error("Tokens")),
        }
    }

    /// Returns the stream page by page.
    pub fn pages(&self) -> NativeResult<Pages> {
        let pages = self.take_pages()?;
        Ok(Pages(Self::new(self.host(), pages, self.requested())))
    }
}

impl TokensCell {
    fn take(&self) -> NativeResult<TokensState> {
        match std::mem::replace(&mut *lock(&self.state), TokensState::Taken) {
            TokensState::Taken => Err(consumed_error("Tokens")),
            state => Ok(state),
        }
    }
}

impl HeldStream for TokensCell {
    fn abandon(&self) {
        if let Ok(TokensState::Stream(pages)) = self.take() {
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
    type IntoIter = TokenIter;

    fn into_iter(self) -> TokenIter {
        let (source, start_error) = match self.0.take() {
            Ok(TokensState::Stream(pages)) => (IterSource::Pages(pages), Ok(())),
            Ok(TokensState::Open(entries)) => (IterSource::Open(entries.into()), Ok(())),
            Ok(TokensState::Taken) => (IterSource::End, Err(consumed_error("Tokens"))),
            Err(error) => (IterSource::End, Err(error)),
        };
        TokenIter {
            source,
            page: Page::from_texts([]),
            start_error: start_error.err(),
            unreported: None,
            count: 0,
            owner: self,
        }
    }
}

enum IterSource {
    Pages(PageStream<Error>),
    Open(VecDeque<EntryId>),
    End,
}

/// Iterates tokens for a script, as strings.
///
/// Each token has an open ledger entry until the script stores or rejects the string.
pub struct TokenIter {
    owner: Tokens,
    source: IterSource,
    page: Page,
    start_error: Option<Box<EvalAltResult>>,
    unreported: Option<Error>,
    count: u64,
}

impl Iterator for TokenIter {
    type Item = NativeResult<ImmutableString>;

    fn next(&mut self) -> Option<Self::Item> {
        if let Some(error) = self.start_error.take() {
            self.unreported = Some(consumed_fault("Tokens"));
            return Some(Err(error));
        }
        let host = Arc::clone(self.owner.host());
        if let Some(fault) = self.unreported.take() {
            // Only a loop with an empty body continues after an error, so the script did not see it.
            host.record_unreported(fault);
            return None;
        }
        if let IterSource::Open(entries) = &mut self.source {
            let ledger = host.ledger();
            while let Some(entry) = entries.pop_front() {
                if let Some(text) = ledger.open_text(entry) {
                    self.count += 1;
                    return Some(Ok(text.into()));
                }
            }
        }
        if self.page.is_empty()
            && let IterSource::Pages(pages) = &mut self.source
        {
            match host.wait(pages.next()) {
                Err(stopped) => return Some(Err(stopped)),
                Ok(Some(Ok(page))) => self.page = page,
                Ok(Some(Err(fault))) => {
                    self.source = IterSource::End;
                    self.unreported = Some(fault.clone());
                    return Some(Err(thrown(fault)));
                }
                Ok(None) => self.source = IterSource::End,
            }
        }
        let Some(token) = self.page.take_first() else {
            *lock(&self.owner.0.len) = Some(self.count);
            return None;
        };
        self.count += 1;
        let text = token.as_str().into();
        host.ledger().add_script_token(token);
        Some(Ok(text))
    }
}

impl Drop for TokenIter {
    fn drop(&mut self) {
        let page = std::mem::replace(&mut self.page, Page::from_texts([]));
        if let IterSource::Pages(mut pages) = std::mem::replace(&mut self.source, IterSource::End) {
            pages.put_back(page);
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
    type IntoIter = PageIter;

    fn into_iter(self) -> PageIter {
        let (pages, start_error) = match self.0.take_pages() {
            Ok(pages) => (Some(pages), None),
            Err(error) => (None, Some(error)),
        };
        PageIter {
            pages,
            start_error,
            unreported: None,
            owner: self.0,
        }
    }
}

/// Iterates pages for a script.
pub struct PageIter {
    pages: Option<PageStream<Error>>,
    start_error: Option<Box<EvalAltResult>>,
    unreported: Option<Error>,
    owner: Tokens,
}

impl Iterator for PageIter {
    type Item = NativeResult<Tokens>;

    fn next(&mut self) -> Option<Self::Item> {
        if let Some(error) = self.start_error.take() {
            self.unreported = Some(consumed_fault("Tokens"));
            return Some(Err(error));
        }
        let host = self.owner.host();
        if let Some(fault) = self.unreported.take() {
            host.record_unreported(fault);
            return None;
        }
        match host.wait(self.pages.as_mut()?.next()) {
            Err(stopped) => Some(Err(stopped)),
            Ok(Some(Ok(page))) => {
                let requested = Some(page.len() as u64);
                Some(Ok(Tokens::new(host, PageStream::ready([page]), requested)))
            }
            Ok(Some(Err(fault))) => {
                self.pages = None;
                self.unreported = Some(fault.clone());
                Some(Err(thrown(fault)))
            }
            Ok(None) => {
                self.pages = None;
                None
            }
        }
    }
}

impl Drop for PageIter {
    fn drop(&mut self) {
        if let Some(mut pages) = self.pages.take() {
            pages.stop();
            self.owner.host().abandon(AbandonedStream::Pages(pages));
        }
    }
}
