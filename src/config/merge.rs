//! The settings of `replay`, which needs no source, and of `merge`, which needs only the output options.

use std::slice;

use crate::cli::env::Env;
use crate::cli::options::{MASK, PROGRESS};
use crate::cli::{MergeArgs, ReplayArgs};
use crate::config::layers::Layers;
use crate::config::{MergeSettings, Purpose, RunSettings};
use crate::error::Error;

/// Returns the settings of a replay, or all errors of the configuration.
pub fn load_for_replay(args: &ReplayArgs, env: &Env) -> Result<RunSettings, Vec<Error>> {
    let layers = Layers::of(&args.options.0, env);
    layers.resolve(Purpose::Replay, slice::from_ref(&args.file))
}

/// Returns the settings of `merge`, or all errors of the configuration.
pub fn load_for_merge(args: &MergeArgs, env: &Env) -> Result<MergeSettings, Vec<Error>> {
    let layers = Layers::of(&args.options.0, env);
    layers.check_path_conflicts(&args.files, None);
    let settings = MergeSettings {
        files: args.files.clone(),
        reports: layers.reports(),
        fail_on: layers.fail_on(),
        mask: layers.value(&MASK),
        metrics: layers.metrics(),
        progress: layers.value(&PROGRESS),
        color: env.allows_color(),
        log: layers.log(),
    };
    layers.finish(settings)
}
