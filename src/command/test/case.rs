//! A case of a pipeline test: the settings of its run, what source and database do, and the expected
//! results.

use std::time::Duration;

use crate::command::test::fake_source::FakeAnswer;
use crate::config::RunSettings;
use crate::error::exit::Cause;
use crate::pipeline::numbers::Numbers;
use crate::report::{ReportFormat, text};
use crate::store::fake::FakeReplies;

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
    /// The number of requests that may be under way at a time.
    pub concurrency: usize,
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
    /// Only the statuses are compared.
    pub counts: Option<Numbers>,
    pub report: Option<String>,
    /// Reports by format.
    pub reports: Vec<(&'static ReportFormat, String)>,
    pub stdout: Option<String>,
    pub stderr: Option<ExpectedStderr>,
    pub slept: Option<Duration>,
    pub requests: Option<ExpectedRequests>,
    pub files: Option<Vec<(String, String)>>,
}

/// The value of `expect.stderr`.
pub(crate) enum ExpectedStderr {
    /// The whole text.
    Whole(String),
    /// Parts of the text.
    Parts(Vec<String>),
}

/// The value of `expect.requests`.
pub(crate) enum ExpectedRequests {
    /// The number of requests.
    Number(u64),
    /// The size of each request.
    Sizes(Vec<u64>),
}

impl Expected {
    /// Returns true if the report of this format is compared.
    pub(crate) fn compares(&self, format: &ReportFormat) -> bool {
        let is_text = format == &text::FORMAT && self.report.is_some();
        is_text || self.reports.iter().any(|(known, _)| *known == format)
    }
}
