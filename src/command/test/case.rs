//! Test files: found, read, and made into cases. A mistake in one is shown with its place, as one in
//! the configuration is.

use std::fs;
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use tracing::level_filters::LevelFilter;

use crate::command::test::fake_source::Entry;
use crate::command::test::schema::{
    CaseKeys, CountKeys, ExpectKeys, Named, Requests, SignalKeys, Stderr, Text,
};
use crate::config::yaml_spans::{Outline, Step};
use crate::config::{Settings, test_case};
use crate::error::diagnostic::Problem;
use crate::error::exit::{Cause, Exit};
use crate::report::Format;
use crate::store::fake::Script;

/// How the name of a test file ends.
pub(crate) const ENDING: &str = ".test.yaml";

/// A file of cases.
pub(crate) struct TestFile {
    /// What its cases are called by in the output.
    pub label: String,
    /// Its path as it was given or found.
    pub path: PathBuf,
    /// Its text.
    pub text: String,
    /// Where in it what stands.
    pub outline: Outline,
    /// Its cases.
    pub cases: Vec<Case>,
}

/// One case.
pub(crate) struct Case {
    /// Which one of its file, from 0.
    pub index: usize,
    /// Its name.
    pub name: String,
    /// Why it is not run, if it is not.
    pub skip: Option<String>,
    /// The run's settings.
    pub settings: Settings,
    /// What the source answers.
    pub entries: Vec<Entry>,
    /// What the database says.
    pub store: Script,
    /// What arrives from outside.
    pub signals: Vec<Signal>,
    /// What the run must come to.
    pub expect: Expected,
}

/// A signal that arrives in the course of a case.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Signal {
    pub cause: Cause,
    pub when: When,
}

/// When it arrives.
#[derive(Clone, Copy, Debug)]
pub(crate) enum When {
    /// As this request is answered, from 1.
    Answered(usize),
    /// So long after the run began.
    At(Duration),
}

/// What a run must come to; what is `None` is not looked at.
#[derive(Default)]
pub(crate) struct Expected {
    pub exit: u8,
    /// In the order of [`Status::ALL`](crate::pipeline::token::Status::ALL).
    pub counts: Option<[u64; 5]>,
    pub report: Option<String>,
    /// Reports by their formats.
    pub reports: Vec<(Format, String)>,
    pub stdout: Option<String>,
    pub stderr: Option<Stderr>,
    pub slept: Option<Duration>,
    pub requests: Option<Requests>,
    pub files: Option<Vec<(String, String)>>,
}

impl Expected {
    /// True where a report of this format is looked at.
    pub(crate) fn looks_at(&self, format: Format) -> bool {
        let is_text = format == Format::Text && self.report.is_some();
        is_text || self.reports.iter().any(|(known, _)| *known == format)
    }
}

impl TestFile {
    /// Reads the file at `path`, whose cases are called by `label`.
    pub(crate) fn read(path: &Path, label: String) -> Result<Self, Problem> {
        let shown = path.display().to_string();
        let text = fs::read_to_string(path).map_err(|error| {
            Problem::new(Exit::Usage, format!("the test file {shown} cannot be read"))
                .cause(error.to_string())
        })?;
        Self::parse(path, label, text)
    }

    /// Reads `text`, the contents of the file at `path`.
    pub(crate) fn parse(path: &Path, label: String, text: String) -> Result<Self, Problem> {
        let shown = path.display().to_string();
        let keys: Option<Vec<CaseKeys>> = test_case::read("the test file", &shown, &text)?;
        let outline = Outline::of(&text);
        let reader = Reader {
            path,
            shown: &shown,
            text: &text,
            outline: &outline,
        };
        let cases = keys.unwrap_or_default().into_iter().enumerate();
        let cases = cases
            .map(|(index, keys)| reader.case(index, keys))
            .collect::<Result<Vec<Case>, Problem>>()?;
        if cases.is_empty() {
            return Err(reader.problem(&[], "the test file has no case").hint(
                "a test file is a list of cases, each with a `name`; docs/testing.md shows them",
            ));
        }
        Ok(Self {
            label,
            path: path.to_owned(),
            text,
            outline,
            cases,
        })
    }

    /// `file:line:column` of what `path` leads to.
    pub(crate) fn place(&self, path: &[Step]) -> String {
        let mark = self.outline.key(path);
        let (line, column) = mark.map_or((1, 1), |mark| (mark.line, mark.column));
        format!("{}:{line}:{column}", self.path.display())
    }
}

pub(crate) struct Reader<'a> {
    path: &'a Path,
    shown: &'a str,
    text: &'a str,
    outline: &'a Outline,
}

impl Reader<'_> {
    /// A mistake at what `path` leads to.
    pub(crate) fn problem(&self, path: &[Step], message: impl Into<String>) -> Problem {
        let place = self.outline.place(self.shown, self.text, path, "");
        Problem::new(Exit::Usage, message).place(place)
    }

    fn case(&self, index: usize, keys: CaseKeys) -> Result<Case, Problem> {
        let here = Step::Item(index);
        let name = keys.name.filter(|name| !name.trim().is_empty());
        let Some(name) = name else {
            return Err(self.problem(&[here], "the case has no `name`"));
        };
        let env = keys.env.map(|Named(entries)| entries).unwrap_or_default();
        let env = env.into_iter().map(|(name, Text(value))| (name, value));
        let case = test_case::Case {
            size: keys.size,
            script: keys.script.map(|script| self.beside(&script)),
            vars: keys.vars,
            env: env.collect(),
        };
        let settings = test_case::settle(case, keys.options.unwrap_or_default());
        let mut settings = settings.map_err(|problem| {
            let place = self.outline.place(self.shown, self.text, &[here], "");
            problem.place(place)
        })?;
        settings.log.level = LevelFilter::INFO;
        let mut made = 0;
        let entries = keys.source.unwrap_or_default().into_iter().enumerate();
        let entries = entries
            .map(|(at, entry)| {
                self.entry(
                    [here, Step::Key("source"), Step::Item(at)],
                    &entry,
                    &mut made,
                )
            })
            .collect::<Result<Vec<Entry>, Problem>>()?;
        let signals = keys.signals.unwrap_or_default().into_iter().enumerate();
        let signals = signals
            .map(|(at, signal)| self.signal(&[here, Step::Key("signals"), Step::Item(at)], &signal))
            .collect::<Result<Vec<Signal>, Problem>>()?;
        Ok(Case {
            index,
            name,
            skip: keys.skip,
            settings,
            entries,
            store: self.store(here, keys.store)?,
            signals,
            expect: expected(keys.expect.unwrap_or_default()),
        })
    }

    /// The script's path, which counts from the test file's folder.
    fn beside(&self, script: &Path) -> PathBuf {
        let joined = self.path.parent().unwrap_or(Path::new("")).join(script);
        let plain = without_detours(&joined);
        // A link on the way may lead elsewhere.
        match (plain.canonicalize(), joined.canonicalize()) {
            (Ok(one), Ok(other)) if one == other => plain,
            _ => joined,
        }
    }

    fn signal(&self, at: &[Step], keys: &SignalKeys) -> Result<Signal, Problem> {
        let when = match (keys.after_requests, keys.at) {
            (Some(number), None) => When::Answered(usize::try_from(number).unwrap_or(usize::MAX)),
            (None, Some(moment)) => When::At(moment),
            _ => {
                let message = "a signal needs either `after_requests` or `at`";
                return Err(self.problem(at, message));
            }
        };
        match &keys.name {
            Some(name) => Ok(Signal {
                cause: name.0,
                when,
            }),
            None => Err(self.problem(at, "a signal needs a `name`, TERM or INT")),
        }
    }
}

/// The path without `.` and `x/..`.
fn without_detours(path: &Path) -> PathBuf {
    let mut plain = PathBuf::new();
    for part in path.components() {
        match part {
            Component::CurDir => {}
            Component::ParentDir
                if plain
                    .components()
                    .next_back()
                    .is_some_and(|last| matches!(last, Component::Normal(_))) =>
            {
                plain.pop();
            }
            other => plain.push(other),
        }
    }
    plain
}

fn expected(keys: ExpectKeys) -> Expected {
    let reports = keys.reports.unwrap_or_default();
    let reports = [
        (Format::Text, reports.text),
        (Format::Ndjson, reports.ndjson),
        (Format::Json, reports.json),
        (Format::Csv, reports.csv),
        (Format::Yaml, reports.yaml),
    ];
    let reports = reports.into_iter();
    let reports = reports.filter_map(|(format, text)| Some((format, text?)));
    let counts = |keys: CountKeys| {
        [
            keys.stored,
            keys.rejected,
            keys.failed,
            keys.unknown,
            keys.not_attempted,
        ]
        .map(Option::unwrap_or_default)
    };
    let files = |Named(files): Named<Text>| {
        let texts = files.into_iter().map(|(name, Text(text))| (name, text));
        texts.collect()
    };
    Expected {
        exit: keys.exit.unwrap_or_default(),
        counts: keys.counts.map(counts),
        report: keys.report,
        reports: reports.collect(),
        stdout: keys.stdout,
        stderr: keys.stderr,
        slept: keys.slept,
        requests: keys.requests,
        files: keys.files.map(files),
    }
}
