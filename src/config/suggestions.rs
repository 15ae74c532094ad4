//! Suggestions for unknown keys and variables, from the option tables.

use crate::cli::env::Env;
use crate::cli::table::Row;
use crate::config::AUTHORIZATION;
use crate::config::keys::all_rows;
use crate::error::suggest::nearest;

/// The prefix of the program's variables.
const PREFIX: &str = "TOKEN_SERVICE_";

/// Variables that Kubernetes sets in each pod if a Service is called `token`.
const KUBERNETES_VARIABLES: [&str; 2] = ["TOKEN_SERVICE_HOST", "TOKEN_SERVICE_PORT"];

/// Returns what has the name of an unknown key elsewhere, if one setting has.
pub(super) fn setting_named(key: &str) -> Option<String> {
    let name = key.to_lowercase().replace('-', "_");
    let mut rows = all_rows().filter(|row| {
        let flag = row.flag.to_lowercase().replace('-', "_");
        flag == name || row.case_key().0 == name
    });
    let row = rows.next().filter(|_| rows.next().is_none())?;
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
