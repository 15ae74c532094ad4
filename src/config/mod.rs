//! Builds the validated settings from flags, environment and file. A flag overrides the environment,
//! which overrides the file, which overrides the default.
//!
//! Only [`Env::from_process`] reads the process. Only files that the user named are read.

mod check;
mod database;
mod file;
pub(crate) mod keys;
mod layers;
mod merge;
mod otel;
mod output;
mod path_conflicts;
mod receipts;
mod serve;
mod settings;
pub mod shard;
mod size;
mod source;
pub mod suggestions;
pub(crate) mod test_case;
#[cfg(test)]
mod tests;
pub(crate) mod yaml;

use std::net::SocketAddr;
use std::path::PathBuf;

pub use crate::config::check::load_for_check;
pub use crate::config::merge::{load_for_merge, load_for_replay};
pub use crate::config::receipts::{load_for_audit, load_for_prune, load_for_schema};
pub use crate::config::serve::load_for_serve;
pub use crate::config::settings::{
    AuditSettings, AuditedFile, CheckSettings, FileKind, MergeSettings, MetricsSettings,
    ProbeTargets, PruneSettings, RunSettings, SchemaSettings, ScriptLimits, ScriptSource,
    ServeSettings, SourceSettings,
};

use secrecy::SecretString;
use uuid::Uuid;

use crate::cli::Given;
use crate::cli::env::Env;
use crate::cli::options::{
    CONNECTIONS, DEADLINE, DRY_RUN, ERROR_FORMAT, GRACE, LISTEN, LOG_FORMAT, LOG_LEVEL, MASK,
    OUT_DIR, PATIENCE, PIPELINE, PROGRESS, RECEIPTS, RUN_ID, SCRIPT, WAIT,
};
use crate::cli::value::{self, RunId};
use crate::config::file::ConfigFile;
use crate::config::keys::{
    COLUMN, DATABASE_URL, ENV_PREFIX, IDEMPOTENCY_HEADER, MAX_MEMORY, MAX_OPERATIONS,
    STATEMENT_TIMEOUT, TABLE,
};
use crate::config::layers::Layers;
use crate::config::shard::Shard;
use crate::config::size::RunSize;
use crate::config::source::no_source;
use crate::error::{Error, usage};
use crate::fetch::http::HttpEndpoint;
use crate::observe::logging::LogSettings;
use crate::observe::otel::Tracer;
use crate::runtime::secret::Secret;
use crate::store::receipts::Receipts;
use crate::store::{self, DatabaseTarget};

/// The variable of Cloud Run for the name of a job's execution, which its tasks and their retries share.
const CLOUD_RUN_EXECUTION: &str = "CLOUD_RUN_EXECUTION";
/// The variable that sets the source's `Authorization` header.
const AUTHORIZATION: &str = "TOKEN_SERVICE_SOURCE_AUTHORIZATION";
/// The variable of the token that clients of a service send; it also exists with the suffix `_FILE`.
const SERVE_TOKEN: &str = "TOKEN_SERVICE_SERVE_TOKEN";

/// The purpose of a run, which selects source and database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// The configured source and database.
    Run,
    /// The configured database; the tokens come from the file of an earlier run.
    Replay,
    /// The built-in source and database; `TOKEN_HOST`, `DB_*` and the like are ignored.
    Demo,
    /// The configured source and database, for the runs of a service. Each run gets its size, its
    /// reports and its journal from the request.
    Serve,
}

/// Returns the settings of a run, or all errors of the configuration, which have exit code 2.
pub fn load(purpose: Purpose, given: &Given, env: &Env) -> Result<RunSettings, Vec<Error>> {
    Layers::of(given, env).resolve(purpose, &[])
}

/// Returns the settings from the text of a configuration file alone; messages call it `name`.
pub fn load_text(purpose: Purpose, name: &str, text: &str) -> Result<RunSettings, Vec<Error>> {
    let (given, env) = (Given::default(), Env::default());
    let (file, errors) = file::parse(name, text);
    Layers::new(&given, &env, file, errors).resolve(purpose, &[])
}

/// Returns the address of `demo-source`.
pub fn load_address(given: &Given, env: &Env) -> Result<SocketAddr, Vec<Error>> {
    let layers = Layers::new(given, env, ConfigFile::default(), Vec::new());
    let address = layers.value(&LISTEN);
    layers.finish(address)
}

impl Layers<'_> {
    /// Resolves all settings; `replayed` are the files that a replay reads. A setting with an error has
    /// its default until all errors are known.
    fn resolve(self, purpose: Purpose, replayed: &[PathBuf]) -> Result<RunSettings, Vec<Error>> {
        let settings = self.run_settings(purpose, replayed);
        self.finish(settings)
    }

    /// As [`Self::resolve`], without the errors.
    fn run_settings(&self, purpose: Purpose, replayed: &[PathBuf]) -> RunSettings {
        let (limits, requests) = (self.limits(), self.requests());
        let size = match purpose {
            // A replay covers all tokens of its file.
            Purpose::Replay => RunSize::default(),
            Purpose::Run | Purpose::Demo => self.collect(self.run_size(limits.max_token)),
            Purpose::Serve => RunSize::of_one_run(self.collect(self.size())),
        };
        let source = match (purpose, size.input) {
            (Purpose::Replay, _) => {
                // A replay only repeats requests, and only with their idempotency keys.
                let has_keys = self.get(&IDEMPOTENCY_HEADER).is_some();
                let endpoint = has_keys.then(|| self.endpoint()).flatten();
                endpoint.map_or(SourceSettings::Nothing, SourceSettings::Http)
            }
            (_, Some(input)) => SourceSettings::Input(input),
            (Purpose::Demo, None) => SourceSettings::BuiltIn,
            (Purpose::Run | Purpose::Serve, None) => {
                let endpoint = self.endpoint();
                endpoint.map_or(SourceSettings::Nothing, SourceSettings::Http)
            }
        };
        let target = match purpose {
            Purpose::Demo => Some(DatabaseTarget::Demo),
            Purpose::Run | Purpose::Replay | Purpose::Serve => self.database(),
        };
        // With another error, source or database may be missing because of it.
        if self.count_errors() == 0 {
            if matches!(source, SourceSettings::Nothing) && purpose != Purpose::Replay {
                self.fail(no_source(self.env));
            }
            if target.is_none() {
                self.fail(no_database(self.env));
            }
        }
        let target = target.unwrap_or(DatabaseTarget::Demo);
        let headers = match &source {
            SourceSettings::Http(HttpEndpoint { headers, .. }) => headers.as_slice(),
            _ => &[],
        };
        let secrets = self.secrets(headers, &target);
        let mut store = self.store(target);
        store.expected = size.size;
        store.processes = size.shards;
        if store.dry_run && purpose == Purpose::Replay {
            let error = usage("a replay cannot be a dry run");
            self.fail(error.hint("unset TOKEN_SERVICE_DRY_RUN and run.dry_run"));
        }
        let run_id = match purpose {
            Purpose::Run => self.run_id(store.receipts.is_some() && !store.dry_run),
            Purpose::Replay | Purpose::Demo | Purpose::Serve => None,
        };
        if run_id.is_some() && store.receipts.is_none() {
            let error = usage("--run-id needs receipts, by which a run is continued");
            self.fail(error.hint(
                "set --receipts TABLE or database.receipts; `token_service schema` prints the table",
            ));
        }
        self.check_dry_run(&mut store, run_id);
        // The runs of a service write no files that the configuration names.
        let writes_files = purpose != Purpose::Serve;
        let used_files = if writes_files {
            self.check_path_conflicts(replayed, Some(&store.target))
        } else {
            Vec::new()
        };
        RunSettings {
            size: size.size,
            run_id,
            shard: match purpose {
                Purpose::Replay | Purpose::Serve => Shard::default(),
                Purpose::Run | Purpose::Demo => self.collect(self.shard()),
            },
            source,
            limits,
            requests,
            store,
            reports: if writes_files {
                self.reports()
            } else {
                Vec::new()
            },
            fail_on: self.fail_on(),
            mask: self.value(&MASK),
            metrics: self.metrics().filter(|_| writes_files),
            telemetry: otel::settings(self.env),
            progress: self.value(&PROGRESS),
            color: self.env.allows_color(),
            script: self.script(),
            script_limits: self.script_limits(),
            vars: self.file.vars.clone(),
            env: self
                .env
                .visible_to_scripts(&self.value(&ENV_PREFIX), &secrets),
            deadline: self.get(&DEADLINE),
            grace: self.value(&GRACE),
            wait: self.value(&WAIT),
            journal: self.journal().filter(|_| writes_files),
            out_dir: self.get(&OUT_DIR).filter(|_| writes_files),
            used_files,
            log: self.log(),
        }
    }

    /// Leaves receipts out of a dry run.
    fn check_dry_run(&self, store: &mut store::StoreOptions, run_id: Option<Uuid>) {
        if !store.dry_run {
            return;
        }
        if run_id.is_some() {
            let error = usage("--run-id cannot be combined with --dry-run");
            self.fail(error.hint("a dry run stores nothing, so it writes no receipts either"));
        }
        store.receipts = None;
    }

    fn store(&self, target: DatabaseTarget) -> store::StoreOptions {
        // The demo's database has fixed names.
        let is_demo = matches!(target, DatabaseTarget::Demo);
        store::StoreOptions {
            table: if is_demo {
                TABLE.default()
            } else {
                self.value(&TABLE)
            },
            column: if is_demo {
                COLUMN.default()
            } else {
                self.value(&COLUMN)
            },
            receipts: self
                .get(&RECEIPTS)
                .filter(|_| !is_demo)
                .map(Receipts::in_table),
            target,
            connections: self.value(&CONNECTIONS),
            pipeline: self.get(&PIPELINE),
            dry_run: self.value(&DRY_RUN),
            statement_timeout: self.value(&STATEMENT_TIMEOUT),
            patience: self.value(&PATIENCE),
            idle_limit: None,
            session: String::new(),
            tracer: Tracer::default(),
            expected: 0,
            processes: 1,
        }
    }

    /// Returns the id that the operator gave the run. A run with receipts takes the name of its execution on
    /// Cloud Run, so that a task that is started again continues it.
    fn run_id(&self, has_receipts: bool) -> Option<Uuid> {
        let execution = || {
            let name = self.collect(self.env.get(CLOUD_RUN_EXECUTION));
            let name = name.filter(|_| has_receipts)?;
            value::run_id(name).ok()
        };
        self.get(&RUN_ID).or_else(execution).map(|RunId(id)| id)
    }

    fn script(&self) -> ScriptSource {
        self.get(&SCRIPT)
            .map_or(ScriptSource::Default, ScriptSource::File)
    }

    fn script_limits(&self) -> ScriptLimits {
        ScriptLimits {
            max_operations: self.value(&MAX_OPERATIONS),
            max_memory: self.value(&MAX_MEMORY),
        }
    }

    /// Returns the secrets that no variable visible to a script may repeat.
    fn secrets(&self, headers: &[(String, Secret)], target: &DatabaseTarget) -> Vec<SecretString> {
        let mut secrets: Vec<SecretString> = headers
            .iter()
            .filter(|(name, _)| name == "authorization")
            .map(|(_, value)| value.initial().clone())
            .collect();
        if let DatabaseTarget::Postgres(address) = target {
            let password = address.password.as_ref();
            secrets.extend(password.map(|password| password.initial().clone()));
        }
        secrets.extend(self.file.text(&DATABASE_URL.row).map(SecretString::from));
        secrets
    }

    fn log(&self) -> LogSettings {
        // The program reads this option before it reads settings; here an invalid value is reported.
        self.get(&ERROR_FORMAT);
        LogSettings {
            level: self.value(&LOG_LEVEL),
            format: self.value(&LOG_FORMAT),
        }
    }
}

fn no_database(env: &Env) -> Error {
    usage("no database is configured").hint(suggestions::hint_of_missing(
        env,
        "DATABASE_URL",
        "set DATABASE_URL, or DB_HOST, DB_USER, DB_PASS and DB_NAME, or `database` in the --config file; `token_service demo` needs no database",
    ))
}
