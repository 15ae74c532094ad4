//! `Tokens` and `Outcomes` as scripts hold them: lazy, single pass, shared by their clones. What a
//! script has not taken when it lets go of one goes back to the host.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use rhai::{EvalAltResult, ImmutableString};

use super::fault::thrown;
use super::host::{Abandoned, Host, Native, lock};
use crate::fault::{Fault, Kind};
use crate::report::ledger::EntryId;
use crate::stream::{OutcomeStream, PageStream};
use crate::token::{Outcome, Page, Tally, Token};

/// A script's tokens on their way to the store.
#[derive(Clone)]
pub struct Tokens(Arc<TokensCell>);

/// What the clones of one [`Tokens`] share.
pub struct TokensCell {
    host: Arc<Host>,
    requested: Option<u64>,
    len: Mutex<Option<u64>>,
    supply: Mutex<Supply>,
}

enum Supply {
    Stream(PageStream),
    /// Tokens that failed before and stand open in the books.
    Open(Vec<EntryId>),
    Taken,
}

impl Tokens {
    /// The tokens of `pages`.
    pub fn new(host: &Arc<Host>, pages: PageStream, requested: Option<u64>) -> Self {
        let len = pages.known_len().map(|len| len as u64);
        Self::with(host, Supply::Stream(pages), requested, len)
    }

    /// The tokens of one request for `requested`, of which `len` came.
    pub fn of_one_page(host: &Arc<Host>, pages: PageStream, requested: u64, len: u64) -> Self {
        Self::with(host, Supply::Stream(pages), Some(requested), Some(len))
    }

    /// Tokens that stand open in the books.
    pub fn open(host: &Arc<Host>, entries: Vec<EntryId>) -> Self {
        let len = entries.len() as u64;
        Self::with(host, Supply::Open(entries), Some(len), Some(len))
    }

    fn with(host: &Arc<Host>, supply: Supply, requested: Option<u64>, len: Option<u64>) -> Self {
        let cell = Arc::new(TokensCell {
            host: Arc::clone(host),
            requested,
            len: Mutex::new(len),
            supply: Mutex::new(supply),
        });
        host.watch_tokens(&cell);
        Self(cell)
    }

    /// How many tokens were asked for.
    pub fn requested(&self) -> Option<u64> {
        self.0.requested
    }

    /// How many tokens it holds or held, once that is known.
    pub fn len(&self) -> Option<u64> {
        *lock(&self.0.len)
    }

    /// The host that it belongs to.
    pub fn host(&self) -> &Arc<Host> {
        &self.0.host
    }

    /// Takes the tokens out, for the store.
    pub fn take_pages(&self) -> Native<PageStream> {
        match self.0.take()? {
            Supply::Stream(pages) => Ok(pages),
            Supply::Open(entries) => {
                let mut ledger = self.0.host.ledger();
                let tokens: Vec<Token> = entries
                    .into_iter()
                    .filter_map(|entry| ledger.claim_entry(entry))
                    .collect();
                Ok(PageStream::ready([Page::from_tokens(&tokens)]))
            }
            Supply::Taken => Err(consumed("Tokens")),
        }
    }

    /// The tokens page by page.
    pub fn pages(&self) -> Native<Pages> {
        Ok(Pages {
            pages: Arc::new(Mutex::new(Some(self.take_pages()?))),
            owner: self.clone(),
        })
    }
}

impl TokensCell {
    fn take(&self) -> Native<Supply> {
        match std::mem::replace(&mut *lock(&self.supply), Supply::Taken) {
            Supply::Taken => Err(consumed("Tokens")),
            supply => Ok(supply),
        }
    }

    /// Gives what is left back to the host.
    pub fn abandon(&self) {
        if let Ok(Supply::Stream(pages)) = self.take() {
            self.host.abandon(Abandoned::Pages(pages));
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
            Ok(Supply::Stream(pages)) => (Source::Pages(pages), Ok(())),
            Ok(Supply::Open(entries)) => (Source::Open(entries.into()), Ok(())),
            Ok(Supply::Taken) => (Source::End, Err(consumed("Tokens"))),
            Err(error) => (Source::End, Err(error)),
        };
        TokenIter {
            source,
            page: Page::from_texts([]),
            begin: begin.err(),
            unheard: None,
            count: 0,
            owner: self,
        }
    }
}

enum Source {
    Pages(PageStream),
    Open(VecDeque<EntryId>),
    End,
}

/// Hands a script one token after the other, as strings that stand open in the books until the
/// script stores them.
pub struct TokenIter {
    owner: Tokens,
    source: Source,
    page: Page,
    begin: Option<Box<EvalAltResult>>,
    unheard: Option<Fault>,
    count: u64,
}

impl Iterator for TokenIter {
    type Item = Native<ImmutableString>;

    fn next(&mut self) -> Option<Self::Item> {
        if let Some(error) = self.begin.take() {
            return Some(Err(error));
        }
        let host = Arc::clone(self.owner.host());
        if let Some(fault) = self.unheard.take() {
            // Only a loop with an empty body asks on after an error: nobody heard of it.
            host.unheard(fault);
            return None;
        }
        if let Source::Open(entries) = &mut self.source {
            let ledger = host.ledger();
            while let Some(entry) = entries.pop_front() {
                if let Some(text) = ledger.open_text(entry) {
                    return Some(Ok(text.into()));
                }
            }
        }
        if self.page.is_empty()
            && let Source::Pages(pages) = &mut self.source
        {
            match host.wait(pages.next()) {
                Err(stopped) => return Some(Err(stopped)),
                Ok(Some(Ok(page))) => self.page = page,
                Ok(Some(Err(fault))) => {
                    self.source = Source::End;
                    self.unheard = Some(fault.clone());
                    return Some(Err(thrown(fault)));
                }
                Ok(None) => self.source = Source::End,
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
        if let Source::Pages(mut pages) = std::mem::replace(&mut self.source, Source::End) {
            pages.put_back(page);
            pages.stop();
            self.owner.host().abandon(Abandoned::Pages(pages));
        }
    }
}

/// The pages of a `Tokens`, each a `Tokens` of its own.
#[derive(Clone)]
pub struct Pages {
    pages: Arc<Mutex<Option<PageStream>>>,
    owner: Tokens,
}

impl IntoIterator for Pages {
    type Item = Native<Tokens>;
    type IntoIter = PageIter;

    fn into_iter(self) -> PageIter {
        let pages = lock(&self.pages).take();
        PageIter {
            begin: pages.is_none().then(|| consumed("Tokens")),
            pages,
            unheard: None,
            owner: self.owner.clone(),
        }
    }
}

/// Hands a script one page after the other.
pub struct PageIter {
    pages: Option<PageStream>,
    begin: Option<Box<EvalAltResult>>,
    unheard: Option<Fault>,
    owner: Tokens,
}

impl Iterator for PageIter {
    type Item = Native<Tokens>;

    fn next(&mut self) -> Option<Self::Item> {
        if let Some(error) = self.begin.take() {
            return Some(Err(error));
        }
        let host = self.owner.host();
        if let Some(fault) = self.unheard.take() {
            host.unheard(fault);
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
                self.unheard = Some(fault.clone());
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
            self.owner.host().abandon(Abandoned::Pages(pages));
        }
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        if Arc::strong_count(&self.pages) == 1
            && let Some(pages) = lock(&self.pages).take()
        {
            self.owner.host().abandon(Abandoned::Pages(pages));
        }
    }
}

/// A script's outcomes on their way to the report.
#[derive(Clone)]
pub struct Outcomes(Arc<OutcomesCell>);

/// What the clones of one [`Outcomes`] share.
pub struct OutcomesCell {
    host: Arc<Host>,
    book: Mutex<Book>,
}

#[derive(Default)]
struct Book {
    stream: Option<OutcomeStream>,
    /// Outcomes that came while the failures were looked for.
    ready: VecDeque<Outcome>,
    fault: Option<Fault>,
    taken: bool,
    counts: Tally,
    /// Entries that this stream left open in the books.
    open: Vec<EntryId>,
}

impl Outcomes {
    /// The outcomes of `stream`.
    pub fn new(host: &Arc<Host>, stream: OutcomeStream) -> Self {
        let cell = Arc::new(OutcomesCell {
            host: Arc::clone(host),
            book: Mutex::new(Book {
                stream: Some(stream),
                ..Book::default()
            }),
        });
        host.watch_outcomes(&cell);
        Self(cell)
    }

    /// The host that it belongs to.
    pub fn host(&self) -> &Arc<Host> {
        &self.0.host
    }

    /// How many outcomes of each kind were seen so far.
    pub fn counts(&self) -> Tally {
        lock(&self.0.book).counts
    }

    /// Begins to read, once.
    pub fn read(&self) -> Native<Reader> {
        let mut book = lock(&self.0.book);
        if std::mem::replace(&mut book.taken, true) {
            return Err(consumed("Outcomes"));
        }
        Ok(Reader {
            owner: self.clone(),
            ready: std::mem::take(&mut book.ready),
            stream: book.stream.take(),
            fault: book.fault.take(),
        })
    }

    /// The tokens that are safe to send again. Reads to the end first, keeping what is settled for
    /// a later report.
    pub fn failures(&self) -> Native<Tokens> {
        let stream = lock(&self.0.book).stream.take();
        if let Some(mut stream) = stream {
            loop {
                match self.0.host.wait(stream.next()) {
                    Err(stopped) => {
                        lock(&self.0.book).stream = Some(stream);
                        return Err(stopped);
                    }
                    Ok(None) => break,
                    Ok(Some(Err(fault))) => lock(&self.0.book).fault = Some(fault),
                    Ok(Some(Ok(batch))) => self.sort(batch)?,
                }
            }
        }
        let entries = std::mem::take(&mut lock(&self.0.book).open);
        Ok(Tokens::open(&self.0.host, entries))
    }

    /// Keeps the settled outcomes for later and opens the others in the books.
    fn sort(&self, batch: Vec<Outcome>) -> Native<()> {
        for outcome in batch {
            if outcome.status.is_final() {
                lock(&self.0.book).ready.push_back(outcome);
            } else {
                self.record(outcome, None)?;
            }
        }
        Ok(())
    }

    /// Books an outcome of this stream.
    pub fn record(&self, outcome: Outcome, line: Option<&str>) -> Native<()> {
        let status = outcome.status;
        let recorded = self.0.host.ledger().record(outcome, line);
        let mut book = lock(&self.0.book);
        book.counts.add(status);
        book.open.extend(recorded.map_err(thrown)?);
        Ok(())
    }
}

impl OutcomesCell {
    /// Gives what nobody read back to the host; `stop` sends no further token of it.
    pub fn abandon(&self, stop: bool) {
        let mut book = lock(&self.book);
        let (ready, stream) = (std::mem::take(&mut book.ready), book.stream.take());
        let fault = book.fault.take();
        drop(book);
        if let Some(fault) = fault {
            self.host.unheard(fault);
        }
        give_back(&self.host, ready, stream, stop);
    }
}

impl Drop for OutcomesCell {
    fn drop(&mut self) {
        self.abandon(false);
    }
}

fn give_back(
    host: &Host,
    ready: VecDeque<Outcome>,
    stream: Option<OutcomeStream>,
    stop: bool,
) {
    if let Some(stream) = stream.as_ref().filter(|_| stop) {
        stream.stop();
    }
    if stream.is_some() || !ready.is_empty() {
        host.abandon(Abandoned::Outcomes(ready, stream));
    }
}

/// Reads the outcomes of one stream. Dropped before the end, it sends no further token: who breaks
/// off a loop wants no more.
pub struct Reader {
    owner: Outcomes,
    ready: VecDeque<Outcome>,
    stream: Option<OutcomeStream>,
    fault: Option<Fault>,
}

impl Reader {
    /// The next outcome; before it waits, `idle` is called.
    pub fn next(
        &mut self,
        idle: impl FnOnce(&Host) -> Native<()>,
    ) -> Native<Option<Result<Outcome, Fault>>> {
        if let Some(outcome) = self.ready.pop_front() {
            return Ok(Some(Ok(outcome)));
        }
        let Some(stream) = &mut self.stream else {
            return Ok(self.fault.take().map(Err));
        };
        let mut next = stream.try_next().map(Ok);
        if next.is_none() {
            idle(self.owner.host())?;
            next = self.owner.host().wait(stream.next())?;
        }
        match next {
            Some(Ok(batch)) => {
                self.ready = batch.into();
                Ok(self.ready.pop_front().map(Ok))
            }
            Some(Err(fault)) => {
                self.stream = None;
                Ok(Some(Err(fault)))
            }
            None => {
                self.stream = None;
                Ok(None)
            }
        }
    }

    /// The stream that is read.
    pub fn owner(&self) -> &Outcomes {
        &self.owner
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        let ready = std::mem::take(&mut self.ready);
        give_back(self.owner.host(), ready, self.stream.take(), true);
    }
}

impl IntoIterator for Outcomes {
    type Item = Native<Outcome>;
    type IntoIter = OutcomeIter;

    fn into_iter(self) -> OutcomeIter {
        let (reader, begin) = match self.read() {
            Ok(reader) => (Some(reader), None),
            Err(error) => (None, Some(error)),
        };
        OutcomeIter {
            reader,
            begin,
            unheard: None,
        }
    }
}

/// Hands a script one outcome after the other. Each is booked as it is handed out, so that none is
/// missing from the report whatever the script does with it.
pub struct OutcomeIter {
    reader: Option<Reader>,
    begin: Option<Box<EvalAltResult>>,
    unheard: Option<(Arc<Host>, Fault)>,
}

impl Iterator for OutcomeIter {
    type Item = Native<Outcome>;

    fn next(&mut self) -> Option<Self::Item> {
        if let Some(error) = self.begin.take() {
            return Some(Err(error));
        }
        if let Some((host, fault)) = self.unheard.take() {
            host.unheard(fault);
            return None;
        }
        let reader = self.reader.as_mut()?;
        match reader.next(|host| host.ledger().reports().flush().map_err(thrown)) {
            Err(error) => Some(Err(error)),
            Ok(Some(Ok(outcome))) => {
                let recorded = reader.owner().record(outcome.clone(), None);
                Some(recorded.map(|()| outcome))
            }
            Ok(Some(Err(fault))) => {
                self.unheard = Some((Arc::clone(reader.owner().host()), fault.clone()));
                self.reader = None;
                Some(Err(thrown(fault)))
            }
            Ok(None) => {
                self.reader = None;
                None
            }
        }
    }
}

fn consumed(what: &str) -> Box<EvalAltResult> {
    thrown(
        Fault::new(
            Kind::StreamConsumed,
            format!("these {what} were used already: a stream can be read once"),
        )
        .hint("keep what you need on the first pass, or fetch again"),
    )
}
