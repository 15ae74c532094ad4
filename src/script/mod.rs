//! The script host: an engine with the primitives, limits that hold, and a run of one script on a
//! thread of its own whose end accounts for everything that was received.

pub mod api;
pub mod error;
pub mod finish;
pub mod host;
mod json;
pub mod lint;
pub mod native;
pub mod reference;
pub mod sandbox;
pub mod sources;
pub mod stdlib;
pub mod type_names;

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use rhai::module_resolvers::DummyModuleResolver;
use rhai::{AST, Dynamic, Engine, Module, OptimizationLevel, Scope, Shared};

use crate::error::chain;
use crate::error::diagnostic::Problem;
use crate::error::exit::Exit;
use crate::runtime::shutdown::Shutdown;
use crate::script::error::symbols::Symbols;
use crate::script::host::ScriptHost;
use crate::script::lint::modules::FileLinter;
use crate::script::sandbox::MemoryMeter;
use crate::script::sandbox::resolver::ScopedResolver;
use crate::script::sources::Sources;

/// The script that runs where none is configured.
pub const DEFAULT: &str = include_str!("../../scripts/default.rhai");

/// The name under which errors show the built-in script.
pub const DEFAULT_NAME: &str = "scripts/default.rhai";

/// The script thread's stack in bytes. 64 call levels of the deepest expressions fit into it, in
/// builds without optimisation too.
pub const STACK: usize = 256 * 1024 * 1024;

/// What a script knows of its run.
#[derive(Clone, Debug)]
pub struct ScriptSettings {
    /// SIZE.
    pub size: u64,
    /// `config::VARS`.
    pub vars: serde_json::Map<String, serde_json::Value>,
    /// The most operations; 0 for no limit.
    pub max_operations: u64,
    /// By how many bytes the process may grow while the script runs.
    pub max_memory: u64,
}

/// A script that compiled.
pub struct Script {
    engine: Engine,
    ast: AST,
    path: Option<PathBuf>,
    /// `config::SIZE` and `config::VARS`.
    config: Shared<Module>,
    scope: Scope<'static>,
    name: String,
    sources: Sources,
    names: Symbols,
    max_memory: u64,
    /// What the memory is measured by, once it runs.
    memory: Option<Arc<MemoryMeter>>,
}

impl Script {
    /// Compiles the script in `path`, or the built-in one.
    pub fn load(path: Option<&Path>, settings: &ScriptSettings) -> Result<Self, Problem> {
        let Some(path) = path else {
            return Self::compile(DEFAULT_NAME, DEFAULT, None, settings);
        };
        let name = path.display().to_string();
        let text = sources::read(path).map_err(|error| unreadable(&name, &error))?;
        Self::compile(&name, &text, Some(path), settings)
    }

    /// Compiles a text that errors call `name` and that may import nothing.
    pub fn of_text(name: &str, text: &str, settings: &ScriptSettings) -> Result<Self, Problem> {
        Self::compile(name, text, None, settings)
    }

    fn compile(
        name: &str,
        text: &str,
        path: Option<&Path>,
        settings: &ScriptSettings,
    ) -> Result<Self, Problem> {
        let sources = Sources::default();
        sources.add(name, text);
        let mut engine = engine();
        engine.set_max_operations(settings.max_operations);
        engine.set_module_resolver(ScopedResolver::new(path, sources.clone()));
        let mut config = Module::new();
        let size = Dynamic::from(native::integer(settings.size));
        config.set_var("SIZE", size.clone());
        config.set_var(
            "VARS",
            to_dynamic(&serde_json::Value::Object(settings.vars.clone())),
        );
        let config = Shared::new(config);
        engine.register_static_module("config", Shared::clone(&config));
        let mut scope = Scope::new();
        scope.push_constant_dynamic("SIZE", size);
        let mut ast = engine
            .compile_with_scope(&scope, text)
            .map_err(|error| error::of_parse(&error, name, &sources))?;
        ast.set_source(name);
        sources.add_closures(name, &ast);
        Ok(Self {
            names: Symbols::of(&engine),
            engine,
            ast,
            path: path.map(Path::to_owned),
            config,
            scope,
            name: name.to_owned(),
            sources,
            max_memory: settings.max_memory,
            memory: None,
        })
    }

    /// The name under which errors show it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What a run of it would be refused for: calls of what does not exist.
    pub fn check(&self) -> Vec<Problem> {
        lint::calls(&self.ast, &self.name, &self.names, &self.sources)
    }

    /// What a run of it without a folder for its files would be refused for.
    pub fn file_written(&self) -> Option<Problem> {
        lint::file_written(&self.ast, &self.name, &self.names, &self.sources)
    }

    /// The mistakes that can be seen in it and in what it imports, without running it.
    pub fn lint(&self) -> Vec<Problem> {
        let path = self.path.as_deref();
        let resolver = ScopedResolver::new(path, self.sources.clone());
        let mut engine = engine();
        engine.register_static_module("config", Shared::clone(&self.config));
        let files = FileLinter::new(engine, &resolver, &self.names, &self.sources);
        let key = path
            .and_then(crate::script::sandbox::resolver::key_of)
            .unwrap_or_default();
        files.main(&self.scope, &self.name, &key)
    }

    /// Runs it to its end, with `host` behind its primitives. Blocks; to be called on a thread of
    /// its own with a stack of [`STACK`] bytes.
    fn run(&mut self, host: &Arc<ScriptHost>) -> Result<(), Problem> {
        self.engine.set_default_tag(Dynamic::from(Arc::clone(host)));
        let printed = Arc::clone(host);
        self.engine.on_print(move |text| {
            // A standard output that cannot be written is remembered by the reports' own writing.
            let text = crate::error::escape::escape_line(text);
            let _ = printed.ledger().reports().emit(&text);
        });
        let memory = Arc::new(MemoryMeter::begin(self.max_memory));
        self.memory = Some(Arc::clone(&memory));
        host.measure(Arc::clone(&memory));
        sandbox::watch(&mut self.engine, host.shutdown().clone(), memory);
        let mut scope = self.scope.clone();
        self.engine
            .run_ast_with_scope(&mut scope, &self.ast)
            .map_err(|error| {
                // The engine quotes values in its errors, and scripts throw them: a token has no
                // business there.
                let problem = error::of_error(&error, &self.name, &self.sources, &self.names);
                let ledger = host.ledger();
                problem.reworded(|text| ledger.without_tokens(text))
            })
    }

    /// Lets the wording of a line run although the run is being stopped, within bounds: all lines
    /// together may take [`LAST_WORDS`] then, and what is left is written in the host's own words.
    fn unwatch(&mut self, shutdown: &Shutdown) {
        let shutdown = shutdown.clone();
        let until: OnceLock<Instant> = OnceLock::new();
        let is_late = move || {
            shutdown.stopping().is_cancelled()
                && Instant::now() > *until.get_or_init(|| Instant::now() + LAST_WORDS)
        };
        if let Some(memory) = self.memory.clone() {
            sandbox::watch_last_words(&mut self.engine, memory, is_late);
        }
    }
}

/// So long may the wording of all last lines take in a run that is being stopped.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// An engine with all that a script may call; without a host, so that what it knows can be checked.
fn engine() -> Engine {
    let mut engine = documented_engine();
    crate::script::sandbox::overrides::register(&mut engine);
    engine
}

/// An engine with the primitives and the limits, which knows the script API and nothing else beyond
/// the language itself.
pub fn documented_engine() -> Engine {
    let mut engine = Engine::new();
    sandbox::apply(&mut engine);
    engine
        .set_strict_variables(true)
        .set_optimization_level(OptimizationLevel::Simple)
        .disable_symbol("eval")
        .set_module_resolver(DummyModuleResolver::new());
    engine.on_debug(
        |text, _, position| tracing::debug!(target: crate::observe::logging::SCRIPT, ?position, "{text}"),
    );
    engine
        .register_type_with_name::<crate::script::api::tokens::Tokens>("Tokens")
        .register_type_with_name::<crate::script::api::tokens::Pages>("Pages")
        .register_type_with_name::<crate::script::api::outcomes::Outcomes>("Outcomes")
        .register_type_with_name::<crate::pipeline::token::Outcome>("Outcome")
        .register_iterator_result::<crate::script::api::tokens::Tokens, rhai::ImmutableString>()
        .register_iterator_result::<crate::script::api::tokens::Pages, crate::script::api::tokens::Tokens>()
        .register_iterator_result::<crate::script::api::outcomes::Outcomes, crate::pipeline::token::Outcome>();
    api::register(&mut engine);
    engine
}

fn to_dynamic(value: &serde_json::Value) -> Dynamic {
    use serde_json::Value;
    match value {
        Value::Null => Dynamic::UNIT,
        Value::Bool(value) => (*value).into(),
        Value::String(text) => text.into(),
        Value::Number(number) => match number.as_i64() {
            Some(whole) => whole.into(),
            None => number.as_f64().unwrap_or(f64::NAN).into(),
        },
        Value::Array(values) => Dynamic::from_array(values.iter().map(to_dynamic).collect()),
        Value::Object(fields) => Dynamic::from_map(
            fields
                .iter()
                .map(|(name, value)| (name.as_str().into(), to_dynamic(value)))
                .collect(),
        ),
    }
}

fn unreadable(name: &str, error: &std::io::Error) -> Problem {
    chain(error)
        .into_iter()
        .fold(
            Problem::new(Exit::Script, format!("the script {name} cannot be read")),
            Problem::cause,
        )
        .hint("`--script FILE` names the script; without it the built-in one runs")
}
