//! What a case expected against what it came to: the differences, each with the key that it belongs
//! to. Says nothing of how they look.

use std::time::Duration;

use crate::cli::value::report_name;
use crate::command::test::case::{Expected, TestCase};
use crate::command::test::runner::CaseRun;
use crate::command::test::schema::{ExpectedRequests, ExpectedStderr};
use crate::command::test::virtual_clock::Overrun;
use crate::config::yaml_spans::PathStep;
use crate::pipeline::token::Status;
use crate::report::ReportFormat;

/// Something that is not as it was expected.
pub(crate) struct Difference<'a> {
    /// The keys that lead to what was expected.
    pub path: Vec<PathStep<'a>>,
    /// What is not as it should be, such as `counts.stored`.
    pub what: String,
    /// How it differs.
    pub how: DifferenceKind,
}

/// How something differs.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum DifferenceKind {
    /// Two texts of several lines.
    Text { expected: String, got: String },
    /// Two values.
    Value { expected: String, got: String },
    /// A text that a part is missing from.
    Lacks { part: String, text: String },
    /// A sentence.
    Says(String),
}

/// The differences; none where the case passes.
pub(crate) fn judge<'a>(
    case: &'a TestCase,
    played: &CaseRun,
    limit: Duration,
) -> Vec<Difference<'a>> {
    let mut judge = Comparison {
        case: PathStep::Item(case.index),
        found: Vec::new(),
    };
    // What ends a case from outside makes everything else come out wrong.
    if let Some(why) = ended(case, played, limit) {
        judge.says(&[], "", why);
        return judge.found;
    }
    judge.texts(&case.expect, played);
    judge.values(&case.expect, played);
    judge.messages(&case.expect, played);
    let (scripted, asked) = (case.entries.len(), played.requests.len());
    if asked < scripted && case.expect.requests.is_none() {
        let what = format!(
            "the case has {}, the run asked for {asked}; `requests: {asked}` says that this is meant",
            counted(scripted, "answer")
        );
        judge.says(
            &[PathStep::Key("source"), PathStep::Item(asked)],
            "source",
            what,
        );
    }
    judge.found
}

/// Why the case came to no end of its own.
fn ended(case: &TestCase, played: &CaseRun, limit: Duration) -> Option<String> {
    let scripted = case.entries.len();
    match played.overrun {
        Some(Overrun::Time) => Some(format!(
            "the case did not end within {} of real time (`--timeout` sets the limit); is there a loop without an end?",
            humantime::format_duration(limit)
        )),
        Some(Overrun::Stuck) => Some(
            "the run waits for something that never comes; this is a bug of token_service"
                .to_owned(),
        ),
        None if played.requests.len() > scripted => {
            let (number, size) = (scripted + 1, played.requests[scripted]);
            Some(format!(
                "the run sent a request number {number}, for {}, and the case has {}",
                counted(usize::try_from(size).unwrap_or(usize::MAX), "token"),
                counted(scripted, "answer")
            ))
        }
        None => None,
    }
}

/// `1 answer`, `2 answers`.
pub(crate) fn counted(number: usize, what: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{number} {what}{plural}")
}

struct Comparison<'a> {
    case: PathStep<'a>,
    found: Vec<Difference<'a>>,
}

impl<'a> Comparison<'a> {
    fn add(&mut self, below: &[PathStep<'a>], what: &str, how: DifferenceKind) {
        let mut path = vec![self.case];
        path.extend(below);
        self.found.push(Difference {
            path,
            what: what.to_owned(),
            how,
        });
    }

    fn says(&mut self, below: &[PathStep<'a>], what: &str, sentence: String) {
        self.add(below, what, DifferenceKind::Says(sentence));
    }

    fn value(&mut self, keys: &[&'a str], expected: String, got: String) {
        if expected != got {
            self.differs(keys, DifferenceKind::Value { expected, got });
        }
    }

    fn differs(&mut self, keys: &[&'a str], how: DifferenceKind) {
        let path = [&["expect"], keys].concat();
        let steps: Vec<PathStep> = path.into_iter().map(PathStep::Key).collect();
        self.add(&steps, &keys.join("."), how);
    }

    /// Whether a text ends with a line break is not looked at: a block in YAML may or may not.
    fn text(&mut self, keys: &[&'a str], expected: &str, got: &str) {
        let plain = |text: &str| text.strip_suffix('\n').unwrap_or(text).to_owned();
        let (expected, got) = (plain(expected), plain(got));
        if expected != got {
            self.differs(keys, DifferenceKind::Text { expected, got });
        }
    }

    fn texts(&mut self, expect: &'a Expected, played: &CaseRun) {
        for (key, expected, got) in [
            ("report", &expect.report, played.report(ReportFormat::Text)),
            ("stdout", &expect.stdout, &played.stdout),
        ] {
            if let Some(expected) = expected {
                self.text(&[key], expected, got);
            }
        }
        for (format, expected) in &expect.reports {
            let keys = ["reports", report_name(*format)];
            self.text(&keys, expected, played.report(*format));
        }
        let Some(files) = &expect.files else { return };
        for (name, expected) in files {
            if let Some((_, got)) = played.files.iter().find(|(known, _)| known == name) {
                self.text(&["files", name], expected, got);
            } else {
                let steps = [
                    PathStep::Key("expect"),
                    PathStep::Key("files"),
                    PathStep::Key(name),
                ];
                let what = format!("files.{name}");
                self.says(&steps, &what, "the script did not write it".to_owned());
            }
        }
        for (name, _) in &played.files {
            if files.iter().all(|(known, _)| known != name) {
                let steps = [PathStep::Key("expect"), PathStep::Key("files")];
                self.says(&steps, "files", format!("the script wrote `{name}` too"));
            }
        }
    }

    fn values(&mut self, expect: &'a Expected, played: &CaseRun) {
        self.value(&["exit"], expect.exit.to_string(), played.exit.to_string());
        if let Some(counts) = &expect.counts {
            for (status, (expected, got)) in
                Status::ALL.iter().zip(counts.iter().zip(played.counts))
            {
                let keys = ["counts", status.as_str()];
                self.value(&keys, expected.to_string(), got.to_string());
            }
        }
        if let Some(slept) = expect.slept {
            let words = |time| humantime::format_duration(time).to_string();
            self.value(&["slept"], words(slept), words(played.slept));
        }
        match &expect.requests {
            None => {}
            Some(ExpectedRequests::Number(number)) => {
                let got = played.requests.len().to_string();
                self.value(&["requests"], number.to_string(), got);
            }
            Some(ExpectedRequests::Sizes(sizes)) => {
                let got = format!("{:?}", played.requests);
                self.value(&["requests"], format!("{sizes:?}"), got);
            }
        }
    }

    fn messages(&mut self, expect: &'a Expected, played: &CaseRun) {
        match &expect.stderr {
            None => {}
            Some(ExpectedStderr::Whole(text)) => self.text(&["stderr"], text, &played.stderr),
            Some(ExpectedStderr::Parts(parts)) => {
                for (index, part) in parts.iter().enumerate() {
                    if !played.stderr.contains(part) {
                        let steps = [
                            PathStep::Key("expect"),
                            PathStep::Key("stderr"),
                            PathStep::Item(index),
                        ];
                        let how = DifferenceKind::Lacks {
                            part: part.clone(),
                            text: played.stderr.clone(),
                        };
                        return self.add(&steps, "stderr", how);
                    }
                }
            }
        }
        // Why a run ended otherwise than expected stands there.
        if expect.exit != played.exit && expect.stderr.is_none() {
            let said = format!("the run said\n{}", played.stderr.trim_end());
            self.says(&[PathStep::Key("expect"), PathStep::Key("exit")], "", said);
        }
    }
}
