//! TLS to PostgreSQL means what libpq's documentation says of each `sslmode`: who is let in, over
//! what, and with which words the others are refused, before a token is asked for.

use std::fmt::Write as _;

use crate::support::certificates::Certificates;
use crate::support::command::Command;
use crate::support::database::Database;
use crate::support::snapshot::shows;
use crate::support::source::{Response, Source};
use crate::support::tls_server::{
    CERTIFICATES, CLEARTEXT, NO_TLS, OPEN, PASSWORD, ROLE, TLS_ONLY, tls_server,
};
use crate::support::tls_terminator::start_tls_terminator;

const MODES: [&str; 6] = [
    "disable",
    "allow",
    "prefer",
    "require",
    "verify-ca",
    "verify-full",
];

/// A command in whose folder there are the certificates that a user may name.
fn command() -> Command {
    let tls_server = tls_server();
    let other = Certificates::new();
    let (cert, key) = tls_server.certificates.client(ROLE);
    let (wrong_cert, wrong_key) = tls_server.certificates.client("somebody");
    let (foreign_cert, foreign_key) = other.client(ROLE);
    Command::new()
        .file("ca.pem", &tls_server.certificates.ca_pem)
        .file("other.pem", &other.ca_pem)
        .file("me.pem", cert)
        .file("me.key", key)
        .file("somebody.pem", wrong_cert)
        .file("somebody.key", wrong_key)
        .file("foreign.pem", foreign_cert)
        .file("foreign.key", foreign_key)
        // The system's authorities, as far as this program is concerned.
        .env("SSL_CERT_FILE", "other.pem")
}

/// Stores one token and says how it came, or gives the one error.
#[track_caller]
fn outcome(command: Command, url: &str, database: &str) -> String {
    let source = Source::generating(|size| size);
    let command = command.env("DATABASE_URL", url).source(&source);
    let run = command.arg("1").run();
    assert!(!run.stderr.contains(PASSWORD), "{}", run.stderr);
    if run.code == Some(0) {
        let token = &source.issued()[0];
        assert_eq!(run.stdout, format!("stored    {token}\n"));
        let tls = tls_server().was_stored_over_tls(database, token);
        return String::from(if tls { "over TLS" } else { "without TLS" });
    }
    let run = run.expect_code(5);
    assert!(source.requests().is_empty(), "a token was asked for");
    assert_eq!(run.stdout, "");
    assert!(run.stderr.starts_with("error:"), "{}", run.stderr);
    run.error().to_owned()
}

/// The outcome in each mode, with these parameters beside it; equal ones together.
#[track_caller]
fn modes(host: &str, database: &str, parameters: &str) -> String {
    let url = tls_server().url(host, database);
    by_mode(|mode| {
        let url = format!("{url}?sslmode={mode}{parameters}");
        without(mode, &outcome(command(), &url, database))
    })
}

/// The hints name the mode.
fn without(mode: &str, outcome: &str) -> String {
    outcome
        .replace(&format!("(now {mode})"), "(now [mode])")
        .replace(&format!("DB_SSLMODE is {mode};"), "DB_SSLMODE is [mode];")
}

fn by_mode(outcome: impl Fn(&str) -> String) -> String {
    let mut groups: Vec<(Vec<&str>, String)> = Vec::new();
    for mode in MODES {
        let outcome = outcome(mode);
        match groups.last_mut() {
            Some((modes, last)) if *last == outcome => modes.push(mode),
            _ => groups.push((vec![mode], outcome)),
        }
    }
    groups
        .iter()
        .fold(String::new(), |mut text, (modes, outcome)| {
            let _ = writeln!(text, "{}: {outcome}", modes.join(", "));
            text
        })
}

#[test]
fn the_right_authority() {
    shows!(modes("localhost", OPEN, "&sslrootcert=ca.pem"), @"
    disable, allow: without TLS
    prefer, require, verify-ca, verify-full: over TLS
    ");
}

#[test]
fn an_unknown_authority() {
    shows!(modes("localhost", OPEN, "&sslrootcert=other.pem"), @"
    disable, allow, prefer: without TLS
    require, verify-ca, verify-full: error: the database's certificate is not trusted
      caused by: localhost:[port]: invalid peer certificate: UnknownIssuer
    hint: set sslrootcert to the certificate of the authority that issued it; no token was asked for
    ");
}

/// An authority that was renewed under its old name.
#[test]
fn an_authority_of_the_same_name() {
    let same = Certificates::for_server(&["localhost"]);
    let url = tls_server().url("localhost", OPEN);
    let url = format!("{url}?sslmode=verify-ca&sslrootcert=same.pem");
    let command = command().file("same.pem", same.ca_pem);
    shows!(outcome(command, &url, OPEN), @"
    error: the database's certificate is not trusted
      caused by: localhost:[port]: invalid peer certificate: BadSignature
    hint: set sslrootcert to the certificate of the authority that issued it; no token was asked for
    ");
}

#[test]
fn no_authority_is_given() {
    shows!(modes("localhost", OPEN, ""), @"
    disable, allow: without TLS
    prefer, require: over TLS
    verify-ca, verify-full: error: the database's certificate is not trusted
      caused by: localhost:[port]: invalid peer certificate: UnknownIssuer
    hint: set sslrootcert to the certificate of the authority that issued it; no token was asked for
    ");
}

#[test]
fn a_certificate_for_another_host() {
    shows!(modes("127.0.0.1", OPEN, "&sslrootcert=ca.pem"), @r#"
    disable, allow: without TLS
    prefer, require, verify-ca: over TLS
    verify-full: error: the database's certificate is for another host
      caused by: 127.0.0.1:[port]: invalid peer certificate: certificate not valid for name "127.0.0.1"; certificate is only valid for DnsName("localhost")
    hint: the host in DATABASE_URL must be a name in the certificate; verify-ca does not look at the name; no token was asked for
    "#);
}

#[test]
fn a_server_without_tls() {
    let database = Database::standard();
    let url = database.url();
    let outcome = by_mode(|mode| {
        let url = format!("{url}?sslmode={mode}&sslrootcert=ca.pem");
        let source = Source::generating(|size| size);
        let command = command().env("DATABASE_URL", url).source(&source);
        let run = command.arg("1").run();
        if run.code == Some(0) {
            return "without TLS".to_owned();
        }
        assert!(source.requests().is_empty(), "a token was asked for");
        without(mode, run.expect_code(5).error())
    });
    shows!(outcome, @"
    disable, allow, prefer: without TLS
    require, verify-ca, verify-full: error: the database offers no TLS
      caused by: 127.0.0.1:[port]: server does not support TLS
    hint: turn TLS on at 127.0.0.1:[port]; or, if the network is trusted, set sslmode=prefer in DATABASE_URL; no token was asked for
    ");
}

#[test]
fn a_server_that_insists_on_tls() {
    shows!(modes("localhost", TLS_ONLY, "&sslrootcert=ca.pem"), @r#"
    disable: error: the database refused to connect
      caused by: no pg_hba.conf entry for host "127.0.0.1", user "tokens", database "tls_only", no encryption (28000)
    hint: the role may not exist, or pg_hba.conf of localhost:[port] lets "tokens" in from elsewhere or with another sslmode in DATABASE_URL only (now [mode]); no token was asked for
    allow, prefer, require, verify-ca, verify-full: over TLS
    "#);
}

#[test]
fn a_server_that_insists_on_no_tls() {
    shows!(modes("localhost", NO_TLS, "&sslrootcert=ca.pem"), @r#"
    disable, allow, prefer: without TLS
    require, verify-ca, verify-full: error: the database refused to connect
      caused by: no pg_hba.conf entry for host "127.0.0.1", user "tokens", database "no_tls", SSL encryption (28000)
    hint: the role may not exist, or pg_hba.conf of localhost:[port] lets "tokens" in from elsewhere or with another sslmode in DATABASE_URL only (now [mode]); no token was asked for
    "#);
}

#[test]
fn a_client_certificate_is_asked_for_and_shown() {
    let certificate = "&sslrootcert=ca.pem&sslcert=me.pem&sslkey=me.key";
    shows!(modes("localhost", CERTIFICATES, certificate), @r#"
    disable: error: the database refused to connect
      caused by: no pg_hba.conf entry for host "127.0.0.1", user "tokens", database "certificates", no encryption (28000)
    hint: the role may not exist, or pg_hba.conf of localhost:[port] lets "tokens" in from elsewhere or with another sslmode in DATABASE_URL only (now [mode]); no token was asked for
    allow, prefer, require, verify-ca, verify-full: over TLS
    "#);
}

#[test]
fn a_client_certificate_is_asked_for_and_there_is_none() {
    shows!(modes("localhost", CERTIFICATES, "&sslrootcert=ca.pem"), @r#"
    disable, allow: error: the database refused to connect
      caused by: no pg_hba.conf entry for host "127.0.0.1", user "tokens", database "certificates", no encryption (28000)
    hint: the role may not exist, or pg_hba.conf of localhost:[port] lets "tokens" in from elsewhere or with another sslmode in DATABASE_URL only (now [mode]); no token was asked for
    prefer, require, verify-ca, verify-full: error: the database refused to connect
      caused by: connection requires a valid client certificate (28000)
    hint: set sslcert and sslkey to a certificate for "tokens", of an authority that localhost:[port] knows; no token was asked for
    "#);
}

#[test]
fn a_client_certificate_for_somebody_else() {
    let url = tls_server().url("localhost", CERTIFICATES);
    let url = format!("{url}?sslmode=require&sslcert=somebody.pem&sslkey=somebody.key");
    shows!(outcome(command(), &url, CERTIFICATES), @r#"
    error: the database refused to connect
      caused by: password authentication failed for user "tokens" (28P01)
    hint: user and password in DATABASE_URL must match a role of localhost:[port], and sslcert be for that role; no token was asked for
    "#);
}

/// What arrives first is a race: the server's alert, or the end of the connection.
#[test]
fn a_client_certificate_of_an_authority_that_the_server_does_not_know() {
    let url = tls_server().url("localhost", CERTIFICATES);
    let url = format!("{url}?sslmode=require&sslcert=foreign.pem&sslkey=foreign.key");
    let error = outcome(command(), &url, CERTIFICATES);
    assert!(error.starts_with("error: the database "), "{error}");
    assert!(error.contains("caused by: localhost:"), "{error}");
}

/// As libpq: a root certificate in its usual place makes `require` verify.
#[test]
fn a_root_certificate_in_the_home_folder_counts() {
    let url = format!("{}?sslmode=require", tls_server().url("localhost", OPEN));
    let home = ".postgresql/root.crt";
    let right = command().file(home, &tls_server().certificates.ca_pem);
    assert_eq!(outcome(right, &url, OPEN), "over TLS");
    let wrong = command().file(home, Certificates::new().ca_pem);
    shows!(outcome(wrong, &url, OPEN), @"
    error: the database's certificate is not trusted
      caused by: localhost:[port]: invalid peer certificate: UnknownIssuer
    hint: set sslrootcert to the certificate of the authority that issued it; no token was asked for
    ");
}

#[test]
fn the_system_s_authorities_verify_the_name_too() {
    let system = |host| format!("{}?sslrootcert=system", tls_server().url(host, OPEN));
    let trusting = || command().env("SSL_CERT_FILE", "ca.pem");
    assert_eq!(outcome(trusting(), &system("localhost"), OPEN), "over TLS");
    shows!(outcome(trusting(), &system("127.0.0.1"), OPEN), @r#"
    error: the database's certificate is for another host
      caused by: 127.0.0.1:[port]: invalid peer certificate: certificate not valid for name "127.0.0.1"; certificate is only valid for DnsName("localhost")
    hint: the host in DATABASE_URL must be a name in the certificate; verify-ca does not look at the name; no token was asked for
    "#);
}

/// The parts in the environment and the file mean the same as the URL.
#[test]
fn the_parts_mean_the_same() {
    let source = Source::generating(|size| size);
    let port = tls_server().server.port.to_string();
    let parts = |host| {
        command()
            .config("database: {sslrootcert: ca.pem, sslcert: me.pem, sslkey: me.key}")
            .source(&source)
            .env("DB_HOST", host)
            .env("DB_PORT", &port)
            .env("DB_USER", ROLE)
            .env("DB_PASS", PASSWORD)
            .env("DB_NAME", CERTIFICATES)
            .env("DB_SSLMODE", "verify-full")
            .arg("1")
    };
    // SSL_CERT_FILE is of no account where sslrootcert is given.
    parts("localhost").run().expect_code(0);
    assert!(tls_server().was_stored_over_tls(CERTIFICATES, &source.issued()[0]));
    let refused = parts("127.0.0.1").run().expect_code(5);
    shows!(refused.error(), @r#"
    error: the database's certificate is for another host
      caused by: 127.0.0.1:[port]: invalid peer certificate: certificate not valid for name "127.0.0.1"; certificate is only valid for DnsName("localhost")
    hint: DB_HOST must be a name in the certificate; verify-ca does not look at the name; no token was asked for
    "#);
}

#[test]
fn channel_binding_is_used_and_can_be_demanded() {
    let with = |database, parameters: &str| {
        let url = format!("{}?{parameters}", tls_server().url("localhost", database));
        outcome(command(), &url, database)
    };
    for binding in ["disable", "prefer", "require"] {
        let parameters = format!("sslmode=require&channel_binding={binding}");
        assert_eq!(with(OPEN, &parameters), "over TLS", "{binding}");
    }
    // Without TLS there is nothing to bind to, and a cleartext password proves nothing.
    let refusals = [
        with(OPEN, "sslmode=disable&channel_binding=require"),
        with(CLEARTEXT, "sslmode=require&channel_binding=require"),
    ];
    shows!(refusals.join("\n"), @"
    error: the database does not prove that it knows the password
      caused by: localhost:[port]: server did not use channel binding
    hint: channel_binding=require needs TLS and a role with a SCRAM password; no token was asked for
    error: the database does not prove that it knows the password
      caused by: localhost:[port]: server did not use channel binding
    hint: channel_binding=require needs TLS and a role with a SCRAM password; no token was asked for
    ");
    let lax = with(CLEARTEXT, "sslmode=require&channel_binding=prefer");
    assert_eq!(lax, "over TLS");
}

#[test]
fn direct_tls_agrees_on_the_protocol_of_postgresql() {
    let database = Database::standard();
    let certificates = Certificates::for_server(&["localhost"]);
    let (user, password, name) = (&database.user, &database.password, &database.name);
    let run = |direct: bool, protocols: &[&str], source: &Source| {
        let port = start_tls_terminator(database.port, &certificates, direct, protocols);
        let negotiation = if direct { "direct" } else { "postgres" };
        let url = format!(
            "postgres://{user}:{password}@localhost:{port}/{name}?sslmode=verify-full\
             &sslrootcert=ca.pem&sslnegotiation={negotiation}"
        );
        let command = Command::new()
            .file("ca.pem", &certificates.ca_pem)
            .source(source)
            .env("DATABASE_URL", url);
        command.arg("1").run()
    };
    let source = Source::responding([Response::tokens(["aa"]), Response::tokens(["bb"])]);
    run(true, &["postgresql"], &source).expect_code(0);
    run(false, &[], &source).expect_code(0);
    assert_eq!(database.rows(), ["aa", "bb"]);

    // It may be another service of that host.
    let source = Source::responding([]);
    let refused = run(true, &[], &source).expect_code(5);
    shows!(refused.error(), @"
    error: the database cannot be reached over TLS
      caused by: localhost:[port]: the server did not agree on PostgreSQL's protocol (ALPN)
    hint: sslnegotiation=direct needs PostgreSQL 17 or newer; `postgres` works with all; no token was asked for
    ");
}

#[test]
fn common_name_is_verified_if_the_certificate_has_no_alternative_name() {
    let database = Database::standard();
    let (user, password, name) = (&database.user, &database.password, &database.name);
    let run = |common: &str, source: &Source| {
        let certificates = Certificates::for_common_name(common);
        let port = start_tls_terminator(database.port, &certificates, false, &[]);
        let url = format!(
            "postgres://{user}:{password}@localhost:{port}/{name}?sslmode=verify-full\
             &sslrootcert=ca.pem"
        );
        let command = Command::new().file("ca.pem", &certificates.ca_pem);
        let command = command.source(source).env("DATABASE_URL", url);
        command.arg("1").run()
    };
    let source = Source::responding([Response::tokens(["aa"])]);
    run("localhost", &source).expect_code(0);
    assert_eq!(database.rows(), ["aa"]);
    let source = Source::responding([]);
    let refused = run("db.internal", &source).expect_code(5);
    shows!(refused.error(), @r#"
    error: the database's certificate is for another host
      caused by: localhost:[port]: invalid peer certificate: certificate not valid for name "localhost"; certificate is only valid for CommonName("db.internal")
    hint: the host in DATABASE_URL must be a name in the certificate; verify-ca does not look at the name; no token was asked for
    "#);
}
