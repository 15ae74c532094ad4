//! Writes the results as JUnit XML for continuous integration, with one test suite per file.

use std::fs;
use std::io;
use std::path::Path;

use quick_xml::Writer;
use quick_xml::events::{BytesDecl, BytesText, Event};

use crate::command::test::{CaseResult, CaseStatus};
use crate::error::escape::is_hostile;

/// Writes the results to `path`.
pub(crate) fn write(path: &Path, results: &[CaseResult]) -> io::Result<()> {
    fs::write(path, document(results)?)
}

fn document(results: &[CaseResult]) -> io::Result<Vec<u8>> {
    let mut suites: Vec<(&str, Vec<&CaseResult>)> = Vec::new();
    for result in results {
        let file = result.file.as_str();
        match suites.last_mut() {
            Some((known, cases)) if *known == file => cases.push(result),
            _ => suites.push((file, vec![result])),
        }
    }
    let mut writer = Writer::new_with_indent(Vec::new(), b' ', 2);
    writer.write_event(Event::Decl(BytesDecl::new("1.0", Some("UTF-8"), None)))?;
    let all: Vec<&CaseResult> = results.iter().collect();
    writer
        .create_element("testsuites")
        .with_attributes(numbers(&all).iter().map(pair))
        .write_inner_content(|writer| {
            for (file, cases) in &suites {
                suite(writer, file, cases)?;
            }
            Ok(())
        })?;
    let mut bytes = writer.into_inner();
    bytes.push(b'\n');
    Ok(bytes)
}

fn suite(writer: &mut Writer<Vec<u8>>, file: &str, cases: &[&CaseResult]) -> io::Result<()> {
    let mut attributes = vec![("name", clean(file))];
    attributes.extend(numbers(cases));
    writer
        .create_element("testsuite")
        .with_attributes(attributes.iter().map(pair))
        .write_inner_content(|writer| cases.iter().try_for_each(|case| test_case(writer, case)))?;
    Ok(())
}

fn test_case(writer: &mut Writer<Vec<u8>>, case: &CaseResult) -> io::Result<()> {
    let attributes = [
        ("name", clean(&case.name)),
        ("classname", clean(&case.label)),
        ("file", clean(&case.file)),
        ("line", case.line.to_string()),
        ("time", seconds(case.took.as_secs_f64())),
    ];
    let element = writer
        .create_element("testcase")
        .with_attributes(attributes.iter().map(pair));
    match &case.outcome {
        CaseStatus::Passed | CaseStatus::Updated => element.write_empty()?,
        CaseStatus::Skipped(why) => element.write_inner_content(|writer| {
            let message = [("message", clean(why))];
            let skipped = writer.create_element("skipped");
            skipped
                .with_attributes(message.iter().map(pair))
                .write_empty()?;
            Ok(())
        })?,
        CaseStatus::Failed(text) => element.write_inner_content(|writer| {
            let first = text
                .lines()
                .nth(1)
                .or(text.lines().next())
                .unwrap_or_default();
            let message = [("message", clean(first.trim()))];
            let failure = writer.create_element("failure");
            failure
                .with_attributes(message.iter().map(pair))
                .write_text_content(BytesText::new(&clean(text)))?;
            Ok(())
        })?,
    };
    Ok(())
}

fn numbers(cases: &[&CaseResult]) -> Vec<(&'static str, String)> {
    let count = |is: fn(&CaseStatus) -> bool| {
        let found = cases.iter().filter(|case| is(&case.outcome)).count();
        found.to_string()
    };
    let took: f64 = cases.iter().map(|case| case.took.as_secs_f64()).sum();
    vec![
        ("tests", cases.len().to_string()),
        (
            "failures",
            count(|outcome| matches!(outcome, CaseStatus::Failed(_))),
        ),
        ("errors", "0".to_owned()),
        (
            "skipped",
            count(|outcome| matches!(outcome, CaseStatus::Skipped(_))),
        ),
        ("time", seconds(took)),
    ]
}

fn seconds(seconds: f64) -> String {
    format!("{seconds:.3}")
}

fn pair<'a>((name, value): &'a (&'static str, String)) -> (&'a str, &'a str) {
    (name, value.as_str())
}

/// Replaces characters that XML cannot contain.
fn clean(text: &str) -> String {
    let is_allowed =
        |char: char| char == '\n' || !is_hostile(char) && !matches!(char, '\u{fffe}' | '\u{ffff}');
    text.chars()
        .map(|char| if is_allowed(char) { char } else { '\u{fffd}' })
        .collect()
}
