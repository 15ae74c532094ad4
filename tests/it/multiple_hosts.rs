//! Several hosts of one database: a run uses the first one that accepts writes, and finds it again after
//! a failover.

use std::thread;
use std::time::{Duration, Instant};

use postgres::Client;

use crate::support::command::Command;
use crate::support::database::{Login, STANDARD_TABLE};
use crate::support::postgres::{SUPERUSER, Server, ServerSetup, free_port};
use crate::support::report::Report;
use crate::support::snapshot::shows;
use crate::support::source::{Gate, Response, Source};

/// Allows replication.
const HBA: &str = "\
host replication all 127.0.0.1/32 scram-sha-256
host all         all 127.0.0.1/32 scram-sha-256
";

/// The superuser's password on every server.
const PASSWORD: &str = "canary-77c2";

/// Starts a primary with the standard table; its commits wait for no standby.
fn primary() -> Server {
    let server = Server::start(&ServerSetup {
        hba: Some(HBA),
        password: Some(PASSWORD),
        ..ServerSetup::default()
    });
    client(&server).batch_execute(STANDARD_TABLE).unwrap();
    server
}

fn standby_of(primary: &Server) -> Server {
    Server::start(&ServerSetup {
        standby_of: Some(primary),
        ..ServerSetup::default()
    })
}

fn client(server: &Server) -> Client {
    Login {
        host: "127.0.0.1".to_owned(),
        port: server.port,
        user: SUPERUSER.to_owned(),
        password: server.password.clone(),
        name: "postgres".to_owned(),
    }
    .client()
}

/// A run whose URL names these ports of 127.0.0.1.
fn command(ports: &[u16], password: &str, parameters: &str) -> Command {
    let hosts: Vec<String> = ports
        .iter()
        .map(|port| format!("127.0.0.1:{port}"))
        .collect();
    let hosts = hosts.join(",");
    let url = format!("postgres://{SUPERUSER}:{password}@{hosts}/postgres{parameters}");
    Command::new().env("DATABASE_URL", url)
}

fn rows(server: &Server) -> Vec<String> {
    let found = client(server).query("SELECT data FROM secret_tokens ORDER BY 1", &[]);
    found.unwrap().iter().map(|row| row.get(0)).collect()
}

/// Makes every session read-only, including open ones.
fn forbid_writes(server: &Server) {
    alter(server, "default_transaction_read_only = on");
}

fn alter(server: &Server, setting: &str) {
    let mut client = client(server);
    for sql in [
        &format!("ALTER SYSTEM SET {setting}"),
        "SELECT pg_reload_conf()",
    ] {
        client.batch_execute(sql).unwrap();
    }
}

#[test]
fn first_writable_host_is_used() {
    let primary = primary();
    let standby = standby_of(&primary);
    let dead = free_port();
    let ports = [dead, standby.port, primary.port];
    for (token, parameters) in [
        ("aa", ""),
        ("bb", "?target_session_attrs=read-write"),
        ("cc", "?target_session_attrs=primary"),
    ] {
        let source = Source::responding([Response::tokens([token])]);
        let command = command(&ports, PASSWORD, parameters).source(&source);
        command.arg("1").run().expect_code(0);
    }
    let source = Source::responding([Response::tokens(["dd"])]);
    let by_parts = Command::new()
        .source(&source)
        .env("DB_HOST", "127.0.0.1,localhost")
        .env("DB_PORT", format!("{},{}", standby.port, primary.port))
        .env("DB_USER", SUPERUSER)
        .env("DB_PASS", PASSWORD)
        .env("DB_NAME", "postgres");
    by_parts.arg("1").run().expect_code(0);
    assert_eq!(rows(&primary), ["aa", "bb", "cc", "dd"]);

    // With `any`, the first host that responds is used.
    let source = Source::responding([]);
    let any = command(&ports, PASSWORD, "?target_session_attrs=any").source(&source);
    shows!(any.arg("1").run().expect_code(5).error(), @"
    error: the database takes no writes
      caused by: 127.0.0.1:[port] is a standby or read-only
    hint: the host in DATABASE_URL must name the primary, and the role must not be set to read only; no token was requested
    ");
    // After a wrong password no further host is tried.
    let wrong = command(&ports, "wrong", "").source(&source);
    shows!(wrong.arg("1").run().expect_code(5).error(), @r#"
    error: the database refused the connection
      caused by: password authentication failed for user "postgres" (28P01)
    hint: user and password in DATABASE_URL must match a role of 127.0.0.1:[port]; no token was requested
    "#);
    // No host accepts writes.
    let none = command(&ports[..2], PASSWORD, "").source(&source);
    shows!(none.arg("1").run().expect_code(5).error(), @"
    error: none of the 2 hosts can be used
      caused by: 127.0.0.1:[port]: Connection refused (os error 111)
      caused by: 127.0.0.1:[port] is a standby or read-only
    hint: one of the hosts in DATABASE_URL must be the primary, and reachable; no token was requested
    ");
    assert!(source.requests().is_empty(), "a token was requested");
}

#[test]
fn every_host_is_reported_when_none_responds() {
    let ports = [free_port(), free_port()];
    let source = Source::responding([]);
    let command = command(&ports, "canary", "").source(&source);
    shows!(command.arg("1").run().expect_code(5).error(), @"
    error: none of the 2 hosts can be used
      caused by: 127.0.0.1:[port]: Connection refused (os error 111)
      caused by: 127.0.0.1:[port]: Connection refused (os error 111)
    hint: one of the hosts and ports in DATABASE_URL must be reachable and take writes; no token was requested
    ");
}

/// Error 25006 during a run does not reject a token: the next host gets it.
#[test]
fn next_host_is_used_when_the_primary_becomes_read_only() {
    let (first, second) = (primary(), primary());
    let gate = Gate::new();
    let tokens: Vec<String> = (0..200).map(|n| format!("b{n:03}")).collect();
    let source = Source::responding([
        Response::tokens(["aa"]),
        Response::tokens(&tokens).after(&gate),
    ]);
    let running = command(&[first.port, second.port], PASSWORD, "")
        .source(&source)
        .args(["201", "--report", "ndjson", "--patience", "20s"])
        .spawn();
    running.wait_for_stdout(|text| text.lines().count() == 1);
    forbid_writes(&first);
    wait_until_read_only(&first);
    gate.open();

    let report = Report::of_run(&running.wait().expect_code(0));
    assert_eq!(report.count("stored"), 201);
    assert_eq!(rows(&first), ["aa"]);
    assert_eq!(rows(&second), tokens);
}

/// Waits until new sessions are read-only; open sessions became read-only before.
fn wait_until_read_only(server: &Server) {
    wait_until("the server stays writable", || {
        let row = client(server).query_one("SHOW default_transaction_read_only", &[]);
        row.unwrap().get::<_, &str>(0) == "on"
    });
}

/// Waits until a run has this many idle connections.
fn wait_until_idle(server: &Server, count: i64) {
    let mut client = client(server);
    let sql = "SELECT count(*) FROM pg_stat_activity WHERE state = 'idle' \
         AND application_name LIKE 'token_service %'";
    wait_until("the run has another number of idle connections", || {
        client.query_one(sql, &[]).unwrap().get::<_, i64>(0) == count
    });
}

#[track_caller]
fn wait_until(message: &str, mut condition: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(30);
    while !condition() {
        assert!(Instant::now() < end, "{message}");
        thread::park_timeout(Duration::from_millis(10));
    }
}

#[test]
fn unsent_tokens_fail_when_the_only_host_stays_read_only() {
    let server = primary();
    let gate = Gate::new();
    let tokens: Vec<String> = (0..200).map(|n| format!("b{n:03}")).collect();
    let source = Source::responding([
        Response::tokens(["aa"]),
        Response::tokens(&tokens).after(&gate),
    ]);
    let running = command(&[server.port], PASSWORD, "")
        .source(&source)
        .args(["201", "--report", "ndjson", "--patience", "300ms"])
        .spawn();
    running.wait_for_stdout(|text| text.lines().count() == 1);
    forbid_writes(&server);
    wait_until_read_only(&server);
    gate.open();

    let run = running.wait().expect_code(5);
    let report = Report::of_run(&run);
    assert_eq!(report.with_status("stored"), ["aa"]);
    assert_eq!(report.with_status("failed"), tokens);
    shows!(run.error(), @"
    error: db_connect: the database stopped taking writes and did not resume within 300ms
      caused by: 127.0.0.1:[port] is a standby or read-only
    hint: tokens that are `failed` are safe to store again; --patience waits longer
    ");
}

/// The remaining connection is idle; the final error must not depend on it.
#[test]
fn failed_tokens_are_explained_when_another_connection_is_idle() {
    let server = primary();
    let gate = Gate::new();
    let first: Vec<String> = (0..64).map(|n| format!("a{n:02}")).collect();
    let source = Source::responding([
        Response::tokens(&first),
        Response::tokens(["zz"]).after(&gate),
    ]);
    let running = command(&[server.port], PASSWORD, "")
        .source(&source)
        .args(["65", "--report", "ndjson", "--patience", "300ms"])
        .args(["--connections", "2"])
        .spawn();
    running.wait_for_stdout(|text| text.lines().count() == 64);
    wait_until_idle(&server, 2);
    forbid_writes(&server);
    wait_until_read_only(&server);
    gate.open();

    let run = running.wait().expect_code(5);
    assert_eq!(Report::of_run(&run).with_status("failed"), ["zz"]);
    shows!(run.error(), @"
    error: db_connect: the database stopped taking writes and did not resume within 300ms
      caused by: 127.0.0.1:[port] is a standby or read-only
    hint: tokens that are `failed` are safe to store again; --patience waits longer
    ");
}

/// The primary crashes with tokens in flight, and its standby is promoted. Replicated tokens are found
/// there, and the other ones are sent again.
#[test]
fn tokens_are_stored_once_when_a_standby_is_promoted() {
    let primary = primary();
    let standby = standby_of(&primary);
    // From now on the standby has every acknowledged commit.
    alter(&primary, "synchronous_standby_names = '*'");
    let gate = Gate::new();
    let tokens: Vec<String> = (0..3000).map(|n| format!("b{n:04}")).collect();
    let source = Source::responding([
        Response::tokens(["aa"]),
        Response::tokens(&tokens).after(&gate),
    ]);
    let running = command(&[primary.port, standby.port], PASSWORD, "")
        .source(&source)
        .args(["3001", "--report", "ndjson", "--patience", "40s"])
        .args(["--connections", "2"])
        .spawn();
    running.wait_for_stdout(|text| text.lines().count() == 1);
    gate.open();
    running.wait_for_stdout(|text| text.lines().count() > 100);
    primary.pg_ctl(&["--mode=immediate", "--wait", "stop"]);
    standby.pg_ctl(&["--wait", "promote"]);

    let run = running.wait().expect_code(0);
    let report = Report::of_run(&run);
    assert_eq!(report.count("stored"), 3001, "{}", run.stderr);
    assert_eq!(
        rows(&standby),
        report.with_status("stored"),
        "each token is stored once"
    );
}

/// The rows of another database prove nothing.
#[test]
fn in_doubt_tokens_stay_unknown_when_the_next_host_is_another_database() {
    let (first, second) = (primary(), primary());
    let mut admin = client(&first);
    let ddl = "CREATE FUNCTION hold(text) RETURNS bool LANGUAGE plpgsql AS $$ BEGIN
             PERFORM pg_advisory_xact_lock_shared(7); RETURN true; END $$;
         ALTER TABLE secret_tokens ADD CONSTRAINT hold CHECK (hold(data));
         SELECT pg_advisory_lock(7)";
    admin.batch_execute(ddl).unwrap();
    let source = Source::responding([Response::tokens(["aa"])]);
    let running = command(&[first.port, second.port], PASSWORD, "")
        .source(&source)
        .args(["1", "--report", "ndjson"])
        .spawn();
    wait_until_insert_waits(&mut admin);
    first.pg_ctl(&["--mode=immediate", "--wait", "stop"]);

    let run = running.wait().expect_code(5);
    let report = Report::of_run(&run);
    assert_eq!(report.with_status("unknown"), ["aa"]);
    assert_eq!(
        report.token("aa")["reason"],
        "the connection was lost, and the current host belongs to another database"
    );
    assert!(rows(&second).is_empty());
}

fn wait_until_insert_waits(admin: &mut Client) {
    let sql = "SELECT FROM pg_stat_activity WHERE wait_event = 'advisory'";
    wait_until("no INSERT waits", || {
        !admin.query(sql, &[]).unwrap().is_empty()
    });
}
