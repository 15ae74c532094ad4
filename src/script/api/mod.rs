//! The primitives that scripts call, one file per topic. `token_service api` prints their doc
//! comments as the script API reference.

pub mod arguments;
pub mod emit_files;
pub mod env;
pub mod fetch;
pub mod flow;
pub mod formatter;
pub mod log;
pub mod outcomes;
pub mod report;
pub mod store;
pub mod stream_iter;
pub mod text;
pub mod time;
pub mod tokens;
pub mod types;

use rhai::{Dynamic, Engine, EvalAltResult, FnPtr, ImmutableString, Map, Module, Shared, Variant};

use crate::fetch::FetchPlan;
// The engine's metadata recognises the name `RhaiResultOf` and prints its inner type.
use crate::pipeline::numbers::{NUMBERS, Numbers};
use crate::pipeline::token::{Outcome, Status};
use crate::script::api::outcomes::Outcomes;
use crate::script::api::time::Time;
use crate::script::api::tokens::{Pages, Tokens};
use crate::script::native::NativeResult as RhaiResultOf;
use crate::script::native::integer;
use crate::script::type_names::script_type;

/// A type of stream, which scripts can loop over.
#[derive(Clone)]
pub struct Stream {
    /// Its name.
    pub name: &'static str,
    /// The type of its items, as scripts name it.
    pub item: &'static str,
    register: fn(&mut Engine),
}

impl Stream {
    fn of<S, I>() -> Self
    where
        S: Variant + Clone + IntoIterator<Item = RhaiResultOf<I>>,
        I: Variant + Clone,
    {
        Self {
            name: type_name::<S>(),
            item: script_type(type_name::<I>()),
            register: |engine| {
                engine.register_type_with_name::<S>(type_name::<S>());
                engine.register_iterator_result::<S, I>();
            },
        }
    }
}

/// Returns the types of streams.
pub fn streams() -> [Stream; 3] {
    [
        Stream::of::<Tokens, ImmutableString>(),
        Stream::of::<Pages, Tokens>(),
        Stream::of::<Outcomes, Outcome>(),
    ]
}

/// Returns the name of a type without its path.
fn type_name<T>() -> &'static str {
    let path = std::any::type_name::<T>();
    path.rsplit("::").next().unwrap_or(path)
}

/// Registers the primitives by their names and below `host::`.
///
/// A script that redefines a primitive can still call the original below `host::`.
pub fn register(engine: &mut Engine) {
    for stream in streams() {
        (stream.register)(engine);
    }
    engine.register_type_with_name::<Outcome>(type_name::<Outcome>());
    engine.register_type_with_name::<Time>(type_name::<Time>());
    let mut primitives = Module::new();
    for part in [
        rhai::exported_module!(fetch::functions),
        rhai::exported_module!(store::functions),
        rhai::exported_module!(report::functions),
        rhai::exported_module!(flow::functions),
        rhai::exported_module!(log::functions),
        rhai::exported_module!(text::functions),
        rhai::exported_module!(time::functions),
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
    engine.register_global_module(rhai::exported_module!(text::members).into());
    engine.register_global_module(rhai::exported_module!(time::members).into());
}

/// Returns the names of the options that a primitive takes as a map.
pub fn options_of(primitive: &str) -> Vec<&'static str> {
    match primitive {
        "fetch" => names(&fetch::OPTIONS),
        "retry" => names(&flow::OPTIONS),
        _ => Vec::new(),
    }
}

/// Returns why a primitive does not take this value of an option, as the primitive itself says it.
pub fn wrong_option(primitive: &str, option: &str, value: &Dynamic) -> Option<String> {
    let mut map = Map::new();
    map.insert(option.into(), value.clone());
    let result = match primitive {
        "fetch" => {
            let mut plan = FetchPlan {
                page_size: 1,
                retries: Some(0),
                top_up: false,
            };
            arguments::set_options(&mut plan, &map, &fetch::OPTIONS)
        }
        "retry" => arguments::set_options(&mut flow::RetryOptions::default(), &map, &flow::OPTIONS),
        _ => return None,
    };
    let EvalAltResult::ErrorRuntime(thrown, _) = *result.err()? else {
        return None;
    };
    let message = thrown.as_map_ref().ok()?.get("message")?.clone();
    message.into_string().ok()
}

fn names<T>(table: &[(&'static str, T)]) -> Vec<&'static str> {
    table.iter().map(|(name, _)| *name).collect()
}

/// The map that `report` returns; the linter knows it by this name.
pub type SummaryMap = Map;

/// The map of counts by status; the linter knows it by this name.
pub type CountsMap = Map;

/// A closure that gets an outcome; the linter knows it by this name.
pub type OutcomeClosure = FnPtr;

/// Returns the keys of a map that the host makes, by the name of its type.
pub fn keys_of(kind: &str) -> Option<Vec<&'static str>> {
    let statuses = Status::ALL.iter().map(|status| status.as_str());
    match kind {
        "SummaryMap" => {
            let named = NUMBERS.iter().filter(|row| row.is_named);
            Some(named.map(|row| row.name).collect())
        }
        "CountsMap" => Some(statuses.collect()),
        _ => None,
    }
}

/// Returns the counts as a map for scripts.
pub fn counts_of(numbers: Numbers) -> CountsMap {
    Status::ALL
        .map(|status| (status.as_str().into(), integer(numbers.of(status)).into()))
        .into()
}
