//! Several servers of one database: which of them is tried when, and which will do.
//!
//! As in libpq, they are tried in order, or in random order if `load_balance_hosts` says so. Each
//! address of a name has the whole `connect_timeout`, and so has its resolution. The first server that
//! answers and fits is taken. A refusal that any of them would give (a wrong password, no such table)
//! ends the search.

use crate::store::postgres::host::Host;
use crate::store::postgres::host::TargetSession;
use opentelemetry::KeyValue;
use tokio::time::timeout;

use crate::error::{ErrorKind, Fault};
use crate::store::postgres::Address;
use crate::store::postgres::connect::NewConnection;
use crate::store::postgres::connector::{ConnectError, ConnectPurpose, Connector};
use crate::store::postgres::wire::HostAddress;

/// The addresses of one name that are tried: each may take the whole `connect_timeout`.
const MOST_ADDRESSES: usize = 16;

impl Connector {
    /// A connection to the first server that answers and fits.
    pub(super) async fn reach(&self, purpose: ConnectPurpose) -> Result<NewConnection, Fault> {
        let mut faults = Vec::new();
        let mut hosts: Vec<&Host> = self.address.hosts.iter().collect();
        if self.address.load_balance_hosts {
            fastrand::shuffle(&mut hosts);
        }
        for host in hosts {
            match self.reach_host(host, purpose).await {
                Ok(reached) => return Ok(reached),
                Err(fault) if self.ends_the_search(&fault) => return Err(fault),
                Err(fault) => {
                    if self.has_several_hosts() {
                        tracing::debug!(cause = fault.causes.first(), "tries the next host");
                    }
                    faults.push((host.place(), fault));
                }
            }
        }
        Err(none_will_do(faults, &self.address))
    }

    async fn reach_host(
        &self,
        host: &Host,
        purpose: ConnectPurpose,
    ) -> Result<NewConnection, Fault> {
        let span = self.tracer.ask("connect", || {
            vec![
                KeyValue::new("db.system.name", "postgresql"),
                KeyValue::new("db.namespace", self.address.name.clone()),
                KeyValue::new("server.address", host.name.clone()),
                KeyValue::new("server.port", i64::from(host.port)),
            ]
        });
        let reached = self.reach_any_address(host, purpose).await;
        span.end(reached.as_ref().err());
        reached
    }

    async fn reach_any_address(
        &self,
        host: &Host,
        purpose: ConnectPurpose,
    ) -> Result<NewConnection, Fault> {
        let resolving = timeout(self.address.connect_timeout, HostAddress::resolve(host));
        let mut endpoints = match resolving.await {
            Ok(Ok(endpoints)) => endpoints,
            Ok(Err(error)) => return Err(self.connect_error(host, &ConnectError::Io(error))),
            Err(_) => return Err(self.timed_out(host)),
        };
        if self.address.load_balance_hosts {
            fastrand::shuffle(&mut endpoints);
        }
        endpoints.truncate(MOST_ADDRESSES);
        self.reach_first(host, endpoints, purpose).await
    }

    /// Connects to the first of these addresses of a host that answers and fits.
    async fn reach_first(
        &self,
        host: &Host,
        endpoints: Vec<HostAddress>,
        purpose: ConnectPurpose,
    ) -> Result<NewConnection, Fault> {
        let only = endpoints.len() == 1;
        let mut faults = Vec::new();
        for endpoint in endpoints {
            match self.reach_endpoint(host, &endpoint, purpose).await {
                Ok(reached) => return Ok(reached),
                Err(fault) if only || self.ends_the_search(&fault) => return Err(fault),
                Err(fault) => {
                    tracing::debug!(cause = fault.causes.first(), "tries the next address");
                    faults.push((endpoint, fault));
                }
            }
        }
        Err(no_address_will_do(faults, host))
    }

    /// True where a lost connection's successor may lead to another server.
    pub(super) fn has_several_hosts(&self) -> bool {
        self.address.hosts.len() > 1
    }

    fn ends_the_search(&self, fault: &Fault) -> bool {
        match &fault.kind {
            ErrorKind::DbDenied { sqlstate } if sqlstate == "25006" => {
                self.address.session == TargetSession::Any
            }
            ErrorKind::DbDenied { .. } => !fault.retryable,
            _ => false,
        }
    }
}

/// One error for all addresses of a host, in the words of the last one.
fn no_address_will_do(faults: Vec<(HostAddress, Fault)>, host: &Host) -> Fault {
    let place = host.place();
    let mut causes = Vec::new();
    for (endpoint, fault) in &faults {
        let why = fault.causes.join(": ");
        let why = why.strip_prefix(&place).unwrap_or(&why);
        let why = why.trim_start_matches([':', ' ']);
        causes.push(match endpoint {
            HostAddress::Tcp(address) => format!("{place} ({}): {why}", address.ip()),
            HostAddress::Unix(_) => format!("{place}: {why}"),
        });
    }
    let retryable = faults.iter().any(|(_, fault)| fault.retryable);
    let last = faults.into_iter().next_back().map(|(_, fault)| fault);
    let mut fault =
        last.unwrap_or_else(|| Fault::new(ErrorKind::DbConnect, "the host has no address"));
    fault.causes = causes;
    fault.retryable = retryable;
    fault
}

/// One error for all hosts; that of a single host as it is.
fn none_will_do(mut faults: Vec<(String, Fault)>, address: &Address) -> Fault {
    if faults.len() == 1
        && let Some((_, fault)) = faults.pop()
    {
        return fault;
    }
    let is_read_only = |fault: &Fault| matches!(fault.kind, ErrorKind::DbDenied { .. });
    let read_only = faults.iter().filter(|(_, fault)| is_read_only(fault));
    let hint = match read_only.count() {
        0 => format!(
            "one of {} must be reachable and take writes",
            address.set_by("DB_HOST, with its DB_PORT,", "the hosts and ports")
        ),
        _ => format!(
            "one of {} must be the primary, and reachable",
            address.set_by("DB_HOST", "the hosts")
        ),
    };
    let all = Fault::new(
        ErrorKind::DbConnect,
        format!("none of the {} hosts can be used", faults.len()),
    );
    let mut all = all.hint(hint);
    all.retryable = faults.iter().any(|(_, fault)| fault.retryable);
    faults.into_iter().fold(all, |all, (place, fault)| {
        let why = fault.causes.join(": ");
        all.cause(if why.starts_with(&place) {
            why
        } else {
            format!("{place}: {why}")
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The silent one takes its own time and no other's.
    #[tokio::test]
    async fn each_address_of_a_host_has_the_whole_time() {
        use tokio::io::AsyncWriteExt as _;

        let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let busy = tokio::net::TcpListener::bind("127.0.0.2:0").await.unwrap();
        let endpoints = [&silent, &busy].map(|it| HostAddress::Tcp(it.local_addr().unwrap()));
        let serving = tokio::spawn(async move {
            let (mut stream, _) = busy.accept().await.unwrap();
            // Longer than what the silent one would leave of a common limit.
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
            target: crate::store::DatabaseTarget::Demo,
            table: crate::store::identifier::TableName::plain("secret_tokens"),
            column: "data".to_owned(),
            connections: 1,
            pipeline: None,
            expected: 0,
            dry_run: false,
            statement_timeout: std::time::Duration::ZERO,
            patience: std::time::Duration::ZERO,
            session: String::new(),
            tracer: crate::observe::otel::Tracer::default(),
        };
        let connector = Connector::new(&address, &options).unwrap();
        let reached = connector
            .reach_first(
                &address.hosts[0],
                endpoints.to_vec(),
                ConnectPurpose::Insert,
            )
            .await;
        let fault = reached.err().unwrap();
        insta::assert_snapshot!(fault.causes.join("\n"), @"
        db.test:5432 (127.0.0.1): did not answer within 200ms
        db.test:5432 (127.0.0.2): starting up (57P03)
        ");
        assert!(fault.retryable);
        drop(serving.await.unwrap());
        drop(silent);
    }
}
