//! `token_service check`: compiles and lints scripts and the configuration without running them.

use std::collections::HashSet;
use std::fmt::Write as _;

use crate::config::{Checked, Script as ScriptPath};
use crate::exit::Exit;
use crate::problem::{Problem, Severity};
use crate::script::{self, Script};

/// What was found, in the order in which it is shown.
pub struct Verdict {
    /// A line for each script without an error.
    pub scripts: String,
    /// The mistakes, each once.
    pub problems: Vec<Problem>,
}

impl Verdict {
    /// 2 where the configuration holds a mistake, 3 where a script does. Warnings do not count.
    pub fn exit(&self) -> Exit {
        let mut errors = self.problems.iter().filter(|problem| is_error(problem));
        errors.next().map_or(Exit::Completed, |first| first.exit)
    }
}

/// Looks at every script, whatever is wrong with the configuration or with another one.
pub fn check(checked: Checked) -> Verdict {
    let settings = script::Settings {
        size: checked.size,
        vars: checked.vars,
        max_operations: checked.script_limits.max_operations,
        max_memory: checked.script_limits.max_memory,
    };
    let mut verdict = Verdict {
        scripts: String::new(),
        problems: checked.problems,
    };
    // A file may be named, and imported by several others.
    let mut seen = HashSet::new();
    for script in &checked.scripts {
        let path = match script {
            ScriptPath::Default => None,
            ScriptPath::File(path) => Some(path.as_path()),
        };
        let found = match Script::load(path, &settings) {
            Err(problem) => vec![problem],
            Ok(script) => {
                let found = script.lint();
                if !found.iter().any(is_error) {
                    let word = if found.is_empty() { "ok  " } else { "warn" };
                    // Writing into a string cannot fail.
                    let _ = writeln!(verdict.scripts, "{word}  {}", script.name());
                }
                found
            }
        };
        let new = found
            .into_iter()
            .filter(|problem| seen.insert(problem.to_json()));
        verdict.problems.extend(new);
    }
    verdict
}

fn is_error(problem: &Problem) -> bool {
    problem.severity == Severity::Error
}
