//! `token_service test`: runs pipelines on a source, a database and a clock of their own, and compares
//! what comes of it with what was expected. All that lies between is what a real run has.
//!
//! `find` looks for files, `keys`, `scripted` and `file` read them, `play` runs a case on the fakes of `source`,
//! `store::scripted` and `clock`, `judge` compares, `show` and `junit` tell, `update` writes back.

mod case;
mod compare;
mod diff;
mod discover;
mod fake_source;
mod fake_store_schema;
mod junit;
mod runner;
mod schema;
mod update;
mod virtual_clock;

use crate::cli::TestArgs;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use crate::command::test::case::{TestCase, TestFile};
use crate::command::test::compare::{DifferenceKind, counted};
use crate::command::test::runner::CaseRun;
use crate::error::color::Color;
use crate::error::diagnostic::Problem;
use crate::error::exit::Exit;
use crate::report::ReportFormat;

/// What is to be tested, and how.
#[derive(Clone, Debug)]
pub struct TestSettings {
    /// Files and folders; the current one where there is none.
    pub paths: Vec<PathBuf>,
    /// Only cases with this in their name, or in their file's.
    pub filter: Option<String>,
    /// True to write reports that differ into the test files.
    pub update: bool,
    /// The file for JUnit XML.
    pub junit: Option<PathBuf>,
    /// How many cases are run at a time; as many as there are processors where nothing is said.
    pub jobs: Option<usize>,
    /// How long a case may take in real time.
    pub timeout: Duration,
    /// True for colours.
    pub color: bool,
}

impl TestSettings {
    /// Takes them from the command line.
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

/// What became of a case.
struct CaseResult {
    file: String,
    label: String,
    name: String,
    /// The line of the file where it begins, or where it differs.
    line: usize,
    took: Duration,
    outcome: CaseStatus,
}

enum CaseStatus {
    Passed,
    /// Its report was written into the file.
    Updated,
    Skipped(String),
    /// What differs, as it is shown.
    Failed(String),
}

/// Runs the tests, a line a case to `out`, and gives the exit code: 0 where all pass, 1 where one
/// does not.
///
/// # Errors
/// Every mistake in the test files, before any case is run; exit code 2.
pub fn test(settings: &TestSettings, out: &mut dyn Write) -> Result<Exit, Vec<Problem>> {
    let began = Instant::now();
    let files = read(settings)?;
    let chosen = choose(settings, &files)?;
    let color = Color(settings.color);
    let mut told = Vec::new();
    let mut changes: Vec<Vec<update::ReportChange>> = files.iter().map(|_| Vec::new()).collect();
    run_all(settings, &chosen, |number, played| {
        let (at, file, case) = chosen[number];
        let (one, change) = tell(settings, file, case, played.as_ref(), color);
        // Whoever closed the pipe has read enough; the exit code still tells.
        let _ = out.write_all(line(&one, color).as_bytes());
        let _ = out.flush();
        changes[at].extend(change);
        told.push(one);
    });
    let mut problems = write_changes(&files, &changes);
    let _ = out.write_all(closing(&told, began.elapsed()).as_bytes());
    let _ = out.flush();
    if let Some(path) = &settings.junit {
        let written = junit::write(path, &told);
        problems.extend(written.err().map(|error| unwritable(path, &error)));
    }
    if !problems.is_empty() {
        return Err(problems);
    }
    let failed = told
        .iter()
        .any(|one| matches!(one.outcome, CaseStatus::Failed(_)));
    Ok(if failed { Exit::Tests } else { Exit::Completed })
}

fn read(settings: &TestSettings) -> Result<Vec<TestFile>, Vec<Problem>> {
    let found = discover::find(&settings.paths).map_err(|problem| vec![problem])?;
    let (mut files, mut problems) = (Vec::new(), Vec::new());
    for one in found {
        match TestFile::read(&one.path, one.label) {
            Ok(file) => files.push(file),
            Err(problem) => problems.push(problem),
        }
    }
    if problems.is_empty() {
        Ok(files)
    } else {
        Err(problems)
    }
}

type SelectedCases<'a> = (usize, &'a TestFile, &'a TestCase);

fn choose<'a>(
    settings: &TestSettings,
    files: &'a [TestFile],
) -> Result<Vec<SelectedCases<'a>>, Vec<Problem>> {
    let filter = settings.filter.as_deref().unwrap_or_default();
    let cases = files.iter().enumerate().flat_map(|(at, file)| {
        let cases = file.cases.iter();
        cases.map(move |case| (at, file, case))
    });
    let chosen: Vec<SelectedCases> = cases
        .filter(|(_, file, case)| format!("{}: {}", file.label, case.name).contains(filter))
        .collect();
    if chosen.is_empty() {
        let what = format!("no case has `{filter}` in its name");
        let all: usize = files.iter().map(|file| file.cases.len()).sum();
        let hint = format!(
            "`--filter` chooses among {}, FILE: NAME",
            counted(all, "case")
        );
        return Err(vec![Problem::new(Exit::Usage, what).hint(hint)]);
    }
    Ok(chosen)
}

/// Runs the cases, some at a time, and hands over what each came to in their order; `None` for one
/// that is skipped.
fn run_all(
    settings: &TestSettings,
    chosen: &[SelectedCases],
    mut done: impl FnMut(usize, Option<CaseRun>),
) {
    let jobs = settings.jobs.unwrap_or_else(|| {
        let processors = thread::available_parallelism();
        processors.map_or(1, std::num::NonZero::get)
    });
    let next = AtomicUsize::new(0);
    let (tell, played) = mpsc::channel();
    thread::scope(|scope| {
        for _ in 0..jobs.min(chosen.len()) {
            let (tell, next) = (tell.clone(), &next);
            scope.spawn(move || {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    let Some((.., case)) = chosen.get(number) else {
                        return;
                    };
                    let is_run = case.skip.is_none();
                    let played = is_run.then(|| runner::play(case, settings.timeout));
                    let _ = tell.send((number, played));
                }
            });
        }
        drop(tell);
        let mut early = std::collections::BTreeMap::new();
        let mut turn = 0;
        for (number, one) in played {
            early.insert(number, one);
            while let Some(one) = early.remove(&turn) {
                done(turn, one);
                turn += 1;
            }
        }
    });
}

fn tell(
    settings: &TestSettings,
    file: &TestFile,
    case: &TestCase,
    played: Option<&CaseRun>,
    color: Color,
) -> (CaseResult, Option<update::ReportChange>) {
    let here = [crate::config::yaml_spans::PathStep::Item(case.index)];
    let mut line = file.spans.key(&here).map_or(1, |mark| mark.line);
    let mut change = None;
    let outcome = match played {
        None => CaseStatus::Skipped(case.skip.clone().unwrap_or_default()),
        Some(played) => {
            let mut found = compare::judge(case, played, settings.timeout);
            let is_report = |one: &compare::Difference| {
                one.what == "report" && matches!(one.how, DifferenceKind::Text { .. })
            };
            if settings.update && found.iter().any(is_report) {
                found.retain(|one| !is_report(one));
                change = Some(update::ReportChange {
                    index: case.index,
                    report: played.report(ReportFormat::Text).to_owned(),
                });
            }
            if let Some(first) = found.first() {
                line = file.spans.key(&first.path).map_or(line, |mark| mark.line);
                CaseStatus::Failed(diff::differences(file, &found, color))
            } else if change.is_some() {
                CaseStatus::Updated
            } else {
                CaseStatus::Passed
            }
        }
    };
    let told = CaseResult {
        file: file.path.display().to_string(),
        label: file.label.clone(),
        name: case.name.clone(),
        line,
        took: played.map(|played| played.took).unwrap_or_default(),
        outcome,
    };
    (told, change)
}

fn line(told: &CaseResult, color: Color) -> String {
    let name = format!("{}: {}", told.label, told.name);
    let name = crate::error::escape::escape(&name);
    match &told.outcome {
        CaseStatus::Passed => format!("{}{name}\n", color.result("ok    ")),
        CaseStatus::Updated => format!("{}{name} (report updated)\n", color.result("ok    ")),
        CaseStatus::Skipped(why) => {
            let why = crate::error::escape::escape(why);
            format!("{}{name} ({why})\n", color.result("skip  "))
        }
        CaseStatus::Failed(text) => format!("{}{name}\n{text}", color.result("FAIL  ")),
    }
}

fn closing(told: &[CaseResult], took: Duration) -> String {
    let count = |is: fn(&CaseStatus) -> bool| told.iter().filter(|one| is(&one.outcome)).count();
    let skipped = count(|outcome| matches!(outcome, CaseStatus::Skipped(_)));
    let failed = count(|outcome| matches!(outcome, CaseStatus::Failed(_)));
    let passed = told.len() - skipped - failed;
    let skipped = match skipped {
        0 => String::new(),
        skipped => format!(", {skipped} skipped"),
    };
    let seconds = took.as_secs_f64();
    format!("{passed} passed, {failed} failed{skipped} in {seconds:.2} s\n")
}

fn write_changes(files: &[TestFile], changes: &[Vec<update::ReportChange>]) -> Vec<Problem> {
    let mut problems = Vec::new();
    for (file, changes) in files
        .iter()
        .zip(changes)
        .filter(|(_, changes)| !changes.is_empty())
    {
        let written = update::update(file, changes)
            .and_then(|text| fs::write(&file.path, text).map_err(|error| error.to_string()));
        if let Err(why) = written {
            let what = format!("the reports of {} cannot be updated", file.path.display());
            problems.push(Problem::new(Exit::Usage, what).cause(why));
        }
    }
    problems
}

fn unwritable(path: &Path, error: &io::Error) -> Problem {
    let what = format!("the JUnit file {} cannot be written", path.display());
    Problem::new(Exit::Usage, what).cause(error.to_string())
}
