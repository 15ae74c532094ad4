//! The settings of `check`: all errors of the configuration, and defaults in place of invalid
//! settings, so that the scripts are still checked.

use crate::cli::CheckArgs;
use crate::cli::env::Env;
use crate::cli::options::{CONNECT, INPUT, SIZE};
use crate::cli::table::on;
use crate::config::layers::Layers;
use crate::config::settings::{CheckSettings, ProbeTargets, ScriptSource};
use crate::config::source::no_source;
use crate::config::{no_database, suggestions};
use crate::error::usage;
use crate::store::DatabaseTarget;

/// Returns the settings of `check` and all errors; an invalid setting has its default.
pub fn load_for_check(args: &CheckArgs, env: &Env) -> CheckSettings {
    let layers = Layers::of(&args.options.0, env);
    let connect = layers.value(&CONNECT);
    let input = layers.get(&INPUT);
    let endpoint = layers.endpoint();
    let target = layers.database();
    // An invalid setting may have named source or database.
    if connect && layers.count_errors() == 0 {
        if input.is_none() && endpoint.is_none() {
            layers.fail(no_source(env));
        }
        if target.is_none() {
            layers.fail(no_database(env));
        }
    }
    let limits = layers.limits();
    layers.requests();
    let store = layers.store(target.unwrap_or(DatabaseTarget::Demo));
    layers.reports();
    layers.journal();
    layers.check_path_conflicts(&[], Some(&store.target));
    layers.check_options(on::RUN | on::CHECK);
    layers.collect(layers.shard());
    let size = layers.collect(layers.size());
    let scripts = if args.scripts.is_empty() {
        vec![layers.script()]
    } else {
        let named = args.scripts.iter().cloned();
        named.map(ScriptSource::File).collect()
    };
    // With an error, the targets may not be those that the user meant.
    let is_connected = connect && layers.count_errors() == 0;
    let targets = ProbeTargets {
        source: endpoint.filter(|_| input.is_none()),
        limits,
        store,
    };
    let warnings = suggestions::unknown_variables(env).into_iter();
    let warnings = warnings.map(|message| usage(message).warning());
    let (script_limits, vars) = (layers.script_limits(), layers.file.vars.clone());
    let errors = layers.finish(()).err().unwrap_or_default();
    CheckSettings {
        targets: is_connected.then_some(targets),
        scripts,
        size: if size == 0 { SIZE.default() } else { size },
        script_limits,
        vars,
        errors: errors.into_iter().chain(warnings).collect(),
    }
}
