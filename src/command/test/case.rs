//! Reads test files and builds their cases. Errors in a file are shown with their location.

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
use crate::error::Error;
use crate::error::exit::{Cause, Exit};
use crate::report::ReportFormat;
use crate::store::fake::FakeReplies;

/// The suffix of test files.
pub(crate) const SUFFIX: &str = ".test.yaml";

/// A test file.
pub(crate) struct TestFile {
    /// The name of the file in the output.
    pub label: String,
    /// The path as given or found.
    pub path: PathBuf,
    /// The text.
    pub text: String,
    /// The positions of keys and values in the text.
    pub spans: YamlSpans,
    /// The cases.
    pub cases: Vec<TestCase>,
}

/// A test case.
pub(crate) struct TestCase {
    /// The index in its file, from 0.
    pub index: usize,
    /// The name.
    pub name: String,
    /// The reason to skip the case.
    pub skip: Option<String>,
    /// The run's settings.
    pub settings: RunSettings,
    /// The responses of the source, in order.
    pub entries: Vec<FakeAnswer>,
    /// The replies of the database.
    pub store: FakeReplies,
    /// The signals to send.
    pub signals: Vec<CaseSignal>,
    /// The expected results.
    pub expect: Expected,
}

/// A signal during a case.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CaseSignal {
    pub cause: Cause,
    pub when: SignalTime,
}

/// The time of a signal.
#[derive(Clone, Copy, Debug)]
pub(crate) enum SignalTime {
    /// When the source responds to this request, from 1.
    Answered(usize),
    /// This long after the start of the run.
    At(Duration),
}

/// The expected results of a run; `None` is not compared.
#[derive(Default)]
pub(crate) struct Expected {
    pub exit: u8,
    /// In the order of [`Status::ALL`](crate::pipeline::token::Status::ALL).
    pub counts: Option<[u64; 5]>,
    pub report: Option<String>,
    /// Reports by format.
    pub reports: Vec<(ReportFormat, String)>,
    pub stdout: Option<String>,
    pub stderr: Option<ExpectedStderr>,
    pub slept: Option<Duration>,
    pub requests: Option<ExpectedRequests>,
    pub files: Option<Vec<(String, String)>>,
}

impl Expected {
    /// Returns true if the report of this format is compared.
    pub(crate) fn compares(&self, format: ReportFormat) -> bool {
        let is_text = format == ReportFormat::Text && self.report.is_some();
        is_text || self.reports.iter().any(|(known, _)| *known == format)
    }
}

impl TestFile {
    /// Reads the test file at `path`, named `label` in the output.
    pub(crate) fn read(path: &Path, label: String) -> Result<Self, Error> {
        let file_name = path.display().to_string();
        let text = fs::read_to_string(path).map_err(|error| {
            Error::new(
                Exit::Usage,
                format!("the test file {file_name} cannot be read"),
            )
            .cause(error.to_string())
        })?;
        Self::parse(path, label, text)
    }

    /// Parses `text`, the content of the file at `path`.
    pub(crate) fn parse(path: &Path, label: String, text: String) -> Result<Self, Error> {
        let file_name = path.display().to_string();
        let keys: Option<Vec<CaseKeys>> = test_case::parse("the test file", &file_name, &text)?;
        let spans = YamlSpans::of(&text);
        let reader = CaseReader {
            path,
            file_name: &file_name,
            text: &text,
            spans: &spans,
        };
        let cases = keys.unwrap_or_default().into_iter().enumerate();
        let cases = cases
            .map(|(index, keys)| reader.case(index, keys))
            .collect::<Result<Vec<TestCase>, Error>>()?;
        if cases.is_empty() {
            return Err(reader
                .problem(&[], "the test file has no cases")
                .hint("write a list of cases, each with a `name`; see docs/testing.md"));
        }
        Ok(Self {
            label,
            path: path.to_owned(),
            text,
            spans,
            cases,
        })
    }

    /// Returns `file:line:column` of the key at `path`.
    pub(crate) fn location(&self, path: &[PathStep]) -> String {
        let span = self.spans.key(path);
        let (line, column) = span.map_or((1, 1), |span| (span.line, span.column));
        format!("{}:{line}:{column}", self.path.display())
    }
}

pub(crate) struct CaseReader<'a> {
    path: &'a Path,
    file_name: &'a str,
    text: &'a str,
    spans: &'a YamlSpans,
}

impl CaseReader<'_> {
    /// Returns a problem at the key of `path`.
    pub(crate) fn problem(&self, path: &[PathStep], message: impl Into<String>) -> Error {
        let location = self.spans.location(self.file_name, self.text, path, "");
        Error::new(Exit::Usage, message).location(location)
    }

    fn case(&self, index: usize, keys: CaseKeys) -> Result<TestCase, Error> {
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
            script: keys.script.map(|script| self.script_path(&script)),
            vars: keys.vars,
            env: env.collect(),
        };
        let settings = test_case::resolve(case, keys.options.unwrap_or_default());
        let mut settings = settings.map_err(|problem| {
            let location = self.spans.location(self.file_name, self.text, &[here], "");
            problem.location(location)
        })?;
        settings.log.level = LevelFilter::INFO;
        let mut generated = 0;
        let entries = keys.source.unwrap_or_default().into_iter().enumerate();
        let entries = entries
            .map(|(at, entry)| {
                self.entry(
                    [here, PathStep::Key("source"), PathStep::Item(at)],
                    &entry,
                    &mut generated,
                )
            })
            .collect::<Result<Vec<FakeAnswer>, Error>>()?;
        let signals = keys.signals.unwrap_or_default().into_iter().enumerate();
        let signals = signals
            .map(|(at, signal)| {
                self.signal(
                    &[here, PathStep::Key("signals"), PathStep::Item(at)],
                    &signal,
                )
            })
            .collect::<Result<Vec<CaseSignal>, Error>>()?;
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

    /// Returns the path of a script, which is relative to the folder of the test file.
    fn script_path(&self, script: &Path) -> PathBuf {
        let joined = self.path.parent().unwrap_or(Path::new("")).join(script);
        let plain = normalize(&joined);
        // With a symbolic link before `..`, the normalized path may be a different file.
        match (plain.canonicalize(), joined.canonicalize()) {
            (Ok(one), Ok(other)) if one == other => plain,
            _ => joined,
        }
    }

    fn signal(&self, at: &[PathStep], keys: &SignalKeys) -> Result<CaseSignal, Error> {
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

/// Returns the path without `.` and `x/..`.
fn normalize(path: &Path) -> PathBuf {
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
