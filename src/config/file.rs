//! The configuration file: its keys and the parser of each value.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;
use serde_json::{Map, Value};
use url::Url;

use crate::cli::value::{self, ParseResult, ShardArg};
use crate::config::yaml_error;
use crate::config::yaml_values::{elements, number, readers, vars};
use crate::error::escape::escape;
use crate::error::{Error, usage};
use crate::observe::progress::ProgressMode;
use crate::report::ReportSpec;
use crate::report::fail_on::Condition;
use crate::report::mask::Mask;
use crate::store::identifier::TableName;
use crate::store::postgres::{RequireAuth, SslMode, SslNegotiation, TargetSession};

/// The top-level keys; a key that is absent or empty is `None`.
#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct FileKeys {
    source: Option<SourceKeys>,
    database: Option<DatabaseKeys>,
    run: Option<RunKeys>,
    reports: Option<Vec<SpecKey>>,
    script: Option<ScriptKeys>,
}

/// The parsed file.
#[derive(Default)]
pub(super) struct ConfigFile {
    pub source: SourceKeys,
    pub database: DatabaseKeys,
    pub run: RunKeys,
    pub reports: Vec<ReportSpec>,
    pub script: ScriptKeys,
    /// The path and the text of the file, for locations in messages.
    pub path: String,
    pub text: String,
}

/// The keys of `source:`; docs/configuration.md describes them.
#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct SourceKeys {
    #[serde(deserialize_with = "source_url")]
    pub url: Option<Url>,
    pub headers: Option<BTreeMap<HeaderName, HeaderValue>>,
    #[serde(deserialize_with = "positive_duration")]
    pub timeout: Option<Duration>,
    #[serde(deserialize_with = "positive_duration")]
    pub connect_timeout: Option<Duration>,
    #[serde(deserialize_with = "positive")]
    pub page_size: Option<u64>,
    #[serde(deserialize_with = "number")]
    pub retries: Option<u32>,
    #[serde(deserialize_with = "bytes")]
    pub max_body: Option<u64>,
    #[serde(deserialize_with = "bytes")]
    pub max_token: Option<u64>,
}

/// The keys of `database:`; docs/configuration.md describes them.
#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct DatabaseKeys {
    pub url: Option<String>,
    pub host: Option<String>,
    #[serde(deserialize_with = "ports")]
    pub port: Option<Vec<u16>>,
    pub user: Option<String>,
    pub password: Option<String>,
    pub name: Option<String>,
    #[serde(deserialize_with = "sslmode")]
    pub sslmode: Option<SslMode>,
    pub sslrootcert: Option<PathBuf>,
    pub sslcert: Option<PathBuf>,
    pub sslkey: Option<PathBuf>,
    #[serde(deserialize_with = "sslnegotiation")]
    pub sslnegotiation: Option<SslNegotiation>,
    #[serde(deserialize_with = "require_auth")]
    pub require_auth: Option<RequireAuth>,
    #[serde(deserialize_with = "session")]
    pub target_session_attrs: Option<TargetSession>,
    #[serde(deserialize_with = "table")]
    pub table: Option<TableName>,
    #[serde(deserialize_with = "identifier")]
    pub column: Option<String>,
    #[serde(deserialize_with = "count")]
    pub connections: Option<usize>,
    #[serde(deserialize_with = "count")]
    pub pipeline: Option<usize>,
    #[serde(deserialize_with = "positive_duration")]
    pub statement_timeout: Option<Duration>,
    #[serde(deserialize_with = "positive_duration")]
    pub connect_timeout: Option<Duration>,
}

/// The keys of `run:`; docs/configuration.md describes them.
#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RunKeys {
    pub script: Option<PathBuf>,
    #[serde(deserialize_with = "size")]
    pub size: Option<u64>,
    #[serde(deserialize_with = "positive_duration")]
    pub deadline: Option<Duration>,
    #[serde(deserialize_with = "duration")]
    pub grace: Option<Duration>,
    #[serde(deserialize_with = "duration")]
    pub patience: Option<Duration>,
    #[serde(deserialize_with = "duration")]
    pub wait: Option<Duration>,
    pub journal: Option<PathBuf>,
    #[serde(deserialize_with = "shard")]
    pub shard: Option<ShardArg>,
    pub fail_on: Option<Vec<ConditionKey>>,
    pub dry_run: Option<bool>,
    #[serde(deserialize_with = "mask")]
    pub mask: Option<Mask>,
    #[serde(deserialize_with = "progress")]
    pub progress: Option<ProgressMode>,
    pub metrics: Option<PathBuf>,
}

impl RunKeys {
    /// Returns the conditions of `fail_on`.
    pub(super) fn conditions(&self) -> Option<Vec<Condition>> {
        let given = self.fail_on.as_ref().filter(|given| !given.is_empty())?;
        let conditions = given
            .iter()
            .map(|ConditionKey(condition)| condition.clone());
        Some(conditions.collect())
    }
}

/// The keys of `script:`; docs/configuration.md describes them.
#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct ScriptKeys {
    #[serde(deserialize_with = "vars")]
    pub vars: Option<Map<String, Value>>,
    #[serde(deserialize_with = "number")]
    pub max_operations: Option<u64>,
    #[serde(deserialize_with = "bytes")]
    pub max_memory: Option<u64>,
    #[serde(deserialize_with = "prefix")]
    pub env_prefix: Option<String>,
}

/// Reads the file at `path`.
pub(super) fn read(path: &Path) -> Result<ConfigFile, Error> {
    let name = path.display().to_string();
    let text = std::fs::read_to_string(path).map_err(|error| {
        usage(format!(
            "cannot read the configuration file `{}`",
            escape(&name)
        ))
        .cause(error.to_string())
        .hint("set --config or TOKEN_SERVICE_CONFIG to a YAML file that this user can read")
    })?;
    parse(name, text)
}

/// Parses `text`; messages call it `path`.
pub(super) fn parse(path: String, text: String) -> Result<ConfigFile, Error> {
    let keys: Option<FileKeys> = serde_yaml::from_str(&text)
        .map_err(|error| yaml_error::explain(yaml_error::CONFIGURATION, &path, &text, &error))?;
    let keys = keys.unwrap_or_default();
    let reports = keys.reports.unwrap_or_default();
    Ok(ConfigFile {
        source: keys.source.unwrap_or_default(),
        database: keys.database.unwrap_or_default(),
        run: keys.run.unwrap_or_default(),
        reports: reports.into_iter().map(|SpecKey(spec)| spec).collect(),
        script: keys.script.unwrap_or_default(),
        path,
        text,
    })
}

readers! {
    source_url: Url = value::source_url;
    positive_duration: Duration = value::positive_duration;
    duration: Duration = value::duration;
    mask: Mask = value::mask;
    progress: ProgressMode = value::progress;
    shard: ShardArg = value::shard;
    size: u64 = value::size;
    positive: u64 = value::positive;
    bytes: u64 = value::bytes;
    ports: Vec<u16> = value::ports;
    count: usize = value::count;
    sslmode: SslMode = str::parse;
    sslnegotiation: SslNegotiation = str::parse;
    require_auth: RequireAuth = str::parse;
    session: TargetSession = str::parse;
    table: TableName = TableName::parse;
    identifier: String = not_empty;
    prefix: String = not_empty;
}

fn not_empty(text: &str) -> ParseResult<String> {
    if text.is_empty() || text.contains('\0') {
        Err(String::from("must not be empty"))
    } else {
        Ok(text.to_string())
    }
}

elements! {
    /// A report.
    SpecKey(ReportSpec) = value::report;
    /// A condition of `fail_on`.
    ConditionKey(Condition) = value::condition;
    /// The name of a header, in lower case.
    #[derive(PartialEq, Eq, PartialOrd, Ord)]
    HeaderName(String) = value::header_name;
    /// The value of a header, which may be a secret.
    HeaderValue(String) = |text| if value::is_header_value(text) {
        Ok(text.to_string())
    } else {
        Err(String::from("must not contain control characters"))
    };
}
