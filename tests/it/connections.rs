//! The way to PostgreSQL: Unix sockets by folder, also Cloud SQL's, servers that accept and fall
//! silent at each stage, and a TLS connection that is cut in the middle of a run.

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
fn a_unix_socket_by_parts_and_by_url() {
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

/// Cloud SQL names the folder after the instance, with colons in it.
#[test]
fn a_unix_socket_in_a_folder_with_colons() {
    let database = Database::standard();
    let root = tempfile::tempdir().unwrap();
    let folder = root.path().join("cloudsql/project:region:instance");
    std::fs::create_dir_all(&folder).unwrap();
    let port = database.port;
    let real = server().sockets.join(format!(".s.PGSQL.{port}"));
    // There the socket always has the default port's name.
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
        // Of no account over a socket, as with libpq.
        .env("DB_SSLMODE", "require");
    parts.arg("1").run().expect_code(0);
    let url = format!("postgres://{user}:{password}@/{name}?host={folder}");
    let by_url = Command::new().source(&source).env("DATABASE_URL", url);
    by_url.arg("1").run().expect_code(0);
    assert_eq!(database.rows(), ["aa", "bb"]);
}

#[test]
fn a_folder_without_a_socket() {
    let source = Source::responding([]);
    let command = Command::new()
        .source(&source)
        .env("DATABASE_URL", "postgres://u:p@/x?host=/nowhere/at:all");
    shows!(command.arg("1").run().expect_code(5).error(), @"
    error: the database cannot be reached
      caused by: /nowhere/at:all/.s.PGSQL.5432: No such file or directory (os error 2)
    hint: the host in DATABASE_URL must be the folder of the server's socket, and the server must run; no token was asked for
    ");
}

/// Accepts one connection, plays `say`, and holds it until the other side gives up.
fn silent(say: impl FnOnce(&mut TcpStream) + Send + 'static) -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        say(&mut stream);
        let _ = stream.read_to_end(&mut Vec::new());
    });
    port
}

/// One packet of the start, which begins with its length.
fn hear(stream: &mut TcpStream) {
    let mut length = [0; 4];
    stream.read_exact(&mut length).unwrap();
    let rest = usize::try_from(u32::from_be_bytes(length)).unwrap() - 4;
    stream.read_exact(&mut vec![0; rest]).unwrap();
}

/// The error within the limit of a second, and long before that of the test.
#[track_caller]
fn given_up(port: u16, sslmode: &str) -> String {
    let source = Source::responding([]);
    let url = format!("postgres://u:canary@127.0.0.1:{port}/x?sslmode={sslmode}&connect_timeout=1");
    let started = Instant::now();
    let command = Command::new().source(&source).env("DATABASE_URL", url);
    let run = command.arg("1").run().expect_code(5);
    let took = started.elapsed();
    assert!(took < Duration::from_secs(9), "gave up after {took:?}");
    assert!(source.requests().is_empty(), "a token was asked for");
    run.error().to_owned()
}

#[test]
fn a_server_that_falls_silent_is_given_up_in_time() {
    let before_tls = given_up(silent(|_| {}), "require");
    shows!(before_tls, @"
    error: the database cannot be reached
      caused by: 127.0.0.1:[port] did not answer within 1s
    hint: check host and port in DATABASE_URL and that no firewall drops the packets, or raise connect_timeout; no token was asked for
    ");
    let said_yes = silent(|stream| {
        hear(stream);
        stream.write_all(b"S").unwrap();
    });
    let in_tls = given_up(said_yes, "require");
    let asked = silent(|stream| {
        hear(stream);
        // AuthenticationMD5Password with its salt.
        stream.write_all(b"R\0\0\0\x0c\0\0\0\x05salt").unwrap();
    });
    let in_authentication = given_up(asked, "disable");
    let welcomed = silent(|stream| {
        hear(stream);
        // AuthenticationOk, and then no ReadyForQuery.
        stream.write_all(b"R\0\0\0\x08\0\0\0\0").unwrap();
    });
    let after_authentication = given_up(welcomed, "disable");
    for error in [in_tls, in_authentication, after_authentication] {
        let place = |text: &str| text.split("127.0.0.1:").next().unwrap().to_owned();
        assert_eq!(place(&error), place(&before_tls));
        assert!(error.contains("did not answer within 1s"), "{error}");
    }
}

/// Each host has the whole time.
#[test]
fn a_silent_host_does_not_use_up_the_time_of_the_next() {
    let database = Database::standard();
    let source = Source::responding([Response::tokens(["aa"])]);
    let (quiet, port) = (silent(|_| {}), database.port);
    let (user, password, name) = (&database.user, &database.password, &database.name);
    let hosts = format!("127.0.0.1:{quiet},127.0.0.1:{port}");
    let url = format!("postgres://{user}:{password}@{hosts}/{name}?connect_timeout=2");
    let command = Command::new().source(&source).env("DATABASE_URL", url);
    command.arg("1").run().expect_code(0);
    assert_eq!(database.rows(), ["aa"]);
}

#[test]
fn a_tls_connection_that_is_cut_is_resolved_as_others_are() {
    let tls_server = tls_server();
    let mut admin = tls_server.admin(TLS_ONLY);
    // In a CHECK: on a table with row triggers a look-up proves nothing.
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
    let cut = "SELECT pg_terminate_backend($1), pg_advisory_unlock(7)";
    admin.execute(cut, &[&pid]).unwrap();

    let report = Report::of_run(&running.wait().expect_code(0));
    assert_eq!(report.count("stored"), 51);
    let sql = "SELECT data FROM secret_tokens WHERE tls AND data ~ '^(first|cut)' ORDER BY 1";
    let rows = admin.query(sql, &[]).unwrap();
    let rows: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
    assert_eq!(
        rows,
        report.with_status("stored"),
        "each of them once, and over TLS"
    );
}

/// A reconnect demands what the first connection demanded.
#[test]
fn a_server_that_turns_tls_off_in_the_middle_gets_no_token_without_it() {
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
    // Only the postmaster's own children tell what it does now.
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
    let cut = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'tokens'";
    admin.batch_execute(cut).unwrap();
    gate.open();

    let run = running.wait().expect_code(5);
    let report = Report::of_run(&run);
    assert_eq!(report.with_status("stored"), ["aa"]);
    // Whether they were sent before the cut was noticed is a race; neither is stored.
    let left = [report.with_status("failed"), report.with_status("unknown")].concat();
    assert_eq!(left, ["bb", "cc"], "{}", run.stdout);
    assert!(
        run.error().contains("server does not support TLS"),
        "{}",
        run.stderr
    );
    let rows = admin.query("SELECT data FROM secret_tokens", &[]).unwrap();
    assert_eq!(rows.len(), 1);
    assert!(tls_server.was_stored_over_tls(OPEN, "aa"));
}

/// A server, or a pooler, that refuses a session with startup options as RDS Proxy does.
fn without_options(target: u16) -> u16 {
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
fn proxy_that_refuses_startup_options_is_connected_to_without_them() {
    let database = Database::standard();
    let port = without_options(database.port);
    let (user, password, name) = (&database.user, &database.password, &database.name);
    let url = format!("postgres://{user}:{password}@127.0.0.1:{port}/{name}?sslmode=disable");
    let source = Source::responding([Response::tokens(["aa", "bb"])]);
    let command = Command::new().source(&source).env("DATABASE_URL", &url);
    command.arg("2").run().expect_code(0);
    assert_eq!(database.rows(), ["aa", "bb"]);

    // Those that the user wants are not left out.
    let source = Source::responding([]);
    let url = format!("{url}&options=-csearch_path%3Dapp");
    let command = Command::new().source(&source).env("DATABASE_URL", url);
    shows!(command.arg("1").run().expect_code(5).error(), @"
    error: the database refuses the startup options
      caused by: Feature not supported: RDS Proxy currently doesn’t support command-line options. (0A000)
    hint: remove or correct `options` in DATABASE_URL; a pooler may accept none; no token was asked for
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
    hint: remove or correct `options` in DATABASE_URL; a pooler may accept none; no token was asked for
    "#);
}

#[test]
fn hosts_are_tried_in_random_order_if_load_balancing_is_on() {
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
        assert!(tries < 64, "the second host is never the first");
    }
}
