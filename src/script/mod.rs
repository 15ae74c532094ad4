//! Compiles, checks and runs scripts: the Rhai engine with the script API and its limits.

pub mod api;
mod caught;
pub mod error;
pub mod finish;
mod functions;
pub mod host;
mod json;
pub mod lint;
pub mod native;
pub mod reference;
pub mod sandbox;
pub mod stdlib;
pub mod texts;
mod tokens;
mod type_names;

use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use rhai::module_resolvers::DummyModuleResolver;
use rhai::{AST, Dynamic, Engine, Module, OptimizationLevel, Scope, Shared};

use crate::error::exit::Exit;
use crate::error::{Error, chain};
use crate::runtime::shutdown::Shutdown;
use crate::script::error::symbols::Symbols;
use crate::script::host::ScriptHost;
use crate::script::lint::modules::{FileLinter, LintResult};
use crate::script::native::integer;
use crate::script::sandbox::MemoryMeter;
use crate::script::sandbox::memory::SharedMemory;
use crate::script::sandbox::resolver::{ScopedResolver, key_of};
use crate::script::texts::ScriptTexts;

/// The script that runs if none is configured.
pub const DEFAULT: &str = include_str!("../../scripts/default.rhai");

/// The name of the built-in script in errors.
pub const DEFAULT_NAME: &str = "scripts/default.rhai";

/// The stack size of the script thread in bytes.
///
/// 64 call levels of the deepest expressions fit into it, also without optimisation.
pub const STACK_SIZE: usize = 256 * 1024 * 1024;

/// The values and limits that a script gets from its run.
#[derive(Clone, Debug)]
pub struct ScriptSettings {
    /// SIZE.
    pub size: u64,
    /// `config::VARS`.
    pub vars: serde_json::Map<String, serde_json::Value>,
    /// The maximum number of operations; 0 for no limit.
    pub max_operations: u64,
    /// The number of bytes by which the process may grow while the script runs.
    pub max_memory: u64,
    /// What the scripts share, if several run in the process.
    pub shared_memory: Option<Arc<SharedMemory>>,
}

/// A compiled script.
pub struct Script {
    engine: Engine,
    ast: AST,
    scope: Scope<'static>,
    name: String,
    /// True for the script of the program, which has no mistake and writes no file.
    is_built_in: bool,
    texts: ScriptTexts,
    /// The functions of the engine, collected when they are needed first.
    symbols: OnceLock<Symbols>,
    max_memory: u64,
    shared_memory: Option<Arc<SharedMemory>>,
    /// Measures the memory once the script runs.
    memory: Option<Arc<MemoryMeter>>,
}

impl Script {
    /// Compiles the script in the file `path`, or the built-in script.
    pub fn load(path: Option<&Path>, settings: &ScriptSettings) -> Result<Self, Error> {
        let Some(path) = path else {
            let mut script = Self::compile(DEFAULT_NAME, DEFAULT, None, settings)?;
            script.is_built_in = true;
            return Ok(script);
        };
        let name = path.display().to_string();
        let text = texts::read(path).map_err(|error| unreadable(&name, &error))?;
        Self::compile(&name, &text, Some(path), settings)
    }

    /// Compiles `text` as the content of the file `path`.
    pub fn load_text(path: &Path, text: &str, settings: &ScriptSettings) -> Result<Self, Error> {
        Self::compile(&path.display().to_string(), text, Some(path), settings)
    }

    /// Compiles `text`, which can import only library modules. Errors show it as `name`.
    pub fn from_text(name: &str, text: &str, settings: &ScriptSettings) -> Result<Self, Error> {
        Self::compile(name, text, None, settings)
    }

    /// Returns the name of the script in the file `path`, or of the built-in script, and the mistakes
    /// in it and its imports that are visible without running it.
    pub fn lint(
        path: Option<&Path>,
        settings: &ScriptSettings,
    ) -> Result<(String, LintResult), Error> {
        let (name, text) = match path {
            None => (DEFAULT_NAME.to_owned(), DEFAULT.to_owned()),
            Some(path) => {
                let name = path.display().to_string();
                let text = texts::read(path).map_err(|error| unreadable(&name, &error))?;
                (name, text)
            }
        };
        let found = Self::lint_text(&name, &text, path, settings);
        Ok((name, found))
    }

    /// Returns the mistakes in `text` and what it imports; see [`Script::lint`].
    pub fn lint_text(
        name: &str,
        text: &str,
        path: Option<&Path>,
        settings: &ScriptSettings,
    ) -> LintResult {
        let texts = ScriptTexts::default();
        texts.add(name, text);
        let resolver = ScopedResolver::new(path, texts.clone());
        let mut engine = engine();
        engine.register_static_module("config", config_module(settings));
        let symbols = Symbols::of(&engine);
        let linter = FileLinter::new(engine, &resolver, &symbols, &texts);
        let key = path.and_then(key_of).unwrap_or_default();
        linter.lint_script(&scope(settings), name, &key)
    }

    fn compile(
        name: &str,
        text: &str,
        path: Option<&Path>,
        settings: &ScriptSettings,
    ) -> Result<Self, Error> {
        let texts = ScriptTexts::default();
        texts.add(name, text);
        let mut engine = engine();
        engine.set_max_operations(settings.max_operations);
        engine.set_module_resolver(ScopedResolver::new(path, texts.clone()));
        engine.register_static_module("config", config_module(settings));
        let scope = scope(settings);
        let mut ast = sandbox::compile(&engine, &scope, text)
            .map_err(|error| error::of_parse(&error, name, &texts))?;
        ast.set_source(name);
        texts.add_code(name, &ast);
        Ok(Self {
            symbols: OnceLock::new(),
            engine,
            ast,
            scope,
            name: name.to_owned(),
            is_built_in: false,
            texts,
            max_memory: settings.max_memory,
            shared_memory: settings.shared_memory.clone(),
            memory: None,
        })
    }

    /// Returns the name of the script in errors.
    pub fn name(&self) -> &str {
        &self.name
    }

    fn symbols(&self) -> &Symbols {
        self.symbols.get_or_init(|| Symbols::of(&self.engine))
    }

    /// Returns the errors that prevent a run: calls of functions that do not exist.
    pub fn check(&self) -> Vec<Error> {
        if self.is_built_in {
            return Vec::new();
        }
        lint::unknown_calls(&self.ast, &self.name, self.symbols(), &self.texts)
    }

    /// Returns the error that prevents a run without `--out-dir`: a call that writes a file.
    pub fn first_file_write(&self) -> Option<Error> {
        if self.is_built_in {
            return None;
        }
        lint::first_file_write(&self.ast, &self.name, self.symbols(), &self.texts)
    }

    /// Runs the script with the primitives of `host`.
    ///
    /// Blocks. Call it on a dedicated thread with a stack of [`STACK_SIZE`] bytes.
    fn run(&mut self, host: &Arc<ScriptHost>) -> Result<(), Error> {
        self.engine.set_default_tag(Dynamic::from(Arc::clone(host)));
        let run = host.run_context();
        let is_dry_run = host.ledger().reports().dry_run;
        let (id, started_at) = (run.run_id.to_string(), run.started_at());
        register_run(&mut self.engine, &id, &started_at, is_dry_run);
        host.emitter().protect_scripts(self.texts.clone());
        let print_host = Arc::clone(host);
        self.engine.on_print(move |text| {
            // If standard output is closed, the reports record the failure.
            let text = crate::error::escape::escape_line(text);
            let _ = print_host.ledger().reports().emit(&text);
        });
        let memory = Arc::new(MemoryMeter::start(
            self.max_memory,
            self.shared_memory.as_ref(),
        ));
        self.memory = Some(Arc::clone(&memory));
        host.set_memory_meter(Arc::clone(&memory));
        sandbox::watch(
            &mut self.engine,
            host.shutdown().clone(),
            memory,
            host.script_stop(),
            self.texts.clone(),
            integer(host.size()).into(),
        );
        let mut scope = self.scope.clone();
        let stop = host.script_stop();
        self.engine
            .run_ast_with_scope(&mut scope, &self.ast)
            // The engine notices a stop at the next operation, which the last call does not have.
            .and_then(|()| stop.get().map_or(Ok(()), |stop| Err(stop.error())))
            .map_err(|error| {
                // Errors quote values, which may contain tokens.
                let failure = error::of_error(&error, &self.name, &self.texts, self.symbols());
                let ledger = host.ledger();
                failure.map_texts(|text| ledger.without_tokens(text))
            })
    }

    /// Limits the line closure, which formats lines after the script has ended.
    ///
    /// If the run is being stopped, all lines together may take [`LINE_CLOSURE_TIME`]. The remaining
    /// outcomes are written with the default line.
    fn watch_line_closure(&mut self, shutdown: &Shutdown) {
        let shutdown = shutdown.clone();
        let end: OnceLock<Instant> = OnceLock::new();
        let has_timed_out = move || {
            shutdown.stopping().is_cancelled()
                && Instant::now() > *end.get_or_init(|| Instant::now() + LINE_CLOSURE_TIME)
        };
        if let Some(memory) = self.memory.clone() {
            sandbox::watch_line_closure(&mut self.engine, memory, has_timed_out);
        }
    }
}

/// The time limit of the line closure, over all lines, in a run that is being stopped.
const LINE_CLOSURE_TIME: Duration = Duration::from_secs(1);

/// Returns the module `config`.
fn config_module(settings: &ScriptSettings) -> Shared<Module> {
    let mut config = Module::new();
    config.set_var("SIZE", native::integer(settings.size));
    // Every JSON value has a value in scripts.
    let vars = rhai::serde::to_dynamic(&settings.vars).unwrap_or_default();
    config.set_var("VARS", vars);
    Shared::new(config)
}

/// Returns the scope of a script, with the constant `SIZE`.
fn scope(settings: &ScriptSettings) -> Scope<'static> {
    let mut scope = Scope::new();
    scope.push_constant("SIZE", native::integer(settings.size));
    scope
}

/// Returns an engine with every function that scripts can call, but without a host.
fn engine() -> Engine {
    let mut engine = documented_engine();
    crate::script::sandbox::overrides::register(&mut engine);
    engine
}

/// Registers the constants `run::ID`, `run::STARTED_AT` and `run::DRY_RUN`.
fn register_run(engine: &mut Engine, id: &str, started_at: &str, is_dry_run: bool) {
    let mut constants = Module::new();
    constants.set_var("ID", id.to_owned());
    constants.set_var("STARTED_AT", started_at.to_owned());
    constants.set_var("DRY_RUN", is_dry_run);
    engine.register_static_module("run", constants.into());
}

/// Returns an engine with the documented script API and its limits, without the overrides.
pub fn documented_engine() -> Engine {
    let mut engine = Engine::new();
    sandbox::apply(&mut engine);
    engine
        .set_strict_variables(true)
        // The optimiser replaces variables of a loop or a `catch` by constants of the same name.
        .set_optimization_level(OptimizationLevel::None)
        .disable_symbol("eval")
        .set_module_resolver(DummyModuleResolver::new());
    register_run(&mut engine, "", "", false);
    engine.on_debug(
        |text, _, position| tracing::debug!(target: crate::observe::logging::SCRIPT, ?position, "{text}"),
    );
    api::register(&mut engine);
    engine
}

fn unreadable(name: &str, error: &std::io::Error) -> Error {
    chain(error)
        .into_iter()
        .fold(
            Error::new(Exit::Script, format!("the script {name} cannot be read")),
            Error::cause,
        )
        .hint("`--script FILE` names the script; without it the built-in one runs")
}
