//! The primitives that scripts call, one file per topic. `token_service api` prints their doc
//! comments as the script API reference.

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
// The engine's metadata recognises the name `RhaiResultOf` and prints its inner type.
use crate::pipeline::numbers::Numbers;
use crate::pipeline::token::Status;
use crate::script::native::NativeResult as RhaiResultOf;

pub use crate::script::api::fetch::OPTIONS as FETCH_OPTIONS;
pub use crate::script::api::flow::OPTIONS as RETRY_OPTIONS;

/// Registers the primitives by their names and below `host::`.
///
/// A script that redefines a primitive can still call the original below `host::`.
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

/// Returns the counts as a map for scripts.
pub fn counts_of(numbers: Numbers) -> Map {
    Status::ALL
        .map(|status| (status.as_str().into(), integer(numbers.of(status)).into()))
        .into()
}
