//! `token_service test`: runs pipelines with a fake source, a fake database and a virtual clock, and
//! compares the results with the expected ones. Everything else is the code of a real run.
//!
//! `discover` finds the files, `test_file` and `schema` parse them into `case`s, `runner` runs a
//! case, `compare` finds differences, `diff` and `junit` show them, `update` writes reports back.

mod case;
mod compare;
mod diff;
mod discover;
mod fake_source;
mod junit;
mod runner;
mod schema;
mod test_file;
mod update;
mod virtual_clock;

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use crate::cli::TestArgs;
use crate::command::test::case::TestCase;
use crate::command::test::compare::{DifferenceKind, counted};
use crate::command::test::runner::CaseRun;
use crate::command::test::test_file::TestFile;
use crate::command::unwritable_stdout;
use crate::config::yaml::PathStep;
use crate::error::Error;
use crate::error::color::Color;
use crate::error::exit::Exit;
use crate::report::text;

/// The settings of `test`.
#[derive(Clone, Debug)]
pub struct TestSettings {
    /// Files and folders; the current folder if empty.
    pub paths: Vec<PathBuf>,
    /// Selects the cases with this text in `FILE: NAME`.
    pub filter: Option<String>,
    /// True to write actual reports into the test files.
    pub update: bool,
    /// The JUnit XML file to write.
    pub junit: Option<PathBuf>,
    /// The number of cases to run at a time; by default one per processor.
    pub jobs: Option<usize>,
    /// The real time that a case may take.
    pub timeout: Duration,
    /// True for colors.
    pub color: bool,
}

impl TestSettings {
    /// Creates the settings from the command line.
    pub fn of(args: &TestArgs, color: bool) -> Self {
        Self {
            paths: args.paths.clone(),
            filter: args.filter.clone(),
            update: args.update,
            junit: args.junit.clone(),
            jobs: args.jobs,
            timeout: args.timeout,
            color,
        }
    }
}

/// The result of a case.
struct CaseResult {
    file: String,
    label: String,
    name: String,
    /// The line of the first difference, else of the case.
    line: usize,
    took: Duration,
    outcome: CaseStatus,
}

enum CaseStatus {
    Passed,
    /// Its actual report was written into the file.
    Updated,
    Skipped(String),
    /// The differences, formatted.
    Failed(String),
}

/// Runs the tests, prints one line per case to `out`, and returns exit status 0 or 1.
///
/// # Errors
/// All errors in the test files, before any case runs; exit code 2. After all cases: files that cannot be
/// written, and standard output if it cannot be written, with exit code 3.
pub fn test(settings: &TestSettings, out: &mut dyn Write) -> Result<Exit, Vec<Error>> {
    let started = Instant::now();
    let files = read(settings)?;
    let selected = select(settings, &files)?;
    let color = Color(settings.color);
    let mut results = Vec::new();
    let mut printed = Ok(());
    let mut changes: Vec<Vec<update::ReportChange>> = files.iter().map(|_| Vec::new()).collect();
    run_all(settings, &selected, |number, run| {
        let (at, file, case) = selected[number];
        let (result, change) = evaluate(settings, file, case, run.as_ref(), color);
        if printed.is_ok() {
            printed = out.write_all(line(&result, color).as_bytes());
        }
        changes[at].extend(change);
        results.push(result);
    });
    let mut failures = write_changes(&files, &changes);
    let last = summary_line(&results, started.elapsed());
    match printed.and_then(|()| out.write_all(last.as_bytes())) {
        // A reader that closes the pipe has read enough; the exit code is still right.
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            failures.push(unwritable_stdout(&error));
        }
        _ => {}
    }
    if let Some(path) = &settings.junit {
        let written = junit::write(path, &results);
        failures.extend(written.err().map(|error| unwritable(path, &error)));
    }
    if !failures.is_empty() {
        return Err(failures);
    }
    let has_failed = results
        .iter()
        .any(|result| matches!(result.outcome, CaseStatus::Failed(_)));
    Ok(if has_failed {
        Exit::Tests
    } else {
        Exit::Completed
    })
}

fn read(settings: &TestSettings) -> Result<Vec<TestFile>, Vec<Error>> {
    let found = discover::find(&settings.paths).map_err(|error| vec![error])?;
    let (mut files, mut errors) = (Vec::new(), Vec::new());
    for discovered in found {
        match TestFile::read(&discovered.path, discovered.label) {
            Ok(file) => files.push(file),
            Err(found) => errors.extend(found),
        }
    }
    if errors.is_empty() {
        Ok(files)
    } else {
        Err(errors)
    }
}

type SelectedCases<'a> = (usize, &'a TestFile, &'a TestCase);

fn select<'a>(
    settings: &TestSettings,
    files: &'a [TestFile],
) -> Result<Vec<SelectedCases<'a>>, Vec<Error>> {
    let filter = settings.filter.as_deref().unwrap_or_default();
    let cases = files.iter().enumerate().flat_map(|(at, file)| {
        let cases = file.cases.iter();
        cases.map(move |case| (at, file, case))
    });
    let selected: Vec<SelectedCases> = cases
        .filter(|(_, file, case)| format!("{}: {}", file.label, case.name).contains(filter))
        .collect();
    if selected.is_empty() {
        let message = format!("no case has `{filter}` in its name");
        let all: usize = files.iter().map(|file| file.cases.len()).sum();
        let hint = format!(
            "`--filter` selects from {} by `FILE: NAME`",
            counted(all, "case")
        );
        return Err(vec![Error::new(Exit::Usage, message).hint(hint)]);
    }
    Ok(selected)
}

/// Runs the cases concurrently and calls `done` for each in order, with `None` for a skipped one.
fn run_all(
    settings: &TestSettings,
    selected: &[SelectedCases],
    mut done: impl FnMut(usize, Option<CaseRun>),
) {
    let jobs = settings.jobs.unwrap_or_else(|| {
        let processors = thread::available_parallelism();
        processors.map_or(1, std::num::NonZero::get)
    });
    let next = AtomicUsize::new(0);
    let (sender, runs) = mpsc::channel();
    thread::scope(|scope| {
        for _ in 0..jobs.min(selected.len()) {
            let (sender, next) = (sender.clone(), &next);
            scope.spawn(move || {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    let Some((.., case)) = selected.get(number) else {
                        return;
                    };
                    let is_run = case.skip.is_none();
                    let run = is_run.then(|| runner::run_case(case, settings.timeout));
                    let _ = sender.send((number, run));
                }
            });
        }
        drop(sender);
        let mut waiting = std::collections::BTreeMap::new();
        let mut next_number = 0;
        for (number, run) in runs {
            waiting.insert(number, run);
            while let Some(run) = waiting.remove(&next_number) {
                done(next_number, run);
                next_number += 1;
            }
        }
    });
}

fn evaluate(
    settings: &TestSettings,
    file: &TestFile,
    case: &TestCase,
    run: Option<&CaseRun>,
    color: Color,
) -> (CaseResult, Option<update::ReportChange>) {
    let mut line = file.root.key(&[PathStep::Item(case.index)]).line;
    let mut change = None;
    let outcome = match run {
        None => CaseStatus::Skipped(case.skip.clone().unwrap_or_default()),
        Some(run) => {
            let mut found = compare::compare(case, run, settings.timeout);
            let is_report = |difference: &compare::Difference| {
                difference.name == "report"
                    && matches!(difference.kind, DifferenceKind::Text { .. })
            };
            if settings.update && found.iter().any(is_report) {
                found.retain(|difference| !is_report(difference));
                change = Some(update::ReportChange {
                    index: case.index,
                    report: run.report(&text::FORMAT).to_owned(),
                });
            }
            if let Some(first) = found.first() {
                line = file.root.key(&first.path).line;
                CaseStatus::Failed(diff::differences(file, &found, color))
            } else if change.is_some() {
                CaseStatus::Updated
            } else {
                CaseStatus::Passed
            }
        }
    };
    let result = CaseResult {
        file: file.path.display().to_string(),
        label: file.label.clone(),
        name: case.name.clone(),
        line,
        took: run.map(|run| run.took).unwrap_or_default(),
        outcome,
    };
    (result, change)
}

fn line(result: &CaseResult, color: Color) -> String {
    let name = format!("{}: {}", result.label, result.name);
    let name = crate::error::escape::escape(&name);
    match &result.outcome {
        CaseStatus::Passed => format!("{}{name}\n", color.result("ok    ")),
        CaseStatus::Updated => format!("{}{name} (report updated)\n", color.result("ok    ")),
        CaseStatus::Skipped(why) => {
            let why = crate::error::escape::escape(why);
            format!("{}{name} ({why})\n", color.result("skip  "))
        }
        CaseStatus::Failed(text) => format!("{}{name}\n{text}", color.result("FAIL  ")),
    }
}

fn summary_line(results: &[CaseResult], took: Duration) -> String {
    let count =
        |is: fn(&CaseStatus) -> bool| results.iter().filter(|case| is(&case.outcome)).count();
    let skipped = count(|outcome| matches!(outcome, CaseStatus::Skipped(_)));
    let failed = count(|outcome| matches!(outcome, CaseStatus::Failed(_)));
    let passed = results.len() - skipped - failed;
    let skipped = match skipped {
        0 => String::new(),
        skipped => format!(", {skipped} skipped"),
    };
    let seconds = took.as_secs_f64();
    format!("{passed} passed, {failed} failed{skipped} in {seconds:.2} s\n")
}

fn write_changes(files: &[TestFile], changes: &[Vec<update::ReportChange>]) -> Vec<Error> {
    let mut failures = Vec::new();
    for (file, changes) in files
        .iter()
        .zip(changes)
        .filter(|(_, changes)| !changes.is_empty())
    {
        let written = update::update(file, changes)
            .and_then(|text| fs::write(&file.path, text).map_err(|error| error.to_string()));
        if let Err(why) = written {
            let message = format!("the reports of {} cannot be updated", file.path.display());
            failures.push(Error::new(Exit::Usage, message).cause(why));
        }
    }
    failures
}

fn unwritable(path: &Path, error: &io::Error) -> Error {
    let message = format!("the JUnit file {} cannot be written", path.display());
    Error::new(Exit::Usage, message).cause(error.to_string())
}
