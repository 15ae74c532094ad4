//! The environment as configuration sees it: values, secrets that come from files, and what of it
//! a script may read. Tests hand in a map; only `Env::of_process` looks at the process.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::Path;

use secrecy::{ExposeSecret, SecretString};

use crate::cli::value::{ParseResult, refusal};
use crate::error::diagnostic::Problem;
use crate::error::diagnostic::usage;
use crate::error::escape::escape;
use crate::runtime::secret::{Secret, SecretFileError};

/// The variables that hold a secret; each of the first three also has a form with `_FILE` behind it.
const SECRETS: [&str; 6] = [
    "DB_PASS",
    "DATABASE_URL",
    "TOKEN_SERVICE_SOURCE_AUTHORIZATION",
    "OTEL_EXPORTER_OTLP_HEADERS",
    "OTEL_EXPORTER_OTLP_TRACES_HEADERS",
    "OTEL_EXPORTER_OTLP_METRICS_HEADERS",
];

/// The environment's variables. A variable that is set to nothing counts as unset.
#[derive(Clone, Default)]
pub struct Env {
    variables: BTreeMap<String, OsString>,
}

impl Env {
    /// The environment of this process.
    pub fn of_process() -> Self {
        std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value)))
            .collect()
    }

    /// The value of a variable, if it is set to something.
    pub fn get(&self, name: &str) -> Result<Option<&str>, Problem> {
        match self.variables.get(name) {
            None => Ok(None),
            Some(value) => match value.to_str() {
                Some(value) => Ok(Some(value)),
                None => Err(usage(format!("{name} is not valid UTF-8"))),
            },
        }
    }

    /// The value of a variable that is no secret, read by `parse`.
    pub fn parse<T>(
        &self,
        name: &str,
        parse: impl FnOnce(&str) -> ParseResult<T>,
    ) -> Result<Option<T>, Problem> {
        let Some(value) = self.get(name)? else {
            return Ok(None);
        };
        parse(value)
            .map(Some)
            .map_err(|rule| usage(refusal(name, &rule, &escape(value))))
    }

    /// The names of the variables that are set to something.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.variables.keys().map(String::as_str)
    }

    /// True where a variable is set to something, whatever it is.
    pub fn has(&self, name: &str) -> bool {
        self.variables.contains_key(name)
    }

    /// True where a proxy is named, as curl and others read it.
    pub fn names_a_proxy(&self) -> bool {
        let names = ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"];
        let mut names = names
            .iter()
            .flat_map(|name| [(*name).to_owned(), name.to_lowercase()]);
        names.any(|name| self.has(&name))
    }

    /// False where the user asked for text without colours, by `NO_COLOR` (see no-color.org) or a
    /// terminal that has none. Whether there is a terminal at all is the caller's to find out.
    pub fn allows_color(&self) -> bool {
        let term = self.variables.get("TERM");
        !self.has("NO_COLOR") && term.is_none_or(|term| term != "dumb")
    }

    /// True where the environment names a terminal that can move its cursor.
    pub fn allows_drawing(&self) -> bool {
        let term = self.variables.get("TERM");
        term.is_some_and(|term| term != "dumb")
    }

    /// A secret: the variable itself, or the content of the file that `name` with `_FILE` behind it
    /// names.
    pub fn secret(&self, name: &str) -> Result<Option<Secret>, Problem> {
        let from_file = format!("{name}_FILE");
        let path = self.get(&from_file)?;
        match (self.get(name)?, path) {
            (Some(_), Some(_)) => Err(usage(format!("{name} and {from_file} are both set")).hint(
                format!(
                    "unset one of the two; {from_file} keeps the secret out of the environment"
                ),
            )),
            (Some(value), None) => Ok(Some(Secret::fixed(value))),
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

    /// The files that hold secrets.
    pub fn secret_files(&self) -> impl Iterator<Item = &Path> {
        let named = self.variables.iter();
        let files = named.filter(|(name, _)| name.ends_with("_FILE") && is_secret(name));
        files.map(|(_, path)| Path::new(path))
    }

    /// The name under which a secret was given, for messages.
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

    /// What a script may read: the variables that start with `prefix`, without any that holds a
    /// secret, says where one lies, or repeats one of `secrets` under another name.
    pub fn visible(&self, prefix: &str, secrets: &[SecretString]) -> BTreeMap<String, String> {
        self.variables
            .iter()
            .filter(|(name, _)| name.starts_with(prefix) && !is_secret(name))
            .filter_map(|(name, value)| Some((name.clone(), value.to_str()?.to_string())))
            .filter(|(_, value)| !secrets.iter().any(|secret| secret.expose_secret() == value))
            // An address with a query may carry a key in it, which `fetch` hides as well.
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
