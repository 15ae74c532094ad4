//! Process services that every command uses: clock, shutdown, secrets, HTTP and TLS clients, hardening,
//! files to write.

pub mod clock;
pub(crate) mod files;
pub mod hardening;
pub(crate) mod http_client;
pub mod output_file;
pub(crate) mod platform;
pub mod proxy;
pub mod secret;
pub mod shutdown;
pub(crate) mod signals;
pub mod stdout;
pub mod termination_log;
pub(crate) mod tls;
pub(crate) mod url;

use anyhow::Context as _;
use tokio::runtime::{Builder, Runtime};

/// Starts a runtime on the current thread.
///
/// # Errors
/// If the system denies its resources.
pub(crate) fn current_thread() -> anyhow::Result<Runtime> {
    Builder::new_current_thread()
        .enable_all()
        .build()
        .context("the runtime cannot be started")
}
