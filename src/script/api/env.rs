//! `env::get` and `env::int`: read the environment variables that scripts may read.

use rhai::{Dynamic, INT, NativeCallContext, export_module};

use crate::script::api::RhaiResultOf;
use crate::script::api::arguments::invalid;
use crate::script::host::ScriptHost;

/// Functions of the module `env`.
#[export_module]
pub mod functions {
    /// Returns the value of an environment variable as a string, or `()` if it is not set.
    ///
    /// Only variables whose names begin with `script.env_prefix` are visible (default `TOKEN_`).
    /// All others count as not set.
    ///
    /// # Example
    ///
    /// ```rhai
    /// let region = env::get("TOKEN_REGION");
    /// ```
    #[rhai_fn(volatile, return_raw)]
    pub fn get(context: NativeCallContext, name: &str) -> RhaiResultOf<Dynamic> {
        let host = ScriptHost::of(&context)?;
        let value = host.environment().get(name);
        Ok(value.map_or(Dynamic::UNIT, |value| value.clone().into()))
    }

    /// Returns the value of an environment variable as a string, or `fallback` if it is not set.
    ///
    /// Only variables whose names begin with `script.env_prefix` are visible (default `TOKEN_`).
    ///
    /// # Example
    ///
    /// ```rhai
    /// let region = env::get("TOKEN_REGION", "unknown");
    /// ```
    #[rhai_fn(name = "get", volatile, return_raw)]
    pub fn get_or(
        context: NativeCallContext,
        name: &str,
        fallback: Dynamic,
    ) -> RhaiResultOf<Dynamic> {
        let host = ScriptHost::of(&context)?;
        let value = host.environment().get(name);
        Ok(value.map_or(fallback, |value| value.clone().into()))
    }

    /// Returns the value of an environment variable as a whole number, or `()` if it is not set.
    ///
    /// Only variables whose names begin with `script.env_prefix` are visible (default `TOKEN_`).
    /// Throws `invalid_argument` if the value is not a whole number.
    ///
    /// # Example
    ///
    /// ```rhai
    /// let limit = env::int("TOKEN_LIMIT") ?? 3;
    /// ```
    #[rhai_fn(volatile, return_raw)]
    pub fn int(context: NativeCallContext, name: &str) -> RhaiResultOf<Dynamic> {
        let host = ScriptHost::of(&context)?;
        let Some(value) = host.environment().get(name) else {
            return Ok(Dynamic::UNIT);
        };
        let number = value.trim().parse::<INT>();
        let number = number.map_err(|_| invalid(name, "a whole number in the environment"))?;
        Ok(number.into())
    }

    /// Returns the value of an environment variable as a whole number, or `fallback` if it is not set.
    ///
    /// Only variables whose names begin with `script.env_prefix` are visible (default `TOKEN_`).
    /// Throws `invalid_argument` if the value is not a whole number.
    ///
    /// # Example
    ///
    /// ```rhai
    /// let limit = env::int("TOKEN_LIMIT", 3);
    /// ```
    #[rhai_fn(name = "int", volatile, return_raw)]
    pub fn int_or(context: NativeCallContext, name: &str, fallback: INT) -> RhaiResultOf<INT> {
        let value = int(context, name)?;
        Ok(value.as_int().unwrap_or(fallback))
    }
}
