//! What `check --connect` finds out about a server: whether a run could use it, and what its operator
//! should know. A run's own way to connect, and its own look at the table; nothing is inserted, no
//! sequence advances, and the INSERT is planned and not executed.

use std::fmt::Write as _;

use tokio::time::timeout;
use tokio_postgres::types::Type;
use tokio_postgres::{Error, Row};

use crate::error::Fault;
use crate::error::probe::ProbeResult;
use crate::store::StoreOptions;
use crate::store::identifier::quote_identifier;
use crate::store::postgres::catalog::Catalog;
use crate::store::postgres::connection::Connection;
use crate::store::postgres::connector::{ConnectPurpose, Connector};
use crate::store::postgres::{Address, Host};

/// Asks what the server is, how the connection came to it, and what it makes of a commit. What a
/// session resets a setting to is what it was before this one was set up.
const SERVER: &str = "SELECT current_setting('server_version'), \
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

/// Asks how many connections are left: the server's, the role's and the database's, the last two where
/// there is a limit. This one is among those that are taken, and will be free.
const LEFT: &str = "SELECT \
     current_setting('max_connections')::int8 + 1 - CASE WHEN rolsuper THEN 0 ELSE \
     current_setting('superuser_reserved_connections')::int8 \
     + coalesce(current_setting('reserved_connections', true)::int8, 0) END \
     - (SELECT sum(numbackends)::int8 FROM pg_stat_database), \
     CASE WHEN rolconnlimit >= 0 AND NOT rolsuper THEN rolconnlimit + 1 \
     - (SELECT count(*) FROM pg_stat_activity WHERE usesysid = r.oid) END, \
     CASE WHEN datconnlimit >= 0 AND NOT rolsuper THEN datconnlimit + 1 \
     - (SELECT count(*) FROM pg_stat_activity WHERE datid = d.oid) END \
     FROM pg_roles r, pg_database d WHERE rolname = current_user AND datname = current_database()";

/// Asks which constraints refuse a token, those that are checked of each row first.
const CONSTRAINTS: &str = "SELECT CASE contype WHEN 'c' THEN 'check ' ELSE 'unique ' END || conname \
     FROM pg_constraint JOIN pg_attribute ON attrelid = conrelid AND attnum = ANY(conkey) \
     WHERE conrelid = $1::text::regclass AND attname = $2 AND contype IN ('c', 'p', 'u') \
     ORDER BY contype, conname";

/// So many constraints are named.
const NAMED: usize = 3;

/// Connects to the server and looks around: the database, the table, its commits, its connections. What
/// cannot be looked at is left out.
pub(in crate::store) async fn inspect(
    address: &Address,
    options: &StoreOptions,
) -> Vec<ProbeResult> {
    let reached = match Connector::new(address, options) {
        Ok(connector) => connector
            .reach(ConnectPurpose::Inspect)
            .await
            .map(|it| (connector, it)),
        Err(fault) => Err(fault),
    };
    let (connector, (connection, session)) = match reached {
        Ok(reached) => reached,
        Err(fault) => {
            let place = place(address, &address.hosts);
            return vec![ProbeResult::fault("database", &place, fault)];
        }
    };
    let inspection = Inspection {
        pooled: session.is_shared,
        place: place(address, std::slice::from_ref(&connection.host)),
        connector: &connector,
        connection: &connection,
        options,
    };
    let findings = inspection.run().await;
    connection.close().await;
    findings
}

/// How a server is named, or all that are tried, and as whom it is connected to.
fn place(address: &Address, hosts: &[Host]) -> String {
    let hosts: Vec<String> = hosts.iter().map(Host::place).collect();
    let Address { name, user, .. } = address;
    format!("{}/{name} as {user}", hosts.join(","))
}

struct Inspection<'a> {
    pooled: bool,
    place: String,
    connector: &'a Connector,
    connection: &'a Connection,
    options: &'a StoreOptions,
}

impl Inspection<'_> {
    async fn run(&self) -> Vec<ProbeResult> {
        let server = self.in_time(async {
            let rows = self.connection.client.query_typed(SERVER, &[]).await?;
            let left = self.connection.client.query_typed(LEFT, &[]).await;
            Ok((rows.into_iter().next(), left.ok()))
        });
        let (server, left) = match server.await {
            Ok((Some(server), left)) => (server, left),
            Ok((None, _)) => return Vec::new(),
            Err(fault) => return vec![ProbeResult::fault("database", &self.place, fault)],
        };
        // Last, for it may wait for a lock, and whatever is asked later would wait too.
        let table = self.table().await;
        let left = left.and_then(|rows| rows.into_iter().next());
        let database = self.database(&server);
        let commit = commit(&server);
        let mut findings = vec![database];
        findings.extend(table);
        findings.extend([commit, self.limit(left.as_ref())]);
        findings.extend(log(&server));
        findings
    }

    /// What an answer came to within the time that connecting may take.
    async fn in_time<T>(&self, answer: impl Future<Output = Result<T, Error>>) -> Result<T, Fault> {
        let address = &self.connector.address;
        match timeout(address.connect_timeout, answer).await {
            Ok(answer) => {
                answer.map_err(|error| self.connector.refusal(&self.connection.host, &error))
            }
            Err(_) => Err(self.connector.late()),
        }
    }

    fn database(&self, server: &Row) -> ProbeResult {
        let version: String = server.try_get(0).unwrap_or_default();
        // Distributions put their own behind it.
        let version = version.split(' ').next().unwrap_or_default();
        let mode = self.connector.address.sslmode.as_str();
        let tls: Option<String> = server.try_get(1).unwrap_or_default();
        let how = match tls {
            _ if self.connection.host.is_socket() => String::from("over a Unix socket"),
            // It would be the pooler's own way to the server.
            _ if self.pooled => format!("through a pooler, sslmode {mode}"),
            Some(version) => format!("{} {mode}", version.replace("TLSv", "TLS ")),
            None => String::from("no TLS"),
        };
        let place = &self.place;
        ProbeResult::fine(
            "database",
            format!("{place}  PostgreSQL {version}, {how}, primary"),
        )
    }

    async fn table(&self) -> Vec<ProbeResult> {
        const WHAT: &str = "table";
        let StoreOptions { table, column, .. } = self.options;
        let place = format!("{table}.{column}");
        match self.look().await {
            Err(fault) => vec![ProbeResult::fault(WHAT, &place, fault)],
            Ok((catalog, constraints)) => {
                let mut findings = vec![self.rights(&place, &catalog, &constraints)];
                let warnings = catalog.durability_warning();
                findings.extend(warnings.map(|words| ProbeResult::warning(WHAT, words)));
                findings
            }
        }
    }

    /// What the role may do, and what a lost connection would leave.
    fn rights(&self, place: &str, catalog: &Catalog, constraints: &str) -> ProbeResult {
        const WHAT: &str = "table";
        let column = quote_identifier(&self.options.column);
        if !catalog.may_look() {
            let grant = self.connector.grant(&format!("SELECT ({column}, xmin)"));
            return ProbeResult::warning(
                WHAT,
                format!(
                    "{place}  INSERT yes, SELECT no{constraints}: tokens that a lost connection \
                     leaves in doubt stay unknown; {grant}"
                ),
            );
        }
        match catalog.obscured_by() {
            None => ProbeResult::fine(
                WHAT,
                format!("{place}  INSERT yes, SELECT yes{constraints}"),
            ),
            Some(why) => ProbeResult::warning(
                WHAT,
                format!(
                    "{place}  INSERT yes, SELECT yes{constraints}: {why}, so tokens that a lost \
                     connection leaves in doubt stay unknown"
                ),
            ),
        }
    }

    /// What a run would see of the table, and the constraints in words.
    async fn look(&self) -> Result<(Catalog, String), Fault> {
        let Connector { address, table, .. } = self.connector;
        let looked = timeout(
            address.connect_timeout,
            self.connector.dry_look(self.connection),
        );
        let catalog = match looked.await {
            Ok(seen) => seen.map_err(|connect_error| {
                self.connector
                    .connect_error(&self.connection.host, &connect_error)
            })?,
            Err(_) => return Err(self.connector.late()),
        };
        let constraints = self.in_time(async {
            let params = [
                (table as _, Type::TEXT),
                (&self.options.column as _, Type::TEXT),
            ];
            let rows = self
                .connection
                .client
                .query_typed(CONSTRAINTS, &params)
                .await?;
            let names = rows.iter().map(|row| row.try_get(0));
            names.collect::<Result<Vec<String>, _>>()
        });
        let names = constraints.await?;
        let mut words: String = names
            .iter()
            .take(NAMED)
            .fold(String::new(), |words, name| words + ", " + name.as_str());
        if names.len() > NAMED {
            // Writing into a string cannot fail.
            let _ = write!(words, " and {} more", names.len() - NAMED);
        }
        Ok((catalog, words))
    }

    fn limit(&self, left: Option<&Row>) -> ProbeResult {
        const WHAT: &str = "limit";
        if self.pooled {
            let words = "connections are the pooler's to give: its max_client_conn counts";
            return ProbeResult::fine(WHAT, words);
        }
        let get = |at| left.and_then(|row| row.try_get::<_, Option<i64>>(at).ok().flatten());
        let Address { user, name, .. } = &self.connector.address;
        let limits = [
            (get(0), String::from("max_connections")),
            (get(1), format!("the CONNECTION LIMIT of role {user}")),
            (get(2), format!("the CONNECTION LIMIT of database {name}")),
        ];
        let limits = limits
            .into_iter()
            .filter_map(|(left, name)| Some((left?, name)));
        let Some((left, name)) = limits.min_by_key(|(left, _)| *left) else {
            return ProbeResult::warning(
                WHAT,
                "the server does not say how many connections are free",
            );
        };
        let wanted = self.options.connections;
        if usize::try_from(left).is_ok_and(|left| left >= wanted) {
            let connections = if wanted == 1 {
                "connection"
            } else {
                "connections"
            };
            return ProbeResult::fine(WHAT, format!("{wanted} {connections} of {left} free"));
        }
        ProbeResult::warning(
            WHAT,
            format!(
                "{left} free, and a run takes up to {wanted}: it would make do with fewer; raise \
                 {name}, or set --connections {}",
                left.max(1)
            ),
        )
    }
}

/// What the server's log shows of tokens.
fn log(server: &Row) -> Option<ProbeResult> {
    let logs_parameters = server.try_get(5).unwrap_or(false);
    logs_parameters.then(|| {
        let words = "the server logs the parameters of statements: tokens are in its log; set \
                     log_parameter_max_length and log_parameter_max_length_on_error to 0";
        ProbeResult::warning("log", words)
    })
}

fn commit(server: &Row) -> ProbeResult {
    const WHAT: &str = "commit";
    if server.try_get(4).unwrap_or(false) {
        let words = "synchronous_standby_names is set and no synchronous standby is connected: every \
                     commit would wait, and a run end after --patience";
        return ProbeResult::warning(WHAT, words);
    }
    let level: Option<String> = server.try_get(2).unwrap_or_default();
    let level = level.unwrap_or_default();
    if !server.try_get(3).unwrap_or(true) {
        let words = "fsync is off on the server: a power cut may take what was stored; turn it on";
        return ProbeResult::warning(WHAT, words);
    }
    match level.as_str() {
        "on" | "remote_apply" => ProbeResult::fine(WHAT, format!("synchronous_commit is {level}")),
        _ => ProbeResult::warning(
            WHAT,
            format!(
                "synchronous_commit is {level} on the server: a run uses on for its own inserts"
            ),
        ),
    }
}
