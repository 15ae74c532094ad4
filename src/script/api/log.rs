//! `log_debug` to `log_error`: write log lines to standard error.

use rhai::{Map, export_module};

use crate::observe::logging::SCRIPT;

/// Functions that log.
#[export_module]
pub mod functions {
    /// Writes a log line with the level `debug` to standard error. `--log-level debug` shows it.
    ///
    /// # Example
    ///
    /// ```rhai
    /// log_debug("about to fetch");
    /// ```
    #[rhai_fn(volatile)]
    pub fn log_debug(message: &str) {
        tracing::debug!(target: SCRIPT, "{message}");
    }

    /// Writes a log line with the level `debug` and with `fields`, a map of named values.
    ///
    /// # Example
    ///
    /// ```rhai
    /// log_debug("about to fetch", #{size: SIZE});
    /// ```
    #[rhai_fn(name = "log_debug", volatile)]
    pub fn log_debug_fields(message: &str, fields: Map) {
        tracing::debug!(target: SCRIPT, fields = json(&fields), "{message}");
    }

    /// Writes a log line with the level `info` to standard error.
    ///
    /// # Example
    ///
    /// ```rhai
    /// log_info("fetching");
    /// ```
    #[rhai_fn(volatile)]
    pub fn log_info(message: &str) {
        tracing::info!(target: SCRIPT, "{message}");
    }

    /// Writes a log line with the level `info` and with `fields`, a map of named values.
    ///
    /// # Example
    ///
    /// ```rhai
    /// log_info("fetching", #{size: SIZE});
    /// ```
    #[rhai_fn(name = "log_info", volatile)]
    pub fn log_info_fields(message: &str, fields: Map) {
        tracing::info!(target: SCRIPT, fields = json(&fields), "{message}");
    }

    /// Writes a log line with the level `warn` to standard error.
    ///
    /// # Example
    ///
    /// ```rhai
    /// log_warn("few tokens left");
    /// ```
    #[rhai_fn(volatile)]
    pub fn log_warn(message: &str) {
        tracing::warn!(target: SCRIPT, "{message}");
    }

    /// Writes a log line with the level `warn` and with `fields`, a map of named values.
    ///
    /// # Example
    ///
    /// ```rhai
    /// log_warn("few tokens left", #{left: 3});
    /// ```
    #[rhai_fn(name = "log_warn", volatile)]
    pub fn log_warn_fields(message: &str, fields: Map) {
        tracing::warn!(target: SCRIPT, fields = json(&fields), "{message}");
    }

    /// Writes a log line with the level `error` to standard error. The run continues.
    ///
    /// # Example
    ///
    /// ```rhai
    /// log_error("gave up");
    /// ```
    #[rhai_fn(volatile)]
    pub fn log_error(message: &str) {
        tracing::error!(target: SCRIPT, "{message}");
    }

    /// Writes a log line with the level `error` and with `fields`, a map of named values.
    ///
    /// # Example
    ///
    /// ```rhai
    /// log_error("gave up", #{after: 3});
    /// ```
    #[rhai_fn(name = "log_error", volatile)]
    pub fn log_error_fields(message: &str, fields: Map) {
        tracing::error!(target: SCRIPT, fields = json(&fields), "{message}");
    }
}

fn json(fields: &Map) -> String {
    crate::script::json::map_to_json(fields).unwrap_or_else(|| "…".to_owned())
}
