//! `token_service check`: compiles and lints scripts and the configuration without running them.

use std::fmt::Write as _;

use crate::config::{Checked, Script as ScriptPath};
use crate::problem::Problem;
use crate::script::{self, Script};

/// Looks at every script: a line for each sound one, and the problems of the others.
pub fn check(checked: &Checked) -> (String, Vec<Problem>) {
    let settings = script::Settings {
        size: checked.size,
        vars: checked.vars.clone(),
        max_operations: checked.script_limits.max_operations,
        max_memory: checked.script_limits.max_memory,
    };
    let mut sound = String::new();
    let mut problems = Vec::new();
    for script in &checked.scripts {
        let path = match script {
            ScriptPath::Default => None,
            ScriptPath::File(path) => Some(path.as_path()),
        };
        match Script::load(path, &settings) {
            Err(problem) => problems.push(problem),
            Ok(script) => {
                let found = script.check();
                if found.is_empty() {
                    // Writing into a string cannot fail.
                    let _ = writeln!(sound, "ok    {}", script.name());
                }
                problems.extend(found);
            }
        }
    }
    (sound, problems)
}
