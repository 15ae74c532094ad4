//! Tests of TLS to PostgreSQL. Each `sslmode` behaves as libpq documents it. A refused connection fails
//! with a clear error before a token is requested.

use std::fmt::Write as _;

use crate::support::certificates::Certificates;
use crate::support::command::Command;
use crate::support::database::Database;
use crate::support::snapshot::shows;
use crate::support::source::{Response, Source};
use crate::support::tls_server::{
    CERTIFICATES, CLEARTEXT, NO_TLS, OPEN, PASSWORD, ROLE, TLS_ONLY, tls_server,
};
use crate::support::tls_terminator::{TlsStart, start_tls_terminator};

const MODES: [&str; 6] = [
    "disable",
    "allow",
    "prefer",
    "require",
    "verify-ca",
    "verify-full",
];

/// Prepares a command with the certificate files that a URL may name.
fn command() -> Command {
    let tls_server = tls_server();
    let other = Certificates::new();
    let (cert, key) = tls_server.certificates.client(ROLE);
    let (wrong_cert, wrong_key) = tls_server.certificates.client("other_role");
    let (foreign_cert, foreign_key) = other.client(ROLE);
    Command::new()
        .file("ca.pem", &tls_server.certificates.ca_pem)
        .file("other.pem", &other.ca_pem)
        .file("me.pem", cert)
        .file("me.key", key)
        .file("other_role.pem", wrong_cert)
        .file("other_role.key", wrong_key)
        .file("foreign.pem", foreign_cert)
        .file("foreign.key", foreign_key)
        // This replaces the certificate authorities of the system.
        .env("SSL_CERT_FILE", "other.pem")
}

/// Stores one token, and returns how it was sent or the error.
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
    assert!(source.requests().is_empty(), "a token was requested");
    assert_eq!(run.stdout, "");
    assert!(run.stderr.starts_with("error:"), "{}", run.stderr);
    run.error().to_owned()
}

/// Returns the outcome of each `sslmode` with these parameters; equal outcomes are grouped.
#[track_caller]
fn outcomes_by_mode(host: &str, database: &str, parameters: &str) -> String {
    let url = tls_server().url(host, database);
    by_mode(|mode| {
        let url = format!("{url}?sslmode={mode}{parameters}");
        without_mode(mode, &outcome(command(), &url, database))
    })
}

/// Replaces the mode in the hints.
fn without_mode(mode: &str, outcome: &str) -> String {
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
fn connection_uses_tls_when_the_authority_is_trusted() {
    shows!(outcomes_by_mode("localhost", OPEN, "&sslrootcert=ca.pem"), @"
    disable, allow: without TLS
    prefer, require, verify-ca, verify-full: over TLS
    ");
}

#[test]
fn connection_fails_in_verifying_modes_when_the_authority_is_unknown() {
    shows!(outcomes_by_mode("localhost", OPEN, "&sslrootcert=other.pem"), @"
    disable, allow, prefer: without TLS
    require, verify-ca, verify-full: error: the database's certificate is not trusted
      caused by: localhost:[port]: invalid peer certificate: UnknownIssuer
    hint: set sslrootcert to the certificate of the authority that issued it; no token was requested
    ");
}

/// The authority was renewed under the same name.
#[test]
fn connection_fails_when_the_authority_has_only_the_same_name() {
    let same = Certificates::for_server(&["localhost"]);
    let url = tls_server().url("localhost", OPEN);
    let url = format!("{url}?sslmode=verify-ca&sslrootcert=same.pem");
    let command = command().file("same.pem", same.ca_pem);
    shows!(outcome(command, &url, OPEN), @"
    error: the database's certificate is not trusted
      caused by: localhost:[port]: invalid peer certificate: BadSignature
    hint: set sslrootcert to the certificate of the authority that issued it; no token was requested
    ");
}

#[test]
fn connection_fails_in_verify_modes_when_no_authority_is_given() {
    shows!(outcomes_by_mode("localhost", OPEN, ""), @"
    disable, allow: without TLS
    prefer, require: over TLS
    verify-ca, verify-full: error: the database's certificate is not trusted
      caused by: localhost:[port]: invalid peer certificate: UnknownIssuer
    hint: set sslrootcert to the certificate of the authority that issued it; no token was requested
    ");
}

#[test]
fn connection_fails_in_verify_full_when_the_certificate_is_for_another_host() {
    shows!(outcomes_by_mode("127.0.0.1", OPEN, "&sslrootcert=ca.pem"), @r#"
    disable, allow: without TLS
    prefer, require, verify-ca: over TLS
    verify-full: error: the database's certificate is for another host
      caused by: 127.0.0.1:[port]: invalid peer certificate: certificate not valid for name "127.0.0.1"; certificate is only valid for DnsName("localhost")
    hint: the host in DATABASE_URL must be a name in the certificate; verify-ca does not check the name; no token was requested
    "#);
}

#[test]
fn connection_fails_in_strict_modes_when_the_server_has_no_tls() {
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
        assert!(source.requests().is_empty(), "a token was requested");
        without_mode(mode, run.expect_code(5).error())
    });
    shows!(outcome, @"
    disable, allow, prefer: without TLS
    require, verify-ca, verify-full: error: the database offers no TLS
      caused by: 127.0.0.1:[port]: server does not support TLS
    hint: turn TLS on at 127.0.0.1:[port]; or, if the network is trusted, set sslmode=prefer in DATABASE_URL; no token was requested
    ");
}

#[test]
fn connection_fails_in_mode_disable_when_the_server_requires_tls() {
    shows!(outcomes_by_mode("localhost", TLS_ONLY, "&sslrootcert=ca.pem"), @r#"
    disable: error: the database refused the connection
      caused by: no pg_hba.conf entry for host "127.0.0.1", user "tokens", database "tls_only", no encryption (28000)
    hint: the role may not exist, or pg_hba.conf of localhost:[port] allows "tokens" only from other addresses or with another sslmode in DATABASE_URL (now [mode]); no token was requested
    allow, prefer, require, verify-ca, verify-full: over TLS
    "#);
}

#[test]
fn connection_fails_in_strict_modes_when_the_server_refuses_tls() {
    shows!(outcomes_by_mode("localhost", NO_TLS, "&sslrootcert=ca.pem"), @r#"
    disable, allow, prefer: without TLS
    require, verify-ca, verify-full: error: the database refused the connection
      caused by: no pg_hba.conf entry for host "127.0.0.1", user "tokens", database "no_tls", SSL encryption (28000)
    hint: the role may not exist, or pg_hba.conf of localhost:[port] allows "tokens" only from other addresses or with another sslmode in DATABASE_URL (now [mode]); no token was requested
    "#);
}

#[test]
fn client_certificate_is_sent_when_the_server_requires_it() {
    let certificate = "&sslrootcert=ca.pem&sslcert=me.pem&sslkey=me.key";
    shows!(outcomes_by_mode("localhost", CERTIFICATES, certificate), @r#"
    disable: error: the database refused the connection
      caused by: no pg_hba.conf entry for host "127.0.0.1", user "tokens", database "certificates", no encryption (28000)
    hint: the role may not exist, or pg_hba.conf of localhost:[port] allows "tokens" only from other addresses or with another sslmode in DATABASE_URL (now [mode]); no token was requested
    allow, prefer, require, verify-ca, verify-full: over TLS
    "#);
}

#[test]
fn connection_fails_when_the_client_certificate_is_missing() {
    shows!(outcomes_by_mode("localhost", CERTIFICATES, "&sslrootcert=ca.pem"), @r#"
    disable, allow: error: the database refused the connection
      caused by: no pg_hba.conf entry for host "127.0.0.1", user "tokens", database "certificates", no encryption (28000)
    hint: the role may not exist, or pg_hba.conf of localhost:[port] allows "tokens" only from other addresses or with another sslmode in DATABASE_URL (now [mode]); no token was requested
    prefer, require, verify-ca, verify-full: error: the database refused the connection
      caused by: connection requires a valid client certificate (28000)
    hint: set sslcert and sslkey to a certificate for "tokens", of an authority that localhost:[port] trusts; no token was requested
    "#);
}

#[test]
fn connection_fails_when_the_client_certificate_is_for_another_role() {
    let url = tls_server().url("localhost", CERTIFICATES);
    let url = format!("{url}?sslmode=require&sslcert=other_role.pem&sslkey=other_role.key");
    shows!(outcome(command(), &url, CERTIFICATES), @r#"
    error: the database refused the connection
      caused by: password authentication failed for user "tokens" (28P01)
    hint: user and password in DATABASE_URL must match a role of localhost:[port], and sslcert must be for that role; no token was requested
    "#);
}

/// Either the alert of the server or the end of the connection may arrive first.
#[test]
fn connection_fails_when_the_server_does_not_trust_the_client_certificate() {
    let url = tls_server().url("localhost", CERTIFICATES);
    let url = format!("{url}?sslmode=require&sslcert=foreign.pem&sslkey=foreign.key");
    let error = outcome(command(), &url, CERTIFICATES);
    assert!(error.starts_with("error: the database "), "{error}");
    assert!(error.contains("caused by: localhost:"), "{error}");
}

/// As in libpq, a root certificate in its default path makes `require` verify.
#[test]
fn require_verifies_when_the_home_folder_has_a_root_certificate() {
    let url = format!("{}?sslmode=require", tls_server().url("localhost", OPEN));
    let home = ".postgresql/root.crt";
    let right = command().file(home, &tls_server().certificates.ca_pem);
    assert_eq!(outcome(right, &url, OPEN), "over TLS");
    let wrong = command().file(home, Certificates::new().ca_pem);
    shows!(outcome(wrong, &url, OPEN), @"
    error: the database's certificate is not trusted
      caused by: localhost:[port]: invalid peer certificate: UnknownIssuer
    hint: set sslrootcert to the certificate of the authority that issued it; no token was requested
    ");
}

#[test]
fn system_authorities_verify_the_host_name() {
    let system = |host| format!("{}?sslrootcert=system", tls_server().url(host, OPEN));
    let trusting = || command().env("SSL_CERT_FILE", "ca.pem");
    assert_eq!(outcome(trusting(), &system("localhost"), OPEN), "over TLS");
    shows!(outcome(trusting(), &system("127.0.0.1"), OPEN), @r#"
    error: the database's certificate is for another host
      caused by: 127.0.0.1:[port]: invalid peer certificate: certificate not valid for name "127.0.0.1"; certificate is only valid for DnsName("localhost")
    hint: the host in DATABASE_URL must be a name in the certificate; verify-ca does not check the name; no token was requested
    "#);
}

/// Separate settings in environment and file have the same effect as a URL.
#[test]
fn separate_settings_have_the_effect_of_the_url() {
    let source = Source::generating(|size| size);
    let port = tls_server().server.port.to_string();
    let settings = |host| {
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
    // `sslrootcert` overrides SSL_CERT_FILE.
    settings("localhost").run().expect_code(0);
    assert!(tls_server().was_stored_over_tls(CERTIFICATES, &source.issued()[0]));
    let refused = settings("127.0.0.1").run().expect_code(5);
    shows!(refused.error(), @r#"
    error: the database's certificate is for another host
      caused by: 127.0.0.1:[port]: invalid peer certificate: certificate not valid for name "127.0.0.1"; certificate is only valid for DnsName("localhost")
    hint: DB_HOST must be a name in the certificate; verify-ca does not check the name; no token was requested
    "#);
}

#[test]
fn channel_binding_is_used_and_can_be_required() {
    let with = |database, parameters: &str| {
        let url = format!("{}?{parameters}", tls_server().url("localhost", database));
        outcome(command(), &url, database)
    };
    for binding in ["disable", "prefer", "require"] {
        let parameters = format!("sslmode=require&channel_binding={binding}");
        assert_eq!(with(OPEN, &parameters), "over TLS", "{binding}");
    }
    // Channel binding needs TLS, and a cleartext password proves nothing about the server.
    let refusals = [
        with(OPEN, "sslmode=disable&channel_binding=require"),
        with(CLEARTEXT, "sslmode=require&channel_binding=require"),
    ];
    shows!(refusals.join("\n"), @"
    error: the database does not prove that it knows the password
      caused by: localhost:[port]: server did not use channel binding
    hint: channel_binding=require needs TLS and a role with a SCRAM password; no token was requested
    error: the database does not prove that it knows the password
      caused by: localhost:[port]: server did not use channel binding
    hint: channel_binding=require needs TLS and a role with a SCRAM password; no token was requested
    ");
    let lax = with(CLEARTEXT, "sslmode=require&channel_binding=prefer");
    assert_eq!(lax, "over TLS");
}

#[test]
fn direct_tls_requires_the_alpn_protocol_of_postgresql() {
    let database = Database::standard();
    let certificates = Certificates::for_server(&["localhost"]);
    let (user, password, name) = (&database.user, &database.password, &database.name);
    let run = |start: TlsStart, protocols: &[&str], source: &Source| {
        let port = start_tls_terminator(database.port, &certificates, start, protocols);
        let negotiation = match start {
            TlsStart::Direct => "direct",
            _ => "postgres",
        };
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
    run(TlsStart::Direct, &["postgresql"], &source).expect_code(0);
    run(TlsStart::Requested, &[], &source).expect_code(0);
    assert_eq!(database.rows(), ["aa", "bb"]);

    // Without ALPN this may be another service on that host.
    let source = Source::responding([]);
    let refused = run(TlsStart::Direct, &[], &source).expect_code(5);
    shows!(refused.error(), @"
    error: the database cannot be reached over TLS
      caused by: localhost:[port]: the server did not agree on PostgreSQL's protocol (ALPN)
    hint: sslnegotiation=direct needs PostgreSQL 17 or newer; `postgres` works with all; no token was requested
    ");
}

#[test]
fn common_name_is_verified_when_the_certificate_has_no_alternative_name() {
    let database = Database::standard();
    let (user, password, name) = (&database.user, &database.password, &database.name);
    let run = |common: &str, source: &Source| {
        let certificates = Certificates::for_common_name(common);
        let port = start_tls_terminator(database.port, &certificates, TlsStart::Requested, &[]);
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
    hint: the host in DATABASE_URL must be a name in the certificate; verify-ca does not check the name; no token was requested
    "#);
}
