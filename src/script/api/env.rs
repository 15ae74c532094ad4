//! `env::get`: the environment, as far as scripts may read it.
#![allow(
    clippy::unwrap_used,
    clippy::wildcard_imports,
    clippy::needless_pass_by_value,
    clippy::unnecessary_wraps,
    reason = "what the engine's macro makes of natives, and the forms that it asks of them"
)]

use rhai::plugin::*;

use crate::script::api::RhaiResultOf;
use crate::script::host::ScriptHost;

/// The environment.
#[export_module]
pub mod functions {
    /// The value of an environment variable whose name begins with the allowed prefix, or `()`.
    ///
    /// # Example
    ///
    /// ```rhai
    /// let region = env::get("TOKEN_REGION");
    /// ```
    #[rhai_fn(volatile, return_raw)]
    pub fn get(context: NativeCallContext, name: &str) -> RhaiResultOf<Dynamic> {
        let host = ScriptHost::of_line(&context)?;
        let value = host.environment().get(name);
        Ok(value.map_or(Dynamic::UNIT, |value| value.clone().into()))
    }

    /// The same with a value for where it is not set.
    ///
    /// # Example
    ///
    /// ```rhai
    /// let region = env::get("TOKEN_REGION", "nowhere");
    /// ```
    #[rhai_fn(name = "get", volatile, return_raw)]
    pub fn get_or(
        context: NativeCallContext,
        name: &str,
        fallback: Dynamic,
    ) -> RhaiResultOf<Dynamic> {
        let host = ScriptHost::of_line(&context)?;
        let value = host.environment().get(name);
        Ok(value.map_or(fallback, |value| value.clone().into()))
    }
}
