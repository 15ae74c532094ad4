//! Tests of secrets that are replaced during a run. The database password and the source's
//! `Authorization` are read from their files again.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::support::command::{Command, Running};
use crate::support::database::Database;
use crate::support::report::Report;
use crate::support::snapshot::shows;
use crate::support::source::{Gate, Response, Source};

/// A run that has stored its first token and waits for the others.
struct Rotation {
    database: Database,
    gate: Gate,
    source: Source,
    secret: PathBuf,
    running: Running,
}

/// How the password reaches the run.
#[derive(Clone, Copy)]
enum PasswordSource {
    Password,
    Url,
    PassFile,
}

impl PasswordSource {
    fn content(self, database: &Database, password: &str) -> String {
        let (user, host, port) = (&database.user, &database.host, database.port);
        let name = &database.name;
        match self {
            Self::Password => format!("{password}\n"),
            Self::Url => format!("postgres://{user}:{password}@{host}:{port}/{name}\n"),
            Self::PassFile => format!("{host}:{port}:{name}:{user}:{password}\n"),
        }
    }
}

impl Rotation {
    fn start(form: PasswordSource, patience: &str) -> Self {
        let database = Database::standard();
        let gate = Gate::new();
        let source = Source::responding([
            Response::tokens(["aa"]),
            Response::tokens(["bb", "cc"]).after(&gate),
        ]);
        let command = Command::new().source(&source);
        let secret = command.dir().join("secret");
        replace(&secret, &form.content(&database, &database.password));
        let command = match form {
            PasswordSource::Password => command
                .database_without_password(&database)
                .env("DB_PASS_FILE", "secret"),
            PasswordSource::Url => command.env("DATABASE_URL_FILE", "secret"),
            PasswordSource::PassFile => command
                .database_without_password(&database)
                .env("PGPASSFILE", "secret"),
        };
        let command = command.args(["3", "--report", "ndjson", "--patience", patience]);
        let running = command.args(["--log-level", "info"]).spawn();
        running.wait_for_stdout(|text| text.lines().count() == 1);
        Self {
            database,
            gate,
            source,
            secret,
            running,
        }
    }

    /// Changes the password on the server, and terminates the connections of the run.
    fn change_password(&self, password: &str) {
        let user = &self.database.user;
        let mut admin = self.database.admin();
        let sql = format!("ALTER ROLE {user} PASSWORD '{password}'");
        admin.batch_execute(&sql).unwrap();
        let sql = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = $1";
        admin.execute(sql, &[user]).unwrap();
    }

    fn write(&self, form: PasswordSource, password: &str) {
        replace(&self.secret, &form.content(&self.database, password));
    }

    /// Asserts that the run stores every token.
    #[track_caller]
    fn expect_completion(mut self) {
        self.database.set_password("rotated-7");
        let run = self.running.wait().expect_code(0);
        assert_eq!(
            Report::of_run(&run).with_status("stored"),
            ["aa", "bb", "cc"]
        );
        assert_eq!(self.database.rows(), ["aa", "bb", "cc"]);
        assert!(!run.stderr.contains("rotated-7"), "{}", run.stderr);
        drop(self.source);
    }
}

/// Replaces a file in one step, as Vault and Kubernetes do; only its owner may read it.
fn replace(path: &Path, content: &str) {
    let next = path.with_extension("next");
    fs::write(&next, content).unwrap();
    fs::set_permissions(&next, fs::Permissions::from_mode(0o600)).unwrap();
    fs::rename(next, path).unwrap();
}

#[test]
fn run_continues_with_new_password_after_rotation() {
    for form in [
        PasswordSource::Password,
        PasswordSource::Url,
        PasswordSource::PassFile,
    ] {
        let rotation = Rotation::start(form, "20s");
        rotation.write(form, "rotated-7");
        rotation.change_password("rotated-7");
        rotation.gate.open();
        rotation.expect_completion();
    }
}

#[test]
fn run_waits_for_new_password_within_patience() {
    for form in [PasswordSource::Password, PasswordSource::Url] {
        let rotation = Rotation::start(form, "20s");
        rotation.change_password("rotated-7");
        rotation.gate.open();
        let refused = |text: &str| text.contains("password authentication failed");
        rotation.running.wait_for_stderr(refused);
        rotation.write(form, "rotated-7");
        rotation.expect_completion();
    }
}

#[test]
fn run_waits_for_missing_password_file_within_patience() {
    let rotation = Rotation::start(PasswordSource::Password, "20s");
    fs::remove_file(&rotation.secret).unwrap();
    rotation.change_password("rotated-7");
    rotation.gate.open();
    let missing = |text: &str| text.contains("`secret`, the file that DB_PASS_FILE names");
    rotation.running.wait_for_stderr(missing);
    rotation.write(PasswordSource::Password, "rotated-7");
    rotation.expect_completion();
}

#[test]
fn run_fails_when_password_file_stays_wrong() {
    let rotation = Rotation::start(PasswordSource::Password, "300ms");
    rotation.change_password("rotated-7");
    rotation.gate.open();
    let run = rotation.running.wait().expect_code(5);
    assert_eq!(Report::of_run(&run).with_status("stored"), ["aa"]);
    shows!(run.error(), @r#"
    error: db_denied: the database refused the connection
      caused by: password authentication failed for user "[database]_owner" (28P01)
    hint: DB_USER and the password in `secret` (DB_PASS_FILE) must match a role of 127.0.0.1:[port]
    "#);
}

#[test]
fn run_fails_at_once_when_password_file_is_wrong_at_start() {
    let database = Database::standard();
    let source = Source::responding([]);
    let command = Command::new()
        .source(&source)
        .database_without_password(&database);
    let command = command
        .file("secret", "wrong")
        .env("DB_PASS_FILE", "secret");
    let started = Instant::now();
    let run = command
        .args(["1", "--patience", "40s"])
        .run()
        .expect_code(5);
    assert!(started.elapsed() < Duration::from_secs(20), "not retried");
    shows!(run.error(), @r#"
    error: the database refused the connection
      caused by: password authentication failed for user "[database]_owner" (28P01)
    hint: DB_USER and the password in `secret` (DB_PASS_FILE) must match a role of 127.0.0.1:[port]; no token was requested
    "#);
}

#[test]
fn authorization_file_is_read_for_each_request() {
    let database = Database::standard();
    let gate = Gate::new();
    let source = Source::responding([
        Response::tokens(["aa"]),
        Response::tokens(["bb"]).after(&gate),
        Response::tokens(["cc"]),
    ]);
    let command = Command::new().source(&source).database(&database);
    let secret = command.dir().join("secret");
    replace(&secret, "Bearer first\n");
    let command = command.env("TOKEN_SERVICE_SOURCE_AUTHORIZATION_FILE", "secret");
    let running = command
        .args(["3", "--page-size", "1", "--fetch-concurrency", "1"])
        .spawn();
    source.wait_for(2);
    replace(&secret, "Bearer second\n");
    gate.open();
    running.wait().expect_code(0);
    let requests = source.requests();
    let sent = requests
        .iter()
        .map(|request| &request.headers["authorization"]);
    let sent: Vec<_> = sent.collect();
    assert_eq!(sent, ["Bearer first", "Bearer first", "Bearer second"]);
}

#[test]
fn error_names_a_missing_authorization_file() {
    let database = Database::standard();
    let gate = Gate::new();
    let source = Source::responding([Response::tokens(["aa"]).after(&gate)]);
    let command = Command::new().source(&source).database(&database);
    let secret = command.dir().join("secret");
    replace(&secret, "Bearer first\n");
    let command = command
        .config("source: {retries: 1}")
        .env("TOKEN_SERVICE_SOURCE_AUTHORIZATION_FILE", "secret");
    let running = command.args(["2", "--page-size", "1"]).spawn();
    source.wait_for(1);
    fs::remove_file(&secret).unwrap();
    gate.open();
    let run = running.wait().expect_code(4);
    assert_eq!(source.requests().len(), 1);
    shows!(run.error(), @"
    error: http_connect: cannot read the value of the `authorization` header
      caused by: cannot read `secret`, the file that TOKEN_SERVICE_SOURCE_AUTHORIZATION_FILE names: No such file or directory (os error 2)
      = retryable (trying again may help, and is safe)
    hint: the file must exist, be text, and be readable by this user
    ");
}

#[test]
fn pgpass_file_is_used_only_when_it_is_private() {
    let database = Database::standard();
    let line = PasswordSource::PassFile.content(&database, &database.password);
    let source = Source::responding([Response::tokens(["aa"]), Response::tokens(["bb"])]);
    let (user, host, port, name) = (
        &database.user,
        &database.host,
        database.port,
        &database.name,
    );
    let url = format!("postgres://{user}@{host}:{port}/{name}");
    let private = |command: Command, file: &str, mode| {
        let command = command.source(&source).file(file, &line);
        let permissions = fs::Permissions::from_mode(mode);
        fs::set_permissions(command.dir().join(file), permissions).unwrap();
        command.arg("1")
    };
    let in_home = Command::new().env("DATABASE_URL", &url);
    private(in_home, ".pgpass", 0o600).run().expect_code(0);
    let by_url = Command::new().env("DATABASE_URL", format!("{url}?passfile=logins"));
    private(by_url, "logins", 0o400).run().expect_code(0);
    assert_eq!(database.rows(), ["aa", "bb"]);

    let shared = Command::new().env("DATABASE_URL", &url);
    let run = private(shared, ".pgpass", 0o640).run().expect_code(5);
    assert!(!run.stderr.contains(&database.password), "{}", run.stderr);
    let error = run.error().to_owned();
    let warning = run
        .stderr
        .lines()
        .find(|line| line.contains("password file"))
        .unwrap();
    let warning = warning.split_once("WARN").unwrap().1;
    let warning = warning.replace(run.path("").to_str().unwrap(), "[home]/");
    shows!(format!("{warning}\n{error}"), @"
     the password file is ignored: other users may access it; allow only its owner to: chmod 0600 file=[home]/.pgpass
    error: the database refused the connection
      caused by: 127.0.0.1:[port] asks for a password and none is configured
    hint: put the password into DATABASE_URL; no token was requested
    ");

    let wrong = line.replace(&database.password, "wrong");
    let command = Command::new().source(&source).env("DATABASE_URL", &url);
    let command = command.file("logins", wrong).env("PGPASSFILE", "logins");
    let permissions = fs::Permissions::from_mode(0o600);
    fs::set_permissions(command.dir().join("logins"), permissions).unwrap();
    shows!(command.arg("1").run().expect_code(5).error(), @r#"
    error: the database refused the connection
      caused by: password authentication failed for user "[database]_owner" (28P01)
    hint: the user in DATABASE_URL and the password in `logins` must match a role of 127.0.0.1:[port]; no token was requested
    "#);
}
