//! Log lines on standard error. Only this program's own and the script's are written: the
//! libraries beneath would log parameters, and those are tokens.

mod fields;
mod layout;

use tracing::Dispatch;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::{self, MakeWriter};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use crate::observe::progress::ProgressDisplay;
use tracing::level_filters::LevelFilter;

/// How log lines or errors are laid out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LineFormat {
    /// For people.
    #[default]
    Text,
    /// A JSON object a line.
    Json,
}

/// What is logged on standard error, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogSettings {
    /// The least important level that is written.
    pub level: LevelFilter,
    /// Its form.
    pub format: LineFormat,
}

/// The target of what a script logs.
pub const SCRIPT: &str = "script";

/// Starts logging on standard error, beside what `display` draws there; called once.
pub fn start(log: LogSettings, color: bool, display: ProgressDisplay) {
    lines(log, color, display).init();
}

/// What writes log lines to `writer`.
pub fn lines<W>(log: LogSettings, color: bool, writer: W) -> Dispatch
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let targets = Targets::new()
        .with_target("token_service", log.level)
        .with_target(SCRIPT, log.level);
    let registry = tracing_subscriber::registry().with(targets);
    let lines = fmt::layer().with_writer(writer).with_ansi(color);
    match log.format {
        LineFormat::Text => registry.with(lines.event_format(layout::TextLayout)).into(),
        LineFormat::Json => registry.with(lines.event_format(layout::JsonLayout)).into(),
    }
}
