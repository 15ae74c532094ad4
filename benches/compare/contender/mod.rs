//! The contenders: programs that store tokens.
//!
//! Each is started as its users start it. The measurement covers the whole process, connecting
//! included. After each run the number of stored tokens is checked.

use std::sync::Barrier;
use std::thread;
use std::time::Instant;

use anyhow::{Context as _, Result, anyhow};

use crate::environment::BenchEnvironment;
use crate::measured_command::MeasuredCommand;
use crate::sql::{INSERT_GENERATED_TOKEN, call_store_procedure};
use crate::statistics::Sample;
use crate::test_support::database::Login;
use crate::token_source::TokenKind;
use psycopg::Psycopg;
use token_service::TokenService;

pub mod psycopg;
pub mod token_service;

/// Fetches `$1` tokens with curl and sends one INSERT per token with `$2`, which is psql.
const CURL_PSQL: &str = r#"curl -sS -d '{}' "$TOKEN_HOST?size=$1" |
    sed "s/.*/INSERT INTO secret_tokens (data) VALUES ('&');/" |
    "$2" -Xq -v ON_ERROR_STOP=1"#;

/// A program that stores tokens.
#[derive(Clone, Debug)]
pub enum Contender {
    /// The limit of the server: a procedure that stores tokens without a client.
    ServerLimit {
        /// The number of concurrent sessions.
        sessions: u32,
    },
    /// pgbench with the same INSERT as a prepared statement.
    Pgbench {
        /// The number of connections.
        clients: u32,
        /// The number of threads.
        threads: u32,
        /// The port of the server or of a proxy.
        port: u16,
    },
    /// `curl | psql` with one INSERT per token over one connection.
    CurlPsql,
    /// Python with psycopg 3.
    Psycopg(Psycopg),
    /// token_service.
    TokenService(TokenService),
}

impl Contender {
    /// Returns the name for tables.
    pub fn name(&self) -> String {
        match self {
            Self::ServerLimit { sessions } => format!("server's own limit, {sessions} sessions"),
            Self::Pgbench {
                clients, threads, ..
            } => {
                let plural = if *threads == 1 { "" } else { "s" };
                format!("pgbench, {clients} clients, {threads} thread{plural}")
            }
            Self::CurlPsql => "curl | psql".to_owned(),
            Self::Psycopg(_) => "Python, psycopg 3, 16 threads".to_owned(),
            Self::TokenService(token_service) => token_service.name(),
        }
    }

    /// Stores `tokens` tokens, rounded down to a multiple of the sessions or clients.
    ///
    /// # Errors
    /// If the program fails or the table does not contain the expected number of tokens.
    pub fn run(&self, env: &mut BenchEnvironment, tokens: u64) -> Result<Sample> {
        env.reset()?;
        let server_cpu_before = env.server_cpu_seconds()?;
        let sample = match self {
            Self::ServerLimit { sessions } => run_server_limit(env, *sessions, tokens),
            Self::Pgbench {
                clients,
                threads,
                port,
            } => run_pgbench(env, [*clients, *threads], *port, tokens),
            Self::CurlPsql => run_curl_psql(env, tokens),
            Self::Psycopg(psycopg) => psycopg.run(env, tokens),
            Self::TokenService(token_service) => token_service.run(env, tokens),
        };
        let sample = sample.with_context(|| self.name())?;
        Ok(Sample {
            server_cpu: env.server_cpu_seconds()? - server_cpu_before,
            ..sample
        })
    }
}

/// Runs the procedure in all sessions at once. The measurement excludes connecting.
fn run_server_limit(env: &mut BenchEnvironment, sessions: u32, tokens: u64) -> Result<Sample> {
    let tokens_per_session = tokens / u64::from(sessions);
    let call = call_store_procedure(tokens_per_session);
    let barrier = Barrier::new(sessions as usize + 1);
    let mut clients: Vec<_> = (0..sessions).map(|_| env.login().client()).collect();
    let (results, seconds) = thread::scope(|scope| {
        let threads: Vec<_> = clients
            .iter_mut()
            .map(|client| {
                scope.spawn(|| {
                    barrier.wait();
                    client.batch_execute(&call)
                })
            })
            .collect();
        barrier.wait();
        let start = Instant::now();
        let results: Vec<_> = threads
            .into_iter()
            .map(thread::ScopedJoinHandle::join)
            .collect();
        (results, start.elapsed().as_secs_f64())
    });
    for result in results {
        result.map_err(|_| anyhow!("the thread of a session panicked"))??;
    }
    let tokens = tokens_per_session * u64::from(sessions);
    env.expect_rows(tokens)?;
    Ok(Sample {
        tokens,
        seconds,
        client_cpu: 0.0,
        server_cpu: 0.0,
        peak_mib: 0.0,
    })
}

fn run_pgbench(
    env: &mut BenchEnvironment,
    [clients, threads]: [u32; 2],
    port: u16,
    tokens: u64,
) -> Result<Sample> {
    let transactions = (tokens / u64::from(clients)).max(1);
    let script = env.scratch.on_disk("pgbench.sql");
    std::fs::write(&script, INSERT_GENERATED_TOKEN)?;
    let pgbench = MeasuredCommand::new(env.program("pgbench"));
    let usage = with_libpq_login(pgbench, env.login(), port)
        .args(["--no-vacuum", "--protocol=prepared"])
        .args([format!("--client={clients}"), format!("--jobs={threads}")])
        .arg(format!("--transactions={transactions}"))
        .arg("--file")
        .arg(&script)
        .run()?;
    let tokens = transactions * u64::from(clients);
    env.expect_rows(tokens)?;
    Ok(Sample::from_usage(&usage, tokens))
}

fn run_curl_psql(env: &mut BenchEnvironment, tokens: u64) -> Result<Sample> {
    let login = env.login();
    let usage = with_libpq_login(MeasuredCommand::new("sh"), login, login.port)
        .env("TOKEN_HOST", env.source(TokenKind::AllStored).url())
        .args(["-c", CURL_PSQL, "sh", &tokens.to_string()])
        .arg(env.program("psql"))
        .run()?;
    env.expect_rows(tokens)?;
    Ok(Sample::from_usage(&usage, tokens))
}

/// Sets the environment variables from which libpq reads the connection parameters.
pub fn with_libpq_login(command: MeasuredCommand, login: &Login, port: u16) -> MeasuredCommand {
    command
        .env("PGHOST", &login.host)
        .env("PGPORT", port.to_string())
        .env("PGUSER", &login.user)
        .env("PGPASSWORD", &login.password)
        .env("PGDATABASE", &login.name)
}
