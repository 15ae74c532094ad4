//! Chooses among several servers of one database.
//!
//! As in libpq, servers are tried in order, or in random order with `load_balance_hosts`. Each
//! address of a name, and the name's resolution, has the whole `connect_timeout`. The first
//! acceptable server is used. An error that every server would give (a wrong password, no such
//! table) ends the search.

use opentelemetry::KeyValue;
use tokio::time::timeout;

use crate::error::{Error, ErrorKind};
use crate::store::postgres::Address;
use crate::store::postgres::connect::NewConnection;
use crate::store::postgres::connector::{ConnectError, ConnectPurpose, Connector};
use crate::store::postgres::host::Host;
use crate::store::postgres::host::TargetSession;
use crate::store::postgres::raw_connection::RawConnection;
use crate::store::postgres::wire::HostAddress;

/// The most addresses of one name that are tried.
const MAX_ADDRESSES: usize = 16;

impl Connector {
    /// Connects to the first acceptable server.
    pub(super) async fn connect_to_any_host(
        &self,
        purpose: ConnectPurpose,
    ) -> Result<NewConnection, Error> {
        let mut errors = Vec::new();
        let mut hosts: Vec<&Host> = self.address.hosts.iter().collect();
        if self.address.load_balance_hosts {
            fastrand::shuffle(&mut hosts);
        }
        for host in hosts {
            match self
                .traced(host, self.connect_to_any_address(host, purpose))
                .await
            {
                Ok(connected) => return Ok(connected),
                Err(error) if self.stops_search(&error) => return Err(error),
                Err(error) => {
                    if self.has_several_hosts() {
                        tracing::debug!(cause = error.causes.first(), "trying the next host");
                    }
                    errors.push((host.location(), error));
                }
            }
        }
        Err(all_hosts_failed(errors, &self.address))
    }

    /// Connects early to the address at which the first connection is logging in.
    pub(super) async fn connect_early(&self, address: HostAddress) -> Result<RawConnection, Error> {
        let Some(host) = self.address.hosts.first() else {
            return Err(all_hosts_failed(Vec::new(), &self.address));
        };
        let connecting = self.connect_to_first(host, vec![address], ConnectPurpose::InsertEarly);
        let (connection, _) = self.traced(host, connecting).await?;
        Ok(connection)
    }

    /// Traces an attempt to connect to a host.
    async fn traced(
        &self,
        host: &Host,
        connecting: impl Future<Output = Result<NewConnection, Error>>,
    ) -> Result<NewConnection, Error> {
        let span = self.tracer.client_span("connect", || {
            vec![
                KeyValue::new("db.system.name", "postgresql"),
                KeyValue::new("db.namespace", self.address.name.clone()),
                KeyValue::new("server.address", host.name.clone()),
                KeyValue::new("server.port", i64::from(host.port)),
            ]
        });
        let connected = connecting.await;
        span.end(connected.as_ref().err());
        connected
    }

    async fn connect_to_any_address(
        &self,
        host: &Host,
        purpose: ConnectPurpose,
    ) -> Result<NewConnection, Error> {
        let resolving = timeout(self.address.connect_timeout, HostAddress::resolve(host));
        let mut endpoints = match resolving.await {
            Ok(Ok(endpoints)) => endpoints,
            Ok(Err(error)) => return Err(self.connect_error(host, &ConnectError::Io(error))),
            Err(_) => return Err(self.connect_timed_out(host)),
        };
        if self.address.load_balance_hosts {
            fastrand::shuffle(&mut endpoints);
        }
        endpoints.truncate(MAX_ADDRESSES);
        self.connect_to_first(host, endpoints, purpose).await
    }

    /// Connects to the first of these addresses that is acceptable.
    async fn connect_to_first(
        &self,
        host: &Host,
        endpoints: Vec<HostAddress>,
        purpose: ConnectPurpose,
    ) -> Result<NewConnection, Error> {
        let only = endpoints.len() == 1;
        let mut errors = Vec::new();
        for endpoint in endpoints {
            match self.connect_to_endpoint(host, &endpoint, purpose).await {
                Ok(connected) => return Ok(connected),
                Err(error) if only || self.stops_search(&error) => return Err(error),
                Err(error) => {
                    tracing::debug!(cause = error.causes.first(), "trying the next address");
                    errors.push((endpoint, error));
                }
            }
        }
        Err(all_addresses_failed(errors, host))
    }

    /// Returns true if reconnecting may lead to another server.
    pub(super) fn has_several_hosts(&self) -> bool {
        self.address.hosts.len() > 1
    }

    fn stops_search(&self, error: &Error) -> bool {
        match &error.kind {
            Some(ErrorKind::DbDenied { sqlstate }) if sqlstate == "25006" => {
                self.address.target_session == TargetSession::Any
            }
            Some(ErrorKind::DbDenied { .. }) => !error.retryable,
            _ => false,
        }
    }
}

/// Combines the errors of a host's addresses, with the message of the last.
fn all_addresses_failed(errors: Vec<(HostAddress, Error)>, host: &Host) -> Error {
    let location = host.location();
    let mut causes = Vec::new();
    for (endpoint, error) in &errors {
        let reason = error.causes.join(": ");
        let reason = reason.strip_prefix(&location).unwrap_or(&reason);
        let reason = reason.trim_start_matches([':', ' ']);
        causes.push(match endpoint {
            HostAddress::Tcp(address) => format!("{location} ({}): {reason}", address.ip()),
            HostAddress::Unix(_) => format!("{location}: {reason}"),
        });
    }
    let retryable = errors.iter().any(|(_, error)| error.retryable);
    let last = errors.into_iter().next_back().map(|(_, error)| error);
    let mut error =
        last.unwrap_or_else(|| Error::of(ErrorKind::DbConnect, "the host has no address"));
    error.causes = causes;
    error.retryable = retryable;
    error
}

/// Combines the errors of the hosts; a single host's error stays unchanged.
fn all_hosts_failed(mut errors: Vec<(String, Error)>, address: &Address) -> Error {
    if errors.len() == 1
        && let Some((_, error)) = errors.pop()
    {
        return error;
    }
    let is_read_only = |error: &Error| matches!(error.kind, Some(ErrorKind::DbDenied { .. }));
    let read_only = errors.iter().filter(|(_, error)| is_read_only(error));
    let hint = match read_only.count() {
        0 => format!(
            "one of {} must be reachable and take writes",
            address.setting("DB_HOST, with its DB_PORT,", "the hosts and ports")
        ),
        _ => format!(
            "one of {} must be the primary, and reachable",
            address.setting("DB_HOST", "the hosts")
        ),
    };
    let all = Error::of(
        ErrorKind::DbConnect,
        format!("none of the {} hosts can be used", errors.len()),
    );
    let mut all = all.hint(hint);
    all.retryable = errors.iter().any(|(_, error)| error.retryable);
    errors.into_iter().fold(all, |all, (location, error)| {
        let reason = error.causes.join(": ");
        all.cause(if reason.starts_with(&location) {
            reason
        } else {
            format!("{location}: {reason}")
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An unresponsive address does not use up the time of the next.
    #[tokio::test]
    async fn each_address_has_whole_connect_timeout() {
        use tokio::io::AsyncWriteExt as _;

        let unresponsive = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let busy = tokio::net::TcpListener::bind("127.0.0.2:0").await.unwrap();
        let endpoints = [&unresponsive, &busy].map(|it| HostAddress::Tcp(it.local_addr().unwrap()));
        let serving = tokio::spawn(async move {
            let (mut stream, _) = busy.accept().await.unwrap();
            // Longer than the rest of a common limit would be.
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
            let refusal = b"E\0\0\0\x20SFATAL\0C57P03\0Mstarting up\0\0";
            stream.write_all(refusal).await.unwrap();
            stream
        });
        let hosts = Host::list("db.test", &[]).unwrap();
        let mut address = Address::new(hosts, "tokens".to_owned(), "tokens".to_owned());
        address.connect_timeout = std::time::Duration::from_millis(200);
        address.sslmode = super::super::SslMode::Disable;
        let options = crate::store::StoreOptions {
            receipts: None,
            target: crate::store::DatabaseTarget::Demo,
            table: crate::pipeline::identifier::TableName::plain("secret_tokens"),
            column: "data".to_owned(),
            connections: Some(1),
            processes: 1,
            pipeline: None,
            expected: 0,
            dry_run: false,
            statement_timeout: std::time::Duration::ZERO,
            patience: std::time::Duration::ZERO,
            idle_limit: None,
            session: String::new(),
            tracer: crate::observe::otel::Tracer::default(),
        };
        let connector = Connector::new(&address, &options).unwrap();
        let connected = connector
            .connect_to_first(
                &address.hosts[0],
                endpoints.to_vec(),
                ConnectPurpose::Insert,
            )
            .await;
        let error = connected.err().unwrap();
        insta::assert_snapshot!(error.causes.join("\n"), @"
        db.test:5432 (127.0.0.1): did not answer within 200ms
        db.test:5432 (127.0.0.2): starting up (57P03)
        ");
        assert!(error.retryable);
        drop(serving.await.unwrap());
        drop(unresponsive);
    }
}
