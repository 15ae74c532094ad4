//! Reads `postgres://user:password@host:port,host:port/name?sslmode=…`, as libpq does.
//!
//! The standard for URLs knows one host only: the hosts are cut out before the rest is read.
//!
//! No error shows the URL or a value of it: the password may stand anywhere in what was mistyped.

use std::path::PathBuf;
use std::time::Duration;

use url::Url;

use super::{
    Address, ChannelBinding, Given, Host, Password, RequireAuth, Session, SslMode, SslNegotiation,
    TlsVersion,
};
use crate::secret::Secret;

/// Parameters that are used.
const USED: [&str; 19] = [
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

/// Parameters that may stand there without effect: the program has its own answer to each.
const IGNORED: [&str; 10] = [
    "application_name",
    "fallback_application_name",
    "client_encoding",
    "gssencmode",
    "sslcompression",
    "keepalives",
    "keepalives_idle",
    "keepalives_interval",
    "keepalives_count",
    "tcp_user_timeout",
];

pub(super) fn parse(text: &str) -> Result<Address, String> {
    let (rest, hosts) = cut_hosts(text);
    let url = Url::parse(&rest).map_err(|error| format!("not a valid URL: {error}"))?;
    if !matches!(url.scheme(), "postgres" | "postgresql") || url.cannot_be_a_base() {
        return Err("the URL must begin with postgres:// or postgresql://".to_owned());
    }
    if url.fragment().is_some() {
        return Err("a `#` in the URL must be written %23".to_owned());
    }
    let (hosts, ports) = split_hosts(hosts)?;
    let mut read = Parts {
        hosts,
        ports,
        user: decode(url.username(), "user")?,
        password: url
            .password()
            .map(|password| decode(password, "password"))
            .transpose()?,
        name: decode(url.path().trim_start_matches('/'), "database name")?,
        ..Parts::default()
    };
    for pair in url.query().unwrap_or_default().split('&') {
        if pair.is_empty() {
            continue;
        }
        let (key, value) = pair
            .split_once('=')
            .ok_or("a parameter of the URL has no `=`")?;
        let key = decode(key, "parameter")?;
        let value = decode(value, &key)?;
        read.set(&key, value)?;
    }
    read.build()
}

/// The URL with a stand-in for its hosts, and the hosts.
fn cut_hosts(text: &str) -> (String, &str) {
    let start = text.find("://").map_or(text.len(), |at| at + 3);
    let end = text[start..]
        .find(['/', '?', '#'])
        .map_or(text.len(), |at| start + at);
    let authority = &text[start..end];
    let hosts = authority.rfind('@').map_or(start, |at| start + at + 1);
    let stand_in = if start == text.len() { "" } else { "host" };
    let rest = format!("{}{stand_in}{}", &text[..hosts], &text[end..]);
    (rest, &text[hosts..end])
}

/// The names, with commas between them, and the ports of `a:1,[::2]:3`.
fn split_hosts(text: &str) -> Result<(String, Vec<u16>), String> {
    if text.is_empty() {
        return Ok((String::new(), Vec::new()));
    }
    let (mut names, mut ports) = (Vec::new(), Vec::new());
    for host in text.split(',') {
        let (name, port) = match host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            Some((name, rest)) => (name, rest.strip_prefix(':')),
            None => match host.split_once(':') {
                Some((name, port)) => (name, Some(port)),
                None => (host, None),
            },
        };
        if name.contains(['[', ']']) || name.contains(char::is_whitespace) {
            return Err("a host in the URL is not valid".to_owned());
        }
        names.push(decode(name, "host")?);
        ports.push(
            port.filter(|port| !port.is_empty())
                .map(port_of)
                .transpose()?,
        );
    }
    let ports = if ports.iter().all(Option::is_none) {
        Vec::new()
    } else {
        let each = ports.into_iter().map(|port| port.unwrap_or(Host::PORT));
        each.collect()
    };
    Ok((names.join(","), ports))
}

fn port_of(text: &str) -> Result<u16, String> {
    text.parse().ok().filter(|port| *port > 0).ok_or_else(|| {
        "port must be a number from 1 to 65535; a `/`, `?`, `#` or `@` in a password must be \
         written %2F, %3F, %23 or %40"
            .to_owned()
    })
}

#[derive(Default)]
struct Parts {
    hosts: String,
    ports: Vec<u16>,
    session: Option<Session>,
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

impl Parts {
    fn set(&mut self, key: &str, value: String) -> Result<(), String> {
        match key {
            "host" => self.hosts = value,
            "port" => self.ports = value.split(',').map(port_of).collect::<Result<_, _>>()?,
            "user" => self.user = value,
            "password" => self.password = Some(value),
            "dbname" => self.name = value,
            "sslmode" => {
                self.sslmode = Some(parsed(key, value.parse())?);
            }
            "sslrootcert" => self.sslrootcert = Some(value.into()),
            "sslcert" => self.sslcert = Some(value.into()),
            "sslkey" => self.sslkey = Some(value.into()),
            "connect_timeout" => {
                let seconds: u64 = value
                    .parse()
                    .map_err(|_| "connect_timeout must be a whole number of seconds")?;
                // libpq's 0 means no limit; a limit there must be.
                self.connect_timeout = (seconds > 0).then(|| Duration::from_secs(seconds));
            }
            "target_session_attrs" => self.session = Some(parsed(key, value.parse())?),
            "channel_binding" => {
                self.channel_binding = Some(match value.as_str() {
                    "disable" => ChannelBinding::Disable,
                    "prefer" => ChannelBinding::Prefer,
                    "require" => ChannelBinding::Require,
                    _ => {
                        return Err("channel_binding must be disable, prefer or require".to_owned());
                    }
                });
            }
            // As libpq: an empty list accepts every method.
            "require_auth" if value.is_empty() => self.require_auth = None,
            "require_auth" => self.require_auth = Some(parsed(key, value.parse())?),
            "sslnegotiation" => self.sslnegotiation = parsed(key, value.parse())?,
            "ssl_min_protocol_version" => {
                self.ssl_min_protocol_version = Some(parsed(key, TlsVersion::minimum(&value))?);
            }
            "ssl_max_protocol_version" => {
                self.ssl_max_protocol_version = Some(parsed(key, TlsVersion::maximum(&value))?);
            }
            "load_balance_hosts" => {
                self.load_balance_hosts = match value.as_str() {
                    "disable" => false,
                    "random" => true,
                    _ => return Err("load_balance_hosts must be disable or random".to_owned()),
                };
            }
            "options" => self.startup_options = Some(value).filter(|value| !value.is_empty()),
            "passfile" => self.passfile = Some(value.into()),
            "hostaddr" | "service" | "sslpassword" | "sslcrl" | "sslcrldir" | "requirepeer" => {
                return Err(format!("the parameter `{key}` is not supported"));
            }
            _ if IGNORED.contains(&key) => {}
            _ => return Err(unknown(key)),
        }
        Ok(())
    }

    fn build(self) -> Result<Address, String> {
        let hosts = match self.hosts.as_str() {
            "" => "localhost",
            hosts => hosts,
        };
        let hosts = Host::list(hosts, &self.ports)?;
        if self.user.is_empty() {
            return Err("the URL names no user".to_owned());
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
            return Err("a NUL in the URL".to_owned());
        }
        let sslmode = self
            .sslmode
            .unwrap_or_else(|| SslMode::default_with(&hosts, self.sslrootcert.as_deref()));
        self.sslnegotiation.check(sslmode)?;
        let ssl_min_protocol_version = self.ssl_min_protocol_version.unwrap_or(TlsVersion::V12);
        let ssl_max_protocol_version = self.ssl_max_protocol_version.unwrap_or(TlsVersion::V13);
        if ssl_min_protocol_version > ssl_max_protocol_version {
            return Err(format!(
                "ssl_min_protocol_version {} is above ssl_max_protocol_version {}",
                ssl_min_protocol_version.as_str(),
                ssl_max_protocol_version.as_str()
            ));
        }
        Ok(Address {
            hosts,
            session: self.session.unwrap_or(Session::DEFAULT),
            user: self.user,
            password: self
                .password
                .map(|password| Password::Whole(Secret::fixed(password))),
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
            given: Given::Url("the URL".to_owned()),
        })
    }
}

/// Names the parameter whose value breaks a rule.
fn parsed<T>(key: &str, value: Result<T, String>) -> Result<T, String> {
    value.map_err(|rule| format!("{key} {rule}"))
}

fn unknown(key: &str) -> String {
    // A key with odd characters may be a piece of a password with `?` or `&` in it.
    let plain = key.len() <= 40 && key.bytes().all(|b| b.is_ascii_lowercase() || b == b'_');
    if !plain {
        return "an unknown parameter in the URL; a `?`, `&` or `%` in a password must be written \
                %3F, %26 or %25"
            .to_owned();
    }
    let nearest = USED
        .iter()
        .chain(&IGNORED)
        .min_by_key(|known| strsim::damerau_levenshtein(known, key))
        .filter(|known| strsim::damerau_levenshtein(known, key) <= 3);
    match nearest {
        Some(nearest) => format!("unknown parameter `{key}`; did you mean `{nearest}`?"),
        None => format!("unknown parameter `{key}`"),
    }
}

/// Undoes percent-encoding; `+` stays a plus, as libpq has it.
fn decode(text: &str, what: &str) -> Result<String, String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let digit = |byte: Option<u8>| char::from(byte?).to_digit(16);
        match (digit(rest.next()), digit(rest.next())) {
            (Some(high), Some(low)) => bytes.extend(u8::try_from(high * 16 + low)),
            _ => {
                return Err(format!(
                    "a `%` in the {what} must be followed by two hexadecimal digits; a percent \
                     sign is written %25"
                ));
            }
        }
    }
    String::from_utf8(bytes).map_err(|_| format!("the {what} is not valid UTF-8"))
}

#[cfg(test)]
mod tests;
