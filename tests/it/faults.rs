//! Fault injection in the manner of Jepsen: connections break, replies are dropped, servers crash. After
//! each run the verifier compares the report with the table.

use crate::support::command::Command;
use crate::support::database::{Database, Login};
use crate::support::proxy::Proxy;
use crate::support::source::{Response, Source, token};

pub mod crashes;
mod in_doubt;
mod long_form;
mod network;
mod schedule;
mod schedule_runner;
mod schema_ddl;
mod schema_grammar;
mod schema_kinds;
mod schema_runs;
mod schema_verifier;
mod short_form;

/// The parameters of a connection through the proxy.
pub fn through(login: &Login, proxy: &Proxy) -> Login {
    Login {
        port: proxy.port,
        ..login.clone()
    }
}

/// A run whose report and log contain what the verifier needs.
pub fn run_command(source: &Source, login: &Login, size: usize) -> Command {
    let log = ["--log-level", "debug", "--log-format", "json"];
    Command::new()
        .source(source)
        .database(login)
        .arg(size.to_string())
        .args(["--report", "ndjson"])
        .args(log)
}

/// Random tokens, and a source that delivers them in one response.
pub fn random_token_source(count: usize) -> (Vec<String>, Source) {
    let tokens: Vec<String> = (0..count).map(|_| token()).collect();
    let source = Source::responding([Response::tokens(&tokens)]);
    (tokens, source)
}

/// Adds a CHECK to the table in which tokens `held` wait while the returned client holds a lock.
///
/// A trigger would leave every in-doubt token unknown: with row triggers a look-up proves nothing.
pub fn with_held_tokens(database: Database) -> (Database, postgres::Client) {
    let database = database.with_sql(
        "CREATE FUNCTION hold(data text) RETURNS bool LANGUAGE plpgsql AS $$ BEGIN
             IF data = 'held' THEN PERFORM pg_advisory_xact_lock_shared(7); END IF;
             RETURN true; END $$;
         ALTER TABLE secret_tokens ADD CONSTRAINT hold CHECK (hold(data))",
    );
    let mut admin = database.admin();
    admin.batch_execute("SELECT pg_advisory_lock(7)").unwrap();
    (database, admin)
}
