//! `token_service test`: runs pipelines with a fake source, a fake database and a virtual clock, and
//! compares the results with the expected ones. Everything else is the code of a real run.
//!
//! `discover` finds the files, `test_file` and `schema` parse them into `case`s, `runner` runs a
//! case, `compare` finds differences, `diff` and `junit` show them, `update` writes
//! actual values back.

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
pub(crate) mod virtual_clock;

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use crate::cli::TestArgs;
use crate::command::test::case::TestCase;
use crate::command::test::compare::{Difference, counted};
use crate::command::test::runner::CaseRun;
use crate::command::test::test_file::TestFile;
use crate::command::unwritable_stdout;
use crate::config::yaml::PathStep;
use crate::error::Error;
use crate::error::color::Color;
use crate::error::exit::Exit;

/// The settings of `test`.
#[derive(Clone, Debug)]
pub struct TestSettings {
    /// Files and folders; the current folder if empty.
    pub paths: Vec<PathBuf>,
    /// Selects the cases with this text in `FILE: NAME`.
    pub filter: Option<String>,
    /// True to write actual values into the test files.
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
    /// These actual values were written into the file.
    Updated(Vec<String>),
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
    let mut texts: Vec<String> = files.iter().map(|file| file.text.clone()).collect();
    let mut printed = Ok(());
    run_all(settings, &selected, |number, run| {
        let (at, file, case) = selected[number];
        let result = evaluate(settings, file, case, run.as_ref(), &mut texts[at], color);
        if printed.is_ok() {
            printed = out.write_all(line(&result, color).as_bytes());
        }
        results.push(result);
    });
    let mut failures = Vec::new();
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

/// The index of a file, the file and a case of it.
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

/// Compares a case, and with `--update` changes its expected values in `text` and in the file.
fn evaluate(
    settings: &TestSettings,
    file: &TestFile,
    case: &TestCase,
    run: Option<&CaseRun>,
    text: &mut String,
    color: Color,
) -> CaseResult {
    let mut line = file.root.key(&[PathStep::Item(case.index)]).line;
    let outcome = match run {
        None => CaseStatus::Skipped(case.skip.clone().unwrap_or_default()),
        Some(run) => {
            let mut found = compare::compare(case, run, settings.timeout);
            let (mut changed, mut kept) = (Vec::new(), Vec::new());
            if settings.update {
                let before = text.clone();
                found = update_all(found, case.index, text, &mut changed, &mut kept);
                if let Err(error) = file.write(&before, text) {
                    // Nothing was updated, so the case fails as it would without `--update`.
                    found = compare::compare(case, run, settings.timeout);
                    let why = format!("the file cannot be written: {error}");
                    kept = changed.drain(..).map(|name| (name, why.clone())).collect();
                    *text = before;
                }
            }
            if let Some(first) = found.first() {
                line = file.root.key(&first.path).line;
                let shown = diff::differences(file, &found, color);
                CaseStatus::Failed(format!("{shown}{}", diff::updates(&changed, &kept)))
            } else if changed.is_empty() {
                CaseStatus::Passed
            } else {
                CaseStatus::Updated(changed)
            }
        }
    };
    CaseResult {
        file: file.path.display().to_string(),
        label: file.label.clone(),
        name: case.name.clone(),
        line,
        took: run.map(|run| run.took).unwrap_or_default(),
        outcome,
    }
}

/// Changes what it can in `text`, and returns the differences that remain.
///
/// `changed` gets the names of the changes, and `kept` the other names with the reasons.
fn update_all<'a>(
    found: Vec<Difference<'a>>,
    index: usize,
    text: &mut String,
    changed: &mut Vec<String>,
    kept: &mut Vec<(String, String)>,
) -> Vec<Difference<'a>> {
    let mut remaining = Vec::new();
    for difference in found {
        let updated = match &difference.change {
            Some(change) => update::update(text, index, change),
            // Explains another difference.
            None if difference.name.is_empty() => {
                remaining.push(difference);
                continue;
            }
            None => Err("change it by hand".to_owned()),
        };
        match updated {
            Ok(new) => {
                *text = new;
                changed.push(difference.name);
            }
            Err(why) => {
                kept.push((difference.name.clone(), why));
                remaining.push(difference);
            }
        }
    }
    // What only explains the exit code goes with it.
    if changed.iter().any(|name| name == "exit") {
        remaining.retain(|difference| !difference.name.is_empty());
    }
    remaining
}

fn line(result: &CaseResult, color: Color) -> String {
    let name = format!("{}: {}", result.label, result.name);
    let name = crate::error::escape::escape(&name);
    match &result.outcome {
        CaseStatus::Passed => format!("{}{name}\n", color.result("ok    ")),
        CaseStatus::Updated(changed) => {
            let changed = crate::error::escape::escape(&changed.join(", ")).into_owned();
            format!("{}{name} ({changed} updated)\n", color.result("ok    "))
        }
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

fn unwritable(path: &Path, error: &io::Error) -> Error {
    let message = format!("the JUnit file {} cannot be written", path.display());
    Error::new(Exit::Usage, message).cause(error.to_string())
}
