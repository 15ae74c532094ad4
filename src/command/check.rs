//! `token_service check`: compiles and lints scripts and the configuration without running them, and
//! looks at source and database where that is asked for.

use std::collections::HashSet;
use std::fmt::Write as _;
use std::path::PathBuf;

use anyhow::Context as _;
use tokio::runtime::Builder;

use crate::command::find_files;
use crate::config::{CheckSettings, ProbeTargets, ScriptSource as ScriptPath};
use crate::error::color::Color;
use crate::error::diagnostic::{Problem, Severity};
use crate::error::exit::Exit;
use crate::error::probe::ProbeResult;
use crate::error::{ErrorKind, Fault};
use crate::fetch::http::probe::reach;
use crate::script::{self, Script};
use crate::store;

/// What was found, in the order in which it is shown.
pub struct CheckReport {
    /// A line for each script without an error, and for each thing that was connected to.
    pub lines: String,
    /// The mistakes, each once.
    pub problems: Vec<Problem>,
}

impl CheckReport {
    /// 2 where the configuration holds a mistake, 5 where the database cannot be used, 4 where the
    /// source cannot, 3 where a script holds a mistake, in this order. Warnings do not count.
    pub fn exit(&self) -> Exit {
        let errors = self.problems.iter().filter(|problem| is_error(problem));
        let exits = errors.map(|problem| problem.exit);
        let worst = exits.max_by_key(|exit| (*exit == Exit::Usage, exit.code()));
        worst.unwrap_or(Exit::Completed)
    }
}

/// Looks at every script, whatever is wrong with the configuration or with another one, and then at what
/// is to be connected to.
pub fn check(checked: CheckSettings, color: Color) -> CheckReport {
    let settings = script::ScriptSettings {
        size: checked.size,
        vars: checked.vars,
        max_operations: checked.script_limits.max_operations,
        max_memory: checked.script_limits.max_memory,
    };
    let mut verdict = CheckReport {
        lines: String::new(),
        problems: checked.problems,
    };
    // A file may be named, and imported by several others.
    let mut seen = HashSet::new();
    let scripts: Vec<_> = checked.scripts.iter().flat_map(scripts_of).collect();
    for path in scripts {
        let found = match path.and_then(|path| Script::load(path.as_deref(), &settings)) {
            Err(problem) => vec![problem],
            Ok(script) => {
                let found = script.lint();
                if !found.iter().any(is_error) {
                    let word = if found.is_empty() { "ok  " } else { "warn" };
                    // Writing into a string cannot fail.
                    let _ = writeln!(verdict.lines, "{}  {}", color.word(word), script.name());
                }
                found
            }
        };
        let new = found
            .into_iter()
            .filter(|problem| seen.insert(problem.to_json()));
        verdict.problems.extend(new);
    }
    if let Some(ends) = &checked.ends {
        verdict.connect(ends, color);
    }
    verdict
}

/// The scripts that are meant by what was named: a folder stands for those below it; `None` for the
/// built-in one.
fn scripts_of(named: &ScriptPath) -> Vec<Result<Option<PathBuf>, Problem>> {
    let ScriptPath::File(path) = named else {
        return vec![Ok(None)];
    };
    let shown = path.display();
    let hint = "name scripts, or folders with files that are called NAME.rhai";
    match find_files::files(path, ".rhai") {
        Err(error) => {
            let problem = Problem::new(Exit::Script, format!("the script {shown} cannot be read"));
            vec![Err(problem.cause(error.to_string()).hint(hint))]
        }
        Ok(files) if files.is_empty() => {
            let problem = Problem::new(Exit::Usage, format!("no script in {shown}"));
            vec![Err(problem.hint(hint))]
        }
        Ok(files) => files.into_iter().map(|file| Ok(Some(file))).collect(),
    }
}

impl CheckReport {
    /// Looks at both ends.
    fn connect(&mut self, ends: &ProbeTargets, color: Color) {
        let runtime = Builder::new_current_thread()
            .enable_all()
            .build()
            .context("the runtime cannot be started");
        let findings = match runtime {
            Ok(runtime) => runtime.block_on(inspect(ends)),
            Err(error) => return self.problems.push(error.into()),
        };
        for finding in findings {
            // Writing into a string cannot fail.
            let _ = writeln!(self.lines, "{}", finding.line(color));
            self.problems.extend(finding.prevents().map(problem));
        }
    }
}

/// What both ends look like, the source first. Both are waited for together.
async fn inspect(ends: &ProbeTargets) -> Vec<ProbeResult> {
    let source = async {
        match &ends.source {
            Some(endpoint) => reach(endpoint, &ends.limits).await,
            None => ProbeResult::fine("source", "an input takes its place"),
        }
    };
    let (source, database) = tokio::join!(source, store::inspect(&ends.store));
    [source].into_iter().chain(database).collect()
}

fn problem(fault: &Fault) -> Problem {
    let is_mistake = matches!(fault.kind, ErrorKind::InvalidArgument { .. });
    let problem = Problem::from(fault.clone());
    if is_mistake {
        problem.ending(Exit::Usage)
    } else {
        problem
    }
}

fn is_error(problem: &Problem) -> bool {
    problem.severity == Severity::Error
}
