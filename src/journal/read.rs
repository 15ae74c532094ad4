//! Reading a journal or an `ndjson` report, and what either may hold.

use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::{Header, VERSION, is_endless, lock};
use crate::fault::{Fault, Kind};

/// A line of a journal or of an `ndjson` report.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub enum Line {
    /// The run.
    Journal {
        /// Its header.
        journal: Header,
    },
    /// A page.
    Received {
        /// Its tokens.
        received: Vec<String>,
    },
    /// The end.
    Summary {
        /// What replay needs of it.
        summary: End,
    },
    /// What became of a token.
    Outcome(Told),
}

/// What replay needs of a summary.
#[derive(Debug, Deserialize)]
pub struct End {
    /// The run's UUID.
    pub run_id: String,
    /// SIZE.
    pub requested: u64,
    /// Tokens that failed.
    pub failed: u64,
    /// Tokens in doubt.
    pub unknown: u64,
    /// Tokens that were never sent.
    pub not_attempted: u64,
}

/// A token object of a report.
#[derive(Clone, Debug, Deserialize)]
pub struct Told {
    /// The token.
    pub token: String,
    /// Its status.
    pub status: String,
    /// How often it was sent.
    #[serde(default)]
    pub attempts: u16,
    /// From sending to verdict, in milliseconds.
    #[serde(default)]
    pub ms: f64,
    /// The database's code.
    pub sqlstate: Option<String>,
    /// The constraint that refused it.
    pub constraint: Option<String>,
    /// Why.
    pub reason: Option<String>,
    /// The database's message.
    pub message: Option<String>,
    /// True where nothing was stored.
    #[serde(default)]
    pub dry_run: bool,
    /// True where `token` is not the token itself.
    #[serde(default)]
    pub masked: bool,
}

/// Reads a journal or an `ndjson` report, line by line, and keeps others from using it meanwhile.
pub struct Reading {
    lines: io::Lines<Box<dyn BufRead + Send>>,
    path: PathBuf,
    number: usize,
    /// How many lines were whole.
    whole: usize,
    /// A line that is not whole; only the last one may be.
    torn: Option<(usize, String)>,
}

impl Reading {
    /// Opens the file.
    pub fn open(path: &Path) -> Result<Self, Fault> {
        if is_endless(path) {
            return Err(unreadable(path, "it is no regular file"));
        }
        let file = File::open(path).map_err(|error| unreadable(path, &error.to_string()))?;
        lock(&file, path)?;
        Ok(Self::of(Box::new(BufReader::new(file)), path))
    }

    /// Reads what errors call `path`.
    pub fn of(from: Box<dyn BufRead + Send>, path: &Path) -> Self {
        Self {
            lines: from.lines(),
            path: path.to_owned(),
            number: 0,
            whole: 0,
            torn: None,
        }
    }

    /// An error at the line that was read last.
    pub fn fault(&self, why: &str) -> Fault {
        self.fault_at(self.number, why)
    }

    fn fault_at(&self, number: usize, why: &str) -> Fault {
        let place = self.path.display();
        unreadable(&self.path, &format!("{place}:{number}:1: {why}"))
    }

    /// True where the last line was torn by a crash.
    pub fn is_torn(&self) -> bool {
        self.torn.is_some()
    }

    fn parse(&mut self, text: &str) -> Result<Option<Line>, Fault> {
        if let Some((number, why)) = self.torn.take() {
            return Err(self.fault_at(number, &why));
        }
        // serde_json's own message would show the line, and that holds tokens.
        let line = serde_json::from_str(text).ok();
        if line.is_none() {
            let why = "the line is neither a token, a page, a run nor a summary";
            // A file of another form may have one line alone, and that is not torn.
            if self.whole == 0 && !is_beginning(text) {
                return Err(self.fault(why));
            }
            self.torn = Some((self.number, why.to_owned()));
        }
        if let Some(Line::Journal { journal }) = &line
            && journal.version != VERSION
        {
            return Err(self.fault("the journal has a form that this version does not know"));
        }
        self.whole += usize::from(line.is_some());
        Ok(line)
    }
}

impl Iterator for Reading {
    type Item = Result<Line, Fault>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            self.number += 1;
            let text = match self.lines.next()? {
                Ok(text) if text.trim().is_empty() => continue,
                Ok(text) => text,
                Err(error) if error.kind() == io::ErrorKind::InvalidData => String::new(),
                Err(error) => return Some(Err(unreadable(&self.path, &error.to_string()))),
            };
            if let Some(result) = self.parse(&text).transpose() {
                return Some(result);
            }
        }
    }
}

/// True for the torn first line of a journal or of a report.
fn is_beginning(text: &str) -> bool {
    [r#"{"journal":"#, r#"{"token":"#]
        .iter()
        .any(|beginning| text.starts_with(beginning) || beginning.starts_with(text))
}

fn unreadable(path: &Path, why: &str) -> Fault {
    Fault::new(
        Kind::InvalidArgument {
            argument: "FILE".to_owned(),
            expected: "a journal or an ndjson report".to_owned(),
        },
        format!("{} cannot be replayed", path.display()),
    )
    .cause(why)
    .hint("replay takes a journal, an ndjson report, or the .partial of one")
}
