//! The validated settings of the commands, whatever layer of the configuration set them.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use uuid::Uuid;

use crate::cli::AuditFormat;
use crate::config::shard::Shard;
use crate::error::Error;
use crate::fetch::http::HttpEndpoint;
use crate::fetch::input::Input;
use crate::fetch::{FetchLimits, RequestSettings};
use crate::observe::logging::LogSettings;
use crate::observe::metrics::MetricLabel;
use crate::observe::otel;
use crate::observe::progress::ProgressMode;
use crate::pipeline::identifier::TableName;
use crate::report::ReportSpec;
use crate::report::fail_on::Condition;
use crate::report::mask::Mask;
use crate::runtime::secret::Secret;
use crate::store;
use crate::store::receipts::ddl::ReceiptsDdl;
use crate::store::receipts::prune::PruneSelection;

/// The script to run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ScriptSource {
    /// The built-in pipeline.
    Default,
    /// A file; relative to the working folder.
    File(PathBuf),
}

/// The configurable limits of a script.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ScriptLimits {
    /// Maximum number of the engine's operations; 0 means no limit.
    pub max_operations: u64,
    /// Maximum growth of the process while a script runs, in bytes.
    pub max_memory: u64,
}

impl Default for ScriptLimits {
    /// Returns limits that keep the process below 256 MiB, even if a script doubles its largest value
    /// in one operation.
    fn default() -> Self {
        Self {
            max_operations: 0,
            max_memory: 80 << 20,
        }
    }
}

/// The source of the tokens.
#[derive(Clone, Debug)]
pub enum SourceSettings {
    /// The demo's source, which the run starts.
    BuiltIn,
    /// An HTTP source.
    Http(HttpEndpoint),
    /// A file or pipe.
    Input(Input),
    /// No source: nothing is fetched.
    Nothing,
}

/// The Prometheus text file of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MetricsSettings {
    /// Its path.
    pub path: PathBuf,
    /// The labels that every sample gets; each name is unique.
    pub labels: Vec<MetricLabel>,
}

/// The validated settings of a run. Their Debug form shows no secret.
#[derive(Clone, Debug)]
pub struct RunSettings {
    /// This shard's part of SIZE: 0 if the part or the input is empty, and
    /// [`crate::cli::value::MAX_SIZE`] for all tokens of a pipe.
    pub size: u64,
    /// The id of the run, if the operator named it.
    pub run_id: Option<Uuid>,
    /// The shard; the only one in a replay.
    pub shard: Shard,
    /// The source of the tokens.
    pub source: SourceSettings,
    /// The limits of fetching.
    pub limits: FetchLimits,
    /// How requests are sent.
    pub requests: RequestSettings,
    /// The database and its options.
    pub store: store::StoreOptions,
    /// The reports: at least one, and at most one on standard output.
    pub reports: Vec<ReportSpec>,
    /// The conditions under which a completed run fails.
    pub fail_on: Vec<Condition>,
    /// How reports show tokens.
    pub mask: Mask,
    /// The Prometheus text file to write at the end.
    pub metrics: Option<MetricsSettings>,
    /// The OpenTelemetry collector.
    pub telemetry: Option<otel::OtelSettings>,
    /// The script to run.
    pub script: ScriptSource,
    /// The configurable limits of the script.
    pub script_limits: ScriptLimits,
    /// The variables that a script sees as `config::VARS`.
    pub vars: serde_json::Map<String, serde_json::Value>,
    /// The environment that a script reads through `env::get`; it contains no secret.
    pub env: BTreeMap<String, String>,
    /// How long the run may take, if that is limited.
    pub deadline: Option<Duration>,
    /// How long a stopped run may take to settle and report.
    pub grace: Duration,
    /// How long to wait at startup for source and database.
    pub wait: Duration,
    /// The file to which each page is written before it is stored.
    pub journal: Option<PathBuf>,
    /// The folder in which a script may write files.
    pub out_dir: Option<PathBuf>,
    /// The files that the run reads or writes, without symbolic links.
    pub used_files: Vec<PathBuf>,
    /// When to show progress.
    pub progress: ProgressMode,
    /// True if terminals may get colors.
    pub color: bool,
    /// The log level and format.
    pub log: LogSettings,
}

impl RunSettings {
    /// Returns the shard as receipts have it; `None` if none are written.
    pub fn shard_of_receipts(&self) -> Option<u32> {
        let shard = u32::try_from(self.shard.index()).unwrap_or(u32::MAX);
        self.store.receipts.as_ref().map(|_| shard)
    }
}

/// The validated settings of `serve`.
#[derive(Clone, Debug)]
pub struct ServeSettings {
    /// The settings of each run. The request sets its size, its input and its reports.
    pub run: RunSettings,
    /// The largest SIZE that is accepted.
    pub max_tokens: Option<u64>,
    /// The address for requests.
    pub listen: SocketAddr,
    /// The address for metrics and health without a token.
    pub admin_listen: Option<SocketAddr>,
    /// Maximum number of runs at a time.
    pub max_runs: usize,
    /// Maximum number of runs that wait for their turn.
    pub queue: usize,
    /// The folder that keeps reports and journals.
    pub data: Option<PathBuf>,
    /// The token that clients send; `None` if no client has to authenticate.
    pub token: Option<Secret>,
    /// True if something in front of the service authenticates its clients.
    pub no_auth: bool,
    /// False if the platform takes the processor away after an answer.
    pub may_run_after_answer: bool,
}

/// The validated settings of `merge`.
#[derive(Clone, Debug)]
pub struct MergeSettings {
    /// The reports to merge, at least one.
    pub files: Vec<PathBuf>,
    /// As in [`RunSettings`].
    pub reports: Vec<ReportSpec>,
    /// As in [`RunSettings`].
    pub fail_on: Vec<Condition>,
    /// As in [`RunSettings`].
    pub mask: Mask,
    /// As in [`RunSettings`].
    pub metrics: Option<MetricsSettings>,
    /// As in [`RunSettings`]; it decides only whether the breakdown of rejections is shown.
    pub progress: ProgressMode,
    /// As in [`RunSettings`].
    pub color: bool,
    /// As in [`RunSettings`].
    pub log: LogSettings,
}

/// The validated settings of `schema`.
#[derive(Clone, Debug)]
pub struct SchemaSettings {
    /// What to print.
    pub ddl: ReceiptsDdl,
    /// As in [`RunSettings`].
    pub log: LogSettings,
}

/// The database of receipts.
#[derive(Clone, Debug)]
pub struct ReceiptsSettings {
    /// How to connect; statements have no time limit.
    pub store: store::StoreOptions,
    /// The table of receipts.
    pub table: TableName,
    /// As in [`RunSettings`].
    pub log: LogSettings,
}

/// The kinds of file that `audit` compares with receipts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileKind {
    /// An `ndjson` report.
    Report,
    /// A journal.
    Journal,
}

/// A file that `audit` compares with receipts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditedFile {
    /// Its path.
    pub path: PathBuf,
    /// What it must be.
    pub kind: FileKind,
}

/// The validated settings of `audit`.
#[derive(Clone, Debug)]
pub struct AuditSettings {
    /// The database.
    pub receipts: ReceiptsSettings,
    /// The run; `None` for all runs, or for the run of the file.
    pub run: Option<Uuid>,
    /// The file to compare, if any.
    pub file: Option<AuditedFile>,
    /// The format of the result.
    pub format: AuditFormat,
}

/// The validated settings of `receipts prune`.
#[derive(Clone, Debug)]
pub struct PruneSettings {
    /// The database.
    pub receipts: ReceiptsSettings,
    /// The runs whose receipts are deleted.
    pub selection: PruneSelection,
}

/// The source and the database that `check --connect` probes.
#[derive(Clone, Debug)]
pub struct ProbeTargets {
    /// The source; `None` if an input replaces it.
    pub source: Option<HttpEndpoint>,
    /// As in [`RunSettings`].
    pub limits: FetchLimits,
    /// As in [`RunSettings`].
    pub store: store::StoreOptions,
}

/// The settings of `check`. A missing source or database is an error only with `--connect`.
#[derive(Clone, Debug)]
pub struct CheckSettings {
    /// The scripts to check, at least one.
    pub scripts: Vec<ScriptSource>,
    /// As in [`RunSettings`].
    pub size: u64,
    /// As in [`RunSettings`].
    pub script_limits: ScriptLimits,
    /// As in [`RunSettings`].
    pub vars: serde_json::Map<String, serde_json::Value>,
    /// What to connect to; `None` without `--connect`, or if the configuration has an error.
    pub targets: Option<ProbeTargets>,
    /// The errors of the configuration.
    pub errors: Vec<Error>,
}
