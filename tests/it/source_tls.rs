//! Tests of TLS with the source: which certificates are trusted, and client certificates.

use crate::support::certificates::Certificates;
use crate::support::command::Command;
use crate::support::database::Database;
use crate::support::snapshot::shows;
use crate::support::source::{Response, Source};

/// A run with one token.
fn run_of(url: &str) -> (Command, Database) {
    let database = Database::standard();
    let command = Command::new()
        .env("TOKEN_HOST", url)
        .database(&database)
        .args(["1", "--log-level", "warn"]);
    (command, database)
}

fn at_address(source: &Source) -> String {
    source.url().replace("localhost", "127.0.0.1")
}

fn one_token() -> [Response; 1] {
    [Response::tokens(["aa"])]
}

/// The error of a run that trusts the source's authority.
#[track_caller]
fn error_of(source: &Source, url: &str, config: &str) -> String {
    let (command, _database) = run_of(url);
    let command = command.env("SSL_CERT_FILE", source.ca_file().unwrap());
    let run = command.config(config).run().expect_code(4);
    assert!(!run.stderr.contains("unseen"), "{}", run.stderr);
    assert!(source.requests().is_empty());
    run.error().to_owned()
}

#[test]
fn self_signed_certificate_is_trusted_when_it_is_given() {
    for url in [Source::url, at_address] {
        let certificates = Certificates::self_signed(&["localhost", "127.0.0.1"]);
        let source = Source::with_certificates(certificates, one_token());
        let (command, database) = run_of(&url(&source));
        let command = command.env("SSL_CERT_FILE", source.ca_file().unwrap());
        command.run().expect_code(0);
        assert_eq!(database.rows(), ["aa"]);
    }
}

#[test]
fn certificate_is_trusted_by_its_common_name_when_it_has_no_other() {
    let certificates = Certificates::for_common_name("localhost");
    let source = Source::with_certificates(certificates, one_token());
    let (command, _database) = run_of(&source.url());
    command.source(&source).run().expect_code(0);
}

#[test]
fn authority_of_the_configuration_is_the_only_one_trusted() {
    let source = Source::responding_over_tls(one_token());
    let authority = std::fs::read(source.ca_file().unwrap()).unwrap();
    let trusting = |file: &[u8]| {
        let (command, _database) = run_of(&source.url());
        let command = command.source(&source).file("ca.pem", file);
        command.config("source: {tls: {ca: ca.pem}}").run()
    };
    trusting(&authority).expect_code(0);
    let other = Certificates::new().ca_pem;
    let run = trusting(other.as_bytes()).expect_code(4);
    shows!(run.error(), @"
    error: http_connect: the token source's certificate is not trusted
      caused by: POST https://localhost:[port]/tokens: invalid peer certificate: BadSignature
    hint: set `source.tls.ca` or SSL_CERT_FILE to the certificate of its authority
    ");
}

#[test]
fn error_says_what_is_wrong_with_the_certificate() {
    let other_name = Source::with_certificates(Certificates::for_server(&["localhost"]), []);
    let expired = Source::with_certificates(Certificates::expired(&["localhost"]), []);
    let self_signed = Certificates::self_signed(&["localhost"]);
    let self_signed = Source::with_certificates(self_signed, []);
    let errors = [
        error_of(&other_name, &at_address(&other_name), ""),
        error_of(&expired, &expired.url(), ""),
        error_of(&self_signed, &at_address(&self_signed), ""),
    ];
    shows!(errors.join("\n\n"), @r#"
    error: http_connect: the token source's certificate is for another host name
      caused by: POST https://127.0.0.1:[port]/tokens: invalid peer certificate: certificate not valid for name "127.0.0.1"; certificate is only valid for DnsName("localhost")
    hint: write the certificate's host name in TOKEN_HOST or source.url

    error: http_connect: the token source's certificate has expired
      caused by: POST https://localhost:[port]/tokens: invalid peer certificate: Expired
    hint: the source needs another certificate; check also the clock of this machine

    error: http_connect: the token source's certificate is for another host name
      caused by: POST https://127.0.0.1:[port]/tokens: invalid peer certificate: certificate not valid for name "127.0.0.1"; certificate is only valid for DnsName("localhost")
    hint: write the certificate's host name in TOKEN_HOST or source.url
    "#);
}

#[test]
fn authorities_that_are_no_help_are_named() {
    let source = Source::with_certificates(Certificates::self_signed(&["localhost"]), []);
    let trusting = |file: &str| {
        let (command, _database) = run_of(&source.url());
        let command = command.file("other.pem", Certificates::new().ca_pem);
        let run = command.env("SSL_CERT_FILE", file).run();
        run.expect_code(4).error().to_owned()
    };
    let errors = ["other.pem", "missing.pem", "/dev/zero"].map(trusting);
    shows!(errors.join("\n\n"), @"
    error: http_connect: the token source's certificate is self-signed and not trusted
      caused by: POST https://localhost:[port]/tokens: invalid peer certificate: Other(OtherError(CaUsedAsEndEntity))
    hint: set `source.tls.ca` or SSL_CERT_FILE to this certificate

    error: there is no authority that the token source's certificate could be verified with
      caused by: SSL_CERT_FILE names `missing.pem`: No such file or directory (os error 2)
    hint: install ca-certificates, or set `source.tls.ca` or SSL_CERT_FILE to the file of your authority

    error: there is no authority that the token source's certificate could be verified with
      caused by: SSL_CERT_FILE names `/dev/zero`: it is larger than 16.0 MiB
    hint: install ca-certificates, or set `source.tls.ca` or SSL_CERT_FILE to the file of your authority
    ");
}

#[test]
fn client_certificate_is_sent_when_the_source_requires_it() {
    let certificates = Certificates::requiring_client();
    let (cert, key) = certificates.client("tokens");
    let (other_cert, other_key) = Certificates::requiring_client().client("tokens");
    let source = Source::with_certificates(certificates, one_token());
    let config = "source: {tls: {cert: client.pem, key: client.key}}";
    let missing = error_of(&source, &source.url(), "");
    let run = |cert: &str, key: &str| {
        let (command, _database) = run_of(&source.url());
        let command = command.source(&source).config(config);
        command
            .file("client.pem", cert)
            .file("client.key", key)
            .run()
    };
    let refused = run(&other_cert, &other_key).expect_code(4);
    assert!(source.requests().is_empty());
    run(&cert, &key).expect_code(0);
    // The alert that names the reason may be lost when the source closes the connection.
    let refused = refused.error();
    assert!(
        refused.contains("the client certificate") || refused.contains("a client certificate"),
        "{refused}"
    );
    let missing = missing.lines().filter(|line| !line.contains("caused by"));
    shows!(missing.collect::<Vec<_>>().join("\n"), @"
    error: http_connect: the token source requires a client certificate
    hint: `source.tls.cert` and `source.tls.key` name a client certificate and its key
    ");
}

#[test]
fn unusable_files_are_configuration_errors() {
    let certificates = Certificates::requiring_client();
    let (cert, key) = certificates.client("tokens");
    let (_, other_key) = certificates.client("tokens");
    let encrypted =
        "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n";
    let error_of = |url: &str, tls: &str| {
        let command = Command::new()
            .env("TOKEN_HOST", url)
            .env("DATABASE_URL", "sqlite:tokens.db")
            .config(&format!("source:\n  tls: {{{tls}}}\n"))
            .file("client.pem", &cert)
            .file("client.key", &key)
            .file("other.key", &other_key)
            .file("encrypted.key", encrypted)
            .file("empty.pem", "");
        command.run().expect_code(2).stderr
    };
    let errors = [
        "cert: missing.pem, key: client.key",
        "cert: empty.pem, key: client.key",
        "cert: client.pem, key: client.pem",
        "cert: client.pem, key: other.key",
        "cert: client.pem, key: encrypted.key",
        "cert: client.pem",
        "key: client.key",
        "ca: client.key",
        "ca: /dev/zero",
        "passphrase: canary",
    ]
    .map(|tls| error_of("https://tokens.internal/issue", tls));
    let plain = error_of("http://tokens.internal/issue", "ca: client.pem");
    assert!(!errors.concat().contains("canary"));
    shows!([errors.as_slice(), &[plain]].concat().join("\n"), @"
    error: the file of `source.tls.cert` cannot be used
      ╭▸ token_service.yaml:2:9
      │
    2 │   tls: {cert: missing.pem, key: client.key}
      ╰╴        ━━━━
      caused by: No such file or directory (os error 2)

    error: the file of `source.tls.cert` cannot be used
      ╭▸ token_service.yaml:2:9
      │
    2 │   tls: {cert: empty.pem, key: client.key}
      ╰╴        ━━━━
      caused by: it holds no certificate in PEM format

    error: the file of `source.tls.key` cannot be used
      ╭▸ token_service.yaml:2:27
      │
    2 │   tls: {cert: client.pem, key: client.pem}
      ╰╴                          ━━━
      caused by: it holds no private key in PEM format

    error: the file of `source.tls.cert` cannot be used
      ╭▸ token_service.yaml:2:9
      │
    2 │   tls: {cert: client.pem, key: other.key}
      ╰╴        ━━━━
      caused by: the key does not belong to the certificate

    error: the file of `source.tls.key` cannot be used
      ╭▸ token_service.yaml:2:27
      │
    2 │   tls: {cert: client.pem, key: encrypted.key}
      ╰╴                          ━━━
      caused by: the key is encrypted; a key without passphrase is needed

    error: `source.tls.cert` is set without `source.tls.key`
      ╭▸ token_service.yaml:2:9
      │
    2 │   tls: {cert: client.pem}
      ╰╴        ━━━━

    error: `source.tls.key` is set without `source.tls.cert`
      ╭▸ token_service.yaml:2:9
      │
    2 │   tls: {key: client.key}
      ╰╴        ━━━

    error: the file of `source.tls.ca` cannot be used
      ╭▸ token_service.yaml:2:9
      │
    2 │   tls: {ca: client.key}
      ╰╴        ━━
      caused by: it holds no certificate in PEM format

    error: the file of `source.tls.ca` cannot be used
      ╭▸ token_service.yaml:2:9
      │
    2 │   tls: {ca: /dev/zero}
      ╰╴        ━━
      caused by: it is larger than 16.0 MiB

    error: unknown key `passphrase` in `source.tls`
      ╭▸ token_service.yaml:2:9
      │
    2 │   tls: {passphrase: *******
      ╰╴        ━━━━━━━━━━ no such key
    hint: known keys: cert, key, ca

    error: `source.tls.ca` needs a source whose URL begins with https://
      ╭▸ token_service.yaml:2:9
      │
    2 │   tls: {ca: client.pem}
      ╰╴        ━━
    ");
}
