//! `token_service check`: compiles and lints scripts and checks the configuration, without a run. With
//! `--connect` it also probes source and database.

use std::collections::HashSet;
use std::fmt::Write as _;
use std::path::PathBuf;

use crate::command::find_files;
use crate::config::{CheckSettings, ProbeTargets, ScriptSource as ScriptPath};
use crate::error::color::Color;
use crate::error::escape::escape;
use crate::error::exit::Exit;
use crate::error::probe::ProbeResult;
use crate::error::{Error, ErrorKind, Severity};
use crate::fetch::http::probe::reach;
use crate::runtime;
use crate::script::sandbox::resolver::key_of;
use crate::script::{self, Script};
use crate::store;

/// The results, in the order in which they are shown.
pub struct CheckReport {
    /// One line for each script without an error and for each probe.
    pub lines: String,
    /// The distinct errors.
    pub errors: Vec<Error>,
}

impl CheckReport {
    /// Returns the exit status: 2 for the configuration, else 5 for the database, 4 for the source,
    /// 3 for a script. Warnings do not count.
    pub fn exit(&self) -> Exit {
        let errors = self.errors.iter().filter(|failure| is_error(failure));
        let exits = errors.map(|failure| failure.exit);
        let worst = exits.max_by_key(|exit| (*exit == Exit::Usage, exit.code()));
        worst.unwrap_or(Exit::Completed)
    }
}

/// Checks every script, even if the configuration or another script has errors, then connects.
pub fn check(checked: CheckSettings, color: Color) -> CheckReport {
    let settings = script::ScriptSettings {
        size: checked.size,
        vars: checked.vars,
        max_operations: checked.script_limits.max_operations,
        max_memory: checked.script_limits.max_memory,
        shared_memory: None,
    };
    let mut report = CheckReport {
        lines: String::new(),
        errors: checked.errors,
    };
    let scripts: Vec<_> = checked.scripts.iter().flat_map(scripts_of).collect();
    let mut results = Vec::new();
    // The files that others import, by their canonical paths.
    let mut modules = HashSet::new();
    for path in scripts {
        let linted = path.and_then(|path| {
            let linted = Script::lint(path.as_deref(), &settings);
            linted.map(|linted| (path, linted))
        });
        if let Ok((_, (_, linted))) = &linted {
            modules.extend(linted.modules.iter().cloned());
        }
        results.push(linted);
    }
    // A file may be given as an argument and also be imported by others.
    let mut seen = HashSet::new();
    for result in results {
        let found = match result {
            Err(error) => vec![error],
            Ok((path, (name, linted))) => {
                let key = path.and_then(|path| key_of(&path));
                let is_module = key.is_some_and(|key| modules.contains(&key));
                let found = linted.without_request;
                // Code with a mistake may be what requests the tokens.
                let found = found.filter(|_| !is_module && !linted.errors.iter().any(is_error));
                let found: Vec<Error> = found.into_iter().chain(linted.errors).collect();
                if !found.iter().any(is_error) {
                    let result = if found.is_empty() { "ok  " } else { "warn" };
                    // Writing into a string cannot fail.
                    let _ = writeln!(report.lines, "{}  {}", color.result(result), escape(&name));
                }
                found
            }
        };
        let new = found
            .into_iter()
            .filter(|error| seen.insert(error.to_json()));
        report.errors.extend(new);
    }
    if let Some(targets) = &checked.targets {
        report.connect(targets, color);
    }
    report
}

/// Returns the path of a script, or of all scripts below a folder; `None` is the built-in script.
fn scripts_of(script: &ScriptPath) -> Vec<Result<Option<PathBuf>, Error>> {
    let ScriptPath::File(path) = script else {
        return vec![Ok(None)];
    };
    let shown = path.display();
    let hint = "pass scripts, or folders that contain *.rhai files";
    match find_files::files(path, ".rhai") {
        Err(error) => {
            let failure = Error::new(Exit::Script, format!("the script {shown} cannot be read"));
            vec![Err(failure.cause(error.to_string()).hint(hint))]
        }
        Ok(files) if files.is_empty() => {
            let failure = Error::new(Exit::Usage, format!("no script in {shown}"));
            vec![Err(failure.hint(hint))]
        }
        Ok(files) => files.into_iter().map(|file| Ok(Some(file))).collect(),
    }
}

impl CheckReport {
    /// Probes source and database.
    fn connect(&mut self, targets: &ProbeTargets, color: Color) {
        let results = match runtime::current_thread() {
            Ok(runtime) => runtime.block_on(probe(targets)),
            Err(error) => return self.errors.push(error.into()),
        };
        for result in results {
            // Writing into a string cannot fail.
            let _ = writeln!(self.lines, "{}", result.line(color));
            self.errors.extend(result.blocking_error().map(error));
        }
    }
}

/// Probes source and database concurrently, and returns the results of the source first.
async fn probe(targets: &ProbeTargets) -> Vec<ProbeResult> {
    let source = async {
        match &targets.source {
            Some(endpoint) => reach(endpoint, &targets.limits).await,
            None => ProbeResult::ok("source", "not used: tokens come from --input"),
        }
    };
    let (source, database) = tokio::join!(source, store::inspect(&targets.store));
    [source].into_iter().chain(database).collect()
}

fn error(error: &Error) -> Error {
    let is_usage = matches!(error.kind, Some(ErrorKind::InvalidArgument { .. }));
    let exit = if is_usage { Exit::Usage } else { error.exit };
    error.clone().with_exit(exit)
}

fn is_error(error: &Error) -> bool {
    error.severity == Severity::Error
}
