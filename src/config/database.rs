//! Resolves the database: from a URL or its parts, in the environment or the file. It rejects
//! ambiguous mixtures of them.

use std::path::{Path, PathBuf};

use secrecy::ExposeSecret as _;

use crate::cli::env::Env;
use crate::cli::value;
use crate::config::file::{ConfigFile, DatabaseKeys};
use crate::config::yaml_error;
use crate::error::{Error, usage};
use crate::runtime::secret::Secret;
use crate::store::DatabaseTarget;
use crate::store::postgres::{Address, AddressOrigin, Host, Password, SslMode, TargetSession};

/// The variables that are parts of an address, in the order of messages.
const PARTS: [&str; 7] = [
    "DB_HOST",
    "DB_PORT",
    "DB_USER",
    "DB_PASS",
    "DB_PASS_FILE",
    "DB_NAME",
    "DB_SSLMODE",
];

/// Returns the configured database, or `None` if no database is configured.
pub(super) fn target(env: &Env, file: &ConfigFile) -> Result<Option<DatabaseTarget>, Error> {
    let keys = &file.database;
    let url = env.secret("DATABASE_URL")?;
    let parts: Vec<&str> = PARTS.into_iter().filter(|name| env.has(name)).collect();
    let in_file = parts_of(keys);
    if let Some(url) = url {
        let name = env.secret_name("DATABASE_URL").unwrap_or_default();
        if !parts.is_empty() {
            return Err(
                usage(format!("{name} and {} are set together", parts.join(", ")))
                    .hint("unset the URL or the DB_* variables: the URL replaces all of them"),
            );
        }
        return from_url(&name, &url, env, keys).map(Some);
    }
    if let Some(url) = &keys.url {
        if !parts.is_empty() {
            let problem = usage(format!(
                "{} cannot be combined with `database.url` of the file",
                parts.join(", ")
            ));
            return Err(at_key(problem, file, "url").hint(
                "set DATABASE_URL to replace the file's database, or replace `url` by its parts",
            ));
        }
        if !in_file.is_empty() {
            let others: Vec<String> = in_file.iter().map(|key| format!("`{key}`")).collect();
            let problem = usage(format!(
                "`database` has both `url` and {}",
                others.join(", ")
            ));
            return Err(at_key(problem, file, "url")
                .hint("keep the URL or the parts: the URL replaces all of them"));
        }
        let url = Secret::fixed(url.as_str());
        return from_url("database.url", &url, env, keys).map(Some);
    }
    if parts.is_empty() && in_file.is_empty() {
        return Ok(None);
    }
    from_parts(env, file).map(|address| Some(DatabaseTarget::Postgres(Box::new(address))))
}

fn from_parts(env: &Env, file: &ConfigFile) -> Result<Address, Error> {
    let keys = &file.database;
    let text = |name: &str, key: &str, in_file: &Option<String>| {
        let given = env.get(name)?.map(str::to_string);
        let in_file = in_file.clone().filter(|text| !text.is_empty());
        given.or(in_file).ok_or_else(|| {
            usage(format!("the database's {key} is missing"))
                .hint(format!("set {name}, or `database.{key}` in the file"))
        })
    };
    let hosts = text("DB_HOST", "host", &keys.host)?;
    let hosts = plain_hosts(&hosts)?;
    let ports = env.parse("DB_PORT", value::ports)?;
    let ports = ports.or_else(|| keys.port.clone()).unwrap_or_default();
    let hosts = Host::list(&hosts, &ports).map_err(|why| {
        usage(format!("the database's hosts cannot be used: {why}"))
            .hint("set, for example, DB_HOST=a,b with DB_PORT=5432 or DB_PORT=5432,5433")
    })?;
    let user = text("DB_USER", "user", &keys.user)?;
    let name = text("DB_NAME", "name", &keys.name)?;
    let password = env.secret("DB_PASS")?;
    let in_file = keys.password.as_deref().filter(|text| !text.is_empty());
    let password = password.or_else(|| in_file.map(Secret::fixed));
    let sslmode = env.parse("DB_SSLMODE", str::parse)?.or(keys.sslmode);
    let sslrootcert = keys.sslrootcert.as_deref();
    let sslmode = sslmode.unwrap_or_else(|| SslMode::default_with(&hosts, sslrootcert));
    let sslnegotiation = keys.sslnegotiation.unwrap_or_default();
    sslnegotiation.check(sslmode).map_err(|why| {
        at_key(usage(why), file, "sslnegotiation")
            .hint("set DB_SSLMODE, or `database.sslmode` in the file")
    })?;
    let address = Address::new(hosts, user, name);
    Ok(Address {
        sslmode,
        sslnegotiation,
        require_auth: keys.require_auth.clone(),
        target_session: keys.target_session_attrs.unwrap_or(TargetSession::DEFAULT),
        password: password.map(Password::Plain),
        passfile: passfile(env)?,
        sslrootcert: keys.sslrootcert.clone(),
        sslcert: keys.sslcert.clone(),
        sslkey: keys.sslkey.clone(),
        connect_timeout: keys.connect_timeout.unwrap_or(Address::CONNECT_TIMEOUT),
        ..address
    })
}

/// Parses a URL. Messages show `name`, the variable or key, and never the URL.
fn from_url(
    name: &str,
    secret: &Secret,
    env: &Env,
    keys: &DatabaseKeys,
) -> Result<DatabaseTarget, Error> {
    let url = secret.initial().expose_secret().trim();
    if let Some(path) = url.strip_prefix("sqlite:") {
        // Other tools write `sqlite:///var/lib/tokens.db` for an absolute path.
        let path = path.strip_prefix("//").unwrap_or(path);
        if path.is_empty() {
            return Err(usage(format!("{name} names no file"))
                .hint("write sqlite:PATH, such as sqlite:tokens.db"));
        }
        return Ok(DatabaseTarget::Sqlite(PathBuf::from(path)));
    }
    let mut address = Address::from_url(url).map_err(|error| {
        usage(format!("{name} is not a valid database URL"))
            .cause(error.cause)
            .hint(error.hint)
    })?;
    address.origin = AddressOrigin::Url(name.to_owned());
    address.password = address.password.map(|password| Password::InUrl {
        url: secret.clone(),
        initial: password.initial().clone(),
    });
    if address.passfile.is_none() {
        address.passfile = passfile(env)?;
    }
    if let Some(timeout) = keys.connect_timeout {
        address.connect_timeout = timeout;
    }
    Ok(DatabaseTarget::Postgres(Box::new(address)))
}

/// Returns the list of hosts, with IPv6 addresses without brackets.
///
/// Rejects values pasted by mistake. The message does not show them: they may contain a password.
fn plain_hosts(text: &str) -> Result<String, Error> {
    let refused = |why: &str, hint: &str| {
        Err(usage(format!("the database's hosts cannot be used: {why}")).hint(hint))
    };
    if text.contains("://") || text.contains('@') {
        return refused(
            "a host name is expected, not a URL",
            "set DATABASE_URL to a URL, or DB_HOST to the name of a host",
        );
    }
    if text.contains(['"', '\'']) {
        return refused(
            "a host contains a quotation mark",
            "remove the quotation marks; `docker run --env-file`, for example, keeps them",
        );
    }
    if text.contains(['$', '{', '<']) {
        return refused(
            "a host is a placeholder or a variable that was not expanded",
            "set DB_HOST to the name of a host; variables are not expanded here",
        );
    }
    let mut plain = Vec::new();
    for host in text.split(',').map(str::trim) {
        let bare = host
            .strip_prefix('[')
            .and_then(|rest| rest.strip_suffix(']'));
        let has_port = match host.rsplit_once(':') {
            Some((name, _)) if name.starts_with('[') => name.ends_with(']'),
            Some((name, port)) => {
                let is_number = !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit());
                is_number && !name.contains(':') && !name.starts_with('/')
            }
            None => false,
        };
        if has_port {
            return refused(
                "a host contains a port",
                "set DB_PORT to the port, or to one for each host, separated by commas",
            );
        }
        plain.push(bare.unwrap_or(host));
    }
    Ok(plain.join(","))
}

/// Returns the path of libpq's password file: `PGPASSFILE`, or `.pgpass` in the home folder.
fn passfile(env: &Env) -> Result<Option<PathBuf>, Error> {
    if let Some(file) = env.get("PGPASSFILE")? {
        return Ok(Some(PathBuf::from(file)));
    }
    let home = env.get("HOME")?;
    Ok(home.map(|home| Path::new(home).join(".pgpass")))
}

/// Returns the keys of the file that are parts of an address and are set.
fn parts_of(keys: &DatabaseKeys) -> Vec<&'static str> {
    [
        ("host", keys.host.is_some()),
        ("port", keys.port.is_some()),
        ("user", keys.user.is_some()),
        ("password", keys.password.is_some()),
        ("name", keys.name.is_some()),
        ("sslmode", keys.sslmode.is_some()),
        ("sslrootcert", keys.sslrootcert.is_some()),
        ("sslcert", keys.sslcert.is_some()),
        ("sslkey", keys.sslkey.is_some()),
        ("sslnegotiation", keys.sslnegotiation.is_some()),
        ("require_auth", keys.require_auth.is_some()),
        ("target_session_attrs", keys.target_session_attrs.is_some()),
    ]
    .into_iter()
    .filter_map(|(key, is_set)| is_set.then_some(key))
    .collect()
}

/// Adds the location of a key of `database`.
fn at_key(problem: Error, file: &ConfigFile, key: &str) -> Error {
    match yaml_error::locate_key(&file.path, &file.text, &["database", key], String::new()) {
        Some(location) => problem.location(location),
        None => problem,
    }
}
