//! Connections to PostgreSQL: Unix sockets, servers that stop responding during startup, startup options,
//! and TLS connections that break during a run.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::symlink;
use std::thread;
use std::time::{Duration, Instant};

use crate::support::command::Command;
use crate::support::database::Database;
use crate::support::postgres::server;
use crate::support::proxy::Proxy;
use crate::support::report::Report;
use crate::support::snapshot::shows;
use crate::support::source::{Gate, Response, Source};
use crate::support::tls_server::{OPEN, TLS_ONLY, TlsServer, tls_server};

#[test]
fn unix_socket_is_configured_by_variables_or_url() {
    let database = Database::standard();
    let (folder, port) = (server().sockets.to_str().unwrap(), database.port);
    let (user, name) = (&database.user, &database.name);
    let source = Source::responding([Response::tokens(["aa"]), Response::tokens(["bb"])]);
    let parts = Command::new()
        .source(&source)
        .database_by_parts(&database)
        .env("DB_HOST", folder);
    parts.arg("1").run().expect_code(0);
    let password = &database.password;
    let url =
        format!("postgres:///{name}?host={folder}&port={port}&user={user}&password={password}");
    let by_url = Command::new().source(&source).env("DATABASE_URL", url);
    by_url.arg("1").run().expect_code(0);
    assert_eq!(database.rows(), ["aa", "bb"]);
}

/// Cloud SQL names the folder after the instance, whose name contains colons.
#[test]
fn folder_of_unix_socket_may_contain_colons() {
    let database = Database::standard();
    let root = tempfile::tempdir().unwrap();
    let folder = root.path().join("cloudsql/project:region:instance");
    std::fs::create_dir_all(&folder).unwrap();
    let port = database.port;
    let real = server().sockets.join(format!(".s.PGSQL.{port}"));
    // Cloud SQL's socket has the name of the default port.
    symlink(real, folder.join(".s.PGSQL.5432")).unwrap();
    let folder = folder.to_str().unwrap();
    let (user, name, password) = (&database.user, &database.name, &database.password);
    let source = Source::responding([Response::tokens(["aa"]), Response::tokens(["bb"])]);
    let parts = Command::new()
        .source(&source)
        .env("DB_HOST", folder)
        .env("DB_USER", user)
        .env("DB_PASS", password)
        .env("DB_NAME", name)
        // Ignored over a Unix socket, as in libpq.
        .env("DB_SSLMODE", "require");
    parts.arg("1").run().expect_code(0);
    let url = format!("postgres://{user}:{password}@/{name}?host={folder}");
    let by_url = Command::new().source(&source).env("DATABASE_URL", url);
    by_url.arg("1").run().expect_code(0);
    assert_eq!(database.rows(), ["aa", "bb"]);
}

#[test]
fn missing_unix_socket_is_reported() {
    let source = Source::responding([]);
    let command = Command::new()
        .source(&source)
        .env("DATABASE_URL", "postgres://u:p@/x?host=/nowhere/at:all");
    shows!(command.arg("1").run().expect_code(5).error(), @"
    error: the database cannot be reached
      caused by: /nowhere/at:all/.s.PGSQL.5432: No such file or directory (os error 2)
    hint: the host in DATABASE_URL must be the folder of the server's socket, and the server must run; no token was requested
    ");
}

/// Starts a server that accepts one connection, runs `startup`, and then sends nothing.
fn silent_server(startup: impl FnOnce(&mut TcpStream) + Send + 'static) -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        startup(&mut stream);
        let _ = stream.read_to_end(&mut Vec::new());
    });
    port
}

/// Reads one startup packet, which begins with its length.
fn read_startup_packet(stream: &mut TcpStream) {
    let mut length = [0; 4];
    stream.read_exact(&mut length).unwrap();
    let rest = usize::try_from(u32::from_be_bytes(length)).unwrap() - 4;
    stream.read_exact(&mut vec![0; rest]).unwrap();
}

/// The error of a connection that times out after one second.
#[track_caller]
fn timeout_error(port: u16, sslmode: &str) -> String {
    let source = Source::responding([]);
    let url = format!("postgres://u:canary@127.0.0.1:{port}/x?sslmode={sslmode}&connect_timeout=1");
    let started = Instant::now();
    let command = Command::new().source(&source).env("DATABASE_URL", url);
    let run = command.arg("1").run().expect_code(5);
    let took = started.elapsed();
    assert!(took < Duration::from_secs(9), "timed out after {took:?}");
    assert!(source.requests().is_empty(), "a token was requested");
    run.error().to_owned()
}

#[test]
fn connection_times_out_when_server_stops_responding_during_startup() {
    let before_tls = timeout_error(silent_server(|_| {}), "require");
    shows!(before_tls, @"
    error: the database cannot be reached
      caused by: 127.0.0.1:[port] did not answer within 1s
    hint: check host and port in DATABASE_URL and that no firewall drops the packets, or raise connect_timeout; no token was requested
    ");
    let accepts_tls = silent_server(|stream| {
        read_startup_packet(stream);
        stream.write_all(b"S").unwrap();
    });
    let in_tls = timeout_error(accepts_tls, "require");
    let requests_password = silent_server(|stream| {
        read_startup_packet(stream);
        // AuthenticationMD5Password with its salt.
        stream.write_all(b"R\0\0\0\x0c\0\0\0\x05salt").unwrap();
    });
    let in_authentication = timeout_error(requests_password, "disable");
    let authenticates = silent_server(|stream| {
        read_startup_packet(stream);
        // AuthenticationOk, and then no ReadyForQuery.
        stream.write_all(b"R\0\0\0\x08\0\0\0\0").unwrap();
    });
    let after_authentication = timeout_error(authenticates, "disable");
    for error in [in_tls, in_authentication, after_authentication] {
        let before_port = |text: &str| text.split("127.0.0.1:").next().unwrap().to_owned();
        assert_eq!(before_port(&error), before_port(&before_tls));
        assert!(error.contains("did not answer within 1s"), "{error}");
    }
}

#[test]
fn each_host_has_its_own_connect_timeout() {
    let database = Database::standard();
    let source = Source::responding([Response::tokens(["aa"])]);
    let (silent, port) = (silent_server(|_| {}), database.port);
    let (user, password, name) = (&database.user, &database.password, &database.name);
    let hosts = format!("127.0.0.1:{silent},127.0.0.1:{port}");
    let url = format!("postgres://{user}:{password}@{hosts}/{name}?connect_timeout=2");
    let command = Command::new().source(&source).env("DATABASE_URL", url);
    command.arg("1").run().expect_code(0);
    assert_eq!(database.rows(), ["aa"]);
}

#[test]
fn in_doubt_tokens_are_resolved_when_a_tls_connection_breaks() {
    let tls_server = tls_server();
    let mut admin = tls_server.admin(TLS_ONLY);
    // A CHECK holds the lock: with row triggers a look-up would prove nothing.
    let lock = "CREATE FUNCTION hold(data text) RETURNS bool LANGUAGE plpgsql AS $$ BEGIN
             IF data LIKE 'cut%' THEN PERFORM pg_advisory_xact_lock_shared(7); END IF;
             RETURN true; END $$;
         ALTER TABLE secret_tokens ADD CONSTRAINT hold CHECK (hold(data));
         SELECT pg_advisory_lock(7)";
    admin.batch_execute(lock).unwrap();
    let gate = Gate::new();
    let tokens: Vec<String> = (0..50).map(|n| format!("cut{n:02}")).collect();
    let source = Source::responding([
        Response::tokens(["first"]),
        Response::tokens(&tokens).after(&gate),
    ]);
    let url = tls_server.url("localhost", TLS_ONLY);
    let running = Command::new()
        .file("ca.pem", &tls_server.certificates.ca_pem)
        .env(
            "DATABASE_URL",
            format!("{url}?sslmode=verify-full&sslrootcert=ca.pem"),
        )
        .source(&source)
        .args(["51", "--report", "ndjson"])
        .spawn();
    running.wait_for_stdout(|text| text.lines().count() == 1);
    gate.open();
    let waiting = "SELECT pid FROM pg_stat_activity WHERE datname = current_database()
         AND wait_event = 'advisory' LIMIT 1";
    let end = Instant::now() + Duration::from_secs(30);
    let pid: i32 = loop {
        if let Some(row) = admin.query_opt(waiting, &[]).unwrap() {
            break row.get(0);
        }
        assert!(Instant::now() < end, "no INSERT waits for the lock");
        thread::park_timeout(Duration::from_millis(10));
    };
    let terminate = "SELECT pg_terminate_backend($1), pg_advisory_unlock(7)";
    admin.execute(terminate, &[&pid]).unwrap();

    let report = Report::of_run(&running.wait().expect_code(0));
    assert_eq!(report.count("stored"), 51);
    let sql = "SELECT data FROM secret_tokens WHERE tls AND data ~ '^(first|cut)' ORDER BY 1";
    let rows = admin.query(sql, &[]).unwrap();
    let rows: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
    assert_eq!(
        rows,
        report.with_status("stored"),
        "each token is stored once, over TLS"
    );
}

/// A reconnect has the requirements of the first connection.
#[test]
fn no_token_is_sent_without_tls_when_the_server_turns_tls_off() {
    let tls_server = TlsServer::new();
    let mut admin = tls_server.admin(OPEN);
    let gate = Gate::new();
    let source = Source::responding([
        Response::tokens(["aa"]),
        Response::tokens(["bb", "cc"]).after(&gate),
    ]);
    let url = format!("{}?sslmode=require", tls_server.url("localhost", OPEN));
    let running = Command::new()
        .env("DATABASE_URL", url)
        .source(&source)
        .args(["3", "--report", "ndjson", "--patience", "300ms"])
        .spawn();
    running.wait_for_stdout(|text| text.lines().count() == 1);
    for sql in ["ALTER SYSTEM SET ssl = off", "SELECT pg_reload_conf()"] {
        admin.batch_execute(sql).unwrap();
    }
    // Only a new backend shows the postmaster's current setting.
    let end = Instant::now() + Duration::from_secs(30);
    while tls_server
        .admin(OPEN)
        .query_one("SHOW ssl", &[])
        .unwrap()
        .get::<_, &str>(0)
        == "on"
    {
        assert!(Instant::now() < end, "TLS stays on");
        thread::park_timeout(Duration::from_millis(10));
    }
    let terminate =
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'tokens'";
    admin.batch_execute(terminate).unwrap();
    gate.open();

    let run = running.wait().expect_code(5);
    let report = Report::of_run(&run);
    assert_eq!(report.with_status("stored"), ["aa"]);
    // It is a race whether they are sent before the disconnect is noticed; neither is stored.
    let unstored = [report.with_status("failed"), report.with_status("unknown")].concat();
    assert_eq!(unstored, ["bb", "cc"], "{}", run.stdout);
    assert!(
        run.error().contains("server does not support TLS"),
        "{}",
        run.stderr
    );
    let rows = admin.query("SELECT data FROM secret_tokens", &[]).unwrap();
    assert_eq!(rows.len(), 1);
    assert!(tls_server.was_stored_over_tls(OPEN, "aa"));
}

/// Starts a proxy that refuses sessions with startup options, like RDS Proxy.
fn proxy_without_options(target: u16) -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut client = stream.unwrap();
            let mut length = [0; 4];
            client.read_exact(&mut length).unwrap();
            let mut start = vec![0; usize::try_from(u32::from_be_bytes(length)).unwrap() - 4];
            client.read_exact(&mut start).unwrap();
            if start.windows(9).any(|part| part == b"\0options\0") {
                let text = "RDS Proxy currently doesn’t support command-line options.";
                let body = format!("SFATAL\0C0A000\0MFeature not supported: {text}\0\0");
                let length = u32::try_from(body.len() + 4).unwrap().to_be_bytes();
                let refusal = [b"E".as_slice(), &length, body.as_bytes()].concat();
                let _ = client.write_all(&refusal);
                continue;
            }
            let mut server = TcpStream::connect(("127.0.0.1", target)).unwrap();
            server
                .write_all(&[length.as_slice(), &start].concat())
                .unwrap();
            let (mut from, mut to) = (client.try_clone().unwrap(), server.try_clone().unwrap());
            thread::spawn(move || std::io::copy(&mut from, &mut to));
            thread::spawn(move || std::io::copy(&mut server, &mut client));
        }
    });
    port
}

#[test]
fn own_startup_options_are_left_out_when_a_proxy_refuses_them() {
    let database = Database::standard();
    let port = proxy_without_options(database.port);
    let (user, password, name) = (&database.user, &database.password, &database.name);
    let url = format!("postgres://{user}:{password}@127.0.0.1:{port}/{name}?sslmode=disable");
    let source = Source::responding([Response::tokens(["aa", "bb"])]);
    let command = Command::new().source(&source).env("DATABASE_URL", &url);
    command.arg("2").run().expect_code(0);
    assert_eq!(database.rows(), ["aa", "bb"]);

    // The user's options are never left out.
    let source = Source::responding([]);
    let url = format!("{url}&options=-csearch_path%3Dapp");
    let command = Command::new().source(&source).env("DATABASE_URL", url);
    shows!(command.arg("1").run().expect_code(5).error(), @"
    error: the database refuses the startup options
      caused by: Feature not supported: RDS Proxy currently doesn’t support command-line options. (0A000)
    hint: remove or correct `options` in DATABASE_URL; a pooler may accept none; no token was requested
    ");
}

#[test]
fn startup_options_of_the_user_reach_the_server() {
    let database = Database::from_ddl(
        "CREATE SCHEMA \"an app\"; CREATE TABLE \"an app\".secret_tokens (data text)",
    );
    let source = Source::responding([Response::tokens(["aa"])]);
    let url = format!(
        "{}?options=-csearch_path%3D%22an%5C%20app%22",
        database.url()
    );
    let command = Command::new().source(&source).env("DATABASE_URL", url);
    command.arg("1").run().expect_code(0);
    let sql = "SELECT data FROM \"an app\".secret_tokens";
    let row = database.client().query_one(sql, &[]).unwrap();
    assert_eq!(row.get::<_, &str>(0), "aa");

    let source = Source::responding([]);
    let url = format!("{}?options=-cserch_path%3Dapp", database.url());
    let command = Command::new().source(&source).env("DATABASE_URL", url);
    shows!(command.arg("1").run().expect_code(5).error(), @r#"
    error: the database refuses the startup options
      caused by: unrecognized configuration parameter "serch_path" (42704)
    hint: remove or correct `options` in DATABASE_URL; a pooler may accept none; no token was requested
    "#);
}

#[test]
fn hosts_are_tried_in_random_order_when_load_balancing_is_on() {
    let database = Database::standard();
    let proxies = [0, 1].map(|_| Proxy::to(database.port));
    let (user, password, name) = (&database.user, &database.password, &database.name);
    let [first, second] = [&proxies[0], &proxies[1]].map(|proxy| proxy.port);
    let hosts = format!("127.0.0.1:{first},127.0.0.1:{second}");
    let url = format!("postgres://{user}:{password}@{hosts}/{name}");
    let check = |url: &str| {
        let source = Source::responding([]);
        let command = Command::new().source(&source).env("DATABASE_URL", url);
        command.args(["check", "--connect"]).run();
    };
    check(&url);
    assert_eq!([0, 1].map(|n: usize| proxies[n].accepted()), [1, 0]);
    let mut tries = 0;
    while proxies[1].accepted() == 0 {
        check(&format!("{url}?load_balance_hosts=random"));
        tries += 1;
        assert!(tries < 64, "the second host is never tried first");
    }
}
