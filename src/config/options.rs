//! The names of the options: the key of the file that also sets each, and suggestions for unknown
//! names.

use crate::cli::env::Env;
use crate::cli::{self, variable};
use crate::config::AUTHORIZATION;
use crate::error::suggest::nearest;

/// The prefix of the program's variables.
const PREFIX: &str = "TOKEN_SERVICE_";

/// Variables that Kubernetes sets in each pod if a Service is called `token`.
const KUBERNETES_VARIABLES: [&str; 2] = ["TOKEN_SERVICE_HOST", "TOKEN_SERVICE_PORT"];

/// The options with a key in the file.
const KEYS: [(&str, &str); 17] = [
    ("size", "run.size"),
    ("script", "run.script"),
    ("journal", "run.journal"),
    ("shard", "run.shard"),
    ("dry-run", "run.dry_run"),
    ("deadline", "run.deadline"),
    ("grace", "run.grace"),
    ("patience", "run.patience"),
    ("wait", "run.wait"),
    ("page-size", "source.page_size"),
    ("connections", "database.connections"),
    ("pipeline", "database.pipeline"),
    ("report", "reports"),
    ("mask", "run.mask"),
    ("fail-on", "run.fail_on"),
    ("progress", "run.progress"),
    ("metrics", "run.metrics"),
];

/// Returns the key of the file that sets an option.
pub fn config_key(option: &str) -> Option<&'static str> {
    let mut keys = KEYS.iter();
    let (_, key) = keys.find(|(known, _)| *known == option)?;
    Some(key)
}

/// Returns what sets the option that has the name of an unknown key.
pub(super) fn option_named(key: &str) -> Option<String> {
    let name = key.replace('_', "-").to_lowercase();
    let mut options = cli::options().into_iter();
    let option = options.find(|option| {
        let positive = option.strip_prefix("no-").unwrap_or(option);
        *option == name || positive == name
    })?;
    Some(match config_key(&option) {
        Some(key) => format!("this is `{key}`"),
        None => format!("this is --{option} or {}", variable(&option)),
    })
}

/// Returns a warning for each unknown variable whose name is near a known one.
///
/// Other variables with the prefix may be meant for a script.
pub fn unknown_variables(env: &Env) -> Vec<String> {
    let names = cli::options().into_iter().map(|option| variable(&option));
    let secrets = [AUTHORIZATION.to_owned(), format!("{AUTHORIZATION}_FILE")];
    let known: Vec<String> = names.chain(secrets).collect();
    let ends: Vec<&str> = known.iter().map(|name| &name[PREFIX.len()..]).collect();
    env.names()
        .filter(|name| !KUBERNETES_VARIABLES.contains(name))
        .filter(|name| !known.iter().any(|known| known == name))
        .filter_map(|name| {
            let near = nearest(name.strip_prefix(PREFIX)?, &ends)?;
            Some(format!(
                "unknown variable {name}: did you mean {PREFIX}{near}?"
            ))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::file;

    /// Returns true if the file has a key with this path.
    fn is_key(path: &str) -> bool {
        let text = match path.split_once('.') {
            Some((section, key)) => format!("{section}: {{{key}: }}"),
            None => format!("{path}: "),
        };
        file::parse(String::new(), text).is_ok()
    }

    #[test]
    fn file_has_exactly_the_listed_keys_of_options() {
        let options = cli::options();
        for (option, key) in KEYS {
            assert!(options.iter().any(|known| known == option), "{option}");
            assert!(is_key(key), "{key}");
        }
        for option in options.iter().filter(|option| config_key(option).is_none()) {
            let key = option.replace('-', "_");
            for section in ["run", "source", "database", "script"] {
                assert!(!is_key(&format!("{section}.{key}")), "{section}.{key}");
            }
        }
    }

    #[test]
    fn unknown_variables_are_reported_when_a_known_name_is_near() {
        let names = [
            "TOKEN_SERVICE_PAGESIZE",
            "TOKEN_SERVICE_SOURCE_AUTHORISATION",
            "TOKEN_SERVICE_PAGE_SIZE",
            "TOKEN_SERVICE_LISTEN",
            "TOKEN_SERVICE_SOURCE_AUTHORIZATION_FILE",
            "TOKEN_SERVICE_PORT",
            "TOKEN_SERVICE_PORT_80_TCP",
            "TOKEN_SERVICE_REGION",
            "TOKEN_PAGESIZE",
        ];
        let env: Env = names.into_iter().map(|name| (name, "x")).collect();
        assert_eq!(
            unknown_variables(&env),
            [
                "unknown variable TOKEN_SERVICE_PAGESIZE: did you mean TOKEN_SERVICE_PAGE_SIZE?",
                "unknown variable TOKEN_SERVICE_SOURCE_AUTHORISATION: did you mean TOKEN_SERVICE_SOURCE_AUTHORIZATION?",
            ]
        );
    }
}
