//! Suggestions for unknown keys and variables, from the option tables.

use crate::cli::env::Env;
use crate::cli::table::Row;
use crate::config::keys::all_rows;
use crate::config::{AUTHORIZATION, SERVE_TOKEN};
use crate::error::suggest::nearest;

/// The prefix of the program's variables.
const PREFIX: &str = "TOKEN_SERVICE_";

/// Variables that Kubernetes sets in each pod if a Service is called `token`.
const KUBERNETES_VARIABLES: [&str; 2] = ["TOKEN_SERVICE_HOST", "TOKEN_SERVICE_PORT"];

/// Names that other programs use, and those of this one.
const ALIASES: [(&str, &str); 4] = [
    ("DB_PASSWORD", "DB_PASS"),
    ("DB_PASSWORD_FILE", "DB_PASS_FILE"),
    ("DB_USERNAME", "DB_USER"),
    ("DB_DATABASE", "DB_NAME"),
];

/// Returns what has the name of an unknown key elsewhere, if one setting has.
pub(super) fn setting_named(key: &str) -> Option<String> {
    let name = key.to_lowercase().replace('-', "_");
    let mut rows = all_rows().filter(|row| {
        let flag = row.flag.to_lowercase().replace('-', "_");
        flag == name || row.case_key().0 == name
    });
    // Of two settings of this name, the one that is also a flag is the better known.
    let row = match (rows.next()?, rows.next()) {
        (row, None) => row,
        (one, Some(other)) if one.flag.is_empty() != other.flag.is_empty() => {
            [one, other].into_iter().find(|row| !row.flag.is_empty())?
        }
        _ => return None,
    };
    Some(match (row.key, row.variable_name()) {
        ("", Some(variable)) => format!("this is {} or {variable}", row.flag_name()),
        (key, _) => format!("this is `{key}`"),
    })
}

/// Returns a warning for each unknown variable whose name is near a known one.
///
/// Other variables with the prefix may be meant for a script.
pub fn unknown_variables(env: &Env) -> Vec<String> {
    let names = all_rows().filter_map(Row::variable_name);
    let names = names.filter(|name| name.starts_with(PREFIX));
    let secrets = [AUTHORIZATION, SERVE_TOKEN];
    let secrets = secrets.map(|name| [name.to_owned(), format!("{name}_FILE")]);
    let known: Vec<String> = names.chain(secrets.into_iter().flatten()).collect();
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
        .chain(misspelt_addresses(env))
        .collect()
}

/// Returns a warning for each misspelt variable of source and database that has no effect.
fn misspelt_addresses(env: &Env) -> impl Iterator<Item = String> {
    let names = all_rows().filter_map(Row::variable_name);
    let names = names.filter(|name| !name.starts_with(PREFIX));
    let files = ["DB_PASS_FILE", "DATABASE_URL_FILE"].map(ToOwned::to_owned);
    let has_url = env.secret_name("DATABASE_URL").is_some();
    let has_parts = ["DB_HOST", "DB_USER", "DB_NAME"]
        .iter()
        .any(|name| env.has(name));
    names.chain(files).filter_map(move |known| {
        let name = misspelt(env, &known)?;
        let secret = known.strip_suffix("_FILE").unwrap_or(&known);
        let is_set = env.has(&known) || env.secret_name(secret).is_some();
        // The variables of another program may lie in the same environment.
        let is_foreign = known.starts_with("DB_") && (has_url || !has_parts);
        (!is_set && !is_foreign).then(|| format!("unknown variable {name}: did you mean {known}?"))
    })
}

/// Returns a variable that is set and whose name differs from `known` by case or one typing error.
pub(super) fn misspelt<'a>(env: &'a Env, known: &str) -> Option<&'a str> {
    let mut names = env.names();
    names.find(|name| {
        let is_known = || all_rows().any(|row| row.variable_name().is_some_and(|it| it == *name));
        // Names of other lengths are more than one error apart; each distance takes time to compute.
        let is_near = || {
            name.len().abs_diff(known.len()) <= 1
                && strsim::damerau_levenshtein(&name.to_uppercase(), known) <= 1
        };
        ALIASES.contains(&(name, known)) || *name != known && is_near() && !is_known()
    })
}

/// Returns the hint of an error about a missing variable: a misspelt one that is set, or `hint`.
pub(super) fn hint_of_missing(env: &Env, known: &str, hint: impl Into<String>) -> String {
    match misspelt(env, known) {
        Some(name) => format!("{name} is set: did you mean {known}?"),
        None => hint.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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

    #[test]
    fn misspelt_addresses_are_reported_without_false_alarms() {
        let warnings = |names: &[&str]| -> Vec<String> {
            let env: Env = names.iter().map(|name| (*name, "x")).collect();
            unknown_variables(&env)
        };
        for (name, known, beside) in [
            ("TOKEN_HOTS", "TOKEN_HOST", "DB_HOST"),
            ("DATABSE_URL", "DATABASE_URL", "TOKEN_HOST"),
            ("DATABASE_URL_FIL", "DATABASE_URL_FILE", "TOKEN_HOST"),
            ("DB_PASSWORD", "DB_PASS", "DB_HOST"),
            ("DB_PAS", "DB_PASS", "DB_HOST"),
            ("DB_SSL_MODE", "DB_SSLMODE", "DB_HOST"),
            ("token_host", "TOKEN_HOST", "DB_HOST"),
        ] {
            let expected = format!("unknown variable {name}: did you mean {known}?");
            assert_eq!(warnings(&[name, beside]), [expected]);
            assert!(
                warnings(&[name, beside, known]).is_empty(),
                "{known} is set"
            );
        }
        for foreign in [
            &["DB_PASSWORD"][..],
            &["DB_PASSWORD", "DATABASE_URL"],
            &["DB_PASSWORD", "DB_HOST", "DB_PASS_FILE"],
            &["DB_PASS", "DB_HOST"],
            &["TOKEN_PORT", "TOKEN_HOST_NAME", "MAX_CONNECTIONS"],
        ] {
            assert!(warnings(foreign).is_empty(), "{foreign:?}");
        }
    }
}
