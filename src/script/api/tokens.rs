//! `Tokens` as scripts hold them: lazy, single pass, shared by their clones. What a script has not
//! taken when it lets go of one goes back to the host.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use rhai::{EvalAltResult, ImmutableString};

use crate::error::Fault;
use crate::pipeline::channel::PageStream;
use crate::pipeline::token::{Page, Token};
use crate::report::ledger::EntryId;
use crate::script::host::{AbandonedStream, HeldStream, ScriptHost};
use crate::script::native::{Native, consumed, lock, thrown, used_already};

/// A script's tokens on their way to the store.
#[derive(Clone)]
pub struct Tokens(Arc<TokensCell>);

/// What the clones of one [`Tokens`] share.
pub struct TokensCell {
    host: Arc<ScriptHost>,
    requested: Option<u64>,
    len: Mutex<Option<u64>>,
    stats: Mutex<TokensState>,
}

enum TokensState {
    Stream(PageStream<Fault>),
    /// Tokens that failed before and stand open in the books.
    Open(Vec<EntryId>),
    Taken,
}

impl Tokens {
    /// The tokens of `pages`.
    pub fn new(host: &Arc<ScriptHost>, pages: PageStream<Fault>, requested: Option<u64>) -> Self {
        let len = pages.known_len().map(|len| len as u64);
        Self::with(host, TokensState::Stream(pages), requested, len)
    }

    /// The tokens of one request for `requested`, of which `len` came.
    pub fn of_one_page(
        host: &Arc<ScriptHost>,
        pages: PageStream<Fault>,
        requested: u64,
        len: u64,
    ) -> Self {
        Self::with(host, TokensState::Stream(pages), Some(requested), Some(len))
    }

    /// Tokens that stand open in the books.
    pub fn open(host: &Arc<ScriptHost>, entries: Vec<EntryId>) -> Self {
        let len = entries.len() as u64;
        Self::with(host, TokensState::Open(entries), Some(len), Some(len))
    }

    fn with(
        host: &Arc<ScriptHost>,
        stats: TokensState,
        requested: Option<u64>,
        len: Option<u64>,
    ) -> Self {
        let cell = Arc::new(TokensCell {
            host: Arc::clone(host),
            requested,
            len: Mutex::new(len),
            stats: Mutex::new(stats),
        });
        let held = Arc::downgrade(&cell);
        host.watch_tokens(held);
        Self(cell)
    }

    /// How many tokens were asked for.
    pub fn requested(&self) -> Option<u64> {
        self.0.requested
    }

    /// How many tokens it holds or held, once that is known.
    pub fn count(&self) -> Option<u64> {
        *lock(&self.0.len)
    }

    /// The host that it belongs to.
    pub fn host(&self) -> &Arc<ScriptHost> {
        &self.0.host
    }

    /// Takes the tokens out, for the store.
    pub fn take_pages(&self) -> Native<PageStream<Fault>> {
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
            TokensState::Taken => Err(consumed("Tokens")),
        }
    }

    /// The tokens page by page.
    pub fn pages(&self) -> Native<Pages> {
        let pages = self.take_pages()?;
        Ok(Pages(Self::new(self.host(), pages, self.requested())))
    }
}

impl TokensCell {
    fn take(&self) -> Native<TokensState> {
        match std::mem::replace(&mut *lock(&self.stats), TokensState::Taken) {
            TokensState::Taken => Err(consumed("Tokens")),
            stats => Ok(stats),
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
    type Item = Native<ImmutableString>;
    type IntoIter = TokenIter;

    fn into_iter(self) -> TokenIter {
        let (source, begin) = match self.0.take() {
            Ok(TokensState::Stream(pages)) => (IterSource::Pages(pages), Ok(())),
            Ok(TokensState::Open(entries)) => (IterSource::Open(entries.into()), Ok(())),
            Ok(TokensState::Taken) => (IterSource::End, Err(consumed("Tokens"))),
            Err(error) => (IterSource::End, Err(error)),
        };
        TokenIter {
            source,
            page: Page::from_texts([]),
            begin: begin.err(),
            unreported: None,
            count: 0,
            owner: self,
        }
    }
}

enum IterSource {
    Pages(PageStream<Fault>),
    Open(VecDeque<EntryId>),
    End,
}

/// Hands a script one token after the other, as strings that stand open in the books until the
/// script stores them.
pub struct TokenIter {
    owner: Tokens,
    source: IterSource,
    page: Page,
    begin: Option<Box<EvalAltResult>>,
    unreported: Option<Fault>,
    count: u64,
}

impl Iterator for TokenIter {
    type Item = Native<ImmutableString>;

    fn next(&mut self) -> Option<Self::Item> {
        if let Some(error) = self.begin.take() {
            self.unreported = Some(used_already("Tokens"));
            return Some(Err(error));
        }
        let host = Arc::clone(self.owner.host());
        if let Some(fault) = self.unreported.take() {
            // Only a loop with an empty body asks on after an error: nobody heard of it.
            host.unreported(fault);
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
        let Some(token) = self.page.take(1).pop() else {
            *lock(&self.owner.0.len) = Some(self.count);
            return None;
        };
        self.count += 1;
        let text = token.as_str().into();
        host.ledger().hand_out(token);
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

/// The pages of a `Tokens`, each a `Tokens` of its own. What it holds is watched like any `Tokens`,
/// so that it is found at the end even where values hold each other.
#[derive(Clone)]
pub struct Pages(Tokens);

impl IntoIterator for Pages {
    type Item = Native<Tokens>;
    type IntoIter = PageIter;

    fn into_iter(self) -> PageIter {
        let (pages, begin) = match self.0.take_pages() {
            Ok(pages) => (Some(pages), None),
            Err(error) => (None, Some(error)),
        };
        PageIter {
            pages,
            begin,
            unreported: None,
            owner: self.0,
        }
    }
}

/// Hands a script one page after the other.
pub struct PageIter {
    pages: Option<PageStream<Fault>>,
    begin: Option<Box<EvalAltResult>>,
    unreported: Option<Fault>,
    owner: Tokens,
}

impl Iterator for PageIter {
    type Item = Native<Tokens>;

    fn next(&mut self) -> Option<Self::Item> {
        if let Some(error) = self.begin.take() {
            self.unreported = Some(used_already("Tokens"));
            return Some(Err(error));
        }
        let host = self.owner.host();
        if let Some(fault) = self.unreported.take() {
            host.unreported(fault);
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
