//! Builds the validated settings from flags, environment and file. A flag overrides the environment,
//! which overrides the file, which overrides the default.
//!
//! Only [`Env::from_process`] reads the process. Only files that the user named are read.

mod check;
mod database;
mod file;
mod merge;
pub mod options;
mod otel;
mod output;
mod path_conflicts;
mod settings;
pub mod shard;
mod size;
mod source;
pub(crate) mod test_case;
#[cfg(test)]
mod tests;
mod yaml_error;
pub(crate) mod yaml_spans;
pub(crate) mod yaml_values;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use secrecy::SecretString;
use tracing::level_filters::LevelFilter;

use crate::cli::env::Env;
use crate::cli::value::ParseResult;
use crate::cli::{CommonArgs, RunArgs, variable};
pub use crate::config::check::load_for_check;
use crate::config::file::ConfigFile;
pub use crate::config::merge::{load_for_merge, load_for_replay};
pub use crate::config::settings::{
    CheckSettings, MergeSettings, ProbeTargets, RunSettings, ScriptLimits, ScriptSource,
    SourceSettings,
};
use crate::config::size::RunSize;
use crate::error::{Error, usage};
pub use crate::observe::logging::{LineFormat, LogSettings};
use crate::observe::otel::Tracer;
use crate::runtime::secret::Secret;
use crate::store::identifier::TableName;
use crate::store::{self, DatabaseTarget};

/// The default SIZE.
const DEFAULT_SIZE: u64 = 5;
/// The variable that sets the source's `Authorization` header.
const AUTHORIZATION: &str = "TOKEN_SERVICE_SOURCE_AUTHORIZATION";

/// The purpose of a run, which selects source and database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// The configured source and database.
    Run,
    /// The configured database; the tokens come from the file of an earlier run.
    Replay,
    /// The built-in source and database; `TOKEN_HOST`, `DB_*` and the like are ignored.
    Demo,
}

/// Returns the settings of a run, or the first problem, which has exit code 2.
pub fn load(purpose: Purpose, args: &RunArgs, env: &Env) -> Result<RunSettings, Error> {
    Layers::of(&args.common, env)?.resolve(purpose, args, &[])
}

/// Returns the settings from the text of a configuration file alone; messages call it `name`.
pub fn load_text(purpose: Purpose, name: &str, text: &str) -> Result<RunSettings, Error> {
    let env = Env::default();
    let file = file::parse(name.to_owned(), text.to_owned())?;
    let layers = Layers {
        env: &env,
        config: None,
        file,
    };
    layers.resolve(purpose, &RunArgs::default(), &[])
}

/// The environment and the file, from which settings are resolved.
struct Layers<'a> {
    env: &'a Env,
    /// The path of the configuration file.
    config: Option<PathBuf>,
    file: ConfigFile,
}

impl<'a> Layers<'a> {
    fn of(common: &CommonArgs, env: &'a Env) -> Result<Self, Error> {
        let named = match &common.config {
            Some(path) => Some(path.as_path()),
            None => env.get(&variable("config"))?.map(Path::new),
        };
        // No default path: a file found in the working folder could send the tokens elsewhere.
        let file = named.map(file::read).transpose()?.unwrap_or_default();
        Ok(Self {
            env,
            config: named.map(Path::to_owned),
            file,
        })
    }

    /// Resolves all settings; `replayed` are the files that a replay reads.
    fn resolve(
        &self,
        purpose: Purpose,
        args: &RunArgs,
        replayed: &[PathBuf],
    ) -> Result<RunSettings, Error> {
        let limits = self.limits(args)?;
        let RunSize { size, input } = match purpose {
            // A replay covers all tokens of its file.
            Purpose::Replay => RunSize::default(),
            Purpose::Run | Purpose::Demo => self.run_size(args, limits.max_token)?,
        };
        let source = match (purpose, input) {
            (Purpose::Replay, _) => SourceSettings::Nothing,
            (_, Some(input)) => SourceSettings::Input(input),
            (Purpose::Demo, None) => SourceSettings::BuiltIn,
            (Purpose::Run, None) => SourceSettings::Http(self.endpoint()?),
        };
        let target = match purpose {
            Purpose::Demo => DatabaseTarget::Demo,
            Purpose::Run | Purpose::Replay => {
                database::target(self.env, &self.file)?.ok_or_else(no_database)?
            }
        };
        let headers = match &source {
            SourceSettings::Http(endpoint) => endpoint.headers.as_slice(),
            _ => &[],
        };
        let secrets = self.secrets(headers, &target);
        let run = &self.file.run;
        let mut store = self.store(args, target)?;
        store.expected = size;
        if store.dry_run && purpose == Purpose::Replay {
            return Err(usage("a replay cannot be a dry run")
                .hint("unset TOKEN_SERVICE_DRY_RUN and run.dry_run"));
        }
        self.check_path_conflicts(args, replayed, Some(&store.target))?;
        Ok(RunSettings {
            size,
            source,
            limits,
            store,
            reports: self.reports(args)?,
            fail_on: self.fail_on(args)?,
            mask: self.mask(args)?,
            metrics: self.metrics(args)?,
            telemetry: otel::settings(self.env),
            progress: self.progress(args)?,
            color: self.env.allows_color(),
            script: self.script(args.script.as_ref())?,
            script_limits: self.script_limits(),
            vars: self.vars(),
            env: self.visible_to_scripts(&secrets),
            deadline: self.pick(
                args.times.deadline,
                "deadline",
                crate::cli::value::positive_duration,
                run.deadline,
            )?,
            grace: self
                .pick(
                    args.times.grace,
                    "grace",
                    crate::cli::value::duration,
                    run.grace,
                )?
                .unwrap_or(Duration::from_secs(8)),
            wait: self
                .pick(
                    args.times.wait,
                    "wait",
                    crate::cli::value::duration,
                    run.wait,
                )?
                .unwrap_or_default(),
            journal: self.journal(args)?,
            out_dir: self.pick(args.out_dir.clone(), "out-dir", path, None)?,
            log: {
                self.check_error_format(&args.common)?;
                self.log(&args.common)?
            },
        })
    }

    /// Returns the flag, else the variable, else the value of the file.
    fn pick<T>(
        &self,
        flag: Option<T>,
        option: &str,
        parse: impl FnOnce(&str) -> ParseResult<T>,
        in_file: Option<T>,
    ) -> Result<Option<T>, Error> {
        match flag {
            Some(value) => Ok(Some(value)),
            None => Ok(self.env.parse(&variable(option), parse)?.or(in_file)),
        }
    }

    /// Returns a boolean flag, else the variable, else the value of the file.
    fn switch(&self, flag: bool, option: &str, in_file: Option<bool>) -> Result<bool, Error> {
        let given = self.pick(
            flag.then_some(true),
            option,
            crate::cli::value::switch,
            in_file,
        )?;
        Ok(given.unwrap_or_default())
    }

    fn store(&self, args: &RunArgs, target: DatabaseTarget) -> Result<store::StoreOptions, Error> {
        let keys = &self.file.database;
        // The demo's database has fixed names.
        let is_configured = !matches!(target, DatabaseTarget::Demo);
        let table = keys.table.clone().filter(|_| is_configured);
        let column = keys.column.clone().filter(|_| is_configured);
        Ok(store::StoreOptions {
            table: table.unwrap_or_else(|| TableName::plain("secret_tokens")),
            column: column.unwrap_or_else(|| String::from("data")),
            target,
            connections: self
                .pick(
                    args.database.connections,
                    "connections",
                    crate::cli::value::count,
                    keys.connections,
                )?
                .unwrap_or(16),
            pipeline: self.pick(
                args.database.pipeline,
                "pipeline",
                crate::cli::value::count,
                keys.pipeline,
            )?,
            dry_run: self.dry_run(args)?,
            statement_timeout: keys.statement_timeout.unwrap_or(Duration::from_secs(30)),
            patience: self.patience(args)?,
            session: String::new(),
            tracer: Tracer::default(),
            expected: 0,
        })
    }

    fn patience(&self, args: &RunArgs) -> Result<Duration, Error> {
        let in_file = self.file.run.patience;
        let patience = self.pick(
            args.times.patience,
            "patience",
            crate::cli::value::duration,
            in_file,
        )?;
        Ok(patience.unwrap_or(Duration::from_secs(30)))
    }

    fn script(&self, flag: Option<&PathBuf>) -> Result<ScriptSource, Error> {
        let in_file = self.file.run.script.clone();
        let named = self.pick(flag.cloned(), "script", path, in_file)?;
        Ok(named.map_or(ScriptSource::Default, ScriptSource::File))
    }

    fn script_limits(&self) -> ScriptLimits {
        let default = ScriptLimits::default();
        let keys = &self.file.script;
        ScriptLimits {
            max_operations: keys.max_operations.unwrap_or(default.max_operations),
            max_memory: keys.max_memory.unwrap_or(default.max_memory),
        }
    }

    fn vars(&self) -> serde_json::Map<String, serde_json::Value> {
        self.file.script.vars.clone().unwrap_or_default()
    }

    fn visible_to_scripts(&self, secrets: &[SecretString]) -> BTreeMap<String, String> {
        let prefix = self.file.script.env_prefix.as_deref().unwrap_or("TOKEN_");
        self.env.visible_to_scripts(prefix, secrets)
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
        secrets.extend(self.file.database.url.as_deref().map(SecretString::from));
        secrets
    }

    fn log(&self, args: &CommonArgs) -> Result<LogSettings, Error> {
        let level = self.pick(args.log_level, "log-level", crate::cli::value::level, None)?;
        let format = self.pick(
            args.log_format,
            "log-format",
            crate::cli::value::line_format,
            None,
        )?;
        Ok(LogSettings {
            level: level.unwrap_or(LevelFilter::INFO),
            format: format.unwrap_or_default(),
        })
    }

    /// Checks `--error-format`, which the program reads before it reads settings.
    fn check_error_format(&self, args: &CommonArgs) -> Result<(), Error> {
        let format = self.pick(
            args.error_format,
            "error-format",
            crate::cli::value::line_format,
            None,
        )?;
        let _: Option<LineFormat> = format;
        Ok(())
    }
}

fn no_database() -> Error {
    usage("no database is configured").hint(
        "set DATABASE_URL, or DB_HOST, DB_USER, DB_PASS and DB_NAME, or `database` in the --config file; `token_service demo` needs no database",
    )
}

#[allow(clippy::unnecessary_wraps, reason = "has the signature of a parser")]
fn path(text: &str) -> ParseResult<PathBuf> {
    Ok(PathBuf::from(text))
}
