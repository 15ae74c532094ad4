//! The configuration as `check` looks at it: every mistake in it, and what the scripts need to be
//! looked at all the same.

use super::file::File;
use super::settings::{Checked, Script};
use super::{DEFAULT_SIZE, Env, Layers, database};
use crate::cli::{CheckArgs, RunArgs};
use crate::problem::Problem;
use crate::store::Target;

/// What `check` needs, with the mistakes in the configuration; where one stands, the default is taken.
pub fn load_for_check(args: &CheckArgs, env: &Env) -> Checked {
    let mut mistakes = Mistakes(Vec::new());
    let layers = mistakes.keep(Layers::of(&args.common, env));
    let layers = layers.unwrap_or_else(|| Layers {
        env,
        file: File::default(),
    });
    let run = RunArgs::default();
    mistakes.keep(layers.source_url());
    let headers = mistakes.keep(layers.headers()).unwrap_or_default();
    let target = mistakes.keep(database::target(env, &layers.file));
    let target = target.flatten().unwrap_or(Target::Demo);
    let secrets = layers.secrets(&headers, &target);
    mistakes.keep(layers.limits(&run));
    mistakes.keep(layers.store(&run, target));
    mistakes.keep(layers.reports(&run));
    mistakes.keep(layers.mask(&run));
    mistakes.keep(layers.metrics(&run));
    mistakes.keep(layers.progress(&run));
    mistakes.keep(layers.journal(&run));
    mistakes.keep(layers.fail_on(&run));
    mistakes.keep(layers.error_format(&args.common));
    mistakes.keep(layers.log(&args.common));
    mistakes.keep(layers.input(&run));
    mistakes.keep(layers.shard(&run));
    let size = mistakes.keep(layers.size(&run));
    let scripts = if args.scripts.is_empty() {
        let script = mistakes.keep(layers.script(None));
        vec![script.unwrap_or(Script::Default)]
    } else {
        args.scripts.iter().cloned().map(Script::File).collect()
    };
    Checked {
        scripts,
        size: size.unwrap_or(DEFAULT_SIZE),
        script_limits: layers.script_limits(),
        vars: layers.vars(),
        env: layers.visible(&secrets),
        problems: mistakes.0,
    }
}

/// The mistakes found so far.
struct Mistakes(Vec<Problem>);

impl Mistakes {
    fn keep<T>(&mut self, result: Result<T, Problem>) -> Option<T> {
        result.map_err(|problem| self.0.push(problem)).ok()
    }
}
