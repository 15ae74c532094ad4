//! A server's address, and which servers are acceptable.

use std::str::FromStr;

/// The address of one server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host {
    /// Host name, IP address, or the folder of a Unix socket (starts with `/`).
    pub name: String,
    /// TCP port, or the number in the socket's name.
    pub port: u16,
}

/// Which server is acceptable (`target_session_attrs`).
///
/// Tokens are written, so a read-only server never is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TargetSession {
    /// The first server that responds; it is an error if it is read-only.
    Any,
    /// The first server that accepts writes.
    ReadWrite,
}

impl TargetSession {
    /// The default.
    pub const DEFAULT: Self = Self::ReadWrite;
}

impl FromStr for TargetSession {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "any" => Ok(Self::Any),
            // A read-only primary cannot store tokens, so both mean the same.
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
    /// The default port.
    pub const PORT: u16 = 5432;

    /// Parses `a,b,c`; `ports` has no port, one for all hosts, or one for each.
    ///
    /// # Errors
    /// A sentence that says what is wrong.
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

    /// Returns `host:port` or the socket's path, as errors name the server.
    pub fn location(&self) -> String {
        let Self { name, port } = self;
        if self.is_socket() {
            format!("{name}/.s.PGSQL.{port}")
        } else if name.contains(':') {
            format!("[{name}]:{port}")
        } else {
            format!("{name}:{port}")
        }
    }

    /// Returns true if the server is reached over a Unix socket, which has no TLS.
    pub fn is_socket(&self) -> bool {
        self.name.starts_with('/')
    }

    /// Returns true if the connection stays on this machine.
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
    fn hosts_and_ports_are_paired_as_in_libpq() {
        let locations = |names: &str, ports: &[u16]| {
            let hosts = Host::list(names, ports)?;
            Ok::<_, String>(hosts.iter().map(Host::location).collect::<Vec<_>>())
        };
        assert_eq!(locations("a,b", &[]).unwrap(), ["a:5432", "b:5432"]);
        assert_eq!(locations("a, b", &[1]).unwrap(), ["a:1", "b:1"]);
        assert_eq!(
            locations("::1,/run/pg", &[1, 2]).unwrap(),
            ["[::1]:1", "/run/pg/.s.PGSQL.2"]
        );
        for (names, ports) in [
            ("a,b", &[1, 2, 3][..]),
            ("a", &[1, 2]),
            ("a,,b", &[]),
            ("", &[]),
        ] {
            assert!(locations(names, ports).is_err(), "{names} {ports:?}");
        }
    }
}
