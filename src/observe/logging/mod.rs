//! Writes log lines to standard error, only those of the program and of the script: libraries could
//! log statement parameters, which are tokens.

mod fields;
mod layout;
mod run_id;

use tracing::Dispatch;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::{self, MakeWriter};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use crate::observe::logging::run_id::RunIdLayer;
use crate::observe::progress::ProgressDisplay;

/// The format of log lines and errors.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LineFormat {
    /// Plain text.
    #[default]
    Text,
    /// One JSON object per line.
    Json,
}

/// The level and format of log lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogSettings {
    /// The lowest level that is written.
    pub level: LevelFilter,
    /// The format.
    pub format: LineFormat,
}

/// The target of a script's log events.
pub const SCRIPT: &str = "script";

/// Starts logging through `display`, which draws on standard error; called once.
pub fn start(log: LogSettings, color: bool, display: ProgressDisplay) {
    lines(log, color, display).init();
}

/// Builds the subscriber that writes log lines to `writer`.
pub fn lines<W>(log: LogSettings, color: bool, writer: W) -> Dispatch
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let targets = Targets::new()
        .with_target("token_service", log.level)
        .with_target(SCRIPT, log.level);
    let registry = tracing_subscriber::registry()
        .with(targets)
        .with(RunIdLayer);
    let lines = fmt::layer().with_writer(writer).with_ansi(color);
    match log.format {
        LineFormat::Text => registry.with(lines.event_format(layout::TextLayout)).into(),
        LineFormat::Json => registry.with(lines.event_format(layout::JsonLayout)).into(),
    }
}
