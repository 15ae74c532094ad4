//! The primitives that scripts call, a file a theme. Their doc comments are the script API
//! reference: `token_service api` prints them.

use rhai::{Engine, Map, Module, Shared};

use crate::script::fault::integer;
// The engine's metadata knows this name and leaves it out of what it prints for scripts.
use crate::script::host::Native as RhaiResultOf;
use crate::token::{Status, Tally};

mod arguments;
pub mod environment;
pub mod fetch;
pub mod flow;
pub mod log;
pub mod report;
pub mod store;
pub mod types;

pub use fetch::OPTIONS as FETCH_OPTIONS;
pub use flow::OPTIONS as RETRY_OPTIONS;

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
    let environment = rhai::exported_module!(environment::functions);
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
