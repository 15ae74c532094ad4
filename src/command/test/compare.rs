//! Compares the results of a case with the expected ones, and returns the differences with their keys.

use std::time::Duration;

use crate::command::test::case::{Expected, ExpectedRequests, ExpectedStderr, TestCase};
use crate::command::test::fake_source::FakeAnswer;
use crate::command::test::runner::CaseRun;
use crate::command::test::update::{ActualValue, Change};
use crate::command::test::virtual_clock::Overrun;
use crate::config::yaml::PathStep;
use crate::pipeline::token::Status;
use crate::report::text;

/// A difference between an expected and an actual result.
pub(crate) struct Difference<'a> {
    /// The path to the expected value.
    pub path: Vec<PathStep<'a>>,
    /// The name of the value, such as `counts.stored`.
    pub name: String,
    /// The kind.
    pub kind: DifferenceKind,
    /// The change to the file that makes the case pass; `None` if it must be made by hand.
    pub change: Option<Change>,
}

/// The kind of a difference.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum DifferenceKind {
    /// Two multi-line texts.
    Text { expected: String, got: String },
    /// Two values.
    Value { expected: String, got: String },
    /// A text without an expected part.
    Missing { part: String, text: String },
    /// A message.
    Message(String),
}

/// Returns the differences; an empty list means that the case passes.
pub(crate) fn compare<'a>(
    case: &'a TestCase,
    run: &CaseRun,
    limit: Duration,
) -> Vec<Difference<'a>> {
    let mut comparison = Comparison {
        case: PathStep::Item(case.index),
        found: Vec::new(),
    };
    // If the case did not end normally, other differences only follow from that.
    if let Some(why) = abnormal_end(case, run, limit) {
        comparison.message(&[], "", why);
        return comparison.found;
    }
    comparison.texts(&case.expect, run);
    comparison.values(&case.expect, run);
    comparison.stderr(&case.expect, run);
    let (scripted, requests) = (case.entries.len(), run.requests.len());
    if requests < scripted && case.expect.requests.is_none() {
        let message = format!(
            "the case has {}, but the run sent only {requests}; set `requests: {requests}` if this is expected",
            counted(scripted, "answer")
        );
        comparison.message(
            &[PathStep::Key("source"), PathStep::Item(requests)],
            "source",
            message,
        );
    }
    comparison.absent_tokens(case, run);
    comparison.found
}

/// Returns why the case did not end normally.
fn abnormal_end(case: &TestCase, run: &CaseRun, limit: Duration) -> Option<String> {
    let scripted = case.entries.len();
    match run.overrun {
        Some(Overrun::RealTime) => Some(format!(
            "the case did not end within {} of real time, perhaps because of an infinite loop; `--timeout` sets the limit",
            humantime::format_duration(limit)
        )),
        Some(Overrun::Deadlock) => Some(
            "the run waits for an event that never occurs; this is a bug in token_service"
                .to_owned(),
        ),
        None if run.requests.len() > scripted => {
            let (number, size) = (scripted + 1, run.requests[scripted]);
            Some(format!(
                "the run sent request {number}, for {}, but the case has only {}",
                counted(usize::try_from(size).unwrap_or(usize::MAX), "token"),
                counted(scripted, "answer")
            ))
        }
        None => None,
    }
}

/// Returns a number with its noun: `1 answer`, `2 answers`.
pub(crate) fn counted(number: usize, noun: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{number} {noun}{plural}")
}

struct Comparison<'a> {
    case: PathStep<'a>,
    found: Vec<Difference<'a>>,
}

impl<'a> Comparison<'a> {
    fn add(&mut self, below: &[PathStep<'a>], name: &str, kind: DifferenceKind) {
        let mut path = vec![self.case];
        path.extend(below);
        self.found.push(Difference {
            path,
            name: name.to_owned(),
            kind,
            change: None,
        });
    }

    /// Sets the change for the last difference.
    fn change(&mut self, keys: &[&str], value: ActualValue) {
        if let Some(last) = self.found.last_mut() {
            let keys = keys.iter().map(ToString::to_string).collect();
            last.change = Some(Change { keys, value });
        }
    }

    fn message(&mut self, below: &[PathStep<'a>], name: &str, message: String) {
        self.add(below, name, DifferenceKind::Message(message));
    }

    fn value(&mut self, keys: &[&'a str], expected: String, got: String) {
        if expected != got {
            let new = ActualValue::Plain(got.clone());
            self.differs(keys, DifferenceKind::Value { expected, got });
            self.change(keys, new);
        }
    }

    fn differs(&mut self, keys: &[&'a str], kind: DifferenceKind) {
        let path = [&["expect"], keys].concat();
        let steps: Vec<PathStep> = path.into_iter().map(PathStep::Key).collect();
        self.add(&steps, &keys.join("."), kind);
    }

    /// Compares two texts without regard to a trailing line break, which a YAML block may lack.
    fn text(&mut self, keys: &[&'a str], expected: &str, got: &str) {
        let plain = |text: &str| text.strip_suffix('\n').unwrap_or(text).to_owned();
        let (expected, got) = (plain(expected), plain(got));
        if expected != got {
            let new = ActualValue::Text(got.clone());
            self.differs(keys, DifferenceKind::Text { expected, got });
            self.change(keys, new);
        }
    }

    fn texts(&mut self, expect: &'a Expected, run: &CaseRun) {
        for (key, expected, got) in [
            ("report", &expect.report, run.report(&text::FORMAT)),
            ("stdout", &expect.stdout, &run.stdout),
        ] {
            if let Some(expected) = expected {
                self.text(&[key], expected, got);
            }
        }
        for (format, expected) in &expect.reports {
            let keys = ["reports", format.name];
            self.text(&keys, expected, run.report(format));
        }
        let Some(files) = &expect.files else { return };
        for (name, expected) in files {
            if let Some((_, got)) = run.files.iter().find(|(known, _)| known == name) {
                self.text(&["files", name], expected, got);
            } else {
                let steps = [
                    PathStep::Key("expect"),
                    PathStep::Key("files"),
                    PathStep::Key(name),
                ];
                let name = format!("files.{name}");
                self.message(
                    &steps,
                    &name,
                    "the script did not write this file".to_owned(),
                );
            }
        }
        for (name, text) in &run.files {
            if files.iter().all(|(known, _)| known != name) {
                let steps = [PathStep::Key("expect"), PathStep::Key("files")];
                let message = "the script also wrote this file".to_owned();
                self.message(&steps, &format!("files.{name}"), message);
                self.change(&["files", name], ActualValue::Text(text.clone()));
            }
        }
    }

    fn values(&mut self, expect: &'a Expected, run: &CaseRun) {
        self.value(&["exit"], expect.exit.to_string(), run.exit.to_string());
        if let Some(counts) = &expect.counts {
            for status in Status::ALL {
                let keys = ["counts", status.as_str()];
                let (expected, got) = (counts.of(status), run.numbers.of(status));
                self.value(&keys, expected.to_string(), got.to_string());
            }
        }
        if let Some(slept) = expect.slept {
            let text = |time| humantime::format_duration(time).to_string();
            self.value(&["slept"], text(slept), text(run.slept));
        }
        match &expect.requests {
            None => {}
            Some(ExpectedRequests::Number(number)) => {
                let got = run.requests.len().to_string();
                self.value(&["requests"], number.to_string(), got);
            }
            Some(ExpectedRequests::Sizes(sizes)) => {
                let got = format!("{:?}", run.requests);
                self.value(&["requests"], format!("{sizes:?}"), got);
            }
        }
    }

    /// Finds tokens in `store` that the run never had.
    fn absent_tokens(&mut self, case: &'a TestCase, run: &CaseRun) {
        let answered = case.entries.iter().take(run.requests.len());
        let bodies: Vec<&str> = answered.filter_map(FakeAnswer::body).collect();
        let sent = case.store.sent();
        let mut absent: Vec<&String> = case.store.replies.keys().collect();
        absent.retain(|token| {
            let is_in = |body: &&str| {
                body.lines().any(|line| line == token.as_str())
                    || body.contains(&format!("\"{token}\""))
            };
            !sent.contains(*token) && !bodies.iter().any(is_in)
        });
        absent.sort();
        for token in absent {
            self.message(
                &[PathStep::Key("store"), PathStep::Key(token)],
                "store",
                format!("the run never had the token `{token}`"),
            );
        }
    }

    fn stderr(&mut self, expect: &'a Expected, run: &CaseRun) {
        match &expect.stderr {
            None => {}
            Some(ExpectedStderr::Whole(text)) => self.text(&["stderr"], text, &run.stderr),
            Some(ExpectedStderr::Parts(parts)) => {
                for (index, part) in parts.iter().enumerate() {
                    if !run.stderr.contains(part) {
                        let steps = [
                            PathStep::Key("expect"),
                            PathStep::Key("stderr"),
                            PathStep::Item(index),
                        ];
                        let kind = DifferenceKind::Missing {
                            part: part.clone(),
                            text: run.stderr.clone(),
                        };
                        return self.add(&steps, "stderr", kind);
                    }
                }
            }
        }
        // Standard error explains an unexpected exit code.
        if expect.exit != run.exit && expect.stderr.is_none() {
            let text = format!("standard error was\n{}", run.stderr.trim_end());
            self.message(&[PathStep::Key("expect"), PathStep::Key("exit")], "", text);
        }
    }
}
