//! The primitives that scripts call, a file a theme. Their doc comments are the script API
//! reference: `token_service api` prints them.

mod arguments;
pub mod emit_files;
pub mod env;
pub mod fetch;
pub mod flow;
pub mod formatter;
pub mod log;
pub mod outcomes;
pub mod report;
pub mod store;
pub mod tokens;
pub mod types;

use rhai::{Engine, Map, Module, Shared};

use crate::script::native::integer;
// The engine's metadata knows this name and leaves it out of what it prints for scripts.
use crate::pipeline::token::{Status, Tally};
use crate::script::native::Native as RhaiResultOf;

pub use crate::script::api::fetch::OPTIONS as FETCH_OPTIONS;
pub use crate::script::api::flow::OPTIONS as RETRY_OPTIONS;

/// Makes the primitives known under their plain names and under `host::`, so that a script which
/// defines one of them anew can still call the real one.
pub fn register(engine: &mut Engine) {
    let mut primitives = Module::new();
    for part in [
        rhai::exported_module!(fetch::functions),
        rhai::exported_module!(store::functions),
        rhai::exported_module!(report::functions),
        rhai::exported_module!(flow::functions),
        rhai::exported_module!(log::functions),
    ] {
        primitives.combine_flatten(part);
    }
    primitives.build_index();
    let primitives = Shared::new(primitives);
    engine.register_global_module(Shared::clone(&primitives));
    engine.register_static_module("host", primitives);
    let environment = rhai::exported_module!(env::functions);
    engine.register_static_module("env", environment.into());
    engine.register_global_module(rhai::exported_module!(types::functions).into());
}

/// The counts as a script has them.
pub fn counts_of(tally: &Tally) -> Map {
    Status::ALL
        .iter()
        .map(|status| (status.as_str().into(), integer(tally.get(*status)).into()))
        .collect()
}
