//! Configuration: file, environment and flags become one validated `RunSettings`, in which a flag beats
//! the environment, which beats the file, which beats the default.
//!
//! Nothing here prints, and nothing but [`Env::of_process`] looks at the process; the files that are
//! read are those that a user named.

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

use crate::error::diagnostic::usage;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use secrecy::SecretString;
use tracing::level_filters::LevelFilter;

pub use crate::cli::env::Env;
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
use crate::error::diagnostic::Problem;
pub use crate::observe::logging::{LineFormat, LogSettings};
use crate::observe::otel::Tracer;
use crate::runtime::secret::Secret;
use crate::store::identifier::TableName;
use crate::store::{self, DatabaseTarget};

/// SIZE where nothing names one.
const DEFAULT_SIZE: u64 = 5;
/// The variable and header for what the source wants as `Authorization`.
const AUTHORIZATION: &str = "TOKEN_SERVICE_SOURCE_AUTHORIZATION";

/// What a run is meant for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// The real source and the real database.
    Run,
    /// The real database alone: the tokens come from a file of an earlier run.
    Replay,
    /// The built-in ones; `TOKEN_HOST`, the `DB_*`, and their like are not looked at.
    Demo,
}

/// The settings of a run, or the one mistake that prevents it. Every problem ends with exit code 2.
pub fn load(purpose: Purpose, args: &RunArgs, env: &Env) -> Result<RunSettings, Problem> {
    Layers::of(&args.common, env)?.settle(purpose, args, &[])
}

/// The same from the text of a file, which messages call `name`, and nothing else.
pub fn load_text(purpose: Purpose, name: &str, text: &str) -> Result<RunSettings, Problem> {
    let env = Env::default();
    let file = file::parse(name.to_owned(), text.to_owned())?;
    let layers = Layers {
        env: &env,
        config: None,
        file,
    };
    layers.settle(purpose, &RunArgs::default(), &[])
}

/// The environment and the file, from which each setting is picked.
struct Layers<'a> {
    env: &'a Env,
    /// The file's path.
    config: Option<PathBuf>,
    file: ConfigFile,
}

impl<'a> Layers<'a> {
    fn of(common: &CommonArgs, env: &'a Env) -> Result<Self, Problem> {
        let named = match &common.config {
            Some(path) => Some(path.as_path()),
            None => env.get(&variable("config"))?.map(Path::new),
        };
        // Only a file that was named: one that merely lies in the working folder could send the
        // tokens elsewhere.
        let file = named.map(file::read).transpose()?.unwrap_or_default();
        Ok(Self {
            env,
            config: named.map(Path::to_owned),
            file,
        })
    }

    /// The settings; `replayed` are files that a replay takes the tokens from.
    fn settle(
        &self,
        purpose: Purpose,
        args: &RunArgs,
        replayed: &[PathBuf],
    ) -> Result<RunSettings, Problem> {
        let limits = self.limits(args)?;
        let RunSize { size, input } = match purpose {
            // It is for whatever the file holds.
            Purpose::Replay => RunSize::default(),
            Purpose::Run | Purpose::Demo => self.amount(args, limits.max_token)?,
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
                .hint("leave out TOKEN_SERVICE_DRY_RUN and run.dry_run: nothing was stored"));
        }
        self.keep_apart(args, replayed, Some(&store.target))?;
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
            env: self.visible(&secrets),
            deadline: self.pick(
                args.times.deadline,
                "deadline",
                crate::cli::value::limit,
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

    /// A flag, else its variable, else what the file says.
    fn pick<T>(
        &self,
        flag: Option<T>,
        option: &str,
        parse: impl FnOnce(&str) -> ParseResult<T>,
        in_file: Option<T>,
    ) -> Result<Option<T>, Problem> {
        match flag {
            Some(value) => Ok(Some(value)),
            None => Ok(self.env.parse(&variable(option), parse)?.or(in_file)),
        }
    }

    /// A flag that needs no value, else its variable, else what the file says.
    fn switch(&self, flag: bool, option: &str, in_file: Option<bool>) -> Result<bool, Problem> {
        let given = self.pick(
            flag.then_some(true),
            option,
            crate::cli::value::switch,
            in_file,
        )?;
        Ok(given.unwrap_or_default())
    }

    fn store(
        &self,
        args: &RunArgs,
        target: DatabaseTarget,
    ) -> Result<store::StoreOptions, Problem> {
        let keys = &self.file.database;
        // The demo has its own table, whatever the file says of the real one.
        let own = !matches!(target, DatabaseTarget::Demo);
        let table = keys.table.clone().filter(|_| own);
        let column = keys.column.clone().filter(|_| own);
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

    fn patience(&self, args: &RunArgs) -> Result<Duration, Problem> {
        let in_file = self.file.run.patience;
        let patience = self.pick(
            args.times.patience,
            "patience",
            crate::cli::value::duration,
            in_file,
        )?;
        Ok(patience.unwrap_or(Duration::from_secs(30)))
    }

    fn script(&self, typed: Option<&PathBuf>) -> Result<ScriptSource, Problem> {
        let in_file = self.file.run.script.clone();
        let named = self.pick(typed.cloned(), "script", path, in_file)?;
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

    fn visible(&self, secrets: &[SecretString]) -> BTreeMap<String, String> {
        let prefix = self.file.script.env_prefix.as_deref().unwrap_or("TOKEN_");
        self.env.visible(prefix, secrets)
    }

    /// What a script must not find under another name either.
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

    fn log(&self, args: &CommonArgs) -> Result<LogSettings, Problem> {
        let level = self.pick(args.log_level, "log-level", crate::cli::value::level, None)?;
        let format = self.pick(
            args.log_format,
            "log-format",
            crate::cli::value::layout,
            None,
        )?;
        Ok(LogSettings {
            level: level.unwrap_or(LevelFilter::INFO),
            format: format.unwrap_or_default(),
        })
    }

    /// Checks `--error-format`, which the program reads before it reads settings.
    fn check_error_format(&self, args: &CommonArgs) -> Result<(), Problem> {
        let format = self.pick(
            args.error_format,
            "error-format",
            crate::cli::value::layout,
            None,
        )?;
        let _: Option<LineFormat> = format;
        Ok(())
    }
}

fn no_database() -> Problem {
    usage("no database is configured").hint(
        "set DATABASE_URL, or DB_HOST, DB_USER, DB_PASS and DB_NAME, or `database` in the file that --config names; `token_service demo` needs none",
    )
}

#[allow(clippy::unnecessary_wraps, reason = "a parser like those of `values`")]
fn path(text: &str) -> ParseResult<PathBuf> {
    Ok(PathBuf::from(text))
}
