//! Several hosts of one database: the first that answers and takes writes is taken, and found again
//! after a failover.

use std::thread;
use std::time::{Duration, Instant};

use postgres::Client;

use crate::support::command::Command;
use crate::support::database::{Login, STANDARD_TABLE};
use crate::support::postgres::{SUPERUSER, Server, ServerSetup, free_port};
use crate::support::report::Report;
use crate::support::snapshot::shows;
use crate::support::source::{Gate, Response, Source};

/// Lets a standby follow.
const HBA: &str = "\
host replication all 127.0.0.1/32 scram-sha-256
host all         all 127.0.0.1/32 scram-sha-256
";

/// Of the superuser, everywhere.
const PASSWORD: &str = "canary-77c2";

/// A primary with the seed's table, whose commits wait for no standby.
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

/// Stores in whichever of these takes writes.
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

/// From now on also the sessions that are open take no writes.
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
fn the_first_that_takes_writes_is_taken() {
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

    // The first that answers is the one that counts, where any is said to do.
    let source = Source::responding([]);
    let any = command(&ports, PASSWORD, "?target_session_attrs=any").source(&source);
    shows!(any.arg("1").run().expect_code(5).error(), @"
    error: the database takes no writes
      caused by: 127.0.0.1:[port] is a standby or read-only
    hint: the host in DATABASE_URL must name the primary, and the role must not be set to read only; no token was asked for
    ");
    // A wrong password is wrong everywhere.
    let wrong = command(&ports, "wrong", "").source(&source);
    shows!(wrong.arg("1").run().expect_code(5).error(), @r#"
    error: the database refused to connect
      caused by: password authentication failed for user "postgres" (28P01)
    hint: user and password in DATABASE_URL must match a role of 127.0.0.1:[port]; no token was asked for
    "#);
    // Nobody takes writes.
    let none = command(&ports[..2], PASSWORD, "").source(&source);
    shows!(none.arg("1").run().expect_code(5).error(), @"
    error: none of the 2 hosts can be used
      caused by: 127.0.0.1:[port]: Connection refused (os error 111)
      caused by: 127.0.0.1:[port] is a standby or read-only
    hint: one of the hosts in DATABASE_URL must be the primary, and reachable; no token was asked for
    ");
    assert!(source.requests().is_empty(), "a token was asked for");
}

#[test]
fn nobody_answers() {
    let ports = [free_port(), free_port()];
    let source = Source::responding([]);
    let command = command(&ports, "canary", "").source(&source);
    shows!(command.arg("1").run().expect_code(5).error(), @"
    error: none of the 2 hosts can be used
      caused by: 127.0.0.1:[port]: Connection refused (os error 111)
      caused by: 127.0.0.1:[port]: Connection refused (os error 111)
    hint: one of the hosts and ports in DATABASE_URL must be reachable and take writes; no token was asked for
    ");
}

/// 25006 in the middle of a run is no verdict on a token: the next host gets it.
#[test]
fn a_primary_that_turns_read_only_is_left_for_the_next() {
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
    until_read_only(&first);
    gate.open();

    let report = Report::of_run(&running.wait().expect_code(0));
    assert_eq!(report.count("stored"), 201);
    assert_eq!(rows(&first), ["aa"]);
    assert_eq!(rows(&second), tokens);
}

/// Nobody announces the new setting. A session that begins with it is begun after all that are open
/// were told.
fn until_read_only(server: &Server) {
    until("it stays as it was", || {
        let row = client(server).query_one("SHOW default_transaction_read_only", &[]);
        row.unwrap().get::<_, &str>(0) == "on"
    });
}

/// So many connections of a run are ready to send.
fn until_connected(server: &Server, count: i64) {
    let mut client = client(server);
    let sql = "SELECT count(*) FROM pg_stat_activity WHERE state = 'idle' \
         AND application_name LIKE 'token_service %'";
    until("there are not so many connections", || {
        client.query_one(sql, &[]).unwrap().get::<_, i64>(0) == count
    });
}

#[track_caller]
fn until(otherwise: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(30);
    while !holds() {
        assert!(Instant::now() < end, "{otherwise}");
        thread::park_timeout(Duration::from_millis(10));
    }
}

#[test]
fn the_only_host_is_waited_for_and_then_the_tokens_are_failed() {
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
    until_read_only(&server);
    gate.open();

    let run = running.wait().expect_code(5);
    let report = Report::of_run(&run);
    assert_eq!(report.with_status("stored"), ["aa"]);
    assert_eq!(report.with_status("failed"), tokens);
    shows!(run.error(), @"
    error: db_connect: the database takes no writes any more, and did not within 300ms
      ╭▸ scripts/default.rhai:3:1
      │
    3 │ report(store(fetch(SIZE)));
      ╰╴━━━━━━
      caused by: 127.0.0.1:[port] is a standby or read-only
    hint: tokens that are `failed` are safe to store again; --patience waits longer
    ");
}

/// The connection that is left works on, and nothing is left for it to do: the end of the run must not
/// depend on it to say why.
#[test]
fn tokens_that_are_given_up_beside_an_idle_connection_are_explained() {
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
    until_connected(&server, 2);
    forbid_writes(&server);
    until_read_only(&server);
    gate.open();

    let run = running.wait().expect_code(5);
    assert_eq!(Report::of_run(&run).with_status("failed"), ["zz"]);
    shows!(run.error(), @"
    error: db_connect: the database takes no writes any more, and did not within 300ms
      ╭▸ scripts/default.rhai:3:1
      │
    3 │ report(store(fetch(SIZE)));
      ╰╴━━━━━━
      caused by: 127.0.0.1:[port] is a standby or read-only
    hint: tokens that are `failed` are safe to store again; --patience waits longer
    ");
}

/// The primary dies with tokens in flight, its standby is promoted: what was replicated is found
/// there, the rest is sent again, and each is there once.
#[test]
fn a_promoted_standby_takes_over_and_shows_what_was_stored() {
    let primary = primary();
    let standby = standby_of(&primary);
    // From now on an acknowledged commit is at the standby too.
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
        "each of them once"
    );
}

/// The host that answers is of another database: what it shows proves nothing.
#[test]
fn another_database_proves_nothing_of_what_was_in_flight() {
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
    until_somebody_waits(&mut admin);
    first.pg_ctl(&["--mode=immediate", "--wait", "stop"]);

    let run = running.wait().expect_code(5);
    let report = Report::of_run(&run);
    assert_eq!(report.with_status("unknown"), ["aa"]);
    assert_eq!(
        report.token("aa")["reason"],
        "the connection was lost, and the host that answers now is of another database"
    );
    assert!(rows(&second).is_empty());
}

fn until_somebody_waits(admin: &mut Client) {
    let sql = "SELECT FROM pg_stat_activity WHERE wait_event = 'advisory'";
    until("no INSERT waits", || {
        !admin.query(sql, &[]).unwrap().is_empty()
    });
}
