//! Reads tokens from a file or a pipe instead of an HTTP source, one per line. A separate thread
//! reads, because a blocking read from a pipe cannot be cancelled.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Seek};
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::{Arc, mpsc};
use std::thread;

use tokio::sync::oneshot;

use crate::error::escape::escape;
use crate::error::exit::Exit;
use crate::error::{Error, ErrorKind};
use crate::fetch::lines::LineParser;
use crate::fetch::{AnswerFuture, SourceAnswer, SourceKind, SourceRequest, TokenSource};
use crate::pipeline::token::Page;

/// Size of the read buffer, in bytes.
const BUFFER: usize = 64 * 1024;

/// The longest line, in bytes; a device such as `/dev/zero` has one without end.
const MAX_LINE: usize = 32 << 20;

/// A file or pipe that is open for reading.
#[derive(Clone, Debug)]
pub struct Input {
    file: Arc<File>,
    name: String,
    /// Number of tokens in it; `None` for a pipe.
    count: Option<u64>,
    /// Number of leading tokens that belong to other shards.
    skip: u64,
    /// True if the run takes all tokens of a pipe.
    open_ended: bool,
}

impl Input {
    /// Opens `path`, or standard input if it is `-`, and counts the tokens of a regular file.
    ///
    /// A token is at most `max_token` bytes long.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn open(path: &Path, max_token: usize) -> Result<Self, Error> {
        let is_stdin = path == Path::new("-");
        let name = if is_stdin {
            String::from("standard input")
        } else {
            format!("`{}`", escape(&path.display().to_string()))
        };
        let unreadable = |error: io::Error| {
            Error::new(Exit::Usage, format!("the input {name} cannot be read"))
                .cause(error.to_string())
                .hint(
                    "--input names a file with one token per line, or - for standard input; \
                     nothing was stored",
                )
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

    /// Takes a file that is open for reading, and counts its tokens; `name` is for messages.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn of_file(mut file: File, name: &str, max_token: usize) -> io::Result<Self> {
        file.rewind()?;
        let count = count(&mut file, max_token)?;
        Ok(Self {
            file: Arc::new(file),
            name: name.to_owned(),
            count: Some(count),
            skip: 0,
            open_ended: false,
        })
    }

    /// Returns its name for messages.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns the number of its tokens, if known.
    pub fn count(&self) -> Option<u64> {
        self.count
    }

    /// Skips the first `skip` tokens.
    #[must_use]
    pub fn from(mut self, skip: u64) -> Self {
        self.skip = skip;
        self
    }

    /// Takes all tokens up to the end of the input.
    #[must_use]
    pub fn until_end(mut self) -> Self {
        self.open_ended = true;
        self
    }

    /// Starts the thread that reads.
    ///
    /// # Errors
    /// If the thread cannot be started.
    pub fn read(&self, max_token: usize) -> io::Result<InputSource> {
        let reader = InputReader {
            reader: BufReader::with_capacity(BUFFER, self.file.try_clone()?),
            name: self.name.clone(),
            max_token,
            is_file: self.count.is_some(),
            open_ended: self.open_ended,
            skip: self.skip,
            state: ReadState::Beginning,
        };
        let (requests, received) = mpsc::channel();
        // Not `spawn_blocking`: the runtime joins those threads, and a pipe may never end.
        thread::Builder::new()
            .name("input".to_owned())
            .spawn(move || serve_requests(reader, &received))?;
        Ok(InputSource {
            requests,
            open_ended: self.open_ended,
        })
    }
}

/// Counts the tokens from the file's current position, and seeks back to it.
fn count(file: &mut File, max_token: usize) -> io::Result<u64> {
    let begin = file.stream_position()?;
    let mut parser = LineParser::new(0, max_token);
    let mut reader = BufReader::with_capacity(BUFFER, &mut *file);
    loop {
        let chunk = match reader.fill_buf() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            chunk => chunk?,
        };
        if chunk.is_empty() {
            break;
        }
        parser.feed(chunk);
        let length = chunk.len();
        reader.consume(length);
    }
    drop(reader);
    file.seek(io::SeekFrom::Start(begin))?;
    Ok(parser.finish(true).surplus)
}

type InputRequest = (u64, oneshot::Sender<SourceAnswer>);

/// An input that is being read, as a token source.
pub struct InputSource {
    requests: mpsc::Sender<InputRequest>,
    open_ended: bool,
}

impl TokenSource for InputSource {
    fn request<'a>(&'a self, request: SourceRequest<'a>) -> AnswerFuture<'a> {
        let (reply, answer) = oneshot::channel();
        let sent = self.requests.send((request.count, reply));
        Box::pin(async move {
            match (sent, answer.await) {
                (Ok(()), Ok(answer)) => answer,
                _ => SourceAnswer::failed(input_error("the input can no longer be read")),
            }
        })
    }

    fn kind(&self) -> SourceKind {
        SourceKind::Local {
            open_ended: self.open_ended,
        }
    }
}

fn serve_requests(mut reader: InputReader, requests: &mpsc::Receiver<InputRequest>) {
    while let Ok((count, reply)) = requests.recv() {
        // A receiver that is gone was stopped, and sends no further request.
        let _ = reply.send(reader.answer(count));
    }
}

struct InputReader {
    reader: BufReader<File>,
    name: String,
    max_token: usize,
    is_file: bool,
    open_ended: bool,
    skip: u64,
    state: ReadState,
}

/// Position in the input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ReadState {
    Beginning,
    Middle,
    End,
}

impl InputReader {
    fn answer(&mut self, count: u64) -> SourceAnswer {
        while self.skip > 0 && self.state != ReadState::End {
            let (page, error) = self.take(self.skip);
            self.skip -= page.len() as u64;
            if let Some(error) = error {
                return SourceAnswer::failed(error);
            }
        }
        let was_at_end = self.state == ReadState::End;
        let (page, error) = self.take(count);
        // For an open-ended input, the end is an error only if tokens are requested after it.
        let has_ended = self.state == ReadState::End;
        let short = has_ended && (was_at_end || !self.open_ended);
        let error =
            error.or_else(|| (short && (page.len() as u64) < count).then(|| self.end_error()));
        SourceAnswer {
            page,
            surplus: 0,
            settled_before: 0,
            error,
            ended: has_ended,
            is_incomplete: false,
        }
    }

    /// Takes at most `count` tokens. For a pipe it waits for one complete token and returns what is
    /// buffered, so that no token waits for the next.
    fn take(&mut self, count: u64) -> (Page, Option<Error>) {
        let mut parser = LineParser::new(count, self.max_token);
        if self.state != ReadState::Beginning {
            parser.resume();
        }
        self.state = ReadState::Middle;
        let mut failure = None;
        let mut line_length = 0;
        while parser.taken() < count {
            let waits = !self.is_file && self.reader.buffer().is_empty();
            if waits && parser.taken() > 0 && !parser.is_in_line() {
                break;
            }
            let chunk = match self.reader.fill_buf() {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => {
                    failure = Some(self.unreadable(&error));
                    self.state = ReadState::End;
                    break;
                }
                Ok([]) => {
                    self.state = ReadState::End;
                    break;
                }
                Ok(chunk) => chunk,
            };
            let line = chunk.iter().position(|byte| *byte == b'\n');
            let length = line.map_or(chunk.len(), |end| end + 1);
            parser.feed(&chunk[..length]);
            self.reader.consume(length);
            line_length = if line.is_some() {
                0
            } else {
                line_length + length
            };
            if line_length > MAX_LINE {
                failure = Some(self.no_list("a line is longer than 32 MiB"));
                self.state = ReadState::End;
                break;
            }
        }
        let lines = parser.finish(failure.is_none());
        if let Some(document) = lines.document {
            self.state = ReadState::End;
            let error = self.no_list(&format!("it begins like {document}"));
            return (Page::from_texts([]), Some(error));
        }
        (lines.page, failure)
    }

    fn end_error(&self) -> Error {
        input_error(format!("the input ended: {}", self.name)).hint("omit SIZE to read all of it")
    }

    fn unreadable(&self, error: &io::Error) -> Error {
        input_error(format!("the input can no longer be read: {}", self.name))
            .cause(error.to_string())
            .hint("the tokens read before the failure are in the report")
    }

    fn no_list(&self, why: &str) -> Error {
        input_error(format!("the input is not a list of tokens: {}", self.name))
            .cause(why)
            .hint("--input expects one token per line")
    }
}

/// Returns the error of an input that supplies no more tokens; the fetch adds the numbers.
fn input_error(message: impl Into<String>) -> Error {
    let kind = ErrorKind::ShortSupply {
        requested: 0,
        received: 0,
    };
    Error::of(kind, message)
}
