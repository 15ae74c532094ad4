//! The contenders: what stores tokens, each as its users would start it, measured as a whole process
//! from its start to its end, connecting included. Each run is checked against the table.

use std::path::PathBuf;
use std::sync::Barrier;
use std::thread;
use std::time::Instant;

use super::gauge::Task;
use super::product::TokenService;
use super::series::Sample;
use super::stage::Stage;
use super::support::database::Login;
use anyhow::{Context as _, Result, anyhow};

/// A random token as the server itself makes it: 22 characters of URL-safe base64, without a `-`.
macro_rules! insert_token {
    () => {
        "INSERT INTO secret_tokens (data) VALUES \
         (left(translate(encode(uuid_send(gen_random_uuid()), 'base64'), '+/', '__'), 22));"
    };
}

/// What the server can do without any client: it inserts and commits in a loop.
pub const PROCEDURE: &str = concat!(
    "CREATE PROCEDURE store_in_a_loop(count bigint) LANGUAGE plpgsql AS $$
     BEGIN FOR i IN 1..count LOOP ",
    insert_token!(),
    " COMMIT; END LOOP; END $$"
);

/// One INSERT a line.
const CURL_PSQL: &str = r#"curl -sS -d '{}' "$TOKEN_HOST?size=$1" |
    sed "s/.*/INSERT INTO secret_tokens (data) VALUES ('&');/" |
    "$2" -Xq -v ON_ERROR_STOP=1"#;

/// What a user would write in Python.
pub const PYTHON: &str = include_str!("psycopg_threads.py");

/// Python with psycopg 3, in an environment of its own.
#[derive(Clone, Debug)]
pub struct Psycopg {
    /// The interpreter.
    pub python: PathBuf,
    /// Its version and the driver's.
    pub version: String,
}

/// What is compared.
#[derive(Clone, Debug)]
pub enum Contender {
    /// The server's own limit.
    Limit {
        /// So many sessions at once.
        sessions: u32,
    },
    /// pgbench with the same INSERT, prepared.
    Pgbench {
        /// So many connections.
        clients: u32,
        /// So many threads that serve them.
        threads: u32,
        /// The server's port, or that of a proxy before it.
        port: u16,
    },
    /// `curl | psql`, an INSERT a line over one connection.
    CurlPsql,
    /// Python with 16 threads.
    Psycopg(Psycopg),
    /// The product.
    TokenService(TokenService),
}

impl Contender {
    /// What it is called in the tables.
    pub fn name(&self) -> String {
        match self {
            Self::Limit { sessions } => format!("server's own limit, {sessions} sessions"),
            Self::Pgbench {
                clients, threads, ..
            } => {
                let plural = if *threads == 1 { "" } else { "s" };
                format!("pgbench, {clients} clients, {threads} thread{plural}")
            }
            Self::CurlPsql => "curl | psql".to_owned(),
            Self::Psycopg(_) => "Python, psycopg 3, 16 threads".to_owned(),
            Self::TokenService(setup) => setup.name(),
        }
    }

    /// Stores about `tokens` tokens.
    pub fn run(&self, stage: &mut Stage, tokens: u64) -> Result<Sample> {
        stage.clear()?;
        let before = stage.server_time()?;
        let run = match self {
            Self::Limit { sessions } => limit(stage, *sessions, tokens),
            Self::Pgbench {
                clients,
                threads,
                port,
            } => pgbench(stage, [*clients, *threads], *port, tokens),
            Self::CurlPsql => curl_psql(stage, tokens),
            Self::Psycopg(psycopg) => python(stage, psycopg, tokens),
            Self::TokenService(setup) => setup.run(stage, tokens),
        };
        let sample = run.with_context(|| self.name())?;
        Ok(Sample {
            server: stage.server_time()? - before,
            ..sample
        })
    }
}

/// The sessions are open before the time is taken.
fn limit(stage: &mut Stage, sessions: u32, tokens: u64) -> Result<Sample> {
    let each = tokens / u64::from(sessions);
    let call = format!("CALL store_in_a_loop({each})");
    let start = Barrier::new(sessions as usize + 1);
    let mut clients: Vec<_> = (0..sessions).map(|_| stage.login().client()).collect();
    let (ended, seconds) = thread::scope(|scope| {
        let running: Vec<_> = clients
            .iter_mut()
            .map(|client| {
                scope.spawn(|| {
                    start.wait();
                    client.batch_execute(&call)
                })
            })
            .collect();
        start.wait();
        let began = Instant::now();
        let ended: Vec<_> = running
            .into_iter()
            .map(thread::ScopedJoinHandle::join)
            .collect();
        (ended, began.elapsed().as_secs_f64())
    });
    for end in ended {
        end.map_err(|_| anyhow!("a session panicked"))??;
    }
    let tokens = each * u64::from(sessions);
    stage.expect_rows(tokens)?;
    Ok(Sample {
        tokens,
        seconds,
        cpu: 0.0,
        server: 0.0,
        peak_mib: 0.0,
    })
}

fn pgbench(
    stage: &mut Stage,
    [clients, threads]: [u32; 2],
    port: u16,
    tokens: u64,
) -> Result<Sample> {
    let each = (tokens / u64::from(clients)).max(1);
    let script = stage.scratch.disk("pgbench.sql");
    std::fs::write(&script, insert_token!())?;
    let task = libpq(Task::new(stage.program("pgbench")), stage.login(), port)
        .args(["--no-vacuum", "--protocol=prepared"])
        .args([format!("--client={clients}"), format!("--jobs={threads}")])
        .arg(format!("--transactions={each}"))
        .arg("--file")
        .arg(&script);
    let usage = task.run()?;
    let tokens = each * u64::from(clients);
    stage.expect_rows(tokens)?;
    Ok(Sample::of(&usage, tokens))
}

fn curl_psql(stage: &mut Stage, tokens: u64) -> Result<Sample> {
    let login = stage.login();
    let task = libpq(Task::new("sh"), login, login.port)
        .env("TOKEN_HOST", stage.stored.url())
        .args(["-c", CURL_PSQL, "sh", &tokens.to_string()])
        .arg(stage.program("psql"));
    let usage = task.run()?;
    stage.expect_rows(tokens)?;
    Ok(Sample::of(&usage, tokens))
}

fn python(stage: &mut Stage, psycopg: &Psycopg, tokens: u64) -> Result<Sample> {
    let script = stage.scratch.disk("psycopg_threads.py");
    std::fs::write(&script, PYTHON)?;
    let task = Task::new(&psycopg.python)
        .env("TOKEN_HOST", stage.stored.url())
        .env("DATABASE_URL", stage.login().url())
        .arg(&script)
        .arg(tokens.to_string())
        .stdout(&stage.scratch.disk("report"));
    let usage = task.run()?;
    stage.expect_rows(tokens)?;
    Ok(Sample::of(&usage, tokens))
}

/// Tells libpq where to connect.
pub fn libpq(task: Task, login: &Login, port: u16) -> Task {
    task.env("PGHOST", &login.host)
        .env("PGPORT", port.to_string())
        .env("PGUSER", &login.user)
        .env("PGPASSWORD", &login.password)
        .env("PGDATABASE", &login.name)
}
