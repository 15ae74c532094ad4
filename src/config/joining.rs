//! The configuration as `merge` looks at it: what comes out, and nothing of source and database.

use super::{Env, Joining, Layers};
use crate::cli::{MergeArgs, RunArgs};
use crate::problem::Problem;

/// What `merge` needs, or the one mistake that prevents it.
pub fn load_for_merge(args: &MergeArgs, env: &Env) -> Result<Joining, Problem> {
    let layers = Layers::of(&args.common, env)?;
    let run = RunArgs {
        output: args.output.clone(),
        ..RunArgs::default()
    };
    Ok(Joining {
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
