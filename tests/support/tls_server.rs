//! A PostgreSQL server with TLS, whose databases have different authentication rules. Each row of its
//! table records whether the connection that wrote it was encrypted.
//!
//! The certificate is valid for `localhost`, not for 127.0.0.1, where the server listens as well.

use std::sync::LazyLock;

use super::certificates::Certificates;
use super::database::Login;
use super::postgres::{SUPERUSER, Server, ServerSetup};
use postgres::Client;

/// The role that owns the tables.
pub const ROLE: &str = "tokens";
/// Its password.
pub const PASSWORD: &str = "canary-8d41";

/// Accepts connections with and without TLS.
pub const OPEN: &str = "open";
/// Accepts connections with TLS only.
pub const TLS_ONLY: &str = "tls_only";
/// Accepts connections without TLS only.
pub const NO_TLS: &str = "no_tls";
/// Requires TLS, a client certificate for the role, and its password.
pub const CERTIFICATES: &str = "certificates";
/// Requests the password in cleartext, which does not authenticate the server.
pub const CLEARTEXT: &str = "cleartext";

const DATABASES: [&str; 5] = [OPEN, TLS_ONLY, NO_TLS, CERTIFICATES, CLEARTEXT];

const HBA: &str = "\
local   all           all                     scram-sha-256
host    all           postgres  127.0.0.1/32  scram-sha-256
host    open          all       127.0.0.1/32  scram-sha-256
hostssl tls_only      all       127.0.0.1/32  scram-sha-256
hostnossl no_tls      all       127.0.0.1/32  scram-sha-256
hostssl certificates  all       127.0.0.1/32  scram-sha-256 clientcert=verify-full
host    cleartext     all       127.0.0.1/32  password
";

const CONF: &str = "\
ssl = on
ssl_cert_file = 'server.crt'
ssl_key_file = 'server.key'
ssl_ca_file = 'ca.crt'
";

/// A table that records TLS in each row, by a DEFAULT: with a trigger a look-up proves nothing.
const TABLE: &str = "CREATE FUNCTION is_tls() RETURNS bool LANGUAGE sql AS
        'SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()';
    CREATE TABLE secret_tokens (id serial PRIMARY KEY, data text NOT NULL, tls bool DEFAULT is_tls())";

static SHARED: LazyLock<TlsServer> = LazyLock::new(TlsServer::new);

/// A TLS server and its certificates.
pub struct TlsServer {
    /// The server.
    pub server: Server,
    /// Its certificates.
    pub certificates: Certificates,
}

/// Returns the TLS server that all tests share.
pub fn tls_server() -> &'static TlsServer {
    &SHARED
}

impl TlsServer {
    /// Starts another TLS server, for a test that changes its settings.
    pub fn new() -> Self {
        let certificates = Certificates::for_server(&["localhost"]);
        let server = Server::start(&ServerSetup {
            files: &[
                ("server.crt", &certificates.server_pem),
                ("server.key", &certificates.key_pem),
                ("ca.crt", &certificates.ca_pem),
            ],
            conf: CONF,
            hba: Some(HBA),
            ..ServerSetup::default()
        });
        let tls_server = Self {
            server,
            certificates,
        };
        let mut admin = tls_server.admin("postgres");
        let role = format!("CREATE ROLE {ROLE} LOGIN PASSWORD '{PASSWORD}'");
        admin.batch_execute(&role).expect("a role");
        for name in DATABASES {
            let create = format!("CREATE DATABASE {name} OWNER {ROLE}");
            admin.batch_execute(&create).expect("a database");
            let table = format!("SET ROLE {ROLE}; {TABLE}");
            let created = tls_server.admin(name).batch_execute(&table);
            created.expect("a table");
        }
        tls_server
    }

    /// Opens a blocking connection as superuser to one of the databases.
    pub fn admin(&self, name: &str) -> Client {
        Login {
            host: "127.0.0.1".to_owned(),
            port: self.server.port,
            user: SUPERUSER.to_owned(),
            password: self.server.password.clone(),
            name: name.to_owned(),
        }
        .client()
    }

    /// The URL of one of the databases, for the role and by this host name.
    pub fn url(&self, host: &str, name: &str) -> String {
        let port = self.server.port;
        format!("postgres://{ROLE}:{PASSWORD}@{host}:{port}/{name}")
    }

    /// Whether the connection that stored this token used TLS.
    pub fn was_stored_over_tls(&self, name: &str, token: &str) -> bool {
        let sql = "SELECT tls FROM secret_tokens WHERE data = $1";
        let row = self.admin(name).query_one(sql, &[&token]);
        row.expect("one row with this token").get(0)
    }
}
