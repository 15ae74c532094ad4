//! How a run connects to PostgreSQL: what the first connection finds, and when the others are opened.

use std::io::{Read as _, Write as _};

use crate::faults::{random_token_source, run_command, with_held_tokens};
use crate::outages::unlock;
use crate::support::certificates::Certificates;
use crate::support::command::{Command, Run};
use crate::support::database::{Database, Login};
use crate::support::pgbouncer::{Pooler, PoolerSetup};
use crate::support::raw_server::RawServer;
use crate::support::snapshot::shows;
use crate::support::source::{Response, Source, token};
use crate::support::tls_server::{TLS_ONLY, tls_server};
use crate::support::tls_terminator::{TlsStart, start_tls_terminator};
use crate::support::turns::TurnProxy;
use crate::support::verify::verify;

/// Runs with several connections; returns the fields of the message about the first one.
fn first_connection(login: &Login) -> serde_json::Value {
    let (issued, source) = random_token_source(64);
    let Run { stderr, .. } = run_command(&source, login, issued.len())
        .run()
        .expect_code(0);
    let mut lines = stderr.lines();
    let line = lines.find(|line| line.contains("the database can be used"));
    serde_json::from_str(line.expect("a message about the first connection")).unwrap()
}

#[test]
fn first_connection_counts_the_free_connections_of_its_role() {
    let database = Database::standard();
    let limit = |target: &str, count: i32| {
        let alter = format!("ALTER {target} CONNECTION LIMIT {count}");
        database.superuser().client().batch_execute(&alter).unwrap();
    };
    let (role, name) = (
        format!("ROLE {}", database.user),
        format!("DATABASE {}", database.name),
    );
    let unlimited = first_connection(&database);
    assert_eq!(unlimited["is_shared"], false);
    // The server's limit is 100, with 3 for superusers; other tests use some.
    let free = unlimited["free_connections"].as_u64().unwrap();
    assert!((1..=97).contains(&free), "{free}");
    limit(&role, 5);
    assert_eq!(first_connection(&database)["free_connections"], 5);
    let _other = database.client();
    assert_eq!(first_connection(&database)["free_connections"], 4);
    limit(&name, 3);
    assert_eq!(first_connection(&database)["free_connections"], 2);
}

#[test]
fn free_connections_are_unknown_behind_a_pooler() {
    let database = Database::standard();
    let pooler = Pooler::start(&database, &PoolerSetup::default());
    let first = first_connection(&pooler.login);
    assert_eq!(first["is_shared"], true);
    assert_eq!(first.get("free_connections"), None);
}

/// The parameters of a connection to another port.
fn at_port(login: &Login, port: u16) -> Login {
    Login {
        port,
        ..login.clone()
    }
}

/// Joins the turns of each connection, the equal ones of all but the first once.
fn summary(turns: &[String]) -> String {
    let (first, others) = turns.split_first().expect("a first connection");
    let mut others = others.to_vec();
    others.dedup();
    let others = others.join("\n\nother:\n");
    format!("first:\n{first}\n\nother:\n{others}")
}

/// Each line is one round trip; connecting takes one more. The others connect when the first has sent
/// its startup message, so their INSERTs begin after eight round trips: three of the first, and five.
#[test]
fn other_connections_are_opened_while_the_first_logs_in() {
    let database = Database::standard();
    let proxy = TurnProxy::to(database.port);
    let (issued, source) = random_token_source(256);
    let command = run_command(&source, &at_port(&database, proxy.port), issued.len());
    proxy.hold_first_login();
    let running = command.args(["--connections", "4"]).spawn();
    proxy.wait_for_startups(4);
    // The first login is not accepted yet: no other connection sends the password.
    shows!(summary(&proxy.turns()), @"
    first:
    request for TLS
    startup
    password
    password

    other:
    startup
    ");
    proxy.release_first_login();
    let run = running.wait().expect_code(0);
    verify(&run, &issued, &[], &database);
    shows!(summary(&proxy.turns()), @"
    first:
    request for TLS
    startup
    password
    password
    query
    simple query, prepare, query, query

    other:
    startup
    password
    password
    query, prepare
    ");
}

/// The end of the session also ends the prepared statement.
#[test]
fn connection_ends_without_another_round_trip() {
    let database = Database::standard();
    let proxy = TurnProxy::to(database.port);
    let source = Source::responding([Response::tokens(["aa"])]);
    let run = run_command(&source, &at_port(&database, proxy.port), 1).run();
    run.expect_code(0);
    assert_eq!(proxy.turns_after_insert(), ["end"]);
}

#[test]
fn wrong_password_is_tried_once() {
    let database = Database::standard();
    let proxy = TurnProxy::to(database.port);
    let login = Login {
        password: "canary".to_owned(),
        ..at_port(&database, proxy.port)
    };
    let source = Source::responding([]);
    let command = run_command(&source, &login, 256);
    proxy.hold_first_login();
    let running = command.args(["--connections", "4"]).spawn();
    proxy.wait_for_startups(4);
    proxy.release_first_login();
    running.wait().expect_code(5);
    shows!(summary(&proxy.turns()), @"
    first:
    request for TLS
    startup
    password
    password

    other:
    startup
    ");
}

/// A server that restarts must not meet many clients.
#[test]
fn server_that_is_starting_sees_one_client() {
    let server = RawServer::start(|_, mut stream| {
        let mut request = [0; 8];
        let _ = stream.read_exact(&mut request);
        let _ = stream.write_all(b"N");
        let _ = stream.read(&mut [0; 1024]);
        let _ = stream.write_all(b"E\0\0\0\x20SFATAL\0C57P03\0Mstarting up\0\0");
    });
    let login = Login {
        host: "127.0.0.1".to_owned(),
        port: server.port,
        user: "tokens".to_owned(),
        password: "canary".to_owned(),
        name: "tokens".to_owned(),
    };
    let source = Source::responding([]);
    let command = run_command(&source, &login, 256);
    command.args(["--connections", "4"]).run().expect_code(5);
    assert_eq!(server.connections(), 1);
}

/// A pooler may assign its server to another client after each reply.
#[test]
fn nothing_is_pipelined_or_prepared_behind_a_pooler() {
    let database = Database::standard();
    let pooler = Pooler::start(&database, &PoolerSetup::default());
    let proxy = TurnProxy::to(pooler.login.port);
    let (issued, source) = random_token_source(256);
    let command = run_command(&source, &at_port(&pooler.login, proxy.port), issued.len());
    let run = command.args(["--connections", "4"]).run().expect_code(0);
    verify(&run, &issued, &[], &database);
    for turns in proxy.turns() {
        let is_single = |turn: &str| !turn.contains(", ") && !turn.contains("prepare");
        assert!(turns.lines().all(is_single), "{turns}");
    }
}

#[test]
fn session_is_set_up_anew_when_a_pooler_takes_the_place_of_the_server() {
    let database = Database::standard();
    let setup = PoolerSetup {
        lines: "ignore_startup_parameters = options",
        ..PoolerSetup::default()
    };
    let pooler = Pooler::start(&database, &setup);
    let (direct, shared) = (database.port, pooler.login.port);
    let proxy = TurnProxy::to_each(move |number| if number == 0 { direct } else { shared });
    let (issued, source) = random_token_source(256);
    let command = run_command(&source, &at_port(&pooler.login, proxy.port), issued.len());
    let run = command.args(["--connections", "2"]).run().expect_code(0);
    verify(&run, &issued, &[], &database);
    let turns = proxy.turns();
    // Behind the pooler, every further query is an INSERT.
    let starts = turns[1..].iter().map(|turns| turns.lines().take(4));
    let starts: Vec<String> = starts
        .map(|turns| turns.collect::<Vec<_>>().join("\n"))
        .collect();
    shows!(starts.join("\n\nagain:\n"), @"
    startup
    password
    password
    query, prepare

    again:
    startup
    password
    password
    query
    ");
}

/// Returns what the first connection sends first, then the same of the others, sorted.
fn starts(proxy: &TurnProxy) -> Vec<String> {
    let turns = proxy.turns();
    let starts = turns.iter().filter_map(|turns| turns.lines().next());
    let mut starts: Vec<String> = starts.map(ToOwned::to_owned).collect();
    starts[1..].sort();
    starts
}

/// Runs over TLS with a terminator that agrees on PostgreSQL's protocol; returns the starts.
fn starts_of_tls(start: TlsStart) -> Vec<String> {
    let database = Database::standard();
    let certificates = Certificates::for_server(&["localhost"]);
    let port = start_tls_terminator(database.port, &certificates, start, &["postgresql"]);
    let proxy = TurnProxy::to(port);
    let Login {
        user,
        password,
        name,
        ..
    } = &*database;
    let url = format!(
        "postgres://{user}:{password}@localhost:{}/{name}?sslmode=verify-full&sslrootcert=ca.pem",
        proxy.port
    );
    let (issued, source) = random_token_source(256);
    let command = run_command(&source, &database, issued.len())
        .file("ca.pem", &certificates.ca_pem)
        .env("DATABASE_URL", url);
    let run = command.args(["--connections", "4"]).run().expect_code(0);
    verify(&run, &issued, &[], &database);
    starts(&proxy)
}

#[test]
fn tls_starts_directly_when_the_server_has_agreed_on_the_protocol() {
    assert_eq!(
        starts_of_tls(TlsStart::Either),
        ["request for TLS", "TLS", "TLS", "TLS"]
    );
}

#[test]
fn tls_starts_by_request_when_the_direct_start_fails() {
    let starts = starts_of_tls(TlsStart::Requested);
    let requests = starts.iter().filter(|start| *start == "request for TLS");
    assert_eq!(requests.count(), 4, "{starts:?}");
    assert!(starts.len() > 4, "no direct start was tried: {starts:?}");
}

/// PostgreSQL 17 was the first to agree on the protocol; an older one is not asked for a direct start.
#[test]
fn tls_starts_directly_when_postgresql_has_version_17_or_newer() {
    let tls_server = tls_server();
    let proxy = TurnProxy::to(tls_server.server.port);
    let url = tls_server.url("localhost", TLS_ONLY);
    let url = url.replace(&tls_server.server.port.to_string(), &proxy.port.to_string());
    let (issued, source) = random_token_source(256);
    let command = Command::new()
        .source(&source)
        .env("DATABASE_URL", url + "?sslmode=require");
    let command = command.args(["256", "--connections", "4"]);
    command.run().expect_code(0);
    assert!(tls_server.was_stored_over_tls(TLS_ONLY, &issued[255]));
    let version = tls_server
        .admin(TLS_ONLY)
        .query_one("SHOW server_version_num", &[]);
    let version: String = version.unwrap().get(0);
    let direct = version.parse::<u32>().unwrap() >= 170_000;
    let other = if direct { "TLS" } else { "request for TLS" };
    assert_eq!(starts(&proxy), ["request for TLS", other, other, other]);
}

/// Several replies are read at once, but none waits for a reply that does not come.
#[test]
fn outcome_is_reported_while_a_later_insert_waits_for_a_lock() {
    let (database, mut admin) = with_held_tokens(Database::standard());
    // Each reply arrives alone.
    let slow = "ALTER TABLE secret_tokens ADD CONSTRAINT slow CHECK (pg_sleep(0.01)::text = '')";
    let database = database.with_sql(slow);
    let mut issued: Vec<String> = (0..40).map(|_| token()).collect();
    issued[18] = "held".to_owned();
    let source = Source::responding([Response::tokens(&issued)]);
    let command = run_command(&source, &database, issued.len());
    let running = command
        .args(["--connections", "1", "--pipeline", "16"])
        .spawn();
    running.wait_for_stdout(|stdout| stdout.contains(&issued[17]));
    unlock(&mut admin);
    let run = running.wait().expect_code(0);
    let verified = verify(&run, &issued, &[], &database);
    // Otherwise only the end of its INSERT by the statement timeout has let the outcome through.
    assert_eq!(verified.report.token("held")["attempts"], 1);
}
