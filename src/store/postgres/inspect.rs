//! Probes a server for `check --connect`: whether a run can use it, and what its operator should
//! know.
//!
//! Connects and checks the table as a run does. Nothing is inserted, no sequence advances, and the
//! INSERT is planned, not executed.

use std::fmt::Write as _;

use tokio::time::timeout;
use tokio_postgres::types::Type;
use tokio_postgres::{Error as PostgresError, Row};

use crate::error::Error;
use crate::error::probe::ProbeResult;
use crate::pipeline::identifier::quote_identifier;
use crate::store::StoreOptions;
use crate::store::connection_count::FreeConnections;
use crate::store::postgres::catalog::Catalog;
use crate::store::postgres::connector::{ConnectPurpose, Connector};
use crate::store::postgres::free_connections::free_connections;
use crate::store::postgres::raw_connection::RawConnection;
use crate::store::postgres::{Address, Host};
use crate::store::sqlstate::ConnectionLimit;

/// Queries the version, TLS, durability settings and logging.
///
/// `reset_val` is the setting from before this session's set-up.
const SERVER_SQL: &str = "SELECT current_setting('server_version'), \
     (SELECT version FROM pg_stat_ssl WHERE pid = pg_backend_pid() AND ssl), \
     (SELECT reset_val FROM pg_settings WHERE name = 'synchronous_commit'), \
     current_setting('fsync') = 'on', \
     current_setting('synchronous_standby_names') <> '' AND NOT EXISTS (SELECT FROM \
     pg_stat_replication WHERE sync_state IS NULL OR sync_state IN ('sync', 'quorum')), \
     current_setting('log_parameter_max_length') <> '0' AND \
     (current_setting('log_statement') IN ('mod', 'all') \
     OR current_setting('log_min_duration_statement') <> '-1' \
     OR current_setting('log_min_duration_sample') <> '-1' \
     OR current_setting('log_transaction_sample_rate') <> '0') \
     OR current_setting('log_parameter_max_length_on_error') <> '0'";

/// Queries the constraints that can refuse a token; CHECK constraints first, since they are checked
/// per row.
const CONSTRAINTS_SQL: &str = "SELECT CASE contype WHEN 'c' THEN 'check ' ELSE 'unique ' END || conname \
     FROM pg_constraint JOIN pg_attribute ON attrelid = conrelid AND attnum = ANY(conkey) \
     WHERE conrelid = $1::text::regclass AND attname = $2 AND contype IN ('c', 'p', 'u') \
     ORDER BY contype, conname";

/// The number of constraints that are named.
const MAX_NAMED_CONSTRAINTS: usize = 3;

/// Connects to the server and checks the database, the table, its commits and its connections.
///
/// What cannot be checked is left out.
pub(in crate::store) async fn inspect(
    address: &Address,
    options: &StoreOptions,
) -> Vec<ProbeResult> {
    let connected = match Connector::new(address, options) {
        Ok(connector) => connector
            .connect_to_any_host(ConnectPurpose::Inspect)
            .await
            .map(|it| (connector, it)),
        Err(error) => Err(error),
    };
    let (connector, (connection, session)) = match connected {
        Ok(connected) => connected,
        Err(error) => {
            let location = location(address, &address.hosts);
            return vec![ProbeResult::error("database", &location, error)];
        }
    };
    let inspection = Inspection {
        is_pooled: session.is_shared,
        location: location(address, std::slice::from_ref(&connection.host)),
        connector: &connector,
        connection: &connection,
        options,
    };
    let results = inspection.run().await.into_iter();
    let results =
        results.map(|result| result.map_details(|text| connector.redact(&connection.host, text)));
    let results = results.collect();
    connection.close().await;
    results
}

/// Returns the hosts, the database and the role, as a report names them.
pub(in crate::store) fn location(address: &Address, hosts: &[Host]) -> String {
    let hosts: Vec<String> = hosts.iter().map(Host::location).collect();
    let Address { name, user, .. } = address;
    format!("{}/{name} as {user}", hosts.join(","))
}

struct Inspection<'a> {
    is_pooled: bool,
    location: String,
    connector: &'a Connector,
    connection: &'a RawConnection,
    options: &'a StoreOptions,
}

impl Inspection<'_> {
    async fn run(&self) -> Vec<ProbeResult> {
        let server = self.with_timeout(async {
            let rows = self.connection.client.query_typed(SERVER_SQL, &[]).await?;
            let free = free_connections(&self.connection.client).await;
            Ok((rows.into_iter().next(), free.ok().flatten()))
        });
        let (server, free) = match server.await {
            Ok((Some(server), free)) => (server, free),
            Ok((None, _)) => return Vec::new(),
            Err(error) => return vec![ProbeResult::error("database", &self.location, error)],
        };
        // Last, because it may wait for a lock, which would delay every later query.
        let table = self.table().await;
        let database = self.database(&server);
        let commit = commit(&server);
        let mut results = vec![database];
        results.extend(table);
        results.extend([commit, self.limit(free)]);
        results.extend(log(&server));
        results
    }

    /// Awaits a reply within `connect_timeout`.
    async fn with_timeout<T>(
        &self,
        reply: impl Future<Output = Result<T, PostgresError>>,
    ) -> Result<T, Error> {
        let address = &self.connector.address;
        match timeout(address.connect_timeout, reply).await {
            Ok(reply) => {
                reply.map_err(|error| self.connector.refusal(&self.connection.host, &error))
            }
            Err(_) => Err(self.connector.reply_timed_out()),
        }
    }

    fn database(&self, server: &Row) -> ProbeResult {
        let version: String = server.try_get(0).unwrap_or_default();
        // Distributions append their own version.
        let version = version.split(' ').next().unwrap_or_default();
        let mode = self.connector.address.sslmode.as_str();
        let tls: Option<String> = server.try_get(1).unwrap_or_default();
        let transport = match tls {
            _ if self.connection.host.is_socket() => String::from("over a Unix socket"),
            // It would describe the pooler's connection to the server.
            _ if self.is_pooled => format!("through a pooler, sslmode {mode}"),
            Some(version) => format!("{} {mode}", version.replace("TLSv", "TLS ")),
            None => String::from("no TLS"),
        };
        let location = &self.location;
        ProbeResult::ok(
            "database",
            format!("{location}  PostgreSQL {version}, {transport}, primary"),
        )
    }

    async fn table(&self) -> Vec<ProbeResult> {
        const LABEL: &str = "table";
        let StoreOptions { table, column, .. } = self.options;
        let table_column = format!("{table}.{column}");
        match self.check_table().await {
            Err(error) => vec![ProbeResult::error(LABEL, &table_column, error)],
            Ok((catalog, constraints)) => {
                let mut results = vec![self.rights(&table_column, &catalog, &constraints)];
                results.extend(self.receipts().await);
                let warnings = catalog.durability_warning();
                results.extend(warnings.map(|text| ProbeResult::warning(LABEL, text)));
                results
            }
        }
    }

    /// Reports the role's rights, and what a lost connection would mean.
    fn rights(&self, table_column: &str, catalog: &Catalog, constraints: &str) -> ProbeResult {
        const LABEL: &str = "table";
        let column = quote_identifier(&self.options.column);
        if self.options.receipts.is_some() {
            let may_select = if catalog.may_look_up() { "yes" } else { "no" };
            let rights = format!("INSERT yes, SELECT {may_select}{constraints}");
            return ProbeResult::ok(LABEL, format!("{table_column}  {rights}"));
        }
        if !catalog.may_look_up() {
            let grant = self.connector.grant(&format!("SELECT ({column}, xmin)"));
            return ProbeResult::warning(
                LABEL,
                format!(
                    "{table_column}  INSERT yes, SELECT no{constraints}: tokens that a lost connection \
                     leaves in doubt stay unknown; {grant}"
                ),
            );
        }
        match catalog.lookup_obstacle() {
            None => ProbeResult::ok(
                LABEL,
                format!("{table_column}  INSERT yes, SELECT yes{constraints}"),
            ),
            Some(reason) => ProbeResult::warning(
                LABEL,
                format!(
                    "{table_column}  INSERT yes, SELECT yes{constraints}: {reason}, so tokens that a lost \
                     connection leaves in doubt stay unknown"
                ),
            ),
        }
    }

    /// Checks the receipts table as a run does.
    async fn receipts(&self) -> Option<ProbeResult> {
        const LABEL: &str = "receipts";
        let name = self.options.receipts.as_ref()?.table.to_string();
        let loaded = self.connector.load_receipts_table(self.connection, true);
        Some(
            match timeout(self.connector.address.connect_timeout, loaded).await {
                Ok(Ok(_)) => ProbeResult::ok(LABEL, format!("{name}  INSERT yes, SELECT yes")),
                Ok(Err(connect_error)) => {
                    let host = &self.connection.host;
                    ProbeResult::error(
                        LABEL,
                        &name,
                        self.connector.connect_error(host, &connect_error),
                    )
                }
                Err(_) => ProbeResult::error(LABEL, &name, self.connector.reply_timed_out()),
            },
        )
    }

    /// Checks the table as a run does; returns the catalog and the constraints as text.
    async fn check_table(&self) -> Result<(Catalog, String), Error> {
        let Connector { address, table, .. } = self.connector;
        let checked = timeout(
            address.connect_timeout,
            self.connector.check_table_unprepared(self.connection),
        );
        let catalog = match checked.await {
            Ok(catalog) => catalog.map_err(|connect_error| {
                self.connector
                    .connect_error(&self.connection.host, &connect_error)
            })?,
            Err(_) => return Err(self.connector.reply_timed_out()),
        };
        let constraints = self.with_timeout(async {
            let params = [
                (table as _, Type::TEXT),
                (&self.options.column as _, Type::TEXT),
            ];
            let rows = self
                .connection
                .client
                .query_typed(CONSTRAINTS_SQL, &params)
                .await?;
            let names = rows.iter().map(|row| row.try_get(0));
            names.collect::<Result<Vec<String>, _>>()
        });
        let names = constraints.await?;
        let mut text: String = names
            .iter()
            .take(MAX_NAMED_CONSTRAINTS)
            .fold(String::new(), |text, name| text + ", " + name.as_str());
        if names.len() > MAX_NAMED_CONSTRAINTS {
            // Writing into a string cannot fail.
            let _ = write!(text, " and {} more", names.len() - MAX_NAMED_CONSTRAINTS);
        }
        Ok((catalog, text))
    }

    fn limit(&self, free: Option<(i64, ConnectionLimit)>) -> ProbeResult {
        const LABEL: &str = "limit";
        if self.is_pooled {
            let text = "the pooler limits the connections: see its max_client_conn";
            return ProbeResult::ok(LABEL, text);
        }
        let Some((free, limit)) = free else {
            return ProbeResult::warning(LABEL, "the number of free connections cannot be read");
        };
        let Some(wanted) = self.options.connections else {
            let known = FreeConnections {
                free: u32::try_from(free).ok(),
                is_pooled: false,
            };
            let most = known.share(self.options.processes);
            let connections = if most == 1 {
                "connection"
            } else {
                "connections"
            };
            return ProbeResult::ok(LABEL, format!("up to {most} {connections} of {free} free"));
        };
        let Address { user, name, .. } = &self.connector.address;
        let name = match limit {
            ConnectionLimit::Server => String::from("max_connections"),
            ConnectionLimit::Role => format!("the CONNECTION LIMIT of role {user}"),
            ConnectionLimit::Database => format!("the CONNECTION LIMIT of database {name}"),
        };
        if usize::try_from(free).is_ok_and(|free| free >= wanted) {
            let connections = if wanted == 1 {
                "connection"
            } else {
                "connections"
            };
            return ProbeResult::ok(LABEL, format!("{wanted} {connections} of {free} free"));
        }
        ProbeResult::warning(
            LABEL,
            format!(
                "{free} free, and a run takes up to {wanted}: it would use fewer; raise \
                 {name}, or set --connections {}",
                free.max(1)
            ),
        )
    }
}

/// Warns if the server's log contains tokens.
fn log(server: &Row) -> Option<ProbeResult> {
    let logs_parameters = server.try_get(5).unwrap_or(false);
    logs_parameters.then(|| {
        let text = "the server logs the parameters of statements: tokens are in its log; set \
                     log_parameter_max_length and log_parameter_max_length_on_error to 0";
        ProbeResult::warning("log", text)
    })
}

fn commit(server: &Row) -> ProbeResult {
    const LABEL: &str = "commit";
    if server.try_get(4).unwrap_or(false) {
        let text = "synchronous_standby_names is set and no synchronous standby is connected: every \
                     commit would wait, and a run would end after --patience";
        return ProbeResult::warning(LABEL, text);
    }
    let level: Option<String> = server.try_get(2).unwrap_or_default();
    let level = level.unwrap_or_default();
    if !server.try_get(3).unwrap_or(true) {
        let text = "fsync is off on the server: a power cut may lose stored tokens; turn it on";
        return ProbeResult::warning(LABEL, text);
    }
    match level.as_str() {
        "on" | "remote_apply" => ProbeResult::ok(LABEL, format!("synchronous_commit is {level}")),
        _ => ProbeResult::warning(
            LABEL,
            format!(
                "synchronous_commit is {level} on the server: a run uses on for its own inserts"
            ),
        ),
    }
}
