//! What configuration produces: the validated values that a run is built from, and nothing that
//! knows where they came from.

use crate::observe::logging::LogSettings;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use crate::error::diagnostic::Problem;
use crate::fetch::FetchLimits;
use crate::fetch::http::HttpEndpoint;
use crate::fetch::input::Input;
use crate::observe::otel;
use crate::observe::progress::ProgressMode;
use crate::report::ReportSpec;
use crate::report::fail_on::Condition;
use crate::report::mask::Mask;
use crate::store;

/// What is run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ScriptSource {
    /// The built-in pipeline.
    Default,
    /// A file; relative to the working folder.
    File(PathBuf),
}

/// Limits of the script beyond the engine's fixed ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ScriptLimits {
    /// The most operations that the engine counts; 0 is no limit.
    pub max_operations: u64,
    /// By how many bytes the process may grow while a script runs.
    pub max_memory: u64,
}

impl Default for ScriptLimits {
    /// What a script does with this much, doubling its largest value in one stroke included, leaves
    /// the process below 256 MiB.
    fn default() -> Self {
        Self {
            max_operations: 0,
            max_memory: 80 << 20,
        }
    }
}

/// The token source.
#[derive(Clone, Debug)]
pub enum SourceSettings {
    /// The demo's own, which the run starts.
    BuiltIn,
    /// A real one.
    Http(HttpEndpoint),
    /// A file or pipe.
    Input(Input),
    /// None: nothing is fetched.
    Nothing,
}

/// Everything that a run needs to know; validated. Its Debug form shows no secret.
#[derive(Clone, Debug)]
pub struct RunSettings {
    /// How many tokens: this shard's part of SIZE. It is 0 where the shard's part, or the input, is
    /// empty, and [`crate::cli::value::MOST`] where all that a pipe brings is asked for.
    pub size: u64,
    /// Where tokens come from.
    pub source: SourceSettings,
    /// Within which limits they are fetched.
    pub limits: FetchLimits,
    /// Where they go.
    pub store: store::StoreOptions,
    /// The reports, at least one; at most one of them on standard output.
    pub reports: Vec<ReportSpec>,
    /// Under which a run that completed fails all the same.
    pub fail_on: Vec<Condition>,
    /// How much of a token the reports show.
    pub mask: Mask,
    /// The Prometheus text file that is written at the end.
    pub metrics: Option<PathBuf>,
    /// The OpenTelemetry collector, if there is one.
    pub telemetry: Option<otel::OtelSettings>,
    /// What is run.
    pub script: ScriptSource,
    /// The script's configurable limits.
    pub script_limits: ScriptLimits,
    /// What a script sees as `config::VARS`.
    pub vars: serde_json::Map<String, serde_json::Value>,
    /// What a script may read by `env::get`; no secret is among it.
    pub env: BTreeMap<String, String>,
    /// How long the run may take, if that is limited.
    pub deadline: Option<Duration>,
    /// How long a stopped run may take to settle and report.
    pub grace: Duration,
    /// How long source and database are waited for at the start.
    pub wait: Duration,
    /// The file that each page is written to before it is stored.
    pub journal: Option<PathBuf>,
    /// The folder that a script may write files in.
    pub out_dir: Option<PathBuf>,
    /// When progress is shown.
    pub progress: ProgressMode,
    /// True where terminals may get colours.
    pub color: bool,
    /// What is logged.
    pub log: LogSettings,
}

/// What `merge` needs to know; validated.
#[derive(Clone, Debug)]
pub struct MergeSettings {
    /// The reports to join, at least one.
    pub files: Vec<PathBuf>,
    /// As in [`RunSettings`].
    pub reports: Vec<ReportSpec>,
    /// As in [`RunSettings`].
    pub fail_on: Vec<Condition>,
    /// As in [`RunSettings`].
    pub mask: Mask,
    /// As in [`RunSettings`].
    pub metrics: Option<PathBuf>,
    /// As in [`RunSettings`]; here it shows by what tokens were rejected.
    pub progress: ProgressMode,
    /// As in [`RunSettings`].
    pub color: bool,
    /// As in [`RunSettings`].
    pub log: LogSettings,
}

/// The two ends of a pipeline, which `check --connect` looks at.
#[derive(Clone, Debug)]
pub struct ProbeTargets {
    /// The source; `None` where an input takes its place.
    pub source: Option<HttpEndpoint>,
    /// As in [`RunSettings`].
    pub limits: FetchLimits,
    /// As in [`RunSettings`].
    pub store: store::StoreOptions,
}

/// What `check` needs to know. The configuration is validated as far as it goes; that no source or
/// no database is named is a mistake only where they are to be connected to.
#[derive(Clone, Debug)]
pub struct CheckSettings {
    /// The scripts to look at, at least one.
    pub scripts: Vec<ScriptSource>,
    /// As in [`RunSettings`].
    pub size: u64,
    /// As in [`RunSettings`].
    pub script_limits: ScriptLimits,
    /// As in [`RunSettings`].
    pub vars: serde_json::Map<String, serde_json::Value>,
    /// What is to be connected to; `None` where that was not asked for, or where the configuration
    /// holds a mistake.
    pub ends: Option<ProbeTargets>,
    /// The mistakes in the configuration.
    pub problems: Vec<Problem>,
}
