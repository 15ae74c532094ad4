//! Configuration: file, environment and flags become one validated `Settings`, in which a flag beats
//! the environment, which beats the file, which beats the default.
//!
//! Nothing here prints, and nothing but [`Env::of_process`] looks at the process; the files that are
//! read are those that a user named.

pub(crate) mod case;
mod checking;
mod database;
mod env;
mod file;
pub(crate) mod outline;
mod place;
pub(crate) mod reading;
mod settings;
pub mod values;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use secrecy::SecretString;
use tracing::level_filters::LevelFilter;
use url::Url;

pub use self::checking::load_for_check;
pub use self::env::Env;
use self::file::File;
pub use self::settings::{Checked, Layout, Limits, Log, Script, ScriptLimits, Settings, Source};
use self::values::Parsed;
use crate::cli::{CommonArgs, RunArgs, variable};
use crate::condition::Condition;
use crate::exit::Exit;
use crate::problem::Problem;
use crate::report::mask::Mask;
use crate::report::{Format, Spec};
use crate::store::{self, Target};

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
pub fn load(purpose: Purpose, args: &RunArgs, env: &Env) -> Result<Settings, Problem> {
    Layers::of(&args.common, env)?.settle(purpose, args)
}

/// The same from the text of a file, which messages call `name`, and nothing else.
pub fn load_text(purpose: Purpose, name: &str, text: &str) -> Result<Settings, Problem> {
    let env = Env::default();
    let file = file::parse(name.to_owned(), text.to_owned())?;
    Layers { env: &env, file }.settle(purpose, &RunArgs::default())
}

/// The environment and the file, from which each setting is picked.
struct Layers<'a> {
    env: &'a Env,
    file: File,
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
        Ok(Self { env, file })
    }

    fn settle(&self, purpose: Purpose, args: &RunArgs) -> Result<Settings, Problem> {
        let (size, size_is_default) = self.size(args)?;
        let limits = self.limits(args)?;
        let (source, target, secrets) = match purpose {
            Purpose::Demo => (Source::BuiltIn(limits), Target::Demo, Vec::new()),
            Purpose::Replay => {
                let target = database::target(self.env, &self.file)?.ok_or_else(no_database)?;
                let secrets = self.secrets(&[], &target);
                (Source::Nothing, target, secrets)
            }
            Purpose::Run => {
                let url = self.source_url()?.ok_or_else(no_source)?;
                let headers = self.headers()?;
                let target = database::target(self.env, &self.file)?.ok_or_else(no_database)?;
                let secrets = self.secrets(&headers, &target);
                let proxy = self.env.names_a_proxy();
                (
                    Source::Http(limits.at(url, headers, proxy)),
                    target,
                    secrets,
                )
            }
        };
        let run = &self.file.run;
        let mut store = self.store(args, target)?;
        store.expected = size;
        if store.dry_run && purpose == Purpose::Replay {
            return Err(usage("a replay cannot be a dry run")
                .hint("leave out TOKEN_SERVICE_DRY_RUN and run.dry_run: nothing was stored"));
        }
        Ok(Settings {
            size,
            size_is_default,
            source,
            store,
            reports: self.reports(args)?,
            fail_on: self.fail_on(args)?,
            mask: self.mask(args)?,
            script: self.script(args.script.as_ref())?,
            script_limits: self.script_limits(),
            vars: self.vars(),
            env: self.visible(&secrets),
            deadline: self.pick(args.deadline, "deadline", values::limit, run.deadline)?,
            grace: self
                .pick(args.grace, "grace", values::duration, run.grace)?
                .unwrap_or(Duration::from_secs(8)),
            patience: self.patience(args)?,
            wait: self
                .pick(args.wait, "wait", values::duration, run.wait)?
                .unwrap_or_default(),
            journal: self.journal(args)?,
            out_dir: self.pick(args.out_dir.clone(), "out-dir", path, None)?,
            log: self.log(&args.common)?,
            error_format: self.error_format(&args.common)?,
        })
    }

    /// A flag, else its variable, else what the file says.
    fn pick<T>(
        &self,
        flag: Option<T>,
        option: &str,
        parse: impl FnOnce(&str) -> Parsed<T>,
        in_file: Option<T>,
    ) -> Result<Option<T>, Problem> {
        match flag {
            Some(value) => Ok(Some(value)),
            None => Ok(self.env.parse(&variable(option), parse)?.or(in_file)),
        }
    }

    /// A flag that needs no value, else its variable, else what the file says.
    fn switch(&self, flag: bool, option: &str, in_file: Option<bool>) -> Result<bool, Problem> {
        let given = self.pick(flag.then_some(true), option, values::switch, in_file)?;
        Ok(given.unwrap_or_default())
    }

    fn size(&self, args: &RunArgs) -> Result<(u64, bool), Problem> {
        let asked = self.pick(args.size, "size", values::size, self.file.run.size)?;
        let most = self.env.parse("MAX_TOKENS", values::positive)?;
        match (asked, most) {
            (Some(size), Some(most)) if size > most => Err(usage(format!(
                "SIZE {size} is above MAX_TOKENS, which is {most}"
            ))
            .hint(format!("ask for at most {most}, or raise MAX_TOKENS"))),
            (Some(size), _) => Ok((size, false)),
            // Nobody asked for the default, so that the bound just lowers it.
            (None, most) => Ok((
                most.map_or(DEFAULT_SIZE, |most| most.min(DEFAULT_SIZE)),
                true,
            )),
        }
    }

    fn limits(&self, args: &RunArgs) -> Result<Limits, Problem> {
        let keys = &self.file.source;
        let max_token = keys.max_token.unwrap_or(1 << 10);
        let no_top_up = self.switch(args.no_top_up, "no-top-up", None)?;
        let repeat_served = args.dangerously_repeat_requests;
        Ok(Limits {
            timeout: keys.timeout.unwrap_or(Duration::from_secs(10)),
            connect_timeout: keys.connect_timeout.unwrap_or(Duration::from_secs(5)),
            page_size: self
                .pick(
                    args.page_size,
                    "page-size",
                    values::positive,
                    keys.page_size,
                )?
                .unwrap_or(10_000),
            retries: keys.retries.unwrap_or(3),
            max_body: keys.max_body.unwrap_or(32 << 20),
            max_token: usize::try_from(max_token).unwrap_or(usize::MAX),
            max_requests: self.pick(args.max_requests, "max-requests", values::positive, None)?,
            top_up: !no_top_up,
            repeat_served: self.switch(repeat_served, "dangerously-repeat-requests", None)?,
        })
    }

    fn source_url(&self) -> Result<Option<Url>, Problem> {
        // The address is left out of the message: it may hold a key in its query.
        let given = self.env.get("TOKEN_HOST")?.map(values::source_url);
        let given = given
            .transpose()
            .map_err(|rule| usage(format!("TOKEN_HOST {rule}")))?;
        Ok(given.or_else(|| self.file.source.url.clone()))
    }

    fn headers(&self) -> Result<Vec<(String, SecretString)>, Problem> {
        let in_file = self.file.source.headers.iter().flatten();
        let mut headers: Vec<(String, SecretString)> = in_file
            .map(|(name, value)| (name.0.clone(), SecretString::from(value.0.as_str())))
            .collect();
        if let Some(value) = self.env.secret(AUTHORIZATION)? {
            if !values::is_header_value(secrecy::ExposeSecret::expose_secret(&value)) {
                let name = self.env.secret_name(AUTHORIZATION).unwrap_or_default();
                return Err(usage(format!("{name} must not hold control characters"))
                    .hint("it is sent as the Authorization header, one line such as `Bearer …`"));
            }
            headers.retain(|(name, _)| name != "authorization");
            headers.push((String::from("authorization"), value));
        }
        Ok(headers)
    }

    fn store(&self, args: &RunArgs, target: Target) -> Result<store::Options, Problem> {
        let keys = &self.file.database;
        // The demo has its own table, whatever the file says of the real one.
        let named = |key: &Option<String>, default: &str| match (&target, key) {
            (Target::Demo, _) | (_, None) => default.to_string(),
            (_, Some(name)) => name.clone(),
        };
        Ok(store::Options {
            table: named(&keys.table, "secret_tokens"),
            column: named(&keys.column, "data"),
            target,
            connections: self
                .pick(
                    args.connections,
                    "connections",
                    values::count,
                    keys.connections,
                )?
                .unwrap_or(16),
            pipeline: self.pick(args.pipeline, "pipeline", values::count, keys.pipeline)?,
            dry_run: self.dry_run(args)?,
            statement_timeout: keys.statement_timeout.unwrap_or(Duration::from_secs(30)),
            patience: self.patience(args)?,
            session: String::new(),
            expected: 0,
        })
    }

    fn patience(&self, args: &RunArgs) -> Result<Duration, Problem> {
        let in_file = self.file.run.patience;
        let patience = self.pick(args.patience, "patience", values::duration, in_file)?;
        Ok(patience.unwrap_or(Duration::from_secs(30)))
    }

    fn reports(&self, args: &RunArgs) -> Result<Vec<Spec>, Problem> {
        let typed = Some(args.reports.clone()).filter(|reports| !reports.is_empty());
        let in_file = Some(self.file.reports.clone()).filter(|reports| !reports.is_empty());
        let list = |text: &str| text.split(',').map(str::trim).map(values::report).collect();
        let reports = self.pick(typed, "report", list, in_file)?;
        let reports = reports.unwrap_or_else(|| {
            vec![Spec {
                format: Format::Text,
                path: None,
            }]
        });
        let mut taken = HashSet::new();
        for report in &reports {
            // `./run.json` and `run.json` are one file.
            let place = report.path.as_ref().map(|path| {
                let plain = |part: &std::path::Component| *part != std::path::Component::CurDir;
                path.components().filter(plain).collect::<PathBuf>()
            });
            if !taken.insert(place) {
                let name = values::report_name(report.format);
                return Err(match &report.path {
                    None => usage("two reports would be written to standard output").hint(format!(
                        "give one of them a path, such as --report {name}=run.{name}"
                    )),
                    Some(path) => usage(format!(
                        "two reports would be written to `{}`",
                        path.display()
                    ))
                    .hint("give each report a path of its own"),
                });
            }
        }
        Ok(reports)
    }

    fn journal(&self, args: &RunArgs) -> Result<Option<PathBuf>, Problem> {
        let in_file = self.file.run.journal.clone();
        let journal = self.pick(args.journal.clone(), "journal", path, in_file)?;
        if journal.is_some() && self.dry_run(args)? {
            return Err(usage("--dry-run and --journal exclude each other")
                .hint("a dry run stores nothing that a replay of its journal could bring back"));
        }
        Ok(journal)
    }

    fn dry_run(&self, args: &RunArgs) -> Result<bool, Problem> {
        self.switch(args.dry_run, "dry-run", self.file.run.dry_run)
    }

    fn fail_on(&self, args: &RunArgs) -> Result<Vec<Condition>, Problem> {
        let typed = Some(args.fail_on.clone()).filter(|typed| !typed.is_empty());
        let list = |text: &str| text.split(',').map(values::condition).collect();
        let conditions = self.pick(typed, "fail-on", list, self.file.run.conditions())?;
        Ok(conditions.unwrap_or_default())
    }

    fn mask(&self, args: &RunArgs) -> Result<Mask, Problem> {
        let mask = self.pick(args.mask, "mask", values::mask, self.file.run.mask)?;
        Ok(mask.unwrap_or_default())
    }

    fn script(&self, typed: Option<&PathBuf>) -> Result<Script, Problem> {
        let in_file = self.file.run.script.clone();
        let named = self.pick(typed.cloned(), "script", path, in_file)?;
        Ok(named.map_or(Script::Default, Script::File))
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
    fn secrets(&self, headers: &[(String, SecretString)], target: &Target) -> Vec<SecretString> {
        let mut secrets: Vec<SecretString> = headers
            .iter()
            .filter(|(name, _)| name == "authorization")
            .map(|(_, value)| value.clone())
            .collect();
        if let Target::Postgres(address) = target {
            secrets.extend(address.password.clone());
        }
        secrets.extend(self.file.database.url.as_deref().map(SecretString::from));
        secrets
    }

    fn log(&self, args: &CommonArgs) -> Result<Log, Problem> {
        let level = self.pick(args.log_level, "log-level", values::level, None)?;
        let format = self.pick(args.log_format, "log-format", values::layout, None)?;
        Ok(Log {
            level: level.unwrap_or(LevelFilter::INFO),
            format: format.unwrap_or_default(),
        })
    }

    fn error_format(&self, args: &CommonArgs) -> Result<Layout, Problem> {
        let format = self.pick(args.error_format, "error-format", values::layout, None)?;
        Ok(format.unwrap_or_default())
    }
}

/// A mistake in usage or configuration.
fn usage(message: impl Into<String>) -> Problem {
    Problem::new(Exit::Usage, message)
}

fn no_source() -> Problem {
    usage("no token source is configured").hint(
        "set TOKEN_HOST to its URL, or `source.url` in the file that --config names; `token_service demo` needs neither",
    )
}

fn no_database() -> Problem {
    usage("no database is configured").hint(
        "set DATABASE_URL, or DB_HOST, DB_USER, DB_PASS and DB_NAME, or `database` in the file that --config names; `token_service demo` needs none",
    )
}

#[allow(clippy::unnecessary_wraps, reason = "a parser like those of `values`")]
fn path(text: &str) -> Parsed<PathBuf> {
    Ok(PathBuf::from(text))
}

/// The known name that is most like `name`, if one is near enough to have been meant.
pub(crate) fn nearest<'a>(name: &str, known: &[&'a str]) -> Option<&'a str> {
    known
        .iter()
        .map(|candidate| (strsim::damerau_levenshtein(name, candidate), *candidate))
        .filter(|(distance, candidate)| *distance <= 1.max(candidate.len() / 3))
        .min()
        .map(|(_, candidate)| candidate)
}
