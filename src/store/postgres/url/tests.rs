//! What a database's URL may say, and that no error repeats it.

use super::*;
use secrecy::ExposeSecret;

fn places(address: &Address) -> Vec<String> {
    address.hosts.iter().map(Host::place).collect()
}

#[test]
fn a_full_url() {
    let address = parse(
        "postgres://to%40kens:p%3A%2Fw@db.internal:6432/my%20db?sslmode=verify-full\
         &sslrootcert=/ca.pem&sslcert=c.pem&sslkey=k.pem&connect_timeout=3\
         &application_name=x",
    )
    .unwrap();
    assert_eq!(places(&address), ["db.internal:6432"]);
    assert_eq!(address.user, "to@kens");
    assert_eq!(address.password.unwrap().initial().expose_secret(), "p:/w");
    assert_eq!(address.name, "my db");
    assert_eq!(address.sslmode, SslMode::VerifyFull);
    assert_eq!(address.sslrootcert, Some("/ca.pem".into()));
    assert_eq!(address.sslcert, Some("c.pem".into()));
    assert_eq!(address.sslkey, Some("k.pem".into()));
    assert_eq!(address.connect_timeout, Duration::from_secs(3));
}

#[test]
fn defaults_are_libpqs_but_for_tls() {
    let address = parse("postgresql://tokens@db").unwrap();
    assert_eq!(places(&address), ["db:5432"]);
    assert_eq!(address.name, "tokens");
    assert_eq!(address.session, Session::ReadWrite);
    assert_eq!(address.channel_binding, ChannelBinding::Prefer);
    assert_eq!(address.sslmode, SslMode::Require);
    let local = parse("postgres://tokens@127.0.0.1/x").unwrap();
    assert_eq!(local.sslmode, SslMode::Prefer);
    let system = parse("postgres://tokens@db/x?sslrootcert=system").unwrap();
    assert_eq!(system.sslmode, SslMode::VerifyFull);
}

#[test]
fn sockets_and_ipv6() {
    for text in [
        "postgres:///x?host=/run/postgresql&user=tokens",
        "postgres://tokens@%2Frun%2Fpostgresql/x",
        "postgres://tokens@/x?host=/run/postgresql",
    ] {
        let address = parse(text).unwrap();
        assert_eq!(
            places(&address),
            ["/run/postgresql/.s.PGSQL.5432"],
            "{text}"
        );
        assert_eq!(address.sslmode, SslMode::Prefer);
    }
    let address = parse("postgres://tokens@[::1]:7/x").unwrap();
    assert_eq!(places(&address), ["[::1]:7"]);
    let cloud = parse("postgres://u:p@/x?host=/cloudsql/project:region:instance").unwrap();
    assert_eq!(
        places(&cloud),
        ["/cloudsql/project:region:instance/.s.PGSQL.5432"]
    );
}

#[test]
fn several_hosts_have_a_port_each_or_one_for_all() {
    for (text, expected) in [
        ("postgres://u@a:1,b:2/x", ["a:1", "b:2"]),
        ("postgres://u:p%2C@a,b:2/x", ["a:5432", "b:2"]),
        (
            "postgres://u@[::1]:1,[2001:db8::2]/x",
            ["[::1]:1", "[2001:db8::2]:5432"],
        ),
        ("postgres://u@a,b/x?port=7", ["a:7", "b:7"]),
        ("postgres://u@/x?host=a,b&port=1,2", ["a:1", "b:2"]),
        (
            "postgres:///x?host=/a,b&user=u",
            ["/a/.s.PGSQL.5432", "b:5432"],
        ),
    ] {
        let address = parse(text).unwrap();
        assert_eq!(places(&address), expected, "{text}");
        assert_eq!(address.sslmode, SslMode::Require, "{text}");
    }
    assert_eq!(
        parse("postgres://u@a,b/x?port=1,2,3").unwrap_err(),
        "3 ports do not go with 2 hosts: give one for all, or one for each"
    );
    assert!(parse("postgres://u@a,/x").is_err());
}

#[test]
fn a_server_that_takes_no_writes_cannot_be_asked_for() {
    let with = |attrs: &str| parse(&format!("postgres://u@a,b/x?target_session_attrs={attrs}"));
    for (attrs, session) in [
        ("any", Session::Any),
        ("read-write", Session::ReadWrite),
        ("primary", Session::ReadWrite),
    ] {
        assert_eq!(with(attrs).unwrap().session, session, "{attrs}");
    }
    assert_eq!(
        with("prefer-standby").unwrap_err(),
        "target_session_attrs must be any, read-write or primary: a server that takes no writes \
         cannot store tokens"
    );
    for attrs in ["read-only", "standby", "writable"] {
        assert!(with(attrs).is_err(), "{attrs}");
    }
}

#[test]
fn libpq_parameters_are_read() {
    let address = parse(
        "postgres://u@h/x?require_auth=scram-sha-256,none&sslnegotiation=direct\
         &ssl_min_protocol_version=TLSv1.3&ssl_max_protocol_version=TLSv1.3\
         &load_balance_hosts=random&options=-csearch_path%3Dapp",
    )
    .unwrap();
    assert_eq!(address.require_auth.unwrap().as_str(), "scram-sha-256,none");
    assert_eq!(address.sslnegotiation, SslNegotiation::Direct);
    assert_eq!(address.ssl_min_protocol_version, TlsVersion::V13);
    assert_eq!(address.ssl_max_protocol_version, TlsVersion::V13);
    assert!(address.load_balance_hosts);
    assert_eq!(
        address.startup_options.as_deref(),
        Some("-csearch_path=app")
    );
}

#[test]
fn libpq_parameters_default_to_libpqs_defaults() {
    for text in [
        "postgres://u@h/x",
        "postgres://u@h/x?require_auth=&options=&load_balance_hosts=disable\
         &sslnegotiation=postgres&ssl_min_protocol_version=TLSv1&ssl_max_protocol_version=",
    ] {
        let address = parse(text).unwrap();
        assert_eq!(address.require_auth, None);
        assert_eq!(address.sslnegotiation, SslNegotiation::Postgres);
        assert_eq!(address.ssl_min_protocol_version, TlsVersion::V12);
        assert_eq!(address.ssl_max_protocol_version, TlsVersion::V13);
        assert!(!address.load_balance_hosts);
        assert_eq!(address.startup_options, None);
    }
}

#[test]
fn invalid_libpq_parameters_say_why() {
    let error = |query: &str| parse(&format!("postgres://u@h/x?{query}")).unwrap_err();
    let errors = [
        "require_auth=scram",
        "sslnegotiation=tls",
        "sslnegotiation=direct&sslmode=prefer",
        "ssl_min_protocol_version=1.2",
        "ssl_max_protocol_version=TLSv1",
        "ssl_min_protocol_version=TLSv1.3&ssl_max_protocol_version=TLSv1.2",
        "load_balance_hosts=round-robin",
    ]
    .map(error);
    insta::assert_snapshot!(errors.join("\n"), @"
    require_auth must be a list of password, md5, gss, sspi, scram-sha-256, oauth, none, each with `!` before it to exclude it
    sslnegotiation must be postgres or direct
    sslnegotiation=direct needs sslmode require, verify-ca or verify-full (now prefer)
    ssl_min_protocol_version must be TLSv1, TLSv1.1, TLSv1.2 or TLSv1.3
    ssl_max_protocol_version must be TLSv1.2 or TLSv1.3: older versions are not supported
    ssl_min_protocol_version TLSv1.3 is above ssl_max_protocol_version TLSv1.2
    load_balance_hosts must be disable or random
    ");
}

#[test]
fn unknown_parameters_are_named_with_the_nearest() {
    let error = parse("postgres://u:s3cret@h/x?sslmod=require").unwrap_err();
    assert_eq!(error, "unknown parameter `sslmod`; did you mean `sslmode`?");
}

#[test]
fn no_error_shows_the_password() {
    for text in [
        "postgres://u:s3cret@h:99999/x",
        "postgres://u:s3cret@h/x?hostaddr=::1",
        "postgres://u:s3cret@h/x?require_auth=s3cret",
        "postgres://u:s3cret@h/x?sslnegotiation=s3cret",
        "postgres://u:s3cret@h/x?ssl_min_protocol_version=s3cret",
        "postgres://u:s3cret@h/x?ssl_max_protocol_version=s3cret",
        "postgres://u:s3cret@h/x?load_balance_hosts=s3cret",
        "postgres://u:s3cret%zz@h/x",
        "postgres://u:s3cret%ff@h/x",
        "postgres://u:pw#s3cret@h/x",
        "postgres://u:pw?S3cret=s3cret@h/x",
        "postgres://u:pw/s3cret@h/x",
        "postgres://u:s3cret@h,,i/x",
        "postgres://u:s3cret@h,i:s3cret/x",
        "postgres://u:s3cret@h,i/x?port=s3cret",
        "postgres://u:s3cret@h/x?target_session_attrs=s3cret",
        "postgres://:s3cret@h/x",
        "postgres://u:s3cret@h/x?sslmode=s3cret",
        "postgres:s3cret",
        "mysql://u:s3cret@h/x",
        "postgres://u:s3cret@h/x?channel_binding=s3cret",
        "postgres://u:s3cret@h/x?connect_timeout=s3cret",
    ] {
        let error = parse(text).unwrap_err();
        assert!(!error.to_lowercase().contains("s3cret"), "{text}: {error}");
    }
}
