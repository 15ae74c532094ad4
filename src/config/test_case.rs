//! The settings of a pipeline test's case. They have the defaults and rules of a run's settings, but
//! never depend on the environment of this process.

use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::cli::env::Env;
use crate::cli::{RunArgs, value};
use crate::config::file::{ConditionKey, ConfigFile, RunKeys, ScriptKeys, SourceKeys};
use crate::config::yaml_values::{number, readers};
use crate::config::{Layers, Purpose, RunSettings, yaml_error};
use crate::error::{Error, Location};

/// The keys of a case's `options:`, named as the options and keys of a run.
#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct CaseOptions {
    #[serde(deserialize_with = "positive")]
    page_size: Option<u64>,
    #[serde(deserialize_with = "positive")]
    max_requests: Option<u64>,
    top_up: Option<bool>,
    dangerously_repeat_requests: Option<bool>,
    #[serde(deserialize_with = "number")]
    retries: Option<u32>,
    #[serde(deserialize_with = "positive_duration")]
    timeout: Option<Duration>,
    #[serde(deserialize_with = "bytes")]
    max_token: Option<u64>,
    #[serde(deserialize_with = "positive_duration")]
    deadline: Option<Duration>,
    #[serde(deserialize_with = "duration")]
    grace: Option<Duration>,
    #[serde(deserialize_with = "duration")]
    patience: Option<Duration>,
    fail_on: Option<Vec<ConditionKey>>,
    dry_run: Option<bool>,
    #[serde(deserialize_with = "number")]
    max_operations: Option<u64>,
    env_prefix: Option<String>,
}

readers! {
    positive: u64 = value::positive;
    positive_duration: Duration = value::positive_duration;
    duration: Duration = value::duration;
    bytes: u64 = value::bytes;
}

/// The other settings of a case.
#[derive(Clone, Default)]
pub(crate) struct CaseSettings {
    /// SIZE.
    pub size: Option<u64>,
    /// The script; `None` for the built-in one.
    pub script: Option<PathBuf>,
    /// `config::VARS`.
    pub vars: Option<Map<String, Value>>,
    /// The environment.
    pub env: Env,
}

/// Resolves the settings of a case's run.
pub(crate) fn resolve(case: CaseSettings, options: CaseOptions) -> Result<RunSettings, Error> {
    let file = ConfigFile {
        source: SourceKeys {
            retries: options.retries,
            timeout: options.timeout,
            max_token: options.max_token,
            ..SourceKeys::default()
        },
        run: RunKeys {
            script: case.script,
            size: case.size,
            deadline: options.deadline,
            grace: options.grace,
            patience: options.patience,
            fail_on: options.fail_on,
            dry_run: options.dry_run,
            ..RunKeys::default()
        },
        script: ScriptKeys {
            vars: case.vars,
            max_operations: options.max_operations,
            max_memory: None,
            env_prefix: options.env_prefix,
        },
        ..ConfigFile::default()
    };
    let args = RunArgs {
        page_size: options.page_size,
        max_requests: options.max_requests,
        no_top_up: options.top_up == Some(false),
        dangerously_repeat_requests: options.dangerously_repeat_requests == Some(true),
        ..RunArgs::default()
    };
    let env = &case.env;
    let layers = Layers {
        env,
        config: None,
        file,
    };
    layers.resolve(Purpose::Demo, &args, &[])
}

/// Parses the YAML text of a file without secrets; messages call it `what` and `file`.
pub(crate) fn parse<T: DeserializeOwned>(what: &str, file: &str, text: &str) -> Result<T, Error> {
    serde_yaml::from_str(text).map_err(|error| {
        let problem = yaml_error::explain(what, file, text, &error);
        match problem.location.clone() {
            Some(location) => problem.location(Location {
                source: text.to_owned(),
                ..location
            }),
            None => problem,
        }
    })
}
