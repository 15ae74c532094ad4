//! Resolves the database: from a URL or its parts, in the environment or the file. It rejects
//! ambiguous mixtures of them.

use std::path::{Path, PathBuf};

use secrecy::ExposeSecret as _;

use crate::cli::env::Env;
use crate::cli::table::{Opt, Row};
use crate::config::keys::{
    CONNECT_TIMEOUT, DATABASE_URL, HOST, NAME, PASSWORD, PORT, REQUIRE_AUTH, SSLCERT, SSLKEY,
    SSLMODE, SSLNEGOTIATION, SSLROOTCERT, TARGET_SESSION_ATTRS, USER,
};
use crate::config::layers::Layers;
use crate::config::suggestions::hint_of_missing;
use crate::error::{Error, usage};
use crate::runtime::secret::{Secret, without_line_break};
use crate::store::DatabaseTarget;
use crate::store::postgres::{Address, AddressOrigin, Host, Password, SslMode};

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

/// The keys that are parts of an address.
const PART_KEYS: [Row; 12] = [
    HOST.row,
    PORT.row,
    USER.row,
    PASSWORD.row,
    NAME.row,
    SSLMODE.row,
    SSLROOTCERT.row,
    SSLCERT.row,
    SSLKEY.row,
    SSLNEGOTIATION.row,
    REQUIRE_AUTH.row,
    TARGET_SESSION_ATTRS.row,
];

impl Layers<'_> {
    /// Returns the database, or `None` if none is configured or the configuration has an error.
    pub(super) fn database(&self) -> Option<DatabaseTarget> {
        let url = self.collect(self.env.secret("DATABASE_URL"));
        let parts: Vec<&str> = PARTS
            .into_iter()
            .filter(|name| self.env.has(name))
            .collect();
        let in_file = PART_KEYS.iter().filter(|row| self.file.has(row));
        let in_file: Vec<String> = in_file
            .map(|row| format!("`{}`", row.section_and_key().1))
            .collect();
        if let Some(url) = url {
            let name = self.env.secret_name("DATABASE_URL").unwrap_or_default();
            if !parts.is_empty() {
                let error = usage(format!("{name} and {} are set together", parts.join(", ")));
                self.fail(
                    error.hint("unset the URL or the DB_* variables: the URL replaces all of them"),
                );
                return None;
            }
            return self.collect(self.address_of_url(&name, &url).map(Some));
        }
        if let Some(url) = self.file.text(&DATABASE_URL.row) {
            if !parts.is_empty() {
                let message = format!(
                    "{} cannot be combined with `database.url` of the file",
                    parts.join(", ")
                );
                self.fail(self.file.at_key(usage(message), &DATABASE_URL.row).hint(
                    "set DATABASE_URL to replace the file's database, or replace `url` by its parts",
                ));
                return None;
            }
            if !in_file.is_empty() {
                let message = format!("`database` has both `url` and {}", in_file.join(", "));
                self.fail(
                    self.file
                        .at_key(usage(message), &DATABASE_URL.row)
                        .hint("keep the URL or the parts: the URL replaces all of them"),
                );
                return None;
            }
            let url = Secret::fixed(url);
            return self.collect(self.address_of_url("database.url", &url).map(Some));
        }
        if parts.is_empty() && in_file.is_empty() {
            return None;
        }
        let address = self.collect(self.address_of_parts())?;
        Some(DatabaseTarget::Postgres(Box::new(address)))
    }

    /// Returns a required part of the address; reports it if it is missing.
    fn part(&self, option: &Opt<String>) -> Option<String> {
        let part = self.get(option).filter(|text| !text.is_empty());
        if part.is_none() {
            let (_, key) = option.row.section_and_key();
            let name = option.row.variable_name().unwrap_or_default();
            let error = usage(format!("the database's {key} is missing"));
            let hint = format!("set {name}, or `database.{key}` in the file");
            self.fail(error.hint(hint_of_missing(self.env, &name, hint)));
        }
        part
    }

    fn address_of_parts(&self) -> Result<Option<Address>, Error> {
        let hosts = self.part(&HOST);
        let ports = self.get(&PORT).unwrap_or_default();
        let (user, name) = (self.part(&USER), self.part(&NAME));
        let password = self.env.secret("DB_PASS")?;
        let in_file = self.file.text(&PASSWORD.row);
        // A block of YAML ends with a line break.
        let in_file = in_file.map(without_line_break);
        let password = password.or_else(|| in_file.map(Secret::fixed));
        let sslmode = self.get(&SSLMODE);
        let hosts = hosts.map(|hosts| plain_hosts(&hosts)).transpose()?;
        let (Some(hosts), Some(user), Some(name)) = (hosts, user, name) else {
            return Ok(None);
        };
        let hosts = Host::list(&hosts, &ports).map_err(|why| {
            usage(format!("the database's hosts cannot be used: {why}"))
                .hint("set, for example, DB_HOST=a,b with DB_PORT=5432 or DB_PORT=5432,5433")
        })?;
        let sslrootcert = self.get(&SSLROOTCERT);
        let sslmode =
            sslmode.unwrap_or_else(|| SslMode::default_with(&hosts, sslrootcert.as_deref()));
        let sslnegotiation = self.value(&SSLNEGOTIATION);
        sslnegotiation.check(sslmode).map_err(|why| {
            self.file
                .at_key(usage(why), &SSLNEGOTIATION.row)
                .hint("set DB_SSLMODE, or `database.sslmode` in the file")
        })?;
        Ok(Some(Address {
            sslmode,
            sslnegotiation,
            require_auth: self.get(&REQUIRE_AUTH),
            target_session: self.value(&TARGET_SESSION_ATTRS),
            password: password.map(Password::Plain),
            passfile: passfile(self.env)?,
            sslrootcert,
            sslcert: self.get(&SSLCERT),
            sslkey: self.get(&SSLKEY),
            connect_timeout: self.value(&CONNECT_TIMEOUT),
            ..Address::new(hosts, user, name)
        }))
    }

    /// Parses a URL. Messages show `name`, the variable or key, and never the URL.
    fn address_of_url(&self, name: &str, secret: &Secret) -> Result<DatabaseTarget, Error> {
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
            address.passfile = passfile(self.env)?;
        }
        if let Some(timeout) = self.get(&CONNECT_TIMEOUT) {
            address.connect_timeout = timeout;
        }
        Ok(DatabaseTarget::Postgres(Box::new(address)))
    }
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
