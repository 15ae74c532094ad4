//! The settings of `check`: all problems of the configuration, and defaults in place of invalid
//! settings, so that the scripts are still checked.

use crate::cli::env::Env;
use crate::cli::{CheckArgs, RunArgs};
use crate::config::file::ConfigFile;
use crate::config::settings::{CheckSettings, ProbeTargets, ScriptSource};
use crate::config::source::no_source;
use crate::config::{DEFAULT_SIZE, Layers, database, no_database, options};
use crate::error::{Error, usage};
use crate::fetch::http::HttpEndpoint;
use crate::store::DatabaseTarget;

/// Returns the settings of `check` and all problems; an invalid setting has its default.
pub fn load_for_check(args: &CheckArgs, env: &Env) -> CheckSettings {
    let mut problems = Problems(Vec::new());
    let layers = problems.collect(Layers::of(&args.common, env));
    let layers = layers.unwrap_or_else(|| Layers {
        env,
        config: None,
        file: ConfigFile::default(),
    });
    let run = RunArgs::default();
    let connect = problems.collect(layers.switch(args.connect, "connect", None)) == Some(true);
    // An invalid setting may have named source or database.
    let is_required = connect && problems.0.is_empty();
    let input = problems.collect(layers.input(&run)).flatten();
    let url = problems.collect(layers.source_url());
    if is_required && input.is_none() && matches!(url, Some(None)) {
        problems.0.push(no_source());
    }
    let headers = problems.collect(layers.headers()).unwrap_or_default();
    let target = problems.collect(database::target(env, &layers.file));
    if is_required && matches!(target, Some(None)) {
        problems.0.push(no_database());
    }
    let target = target.flatten().unwrap_or(DatabaseTarget::Demo);
    let limits = problems.collect(layers.limits(&run));
    let store = problems.collect(layers.store(&run, target));
    problems.collect(layers.reports(&run));
    problems.collect(layers.mask(&run));
    problems.collect(layers.metrics(&run));
    problems.collect(layers.progress(&run));
    problems.collect(layers.journal(&run));
    let target = store.as_ref().map(|store| &store.target);
    problems.collect(layers.check_path_conflicts(&run, &[], target));
    problems.collect(layers.fail_on(&run));
    problems.collect(layers.check_error_format(&args.common));
    problems.collect(layers.log(&args.common));
    problems.collect(layers.shard(&run));
    let size = problems.collect(layers.size(&run));
    let scripts = if args.scripts.is_empty() {
        let script = problems.collect(layers.script(None));
        vec![script.unwrap_or(ScriptSource::Default)]
    } else {
        args.scripts
            .iter()
            .cloned()
            .map(ScriptSource::File)
            .collect()
    };
    let targets = limits.zip(store).map(|(limits, store)| ProbeTargets {
        source: url
            .flatten()
            .filter(|_| input.is_none())
            .map(|url| HttpEndpoint {
                url,
                headers,
                proxy: env.has_proxy(),
            }),
        limits,
        store,
    });
    let warnings = options::unknown_variables(env).into_iter();
    let warnings = warnings.map(|message| usage(message).warning());
    CheckSettings {
        // With a problem, the targets may not be those that the user meant.
        targets: targets.filter(|_| connect && problems.0.is_empty()),
        scripts,
        size: size.unwrap_or(DEFAULT_SIZE),
        script_limits: layers.script_limits(),
        vars: layers.vars(),
        problems: problems.0.into_iter().chain(warnings).collect(),
    }
}

/// The problems found so far.
struct Problems(Vec<Error>);

impl Problems {
    /// Returns the value, or records the problem.
    fn collect<T>(&mut self, result: Result<T, Error>) -> Option<T> {
        result.map_err(|problem| self.0.push(problem)).ok()
    }
}
