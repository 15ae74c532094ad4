//! The settings of `replay`, which needs no source, and of `merge`, which needs only the output options.

use std::slice;

use crate::cli::env::Env;
use crate::cli::{MergeArgs, ReplayArgs, RunArgs};
use crate::config::{Layers, MergeSettings, Purpose, RunSettings};
use crate::error::Error;

/// Returns the settings of a replay, or the first problem.
pub fn load_for_replay(args: &ReplayArgs, env: &Env) -> Result<RunSettings, Error> {
    let run = args.as_run();
    Layers::of(&run.common, env)?.resolve(Purpose::Replay, &run, slice::from_ref(&args.file))
}

/// Returns the settings of `merge`, or the first problem.
pub fn load_for_merge(args: &MergeArgs, env: &Env) -> Result<MergeSettings, Error> {
    let layers = Layers::of(&args.common, env)?;
    let run = RunArgs {
        output: args.output.clone(),
        ..RunArgs::default()
    };
    layers.check_path_conflicts(&run, &args.files, None)?;
    Ok(MergeSettings {
        files: args.files.clone(),
        reports: layers.reports(&run)?,
        fail_on: layers.fail_on(&run)?,
        mask: layers.mask(&run)?,
        metrics: layers.metrics(&run)?,
        progress: layers.progress(&run)?,
        color: env.allows_color(),
        log: layers.log(&args.common)?,
    })
}
