//! A database per test on the throwaway server, with the standard table or a hostile one.
//!
//! Databases are not dropped: the server's folder is removed as a whole.

use std::ops::Deref;
use std::sync::atomic::{AtomicU32, Ordering};

use super::postgres::{SUPERUSER, Server, server};
use postgres::{Client, Config, NoTls};

/// The standard table: a serial key, and a CHECK that rejects some tokens.
pub const STANDARD_TABLE: &str = "CREATE TABLE secret_tokens (
    id SERIAL PRIMARY KEY, data text NOT NULL CHECK (data NOT LIKE '%-%'))";

/// A table that a careless client misreports.
///
/// A trigger drops tokens with a leading `n` without an error, a unique constraint fails only at
/// commit, and there is one more column.
pub const HOSTILE_TABLE: &str = "CREATE TABLE secret_tokens (
    id SERIAL PRIMARY KEY,
    origin text NOT NULL DEFAULT 'unknown',
    data text NOT NULL CHECK (data NOT LIKE '%-%'),
    CONSTRAINT secret_tokens_data_key UNIQUE (data) DEFERRABLE INITIALLY DEFERRED);
CREATE FUNCTION swallow() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN IF NEW.data LIKE 'n%' THEN RETURN NULL; END IF; RETURN NEW; END $$;
CREATE TRIGGER swallow BEFORE INSERT ON secret_tokens FOR EACH ROW EXECUTE FUNCTION swallow()";

/// The receipts table, as `token_service schema` prints it.
pub const RECEIPTS_TABLE: &str = "CREATE TABLE token_receipts (
    run_id uuid, shard int, position bigint, attempt int, rows int, kind \"char\" NOT NULL,
    at timestamptz NOT NULL DEFAULT now(), PRIMARY KEY (run_id, shard, position, attempt))";

static COUNT: AtomicU32 = AtomicU32::new(0);

/// The parameters of a connection.
#[derive(Clone, Debug)]
pub struct Login {
    /// The host.
    pub host: String,
    /// The server's port.
    pub port: u16,
    /// The role.
    pub user: String,
    /// Its password.
    pub password: String,
    /// The database.
    pub name: String,
}

impl Login {
    /// `postgres://user:password@host:port/name`; nothing in it needs escaping.
    pub fn url(&self) -> String {
        let Self {
            host,
            port,
            user,
            password,
            name,
        } = self;
        format!("postgres://{user}:{password}@{host}:{port}/{name}")
    }

    /// Opens a blocking connection.
    pub fn client(&self) -> Client {
        self.try_client()
            .expect("a connection to the throwaway PostgreSQL")
    }

    /// A blocking connection to a server that may be down.
    pub fn try_client(&self) -> Result<Client, postgres::Error> {
        Config::new()
            .host(&self.host)
            .port(self.port)
            .user(&self.user)
            .password(&self.password)
            .dbname(&self.name)
            .connect(NoTls)
    }
}

/// A database for one test; dereferences to its owner's login.
pub struct Database {
    owner: Login,
    /// The superuser in this database.
    admin: Login,
}

impl Deref for Database {
    type Target = Login;
    fn deref(&self) -> &Login {
        &self.owner
    }
}

impl Database {
    /// Uses this password from now on; the role must already have it.
    pub fn set_password(&mut self, password: &str) {
        password.clone_into(&mut self.owner.password);
    }

    /// Creates an empty database with an owner.
    pub fn new() -> Self {
        Self::on(server())
    }

    /// Creates an empty database with an owner on this server.
    pub fn on(server: &Server) -> Self {
        let name = format!("t_{}", COUNT.fetch_add(1, Ordering::Relaxed));
        let owner = Login {
            host: "127.0.0.1".to_owned(),
            port: server.port,
            password: format!("owner-{:016x}", fastrand::u64(..)),
            user: format!("{name}_owner"),
            name,
        };
        let superuser = Login {
            user: SUPERUSER.to_owned(),
            password: server.password.clone(),
            name: "postgres".to_owned(),
            ..owner.clone()
        };
        let mut admin = superuser.client();
        create_role(&mut admin, &owner);
        // Not in one batch: CREATE DATABASE refuses to run inside a transaction.
        admin
            .batch_execute(&format!(
                "CREATE DATABASE {} OWNER {}",
                owner.name, owner.user
            ))
            .expect("a database");
        let admin = Login {
            name: owner.name.clone(),
            ..superuser
        };
        Self { owner, admin }
    }

    /// Creates a database and runs this DDL in it.
    pub fn from_ddl(ddl: &str) -> Self {
        Self::new().with_sql(ddl)
    }

    /// Runs this SQL as the owner, and returns the database.
    #[must_use]
    pub fn with_sql(self, ddl: &str) -> Self {
        self.client().batch_execute(ddl).expect("valid SQL");
        self
    }

    /// Creates a database with the standard table.
    pub fn standard() -> Self {
        Self::from_ddl(STANDARD_TABLE)
    }

    /// Creates a database with the hostile table.
    pub fn hostile() -> Self {
        Self::from_ddl(HOSTILE_TABLE)
    }

    /// Opens a blocking connection as superuser.
    pub fn admin(&self) -> Client {
        self.admin.client()
    }

    /// The superuser in this database.
    pub fn superuser(&self) -> &Login {
        &self.admin
    }

    /// The stored tokens, sorted by byte.
    pub fn rows(&self) -> Vec<String> {
        let found = self.client().query("SELECT data FROM secret_tokens", &[]);
        let mut rows: Vec<String> = found
            .expect("the rows")
            .iter()
            .map(|row| row.get(0))
            .collect();
        rows.sort();
        rows
    }

    /// Adds the receipts table.
    #[must_use]
    pub fn with_receipts(self) -> Self {
        self.with_sql(RECEIPTS_TABLE)
    }

    /// Creates a login role with the rights that a run with receipts needs, and no other.
    pub fn role_for_receipts(&self) -> Login {
        let role = self.role_with("INSERT");
        let grant = format!("GRANT INSERT, SELECT ON token_receipts TO {}", role.user);
        self.client().batch_execute(&grant).expect("the grant");
        role
    }

    /// Creates a login role with these rights on the table, such as `INSERT, SELECT`; none if empty.
    pub fn role_with(&self, rights: &str) -> Login {
        let role = Login {
            user: format!(
                "{}_role_{}",
                self.name,
                COUNT.fetch_add(1, Ordering::Relaxed)
            ),
            password: format!("role-{:016x}", fastrand::u64(..)),
            ..self.owner.clone()
        };
        create_role(&mut self.admin(), &role);
        if !rights.is_empty() {
            let user = &role.user;
            self.client()
                .batch_execute(&format!(
                    "GRANT {rights} ON secret_tokens TO {user};
                     GRANT USAGE ON ALL SEQUENCES IN SCHEMA public TO {user}"
                ))
                .expect("the grant");
        }
        role
    }
}

fn create_role(admin: &mut Client, login: &Login) {
    let Login { user, password, .. } = login;
    admin
        .batch_execute(&format!("CREATE ROLE {user} LOGIN PASSWORD '{password}'"))
        .expect("a role");
}
