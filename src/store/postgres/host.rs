//! One server of a database, and which kind of session with it will do.

use std::str::FromStr;

/// One server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host {
    /// Host name, address, or the folder of a Unix socket (starts with `/`).
    pub name: String,
    /// TCP port, or the number in the socket's name.
    pub port: u16,
}

/// Which server will do (`target_session_attrs`). Tokens are written, so one that takes no writes is
/// of no use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TargetSession {
    /// The first that answers; where it takes no writes that is an error.
    Any,
    /// The first that takes writes.
    ReadWrite,
}

impl TargetSession {
    /// What is meant where nothing is said.
    pub const DEFAULT: Self = Self::ReadWrite;
}

impl FromStr for TargetSession {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "any" => Ok(Self::Any),
            // A primary that is read-only cannot store tokens, so the two are one.
            "read-write" | "primary" => Ok(Self::ReadWrite),
            "read-only" | "standby" | "prefer-standby" => Err(
                "must be any, read-write or primary: a server that takes no writes cannot store \
                 tokens"
                    .to_owned(),
            ),
            _ => Err("must be any, read-write or primary".to_owned()),
        }
    }
}

impl Host {
    /// The port where none is named.
    pub const PORT: u16 = 5432;

    /// Reads `a,b,c`; of `ports` there may be none, one for all, or one for each.
    ///
    /// # Errors
    /// A sentence that says what is wrong with them.
    pub fn list(names: &str, ports: &[u16]) -> Result<Vec<Self>, String> {
        let names: Vec<&str> = names.split(',').map(str::trim).collect();
        if names.iter().any(|name| name.is_empty()) {
            return Err("a host in the list is empty".to_owned());
        }
        if ports.len() > 1 && ports.len() != names.len() {
            let (hosts, ports) = (names.len(), ports.len());
            let s = if hosts == 1 { "" } else { "s" };
            return Err(format!(
                "{ports} ports do not go with {hosts} host{s}: give one for all, or one for each"
            ));
        }
        let port_of = |index: usize| match ports {
            [] => Self::PORT,
            [one] => *one,
            each => each.get(index).copied().unwrap_or(Self::PORT),
        };
        let hosts = names.iter().enumerate().map(|(index, name)| Self {
            name: (*name).to_owned(),
            port: port_of(index),
        });
        Ok(hosts.collect())
    }

    /// `host:port`, or the socket's path: how errors name the server.
    pub fn place(&self) -> String {
        let Self { name, port } = self;
        if self.is_socket() {
            format!("{name}/.s.PGSQL.{port}")
        } else if name.contains(':') {
            format!("[{name}]:{port}")
        } else {
            format!("{name}:{port}")
        }
    }

    /// True where the server is reached over a Unix socket; TLS does not apply to it.
    pub fn is_socket(&self) -> bool {
        self.name.starts_with('/')
    }

    /// True where nobody can listen in.
    pub(super) fn is_local(&self) -> bool {
        let loopback = self
            .name
            .parse::<std::net::IpAddr>()
            .is_ok_and(|address| address.to_canonical().is_loopback());
        loopback || self.is_socket() || self.name.eq_ignore_ascii_case("localhost")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_and_ports_are_paired_as_libpq_does() {
        let places = |names: &str, ports: &[u16]| {
            let hosts = Host::list(names, ports)?;
            Ok::<_, String>(hosts.iter().map(Host::place).collect::<Vec<_>>())
        };
        assert_eq!(places("a,b", &[]).unwrap(), ["a:5432", "b:5432"]);
        assert_eq!(places("a, b", &[1]).unwrap(), ["a:1", "b:1"]);
        assert_eq!(
            places("::1,/run/pg", &[1, 2]).unwrap(),
            ["[::1]:1", "/run/pg/.s.PGSQL.2"]
        );
        for (names, ports) in [
            ("a,b", &[1, 2, 3][..]),
            ("a", &[1, 2]),
            ("a,,b", &[]),
            ("", &[]),
        ] {
            assert!(places(names, ports).is_err(), "{names} {ports:?}");
        }
    }
}
