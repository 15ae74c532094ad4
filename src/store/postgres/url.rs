//! Parses `postgres://user:password@host:port,host:port/name?sslmode=…` as libpq does.
//!
//! A password with an unescaped delimiter splits the URL in the wrong place, so any part may be a
//! piece of the password. An error therefore shows nothing of the URL except the name of a
//! parameter, and that only if the `@` before the hosts proves the split.

mod foreign;
#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use percent_encoding::percent_decode_str;

use crate::error::suggest::nearest;
use crate::runtime::secret::Secret;
use crate::store::postgres::{
    Address, AddressOrigin, ChannelBinding, Host, Password, RequireAuth, SslMode, SslNegotiation,
    TargetSession, TlsVersion,
};

/// The parameters that have an effect.
const SUPPORTED: [&str; 19] = [
    "host",
    "port",
    "user",
    "password",
    "dbname",
    "sslmode",
    "sslrootcert",
    "sslcert",
    "sslkey",
    "connect_timeout",
    "target_session_attrs",
    "channel_binding",
    "require_auth",
    "sslnegotiation",
    "ssl_min_protocol_version",
    "ssl_max_protocol_version",
    "load_balance_hosts",
    "options",
    "passfile",
];

/// The parameters that are accepted and ignored: the program has its own setting for each.
const IGNORED: [&str; 11] = [
    "application_name",
    "fallback_application_name",
    "client_encoding",
    "sslcompression",
    "keepalives",
    "keepalives_idle",
    "keepalives_interval",
    "keepalives_count",
    "tcp_user_timeout",
    // From node-postgres: `sslmode` has libpq's meaning here anyway.
    "uselibpqcompat",
    "max_protocol_version",
];

/// The form of a URL, for hints.
const URL_FORM: &str = "write postgres://user:password@host:5432/name?sslmode=verify-full";

/// Why a text is not a PostgreSQL URL; it shows nothing of a password.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UrlError {
    /// What is wrong.
    pub cause: String,
    /// What to write instead.
    pub hint: String,
}

impl UrlError {
    fn new(cause: impl Into<String>, hint: impl Into<String>) -> Self {
        Self {
            cause: cause.into(),
            hint: hint.into(),
        }
    }

    /// Creates an error whose hint is the form of a URL.
    fn with_form_hint(cause: impl Into<String>) -> Self {
        Self::new(cause, URL_FORM)
    }
}

impl fmt::Display for UrlError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.cause)
    }
}

pub(super) fn parse(text: &str) -> Result<Address, UrlError> {
    let text = text.trim_start_matches('\u{feff}').trim();
    let rest = after_scheme(text)?;
    if rest.contains(char::is_control) {
        return Err(UrlError::new(
            "the URL contains a line break or another control character",
            "write the URL on one line, and a control character in a password as %0A, for example",
        ));
    }
    if rest.contains('#') {
        return Err(UrlError::new(
            "the URL contains a `#`",
            "write `#` as %23, in a password too",
        ));
    }
    let split = SplitUrl::new(rest)?;
    let mut parts = UrlParts::from_split(&split)?;
    parts.set_all(&split)?;
    parts.build()
}

/// Returns what follows `postgres://` or `postgresql://`.
fn after_scheme(text: &str) -> Result<&str, UrlError> {
    if text.starts_with(['"', '\'', '`', '“', '‘']) {
        return Err(UrlError::new(
            "the URL begins with a quotation mark",
            "remove the quotation marks; `docker run --env-file`, for example, keeps them",
        ));
    }
    let lower = text.to_ascii_lowercase();
    if lower.starts_with("jdbc:") || lower.starts_with("r2dbc:") {
        return Err(UrlError::new(
            "the URL is one of JDBC or R2DBC",
            "write postgresql:// at the beginning and, before the host, user:password@",
        ));
    }
    if lower.starts_with("psql ") {
        return Err(UrlError::new(
            "the URL follows the command `psql`",
            "write the URL alone, without quotation marks",
        ));
    }
    let (scheme, rest) = text.split_once("://").ok_or_else(|| {
        let is_keywords = [
            "host=",
            "hostaddr=",
            "dbname=",
            "user=",
            "server=",
            "service=",
        ]
        .iter()
        .any(|keyword| lower.contains(keyword));
        if is_keywords {
            UrlError::with_form_hint(
                "the text is a list of keywords and values, which is not supported",
            )
        } else {
            scheme_error()
        }
    })?;
    let scheme = scheme.to_ascii_lowercase();
    match scheme.as_str() {
        "postgres" | "postgresql" => Ok(rest),
        _ if scheme.starts_with("postgres") && scheme.contains('+') => Err(UrlError::new(
            "the URL names a driver, as SQLAlchemy's URLs do",
            "write postgresql:// without the `+` and what follows it",
        )),
        _ if scheme.contains("postgres") && scheme.contains(['=', ' ']) => Err(UrlError::new(
            "the URL follows the name of a variable",
            "write the URL alone, without what precedes postgres://",
        )),
        _ => Err(scheme_error()),
    }
}

fn scheme_error() -> UrlError {
    UrlError::new(
        "the URL does not begin with postgres://, postgresql:// or sqlite:",
        "write postgres://user:password@host:5432/name, or sqlite:PATH",
    )
}

/// The parts of a URL, percent-encoded.
struct SplitUrl<'a> {
    /// `user:password`; `None` without an `@` before the hosts.
    login: Option<&'a str>,
    hosts: &'a str,
    name: &'a str,
    query: &'a str,
}

impl<'a> SplitUrl<'a> {
    fn new(rest: &'a str) -> Result<Self, UrlError> {
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (authority, name) = rest.split_once('/').unwrap_or((rest, ""));
        if name.contains('@') {
            return Err(UrlError::new(
                "an `@` follows the first `/`, so user or password seem to contain a `/`",
                "write `/` as %2F in user and password, and `@` as %40 in the database name",
            ));
        }
        if name.contains('/') {
            return Err(UrlError::new(
                "the database name contains a `/`",
                "remove the `/`, or write it as %2F",
            ));
        }
        let (login, hosts) = match authority.rsplit_once('@') {
            Some((login, hosts)) => (Some(login), hosts),
            None => (None, authority),
        };
        Ok(Self {
            login,
            hosts,
            name,
            query,
        })
    }

    /// Returns true if the query may be the end of a password that contains a `?`.
    fn may_query_belong_to_password(&self) -> bool {
        self.query.contains('@')
    }
}

/// Splits `a:1,[::2]:3` into its names, separated by commas, and its ports.
fn split_hosts(text: &str) -> Result<(String, Vec<u16>), UrlError> {
    if text.is_empty() {
        return Ok((String::new(), Vec::new()));
    }
    let invalid = || UrlError::with_form_hint("a host in the URL is not valid");
    let (mut names, mut ports) = (Vec::new(), Vec::new());
    for host in text.split(',') {
        let (name, port) = if let Some(rest) = host.strip_prefix('[') {
            let (name, rest) = rest.split_once(']').ok_or_else(invalid)?;
            match rest.strip_prefix(':') {
                Some(port) => (name, port),
                None if rest.is_empty() => (name, ""),
                None => return Err(invalid()),
            }
        } else {
            host.split_once(':').unwrap_or((host, ""))
        };
        if port.contains(':') {
            return Err(UrlError::new(
                "a host in the URL contains more than one `:`",
                "write an IPv6 address in brackets, such as [::1]:5432; write `/`, `?` \
                 and `@` in a password as %2F, %3F and %40",
            ));
        }
        check_expanded(name, "host")?;
        let name = decode(name, "host")?;
        let is_invalid = |letter: char| letter.is_whitespace() || "[]\"'`\\@".contains(letter);
        if name.contains(is_invalid) {
            return Err(invalid());
        }
        names.push(name);
        ports.push(match port {
            "" => None,
            port => Some(parse_port(port)?),
        });
    }
    let ports = if ports.iter().all(Option::is_none) {
        Vec::new()
    } else {
        let each = ports.into_iter().map(|port| port.unwrap_or(Host::PORT));
        each.collect()
    };
    Ok((names.join(","), ports))
}

fn parse_port(text: &str) -> Result<u16, UrlError> {
    text.parse().ok().filter(|port| *port > 0).ok_or_else(|| {
        UrlError::new(
            "the port is not a number from 1 to 65535",
            "write the port as a number, and `/`, `?` and `@` in a password as %2F, %3F and %40",
        )
    })
}

/// Refuses `$DB_HOST`, `${HOST}`, `{{ host }}` and `<host>`.
fn check_expanded(text: &str, what: &str) -> Result<(), UrlError> {
    if text.contains(['$', '{', '}', '<', '>']) {
        return Err(placeholder_error(what));
    }
    Ok(())
}

/// Refuses a password that is only a variable or a placeholder.
fn check_password_expanded(text: &str) -> Result<(), UrlError> {
    let is_between = |start: &str, end: &str| text.starts_with(start) && text.ends_with(end);
    let is_name = |name: &str| {
        let is_upper = |byte: u8| byte.is_ascii_uppercase() || byte == b'_';
        name.bytes().next().is_some_and(is_upper)
            && name
                .bytes()
                .all(|byte| is_upper(byte) || byte.is_ascii_digit())
    };
    let is_placeholder = is_between("${", "}")
        || is_between("{{", "}}")
        || is_between("$(", ")")
        || is_between("<", ">")
        || is_between("[YOUR", "]")
        || text.strip_prefix('$').is_some_and(is_name);
    if is_placeholder {
        return Err(placeholder_error("password"));
    }
    Ok(())
}

fn placeholder_error(what: &str) -> UrlError {
    UrlError::new(
        format!("the {what} in the URL is a placeholder or a variable that was not expanded"),
        "replace the placeholder by its value; variables are not expanded here (write a literal \
         `$` as %24)",
    )
}

#[derive(Default)]
struct UrlParts {
    hosts: String,
    ports: Vec<u16>,
    target_session: Option<TargetSession>,
    channel_binding: Option<ChannelBinding>,
    user: String,
    password: Option<String>,
    passfile: Option<PathBuf>,
    name: String,
    sslmode: Option<SslMode>,
    sslrootcert: Option<PathBuf>,
    sslcert: Option<PathBuf>,
    sslkey: Option<PathBuf>,
    connect_timeout: Option<Duration>,
    require_auth: Option<RequireAuth>,
    sslnegotiation: SslNegotiation,
    ssl_min_protocol_version: Option<TlsVersion>,
    ssl_max_protocol_version: Option<TlsVersion>,
    load_balance_hosts: bool,
    startup_options: Option<String>,
}

impl UrlParts {
    /// Decodes the parts before the parameters.
    fn from_split(split: &SplitUrl<'_>) -> Result<Self, UrlError> {
        let (hosts, ports) = split_hosts(split.hosts)?;
        let login = split.login.unwrap_or_default();
        let (user, password) = match login.split_once(':') {
            Some((user, password)) => (user, Some(password)),
            None => (login, None),
        };
        check_expanded(user, "user")?;
        check_expanded(split.name, "database name")?;
        check_password_expanded(password.unwrap_or_default())?;
        Ok(Self {
            hosts,
            ports,
            user: decode(user, "user")?,
            password: password
                .map(|password| decode(password, "password"))
                .transpose()?,
            name: decode(split.name, "database name")?,
            ..Self::default()
        })
    }

    fn set_all(&mut self, split: &SplitUrl<'_>) -> Result<(), UrlError> {
        for pair in split.query.split('&') {
            if pair.is_empty() {
                continue;
            }
            self.set_pair(pair, split).map_err(|error| {
                if split.may_query_belong_to_password() {
                    UrlError::new(
                        "an `@` follows the first `?`, so user or password seem to contain a `?`",
                        "write `?` as %3F in user and password, and `@` as %40 in parameters",
                    )
                } else {
                    error
                }
            })?;
        }
        Ok(())
    }

    fn set_pair(&mut self, pair: &str, split: &SplitUrl<'_>) -> Result<(), UrlError> {
        let (key, value) = pair
            .split_once('=')
            .ok_or_else(|| UrlError::with_form_hint("a parameter of the URL has no `=`"))?;
        let key = decode(key, "name of a parameter")?;
        if let Some(error) = foreign::unsupported_parameter(&key, value) {
            return Err(error);
        }
        if !SUPPORTED.contains(&key.as_str()) && !IGNORED.contains(&key.as_str()) {
            return if foreign::has_no_effect(&key, value) {
                Ok(())
            } else {
                Err(unknown_parameter(&key, split.login.is_some()))
            };
        }
        self.set(&key, decode(value, &key)?)
    }

    fn set(&mut self, key: &str, value: String) -> Result<(), UrlError> {
        match key {
            "host" => {
                check_expanded(&value, "host")?;
                self.hosts = value;
            }
            "port" => self.ports = value.split(',').map(parse_port).collect::<Result<_, _>>()?,
            "user" => {
                check_expanded(&value, "user")?;
                self.user = value;
            }
            "password" => {
                check_password_expanded(&value)?;
                self.password = Some(value);
            }
            "passfile" => self.passfile = Some(value.into()),
            "dbname" => {
                check_expanded(&value, "database name")?;
                self.name = value;
            }
            "sslmode" => self.sslmode = Some(check_value(key, value.parse())?),
            "sslrootcert" => self.sslrootcert = Some(value.into()),
            "sslcert" => self.sslcert = Some(value.into()),
            "sslkey" => self.sslkey = Some(value.into()),
            "connect_timeout" => {
                let rule = "must be a whole number of seconds";
                let seconds: u64 = check_value(key, value.parse().map_err(|_| rule.to_owned()))?;
                // libpq's 0 means no limit; here the default applies.
                self.connect_timeout = (seconds > 0).then(|| Duration::from_secs(seconds));
            }
            "target_session_attrs" => self.target_session = Some(check_value(key, value.parse())?),
            "channel_binding" => {
                self.channel_binding = Some(match value.as_str() {
                    "disable" => ChannelBinding::Disable,
                    "prefer" => ChannelBinding::Prefer,
                    "require" => ChannelBinding::Require,
                    _ => return invalid_value(key, "must be disable, prefer or require"),
                });
            }
            // As in libpq, an empty list accepts every method.
            "require_auth" if value.is_empty() => self.require_auth = None,
            "require_auth" => self.require_auth = Some(check_value(key, value.parse())?),
            "sslnegotiation" => self.sslnegotiation = check_value(key, value.parse())?,
            "ssl_min_protocol_version" => {
                self.ssl_min_protocol_version =
                    Some(check_value(key, TlsVersion::minimum(&value))?);
            }
            "ssl_max_protocol_version" => {
                self.ssl_max_protocol_version =
                    Some(check_value(key, TlsVersion::maximum(&value))?);
            }
            "load_balance_hosts" => {
                self.load_balance_hosts = match value.as_str() {
                    "disable" => false,
                    "random" => true,
                    _ => return invalid_value(key, "must be disable or random"),
                };
            }
            "options" => self.startup_options = Some(value).filter(|value| !value.is_empty()),
            _ => {}
        }
        Ok(())
    }

    fn build(self) -> Result<Address, UrlError> {
        let hosts = match self.hosts.as_str() {
            "" => "localhost",
            hosts => hosts,
        };
        let hosts = Host::list(hosts, &self.ports).map_err(UrlError::with_form_hint)?;
        if self.user.is_empty() {
            return Err(UrlError::new(
                "the URL names no user",
                "write postgres://user@host/name; unlike libpq, the program does not take the \
                 name of the operating system's user",
            ));
        }
        let name = if self.name.is_empty() {
            self.user.clone()
        } else {
            self.name
        };
        let names = hosts.iter().map(|host| &host.name);
        if names
            .chain([&self.user, &name])
            .chain(&self.startup_options)
            .any(|part| part.contains('\0'))
        {
            return Err(UrlError::with_form_hint(
                "the URL contains a NUL character (%00)",
            ));
        }
        let sslmode = self
            .sslmode
            .unwrap_or_else(|| SslMode::default_with(&hosts, self.sslrootcert.as_deref()));
        self.sslnegotiation
            .check(sslmode)
            .map_err(UrlError::with_form_hint)?;
        let ssl_min_protocol_version = self.ssl_min_protocol_version.unwrap_or(TlsVersion::V12);
        let ssl_max_protocol_version = self.ssl_max_protocol_version.unwrap_or(TlsVersion::V13);
        if ssl_min_protocol_version > ssl_max_protocol_version {
            return Err(UrlError::with_form_hint(format!(
                "ssl_min_protocol_version {} is above ssl_max_protocol_version {}",
                ssl_min_protocol_version.as_str(),
                ssl_max_protocol_version.as_str()
            )));
        }
        Ok(Address {
            hosts,
            target_session: self.target_session.unwrap_or(TargetSession::DEFAULT),
            user: self.user,
            password: self
                .password
                .map(|password| Password::Plain(Secret::fixed(password))),
            passfile: self.passfile,
            name,
            sslmode,
            sslrootcert: self.sslrootcert,
            sslcert: self.sslcert,
            sslkey: self.sslkey,
            channel_binding: self.channel_binding.unwrap_or(ChannelBinding::Prefer),
            require_auth: self.require_auth,
            sslnegotiation: self.sslnegotiation,
            ssl_min_protocol_version,
            ssl_max_protocol_version,
            load_balance_hosts: self.load_balance_hosts,
            startup_options: self.startup_options,
            connect_timeout: self.connect_timeout.unwrap_or(Address::CONNECT_TIMEOUT),
            origin: AddressOrigin::Url("the URL".to_owned()),
        })
    }
}

/// Adds the parameter's name to the rule that its value breaks.
fn check_value<T>(key: &str, value: Result<T, String>) -> Result<T, UrlError> {
    value.map_err(|rule| {
        UrlError::new(
            format!("{key} {rule}"),
            format!("replace the value of {key} in the URL"),
        )
    })
}

fn invalid_value<T>(key: &str, rule: &str) -> Result<T, UrlError> {
    check_value(key, Err(rule.to_owned()))
}

/// Returns the error for an unknown parameter, with its name only if the URL's split is certain.
fn unknown_parameter(key: &str, is_certain: bool) -> UrlError {
    let is_plain = key
        .bytes()
        .all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b));
    let escapes = "write `?`, `&` and `%` in a password as %3F, %26 and %25";
    if !is_certain || !is_plain || key.is_empty() || key.len() > 40 {
        return UrlError::new("the URL has an unknown parameter", escapes);
    }
    let cause = format!("unknown parameter `{key}`");
    match nearest(&key.to_ascii_lowercase(), SUPPORTED.iter().chain(&IGNORED)) {
        Some(known) => UrlError::new(cause, format!("did you mean `{known}`?")),
        None => UrlError::new(
            cause,
            format!("remove the parameter: only libpq's are known; {escapes}"),
        ),
    }
}

/// Decodes percent-encoding; `+` stays a plus, as in libpq.
fn decode(text: &str, what: &str) -> Result<String, UrlError> {
    let is_escape = |rest: &str| {
        let digits = rest.as_bytes().get(..2);
        digits.is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit))
    };
    if !text.split('%').skip(1).all(is_escape) {
        return Err(UrlError::new(
            format!("a `%` in the {what} is not followed by two hexadecimal digits"),
            "write a percent sign as %25",
        ));
    }
    let decoded = percent_decode_str(text).decode_utf8();
    decoded.map(Cow::into_owned).map_err(|_| {
        UrlError::with_form_hint(format!("the {what} is not valid UTF-8 when decoded"))
    })
}
