//! Writes the results as JUnit XML for continuous integration, with one test suite per file.

use std::path::Path;
use std::time::Duration;
use std::{fs, io};

use quick_junit::{NonSuccessKind, Report, TestCase, TestCaseStatus, TestSuite};

use crate::command::test::{CaseResult, CaseStatus};
use crate::error::escape::is_hostile;

/// Writes the results to `path`.
pub(crate) fn write(path: &Path, results: &[CaseResult]) -> io::Result<()> {
    let mut report = Report::unnamed();
    report.set_time(total(results));
    for cases in results.chunk_by(|one, next| one.file == next.file) {
        let mut suite = TestSuite::new(clean(&cases[0].file));
        suite.set_time(total(cases));
        suite.add_test_cases(cases.iter().map(test_case));
        report.add_test_suite(suite);
    }
    let xml = report.to_string().map_err(io::Error::other)?;
    fs::write(path, xml.replace(TAB, "&#9;"))
}

/// Stands for a tab, which the crate would drop. XML cannot contain it, so no text has it.
const TAB: char = '\u{fffe}';

fn total(cases: &[CaseResult]) -> Duration {
    cases.iter().map(|case| case.took).sum()
}

fn test_case(case: &CaseResult) -> TestCase {
    let status = match &case.outcome {
        CaseStatus::Passed | CaseStatus::Updated(_) => TestCaseStatus::success(),
        CaseStatus::Skipped(why) => {
            let mut status = TestCaseStatus::skipped();
            status.set_message(clean(why));
            status
        }
        CaseStatus::Failed(text) => {
            // The first line is only the place.
            let first = text.lines().nth(1).or(text.lines().next());
            let mut status = TestCaseStatus::non_success(NonSuccessKind::Failure);
            status
                .set_message(clean(first.unwrap_or_default().trim()))
                .set_description(clean(text));
            status
        }
    };
    let mut test_case = TestCase::new(clean(&case.name), status);
    test_case
        .set_classname(clean(&case.label))
        .set_time(case.took);
    let place = [("file", clean(&case.file)), ("line", case.line.to_string())];
    test_case.extra.extend(
        place
            .into_iter()
            .map(|(key, value)| (key.into(), value.into())),
    );
    test_case
}

/// Replaces characters that XML cannot contain. The crate would drop them, and noncharacters stay.
fn clean(text: &str) -> String {
    let is_unfit = |char| !matches!(char, '\n' | '\t') && is_hostile(char);
    let text = text.replace(is_unfit, "\u{fffd}");
    text.replace('\t', &TAB.to_string())
}
