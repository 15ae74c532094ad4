//! Log lines on standard error. Only this program's own and the script's are written: the
//! libraries beneath would log parameters, and those are tokens.

mod fields;
mod layout;

use tracing::Dispatch;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::{self, MakeWriter};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use crate::config::{Layout, Log};
use crate::observe::progress::Screen;

/// The target of what a script logs.
pub const SCRIPT: &str = "script";

/// Starts logging on standard error, beside what `screen` draws there; called once.
pub fn start(log: Log, color: bool, screen: Screen) {
    lines(log, color, screen).init();
}

/// What writes log lines to `writer`.
pub fn lines<W>(log: Log, color: bool, writer: W) -> Dispatch
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let targets = Targets::new()
        .with_target("token_service", log.level)
        .with_target(SCRIPT, log.level);
    let registry = tracing_subscriber::registry().with(targets);
    let lines = fmt::layer().with_writer(writer).with_ansi(color);
    match log.format {
        Layout::Text => registry.with(lines.event_format(layout::Text)).into(),
        Layout::Json => registry.with(lines.event_format(layout::Json)).into(),
    }
}
