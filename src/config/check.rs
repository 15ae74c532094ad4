//! The configuration as `check` looks at it: every mistake in it, and what the scripts need to be
//! looked at all the same.

use crate::cli::{CheckArgs, RunArgs};
use crate::config::file::ConfigFile;
use crate::config::settings::{CheckSettings, ProbeTargets, ScriptSource};
use crate::config::source::no_source;
use crate::config::{DEFAULT_SIZE, Env, Layers, database, no_database, options};
use crate::error::diagnostic::{Problem, usage};
use crate::fetch::http::HttpEndpoint;
use crate::store::DatabaseTarget;

/// What `check` needs, with the mistakes in the configuration; where one stands, the default is taken.
pub fn load_for_check(args: &CheckArgs, env: &Env) -> CheckSettings {
    let mut mistakes = Mistakes(Vec::new());
    let layers = mistakes.keep(Layers::of(&args.common, env));
    let layers = layers.unwrap_or_else(|| Layers {
        env,
        config: None,
        file: ConfigFile::default(),
    });
    let run = RunArgs::default();
    let connect = mistakes.keep(layers.switch(args.connect, "connect", None)) == Some(true);
    // What a mistake left out of account may have named them.
    let must_name = connect && mistakes.0.is_empty();
    let input = mistakes.keep(layers.input(&run)).flatten();
    let url = mistakes.keep(layers.source_url());
    if must_name && input.is_none() && matches!(url, Some(None)) {
        mistakes.0.push(no_source());
    }
    let headers = mistakes.keep(layers.headers()).unwrap_or_default();
    let target = mistakes.keep(database::target(env, &layers.file));
    if must_name && matches!(target, Some(None)) {
        mistakes.0.push(no_database());
    }
    let target = target.flatten().unwrap_or(DatabaseTarget::Demo);
    let limits = mistakes.keep(layers.limits(&run));
    let store = mistakes.keep(layers.store(&run, target));
    mistakes.keep(layers.reports(&run));
    mistakes.keep(layers.mask(&run));
    mistakes.keep(layers.metrics(&run));
    mistakes.keep(layers.progress(&run));
    mistakes.keep(layers.journal(&run));
    let target = store.as_ref().map(|store| &store.target);
    mistakes.keep(layers.keep_apart(&run, &[], target));
    mistakes.keep(layers.fail_on(&run));
    mistakes.keep(layers.check_error_format(&args.common));
    mistakes.keep(layers.log(&args.common));
    mistakes.keep(layers.shard(&run));
    let size = mistakes.keep(layers.size(&run));
    let scripts = if args.scripts.is_empty() {
        let script = mistakes.keep(layers.script(None));
        vec![script.unwrap_or(ScriptSource::Default)]
    } else {
        args.scripts
            .iter()
            .cloned()
            .map(ScriptSource::File)
            .collect()
    };
    let ends = limits.zip(store).map(|(limits, store)| ProbeTargets {
        source: url
            .flatten()
            .filter(|_| input.is_none())
            .map(|url| HttpEndpoint {
                url,
                headers,
                proxy: env.names_a_proxy(),
            }),
        limits,
        store,
    });
    let misspelt = options::misspelt(env).into_iter();
    let misspelt = misspelt.map(|sentence| usage(sentence).warning());
    CheckSettings {
        // What a mistake left out may be what would have been connected to.
        ends: ends.filter(|_| connect && mistakes.0.is_empty()),
        scripts,
        size: size.unwrap_or(DEFAULT_SIZE),
        script_limits: layers.script_limits(),
        vars: layers.vars(),
        problems: mistakes.0.into_iter().chain(misspelt).collect(),
    }
}

/// The mistakes found so far.
struct Mistakes(Vec<Problem>);

impl Mistakes {
    fn keep<T>(&mut self, result: Result<T, Problem>) -> Option<T> {
        result.map_err(|problem| self.0.push(problem)).ok()
    }
}
