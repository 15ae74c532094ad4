//! Test files: found, read, and made into cases. A mistake in one is shown with its place, as one in
//! the configuration is.

use std::fs;
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use tracing::level_filters::LevelFilter;

use crate::command::test::fake_source::FakeAnswer;
use crate::command::test::schema::{
    CaseKeys, CountKeys, ExpectKeys, ExpectedRequests, ExpectedStderr, OrderedMap, QuotedText,
    SignalKeys,
};
use crate::config::yaml_spans::{PathStep, YamlSpans};
use crate::config::{RunSettings, test_case};
use crate::error::diagnostic::Problem;
use crate::error::exit::{Cause, Exit};
use crate::report::ReportFormat;
use crate::store::fake::FakeReplies;

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
    pub spans: YamlSpans,
    /// Its cases.
    pub cases: Vec<TestCase>,
}

/// One case.
pub(crate) struct TestCase {
    /// Which one of its file, from 0.
    pub index: usize,
    /// Its name.
    pub name: String,
    /// Why it is not run, if it is not.
    pub skip: Option<String>,
    /// The run's settings.
    pub settings: RunSettings,
    /// What the source answers.
    pub entries: Vec<FakeAnswer>,
    /// What the database says.
    pub store: FakeReplies,
    /// What arrives from outside.
    pub signals: Vec<CaseSignal>,
    /// What the run must come to.
    pub expect: Expected,
}

/// A signal that arrives in the course of a case.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CaseSignal {
    pub cause: Cause,
    pub when: SignalTime,
}

/// When it arrives.
#[derive(Clone, Copy, Debug)]
pub(crate) enum SignalTime {
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
    pub reports: Vec<(ReportFormat, String)>,
    pub stdout: Option<String>,
    pub stderr: Option<ExpectedStderr>,
    pub slept: Option<Duration>,
    pub requests: Option<ExpectedRequests>,
    pub files: Option<Vec<(String, String)>>,
}

impl Expected {
    /// True where a report of this format is looked at.
    pub(crate) fn looks_at(&self, format: ReportFormat) -> bool {
        let is_text = format == ReportFormat::Text && self.report.is_some();
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
        let keys: Option<Vec<CaseKeys>> = test_case::parse("the test file", &shown, &text)?;
        let spans = YamlSpans::of(&text);
        let reader = CaseReader {
            path,
            shown: &shown,
            text: &text,
            spans: &spans,
        };
        let cases = keys.unwrap_or_default().into_iter().enumerate();
        let cases = cases
            .map(|(index, keys)| reader.case(index, keys))
            .collect::<Result<Vec<TestCase>, Problem>>()?;
        if cases.is_empty() {
            return Err(reader.problem(&[], "the test file has no case").hint(
                "a test file is a list of cases, each with a `name`; docs/testing.md shows them",
            ));
        }
        Ok(Self {
            label,
            path: path.to_owned(),
            text,
            spans,
            cases,
        })
    }

    /// `file:line:column` of what `path` leads to.
    pub(crate) fn place(&self, path: &[PathStep]) -> String {
        let mark = self.spans.key(path);
        let (line, column) = mark.map_or((1, 1), |mark| (mark.line, mark.column));
        format!("{}:{line}:{column}", self.path.display())
    }
}

pub(crate) struct CaseReader<'a> {
    path: &'a Path,
    shown: &'a str,
    text: &'a str,
    spans: &'a YamlSpans,
}

impl CaseReader<'_> {
    /// A mistake at what `path` leads to.
    pub(crate) fn problem(&self, path: &[PathStep], message: impl Into<String>) -> Problem {
        let place = self.spans.location(self.shown, self.text, path, "");
        Problem::new(Exit::Usage, message).location(place)
    }

    fn case(&self, index: usize, keys: CaseKeys) -> Result<TestCase, Problem> {
        let here = PathStep::Item(index);
        let name = keys.name.filter(|name| !name.trim().is_empty());
        let Some(name) = name else {
            return Err(self.problem(&[here], "the case has no `name`"));
        };
        let env = keys
            .env
            .map(|OrderedMap(entries)| entries)
            .unwrap_or_default();
        let env = env
            .into_iter()
            .map(|(name, QuotedText(value))| (name, value));
        let case = test_case::CaseSettings {
            size: keys.size,
            script: keys.script.map(|script| self.beside(&script)),
            vars: keys.vars,
            env: env.collect(),
        };
        let settings = test_case::resolve(case, keys.options.unwrap_or_default());
        let mut settings = settings.map_err(|problem| {
            let place = self.spans.location(self.shown, self.text, &[here], "");
            problem.location(place)
        })?;
        settings.log.level = LevelFilter::INFO;
        let mut made = 0;
        let entries = keys.source.unwrap_or_default().into_iter().enumerate();
        let entries = entries
            .map(|(at, entry)| {
                self.entry(
                    [here, PathStep::Key("source"), PathStep::Item(at)],
                    &entry,
                    &mut made,
                )
            })
            .collect::<Result<Vec<FakeAnswer>, Problem>>()?;
        let signals = keys.signals.unwrap_or_default().into_iter().enumerate();
        let signals = signals
            .map(|(at, signal)| {
                self.signal(
                    &[here, PathStep::Key("signals"), PathStep::Item(at)],
                    &signal,
                )
            })
            .collect::<Result<Vec<CaseSignal>, Problem>>()?;
        Ok(TestCase {
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

    fn signal(&self, at: &[PathStep], keys: &SignalKeys) -> Result<CaseSignal, Problem> {
        let when = match (keys.after_requests, keys.at) {
            (Some(number), None) => {
                SignalTime::Answered(usize::try_from(number).unwrap_or(usize::MAX))
            }
            (None, Some(moment)) => SignalTime::At(moment),
            _ => {
                let message = "a signal needs either `after_requests` or `at`";
                return Err(self.problem(at, message));
            }
        };
        match &keys.name {
            Some(name) => Ok(CaseSignal {
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
        (ReportFormat::Text, reports.text),
        (ReportFormat::Ndjson, reports.ndjson),
        (ReportFormat::Json, reports.json),
        (ReportFormat::Csv, reports.csv),
        (ReportFormat::Yaml, reports.yaml),
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
    let files = |OrderedMap(files): OrderedMap<QuotedText>| {
        let texts = files
            .into_iter()
            .map(|(name, QuotedText(text))| (name, text));
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
