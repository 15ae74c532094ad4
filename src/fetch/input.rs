//! Tokens from a file or a pipe instead of a source: one a line, read on a thread of its own, since a
//! read from a pipe can be waited for but not taken back.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Seek};
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::{Arc, mpsc};
use std::thread;

use tokio::sync::oneshot;

use crate::error::diagnostic::Problem;
use crate::error::escape::escape;
use crate::error::exit::Exit;
use crate::error::{ErrorKind, Fault};
use crate::fetch::lines::LineParser;
use crate::fetch::{AnswerFuture, SourceAnswer, SourceKind, TokenSource};
use crate::pipeline::token::Page;

/// So much is read at a time.
const BUFFER: usize = 64 * 1024;

/// A file or a pipe that was opened to be read.
#[derive(Clone, Debug)]
pub struct Input {
    file: Arc<File>,
    name: String,
    /// How many tokens it holds; of a pipe that is not known before its end.
    count: Option<u64>,
    /// How many of its tokens are left to others.
    skip: u64,
    /// True where all of a pipe is asked for.
    open_ended: bool,
}

impl Input {
    /// Opens `path`, or the standard input where that is `-`, and counts its tokens where it is a
    /// regular file. A token is at most `max_token` bytes long.
    ///
    /// # Errors
    /// Where it cannot be read.
    pub fn open(path: &Path, max_token: usize) -> Result<Self, Problem> {
        let is_stdin = path == Path::new("-");
        let name = if is_stdin {
            String::from("standard input")
        } else {
            format!("`{}`", escape(&path.display().to_string()))
        };
        let unreadable = |error: io::Error| {
            Problem::new(Exit::Usage, format!("the input {name} cannot be read"))
                .cause(error.to_string())
                .hint("--input names a file with one token a line, or - for standard input; nothing was stored")
        };
        let file = if is_stdin {
            io::stdin().as_fd().try_clone_to_owned().map(File::from)
        } else {
            File::open(path)
        };
        let mut file = file.map_err(unreadable)?;
        let kind = file.metadata().map_err(unreadable)?.file_type();
        if kind.is_dir() {
            return Err(unreadable(io::ErrorKind::IsADirectory.into()));
        }
        let count = if kind.is_file() {
            Some(count(&mut file, max_token).map_err(unreadable)?)
        } else {
            None
        };
        Ok(Self {
            file: Arc::new(file),
            name,
            count,
            skip: 0,
            open_ended: false,
        })
    }

    /// How it is called in messages.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// How many tokens it holds, where that is known.
    pub fn count(&self) -> Option<u64> {
        self.count
    }

    /// The same from its token number `skip`, from 0.
    #[must_use]
    pub fn from(mut self, skip: u64) -> Self {
        self.skip = skip;
        self
    }

    /// The same where all that comes is asked for, however much that is.
    #[must_use]
    pub fn to_its_end(mut self) -> Self {
        self.open_ended = true;
        self
    }

    /// Begins to read.
    ///
    /// # Errors
    /// Where no thread can be started.
    pub fn read(&self, max_token: usize) -> io::Result<InputSource> {
        let reader = InputReader {
            from: BufReader::with_capacity(BUFFER, self.file.try_clone()?),
            name: self.name.clone(),
            max_token,
            is_file: self.count.is_some(),
            open_ended: self.open_ended,
            skip: self.skip,
            at: ReadState::Beginning,
        };
        let (asks, asked) = mpsc::channel();
        // Not one of the runtime's: those are waited for at the end, and a pipe may never say more.
        thread::Builder::new()
            .name("input".to_owned())
            .spawn(move || answer_all(reader, &asked))?;
        Ok(InputSource {
            asks,
            open_ended: self.open_ended,
        })
    }
}

/// Counts the tokens from where the file stands, and goes back there.
fn count(file: &mut File, max_token: usize) -> io::Result<u64> {
    let begin = file.stream_position()?;
    let mut parser = LineParser::new(0, max_token);
    let mut from = BufReader::with_capacity(BUFFER, &mut *file);
    loop {
        let chunk = match from.fill_buf() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            chunk => chunk?,
        };
        if chunk.is_empty() {
            break;
        }
        parser.feed(chunk);
        let length = chunk.len();
        from.consume(length);
    }
    drop(from);
    file.seek(io::SeekFrom::Start(begin))?;
    Ok(parser.finish(true).surplus)
}

type Ask = (u64, oneshot::Sender<SourceAnswer>);

/// An input that is being read, as the source of a run.
pub struct InputSource {
    asks: mpsc::Sender<Ask>,
    open_ended: bool,
}

impl TokenSource for InputSource {
    fn request(&self, count: u64) -> AnswerFuture<'_> {
        let (reply, answer) = oneshot::channel();
        let asked = self.asks.send((count, reply));
        Box::pin(async move {
            match (asked, answer.await) {
                (Ok(()), Ok(answer)) => answer,
                _ => SourceAnswer::failed(Fault::new(
                    ErrorKind::HttpProtocol,
                    "the input can no longer be read",
                )),
            }
        })
    }

    fn nature(&self) -> SourceKind {
        SourceKind::Holder {
            open_ended: self.open_ended,
        }
    }
}

fn answer_all(mut reader: InputReader, asked: &mpsc::Receiver<Ask>) {
    while let Ok((count, reply)) = asked.recv() {
        // Whoever no longer waits was stopped, and asks for nothing more.
        let _ = reply.send(reader.answer(count));
    }
}

struct InputReader {
    from: BufReader<File>,
    name: String,
    max_token: usize,
    is_file: bool,
    open_ended: bool,
    skip: u64,
    at: ReadState,
}

/// How far the reading has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ReadState {
    Beginning,
    Middle,
    End,
}

impl InputReader {
    fn answer(&mut self, count: u64) -> SourceAnswer {
        while self.skip > 0 && self.at != ReadState::End {
            let (page, fault) = self.take(self.skip);
            self.skip -= page.len() as u64;
            if let Some(fault) = fault {
                return SourceAnswer::failed(fault);
            }
        }
        let was_at_end = self.at == ReadState::End;
        let (page, fault) = self.take(count);
        // All of it is what came up to the end; asking on after that is asking for what is not there.
        let has_ended = self.at == ReadState::End;
        let short = has_ended && (was_at_end || !self.open_ended);
        let fault = fault.or_else(|| (short && (page.len() as u64) < count).then(|| self.ended()));
        SourceAnswer {
            page,
            surplus: 0,
            fault,
            ended: has_ended,
        }
    }

    /// Takes at most `count` tokens. A pipe is waited for until it has one whole token; what comes
    /// later is left for later, so that no token waits for another.
    fn take(&mut self, count: u64) -> (Page, Option<Fault>) {
        let mut parser = LineParser::new(count, self.max_token);
        if self.at != ReadState::Beginning {
            parser.go_on();
        }
        self.at = ReadState::Middle;
        let mut fault = None;
        while parser.taken() < count {
            let waits = !self.is_file && self.from.buffer().is_empty();
            if waits && parser.taken() > 0 && !parser.is_in_line() {
                break;
            }
            let chunk = match self.from.fill_buf() {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => {
                    fault = Some(self.unreadable(&error));
                    self.at = ReadState::End;
                    break;
                }
                Ok([]) => {
                    self.at = ReadState::End;
                    break;
                }
                Ok(chunk) => chunk,
            };
            let line = chunk.iter().position(|byte| *byte == b'\n');
            let length = line.map_or(chunk.len(), |end| end + 1);
            parser.feed(&chunk[..length]);
            self.from.consume(length);
        }
        let lines = parser.finish(fault.is_none());
        if lines.document.is_some() {
            return (Page::from_texts([]), Some(self.markup()));
        }
        (lines.page, fault)
    }

    fn ended(&self) -> Fault {
        let kind = ErrorKind::ShortSupply {
            requested: 0,
            received: 0,
        };
        Fault::new(kind, format!("the input ended: {}", self.name))
            .hint("without a SIZE all of it is taken")
    }

    fn unreadable(&self, error: &io::Error) -> Fault {
        Fault::new(
            ErrorKind::HttpProtocol,
            format!("the input can no longer be read: {}", self.name),
        )
        .cause(error.to_string())
        .hint("what was read before is in the report")
    }

    fn markup(&self) -> Fault {
        Fault::new(
            ErrorKind::HttpProtocol,
            format!("the input is no list of tokens: {}", self.name),
        )
        .cause("it begins as an HTML or XML document does")
        .hint("--input takes one token a line")
    }
}
