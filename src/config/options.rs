//! The options by their names: which key of the file sets one too, and which of them a name that means
//! nothing may have been.

use crate::cli::{self, variable};
use crate::config::{AUTHORIZATION, Env};
use crate::error::suggest::nearest_option;

/// What begins the variables of this program.
const PREFIX: &str = "TOKEN_SERVICE_";

/// Kubernetes sets these in each pod where a Service is called `token`.
const OTHERS: [&str; 2] = ["TOKEN_SERVICE_HOST", "TOKEN_SERVICE_PORT"];

/// The options that the file sets too, and their keys there.
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

/// The key of the file that sets an option, if there is one.
pub fn key_of(option: &str) -> Option<&'static str> {
    let mut keys = KEYS.iter();
    let (_, key) = keys.find(|(known, _)| *known == option)?;
    Some(key)
}

/// What sets the option that an unknown key of the file is called like.
pub(super) fn meant_by(key: &str) -> Option<String> {
    let name = key.replace('_', "-").to_lowercase();
    let mut options = cli::options().into_iter();
    let option = options.find(|option| {
        let positive = option.strip_prefix("no-").unwrap_or(option);
        *option == name || positive == name
    })?;
    Some(match key_of(&option) {
        Some(key) => format!("this is `{key}`"),
        None => format!("this is --{option} or {}", variable(&option)),
    })
}

/// A sentence for each variable that means nothing and is called nearly as one that does. Others with
/// the same beginning may be there for a script, and are left alone.
pub fn misspelt(env: &Env) -> Vec<String> {
    let names = cli::options().into_iter().map(|option| variable(&option));
    let secrets = [AUTHORIZATION.to_owned(), format!("{AUTHORIZATION}_FILE")];
    let known: Vec<String> = names.chain(secrets).collect();
    let ends: Vec<&str> = known.iter().map(|name| &name[PREFIX.len()..]).collect();
    env.names()
        .filter(|name| !OTHERS.contains(name) && !known.iter().any(|known| known == name))
        .filter_map(|name| {
            let near = nearest_option(name.strip_prefix(PREFIX)?, &ends)?;
            Some(format!(
                "{name} means nothing: did you mean {PREFIX}{near}?"
            ))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::file;

    /// True where the file takes a key of this path.
    fn is_taken(path: &str) -> bool {
        let text = match path.split_once('.') {
            Some((section, key)) => format!("{section}: {{{key}: }}"),
            None => format!("{path}: "),
        };
        file::parse(String::new(), text).is_ok()
    }

    #[test]
    fn the_file_takes_the_keys_of_options_and_no_others_that_are_called_like_one() {
        let options = cli::options();
        for (option, key) in KEYS {
            assert!(options.iter().any(|known| known == option), "{option}");
            assert!(is_taken(key), "{key}");
        }
        for option in options.iter().filter(|option| key_of(option).is_none()) {
            let key = option.replace('-', "_");
            for section in ["run", "source", "database", "script"] {
                assert!(!is_taken(&format!("{section}.{key}")), "{section}.{key}");
            }
        }
    }

    #[test]
    fn variables_that_mean_nothing_are_named_where_one_that_does_is_near() {
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
            misspelt(&env),
            [
                "TOKEN_SERVICE_PAGESIZE means nothing: did you mean TOKEN_SERVICE_PAGE_SIZE?",
                "TOKEN_SERVICE_SOURCE_AUTHORISATION means nothing: did you mean TOKEN_SERVICE_SOURCE_AUTHORIZATION?",
            ]
        );
    }
}
