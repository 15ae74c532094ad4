//! The environment variables: values, secrets from files, and the part that a script may read.
//! Tests build an [`Env`] from a map; only [`Env::from_process`] reads the process.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::Path;

use secrecy::{ExposeSecret, SecretString};

use crate::cli::value::{ParseResult, invalid_value};
use crate::error::escape::escape;
use crate::error::{Error, usage};
use crate::runtime::proxy::ProxyVariables;
use crate::runtime::secret::{self, Secret, SecretFileError};

/// The variables that hold a secret; the first four also exist with the suffix `_FILE`.
const SECRETS: [&str; 7] = [
    "DB_PASS",
    "DATABASE_URL",
    "TOKEN_SERVICE_SOURCE_AUTHORIZATION",
    "TOKEN_SERVICE_SERVE_TOKEN",
    "OTEL_EXPORTER_OTLP_HEADERS",
    "OTEL_EXPORTER_OTLP_TRACES_HEADERS",
    "OTEL_EXPORTER_OTLP_METRICS_HEADERS",
];

/// The environment variables. An empty variable counts as unset.
#[derive(Clone, Default)]
pub struct Env {
    variables: BTreeMap<String, OsString>,
}

impl Env {
    /// Returns the environment of this process.
    pub fn from_process() -> Self {
        std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value)))
            .collect()
    }

    /// Returns the value of a variable that is set.
    pub fn get(&self, name: &str) -> Result<Option<&str>, Error> {
        match self.variables.get(name) {
            None => Ok(None),
            Some(value) => match value.to_str() {
                Some(value) => Ok(Some(value)),
                None => Err(usage(format!("{name} is not valid UTF-8"))),
            },
        }
    }

    /// Returns the parsed value of a variable; it must not be a secret, since errors show it.
    pub fn parse<T>(
        &self,
        name: &str,
        parse: impl FnOnce(&str) -> ParseResult<T>,
    ) -> Result<Option<T>, Error> {
        let Some(value) = self.get(name)? else {
            return Ok(None);
        };
        parse(value)
            .map(Some)
            .map_err(|rule| usage(invalid_value(name, &rule, &escape(value))))
    }

    /// Returns the names of the variables that are set.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.variables.keys().map(String::as_str)
    }

    /// Returns true if a variable is set.
    pub fn has(&self, name: &str) -> bool {
        self.variables.contains_key(name)
    }

    /// Returns the variables that name proxies; one that is not valid UTF-8 counts as unset.
    pub fn proxies(&self) -> ProxyVariables {
        ProxyVariables::of(|name| self.get(name).ok().flatten())
    }

    /// Returns false if `NO_COLOR` is set (see no-color.org) or the terminal has no colors.
    ///
    /// The caller checks whether the stream is a terminal.
    pub fn allows_color(&self) -> bool {
        let term = self.variables.get("TERM");
        !self.has("NO_COLOR") && term.is_none_or(|term| term != "dumb")
    }

    /// Returns true if `TERM` names a terminal that can move its cursor.
    pub fn allows_drawing(&self) -> bool {
        let term = self.variables.get("TERM");
        term.is_some_and(|term| term != "dumb")
    }

    /// Returns a secret from the variable `name`, or from the file that `name_FILE` names.
    pub fn secret(&self, name: &str) -> Result<Option<Secret>, Error> {
        let from_file = format!("{name}_FILE");
        let path = self.get(&from_file)?;
        match (self.get(name)?, path) {
            (Some(_), Some(_)) => Err(usage(format!("{name} and {from_file} are both set")).hint(
                format!(
                    "unset one of the two; {from_file} keeps the secret out of the environment"
                ),
            )),
            (Some(value), None) => {
                let value = secret::without_line_break(value);
                Ok((!value.is_empty()).then(|| Secret::fixed(value)))
            }
            (None, None) => Ok(None),
            (None, Some(path)) => Secret::from_file(&from_file, path)
                .map(Some)
                .map_err(|error| {
                    usage(error.to_string())
                        .cause(error.cause)
                        .hint(SecretFileError::HINT)
                }),
        }
    }

    /// Returns the paths of the files that hold secrets.
    pub fn secret_files(&self) -> impl Iterator<Item = &Path> {
        let named = self.variables.iter();
        let files = named.filter(|(name, _)| name.ends_with("_FILE") && is_secret(name));
        files.map(|(_, path)| Path::new(path))
    }

    /// Returns the variable that sets a secret, for messages.
    pub fn secret_name(&self, name: &str) -> Option<String> {
        let from_file = format!("{name}_FILE");
        if self.has(name) {
            Some(name.to_string())
        } else if self.has(&from_file) {
            Some(from_file)
        } else {
            None
        }
    }

    /// Returns the variables that a script may read: those that start with `prefix`.
    ///
    /// Leaves out variables that hold a secret, name its file, or repeat one of `secrets`.
    pub fn visible_to_scripts(
        &self,
        prefix: &str,
        secrets: &[SecretString],
    ) -> BTreeMap<String, String> {
        self.variables
            .iter()
            .filter(|(name, _)| name.starts_with(prefix) && !is_secret(name))
            .filter_map(|(name, value)| Some((name.clone(), value.to_str()?.to_string())))
            .filter(|(_, value)| !secrets.iter().any(|secret| secret.expose_secret() == value))
            // A URL may carry a key in its query or credentials; `fetch` hides them as well.
            .filter(|(name, value)| name != "TOKEN_HOST" || !value.contains(['?', '@']))
            .collect()
    }
}

fn is_secret(name: &str) -> bool {
    let name = name.strip_suffix("_FILE").unwrap_or(name);
    SECRETS.contains(&name)
}

impl<K: Into<String>, V: Into<OsString>> FromIterator<(K, V)> for Env {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(variables: I) -> Self {
        let variables = variables
            .into_iter()
            .map(|(name, value)| (name.into(), value.into()))
            .filter(|(_, value)| !value.is_empty())
            .collect();
        Self { variables }
    }
}
