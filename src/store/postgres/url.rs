//! Reads `postgres://user:password@host:port/name?sslmode=…`, as libpq does.
//!
//! No error shows the URL or a value of it: the password may stand anywhere in what was mistyped.

use std::borrow::Cow;
use std::path::PathBuf;
use std::time::Duration;

use secrecy::SecretString;
use url::Url;

use super::{Address, SslMode};

/// Parameters that are used.
const USED: [&str; 10] = [
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
];

/// Parameters that may stand there without effect: the program has its own answer to each.
const IGNORED: [&str; 11] = [
    "application_name",
    "fallback_application_name",
    "client_encoding",
    "gssencmode",
    "target_session_attrs",
    "sslcompression",
    "keepalives",
    "keepalives_idle",
    "keepalives_interval",
    "keepalives_count",
    "tcp_user_timeout",
];

pub(super) fn parse(text: &str) -> Result<Address, String> {
    let url = Url::parse(&with_host(text)).map_err(|error| format!("not a valid URL: {error}"))?;
    if !matches!(url.scheme(), "postgres" | "postgresql") {
        return Err("the URL must begin with postgres:// or postgresql://".to_owned());
    }
    if url.fragment().is_some() {
        return Err("a `#` in the URL must be written %23".to_owned());
    }
    if url.cannot_be_a_base() {
        return Err("the URL must begin with postgres:// or postgresql://".to_owned());
    }
    let mut parts = Parts {
        host: match url.host_str() {
            Some(host) => decode(host.trim_start_matches('[').trim_end_matches(']'), "host")?,
            None => String::new(),
        },
        port: url.port(),
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
        parts.set(&key, value)?;
    }
    parts.build()
}

/// `user@/name?host=/socket` leaves the host out, which libpq reads and the standard for URLs does
/// not: the default is put there.
fn with_host(text: &str) -> Cow<'_, str> {
    let start = text.find("://").map_or(text.len(), |at| at + 3);
    let end = text[start..]
        .find(['/', '?', '#'])
        .map_or(text.len(), |at| start + at);
    if text[start..end].ends_with('@') {
        Cow::Owned(format!("{}localhost{}", &text[..end], &text[end..]))
    } else {
        Cow::Borrowed(text)
    }
}

#[derive(Default)]
struct Parts {
    host: String,
    port: Option<u16>,
    user: String,
    password: Option<String>,
    name: String,
    sslmode: Option<SslMode>,
    sslrootcert: Option<PathBuf>,
    sslcert: Option<PathBuf>,
    sslkey: Option<PathBuf>,
    connect_timeout: Option<Duration>,
}

impl Parts {
    fn set(&mut self, key: &str, value: String) -> Result<(), String> {
        match key {
            "host" => self.host = value,
            "port" => {
                let port = value
                    .parse()
                    .map_err(|_| "port must be a number up to 65535")?;
                self.port = Some(port);
            }
            "user" => self.user = value,
            "password" => self.password = Some(value),
            "dbname" => self.name = value,
            "sslmode" => {
                self.sslmode = Some(value.parse().map_err(|rule| format!("sslmode {rule}"))?);
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
            "channel_binding" if matches!(value.as_str(), "prefer" | "disable") => {}
            "channel_binding" => {
                return Err(
                    "channel_binding=require is not supported; without it, channel binding is \
                     used wherever the server offers it"
                        .to_owned(),
                );
            }
            "sslnegotiation" if value == "postgres" => {}
            "options" | "hostaddr" | "service" | "passfile" | "sslpassword" | "sslnegotiation"
            | "sslcrl" | "sslcrldir" | "requirepeer" | "require_auth" => {
                return Err(format!("the parameter `{key}` is not supported"));
            }
            _ if IGNORED.contains(&key) => {}
            _ => return Err(unknown(key)),
        }
        Ok(())
    }

    fn build(self) -> Result<Address, String> {
        let host = if self.host.is_empty() {
            "localhost".to_owned()
        } else {
            self.host
        };
        if host.contains(',') {
            return Err("one host only; several are not supported".to_owned());
        }
        if self.user.is_empty() {
            return Err("the URL names no user".to_owned());
        }
        let name = if self.name.is_empty() {
            self.user.clone()
        } else {
            self.name
        };
        if [&host, &self.user, &name]
            .iter()
            .any(|part| part.contains('\0'))
        {
            return Err("a NUL in the URL".to_owned());
        }
        // As libpq: whoever names the system's authorities wants the name verified too.
        let sslmode = match (self.sslmode, &self.sslrootcert) {
            (Some(mode), _) => mode,
            (None, Some(roots)) if roots.as_os_str() == "system" => SslMode::VerifyFull,
            (None, _) => SslMode::default_for(&host),
        };
        Ok(Address {
            host,
            port: self.port.unwrap_or(5432),
            user: self.user,
            password: self.password.map(SecretString::from),
            name,
            sslmode,
            sslrootcert: self.sslrootcert,
            sslcert: self.sslcert,
            sslkey: self.sslkey,
            connect_timeout: self.connect_timeout.unwrap_or(Address::CONNECT_TIMEOUT),
        })
    }
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
mod tests {
    use super::*;
    use secrecy::ExposeSecret;

    #[test]
    fn a_full_url() {
        let address = parse(
            "postgres://to%40kens:p%3A%2Fw@db.internal:6432/my%20db?sslmode=verify-full\
             &sslrootcert=/ca.pem&sslcert=c.pem&sslkey=k.pem&connect_timeout=3\
             &application_name=x",
        )
        .unwrap();
        assert_eq!(address.host, "db.internal");
        assert_eq!(address.port, 6432);
        assert_eq!(address.user, "to@kens");
        assert_eq!(address.password.unwrap().expose_secret(), "p:/w");
        assert_eq!(address.name, "my db");
        assert_eq!(address.sslmode, SslMode::VerifyFull);
        assert_eq!(address.sslrootcert, Some("/ca.pem".into()));
        assert_eq!(address.sslcert, Some("c.pem".into()));
        assert_eq!(address.sslkey, Some("k.pem".into()));
        assert_eq!(address.connect_timeout, Duration::from_secs(3));
    }

    #[test]
    fn defaults_are_libpqs_but_for_tls() {
        let address = parse("postgresql://tokens@db").unwrap();
        assert_eq!((address.port, address.name.as_str()), (5432, "tokens"));
        assert_eq!(address.sslmode, SslMode::Require);
        let local = parse("postgres://tokens@127.0.0.1/x").unwrap();
        assert_eq!(local.sslmode, SslMode::Prefer);
        let system = parse("postgres://tokens@db/x?sslrootcert=system").unwrap();
        assert_eq!(system.sslmode, SslMode::VerifyFull);
    }

    #[test]
    fn sockets_and_ipv6() {
        for text in [
            "postgres:///x?host=/run/postgresql&user=tokens",
            "postgres://tokens@%2Frun%2Fpostgresql/x",
            "postgres://tokens@/x?host=/run/postgresql",
        ] {
            let address = parse(text).unwrap();
            assert_eq!(address.host, "/run/postgresql", "{text}");
            assert_eq!(address.sslmode, SslMode::Prefer);
            assert_eq!(address.place(), "/run/postgresql/.s.PGSQL.5432");
        }
        let address = parse("postgres://tokens@[::1]:7/x").unwrap();
        assert_eq!((address.host.as_str(), address.port), ("::1", 7));
        assert_eq!(address.place(), "[::1]:7");
    }

    #[test]
    fn unknown_parameters_are_named_with_the_nearest() {
        let error = parse("postgres://u:s3cret@h/x?sslmod=require").unwrap_err();
        assert_eq!(error, "unknown parameter `sslmod`; did you mean `sslmode`?");
    }

    #[test]
    fn no_error_shows_the_password() {
        for text in [
            "postgres://u:s3cret@h:99999/x",
            "postgres://u:s3cret@h/x?options=-c",
            "postgres://u:s3cret%zz@h/x",
            "postgres://u:s3cret%ff@h/x",
            "postgres://u:pw#s3cret@h/x",
            "postgres://u:pw?S3cret=s3cret@h/x",
            "postgres://u:pw/s3cret@h/x",
            "postgres://u:s3cret@h,i/x",
            "postgres://:s3cret@h/x",
            "postgres://u:s3cret@h/x?sslmode=s3cret",
            "postgres:s3cret",
            "mysql://u:s3cret@h/x",
            "postgres://u:s3cret@h/x?channel_binding=require",
            "postgres://u:s3cret@h/x?connect_timeout=s3cret",
        ] {
            let error = parse(text).unwrap_err();
            assert!(!error.to_lowercase().contains("s3cret"), "{text}: {error}");
        }
    }
}
