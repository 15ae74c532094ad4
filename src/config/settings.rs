//! What configuration produces: the validated values that a run is built from, and nothing that
//! knows where they came from.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use secrecy::SecretString;
use tracing::level_filters::LevelFilter;
use url::Url;

use crate::condition::Condition;
use crate::fetch;
use crate::problem::Problem;
use crate::report::Spec;
use crate::report::mask::Mask;
use crate::store;

/// How log lines or errors are laid out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Layout {
    /// For people.
    #[default]
    Text,
    /// A JSON object a line.
    Json,
}

/// What is logged on standard error, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Log {
    /// The least important level that is written.
    pub level: LevelFilter,
    /// Its form.
    pub format: Layout,
}

/// What is run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Script {
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
#[derive(Clone)]
pub enum Source {
    /// The demo's own, which the run starts and then puts in by [`Limits::at`].
    BuiltIn(Limits),
    /// A real one.
    Http(fetch::Options),
    /// None: nothing is fetched.
    Nothing,
}

impl fmt::Debug for Source {
    /// Leaves out the address's query, which may hold a key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nothing => f.write_str("Nothing"),
            Self::BuiltIn(limits) => f.debug_tuple("BuiltIn").field(limits).finish(),
            Self::Http(options) => {
                let mut options = options.clone();
                options.url.set_query(None);
                f.debug_tuple("Http").field(&options).finish()
            }
        }
    }
}

/// Within which limits the source is asked; the fields are those of [`fetch::Options`].
#[derive(Clone, Debug)]
#[allow(missing_docs, reason = "each is described in fetch::Options")]
pub struct Limits {
    pub timeout: Duration,
    pub connect_timeout: Duration,
    pub page_size: u64,
    pub retries: u32,
    pub max_body: u64,
    pub max_token: usize,
    pub max_requests: Option<u64>,
    pub top_up: bool,
    pub repeat_served: bool,
}

impl Limits {
    /// The options of a source at `url`; `proxy` as in [`fetch::Options`].
    pub fn at(self, url: Url, headers: Vec<(String, SecretString)>, proxy: bool) -> fetch::Options {
        fetch::Options {
            url,
            headers,
            timeout: self.timeout,
            connect_timeout: self.connect_timeout,
            page_size: self.page_size,
            retries: self.retries,
            max_body: self.max_body,
            max_token: self.max_token,
            max_requests: self.max_requests,
            top_up: self.top_up,
            repeat_served: self.repeat_served,
            proxy,
        }
    }
}

/// Everything that a run needs to know; validated. Its Debug form shows no secret.
#[derive(Clone, Debug)]
pub struct Settings {
    /// How many tokens, at least 1.
    pub size: u64,
    /// True where nobody asked for that number.
    pub size_is_default: bool,
    /// Where tokens come from.
    pub source: Source,
    /// Where they go.
    pub store: store::Options,
    /// The reports, at least one; at most one of them on standard output.
    pub reports: Vec<Spec>,
    /// Under which a run that completed fails all the same.
    pub fail_on: Vec<Condition>,
    /// How much of a token the reports show.
    pub mask: Mask,
    /// What is run.
    pub script: Script,
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
    /// How long an outage in the middle of a run is waited out.
    pub patience: Duration,
    /// How long source and database are waited for at the start.
    pub wait: Duration,
    /// The file that each page is written to before it is stored.
    pub journal: Option<PathBuf>,
    /// The folder that a script may write files in.
    pub out_dir: Option<PathBuf>,
    /// What is logged.
    pub log: Log,
    /// How an error is shown.
    pub error_format: Layout,
}

/// What `check` needs to know. The configuration is validated as far as it goes; that no source or
/// no database is named is no mistake here.
#[derive(Clone, Debug)]
pub struct Checked {
    /// The scripts to look at, at least one.
    pub scripts: Vec<Script>,
    /// As in [`Settings`].
    pub size: u64,
    /// As in [`Settings`].
    pub script_limits: ScriptLimits,
    /// As in [`Settings`].
    pub vars: serde_json::Map<String, serde_json::Value>,
    /// As in [`Settings`].
    pub env: BTreeMap<String, String>,
    /// The mistakes in the configuration.
    pub problems: Vec<Problem>,
}
