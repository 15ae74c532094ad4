//! Tests of database URLs: what is accepted, and that no error shows a secret.

use std::fmt::Write as _;

use proptest::prelude::*;
use secrecy::ExposeSecret;

use crate::store::postgres::url::*;

/// Lists each text with its error.
fn errors<'a>(texts: impl IntoIterator<Item = &'a str>) -> String {
    texts.into_iter().fold(String::new(), |mut all, text| {
        let error = parse(text).expect_err(text);
        let text = text.escape_debug();
        let _ = writeln!(all, "{text}\n  {}\n  hint: {}", error.cause, error.hint);
        all
    })
}

/// Lists each query with its error, without the usual form of the cause.
fn errors_of_parameters<'a>(queries: impl IntoIterator<Item = &'a str>) -> String {
    queries.into_iter().fold(String::new(), |mut all, query| {
        let error = parse(&format!("postgres://u:s3cret@h/x?{query}")).expect_err(query);
        let cause = match error.cause.strip_prefix("the parameter `") {
            Some(rest) => rest.replace("` is not supported", ""),
            None => error.cause,
        };
        let _ = writeln!(all, "{query}: {cause}: {}", error.hint);
        all
    })
}

fn locations(address: &Address) -> Vec<String> {
    address.hosts.iter().map(Host::location).collect()
}

#[test]
fn url_with_every_part_is_parsed() {
    let address = parse(
        "postgres://to%40kens:p%3A%2Fw@db.internal:6432/my%20db?sslmode=verify-full\
         &sslrootcert=/ca.pem&sslcert=c.pem&sslkey=k.pem&connect_timeout=3\
         &application_name=x",
    )
    .unwrap();
    assert_eq!(locations(&address), ["db.internal:6432"]);
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
fn defaults_are_those_of_libpq_except_for_tls() {
    let address = parse("postgresql://tokens@db").unwrap();
    assert_eq!(locations(&address), ["db:5432"]);
    assert_eq!(address.name, "tokens");
    assert_eq!(address.target_session, TargetSession::ReadWrite);
    assert_eq!(address.channel_binding, ChannelBinding::Prefer);
    assert_eq!(address.sslmode, SslMode::Require);
    let local = parse("postgres://tokens@127.0.0.1/x").unwrap();
    assert_eq!(local.sslmode, SslMode::Prefer);
    let system = parse("postgres://tokens@db/x?sslrootcert=system").unwrap();
    assert_eq!(system.sslmode, SslMode::VerifyFull);
}

#[test]
fn sockets_and_ipv6_addresses_are_parsed() {
    for text in [
        "postgres:///x?host=/run/postgresql&user=tokens",
        "postgres://tokens@%2Frun%2Fpostgresql/x",
        "postgres://tokens@/x?host=/run/postgresql",
    ] {
        let address = parse(text).unwrap();
        assert_eq!(
            locations(&address),
            ["/run/postgresql/.s.PGSQL.5432"],
            "{text}"
        );
        assert_eq!(address.sslmode, SslMode::Prefer);
    }
    let address = parse("postgres://tokens@[::1]:7/x").unwrap();
    assert_eq!(locations(&address), ["[::1]:7"]);
    let cloud = parse("postgres://u:p@/x?host=/cloudsql/project:region:instance").unwrap();
    assert_eq!(
        locations(&cloud),
        ["/cloudsql/project:region:instance/.s.PGSQL.5432"]
    );
}

#[test]
fn several_hosts_share_one_port_or_have_one_each() {
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
        assert_eq!(locations(&address), expected, "{text}");
        assert_eq!(address.sslmode, SslMode::Require, "{text}");
    }
    assert_eq!(
        parse("postgres://u@a,b/x?port=1,2,3").unwrap_err().cause,
        "3 ports do not go with 2 hosts: give one for all, or one for each"
    );
    assert!(parse("postgres://u@a,/x").is_err());
}

#[test]
fn read_only_target_session_is_refused() {
    let with = |attrs: &str| parse(&format!("postgres://u@a,b/x?target_session_attrs={attrs}"));
    for (attrs, session) in [
        ("any", TargetSession::Any),
        ("read-write", TargetSession::ReadWrite),
        ("primary", TargetSession::ReadWrite),
    ] {
        assert_eq!(with(attrs).unwrap().target_session, session, "{attrs}");
    }
    assert_eq!(
        with("prefer-standby").unwrap_err().cause,
        "target_session_attrs must be any, read-write or primary: a server that takes no writes \
         cannot store tokens"
    );
    for attrs in ["read-only", "standby", "writable"] {
        assert!(with(attrs).is_err(), "{attrs}");
    }
}

#[test]
fn libpq_parameters_are_parsed() {
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
fn libpq_parameters_default_as_in_libpq() {
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
fn invalid_libpq_parameter_explains_its_rule() {
    let error = |query: &str| {
        parse(&format!("postgres://u@h/x?{query}"))
            .unwrap_err()
            .cause
    };
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
fn documentation_lists_every_parameter() {
    let page = include_str!("../../../../docs/configuration.md");
    for name in SUPPORTED {
        assert!(page.contains(&format!("`{name}`")), "{name}");
    }
}

#[test]
fn unknown_parameter_names_nearest_parameter() {
    let queries = [
        "sslmod=require",
        "SslMode=require",
        "frobnicate=1",
        "sslmode",
        "fo%zz=1",
        "f\u{f6}o=1",
        "sslmode=require&amp;connect_timeout=3",
        "sslmode=require?connect_timeout=3",
    ];
    insta::assert_snapshot!(errors_of_parameters(queries), @"
    sslmod=require: unknown parameter `sslmod`: did you mean `sslmode`?
    SslMode=require: unknown parameter `SslMode`: did you mean `sslmode`?
    frobnicate=1: unknown parameter `frobnicate`: remove the parameter: only libpq's are known; write `?`, `&` and `%` in a password as %3F, %26 and %25
    sslmode: a parameter of the URL has no `=`: write postgres://user:password@host:5432/name?sslmode=verify-full
    fo%zz=1: a `%` in the name of a parameter is not followed by two hexadecimal digits: write a percent sign as %25
    föo=1: the URL has an unknown parameter: write `?`, `&` and `%` in a password as %3F, %26 and %25
    sslmode=require&amp;connect_timeout=3: the URL has `&amp;` between parameters: write `&` instead of `&amp;`
    sslmode=require?connect_timeout=3: sslmode must be one of disable, allow, prefer, require, verify-ca, verify-full: replace the value of sslmode in the URL
    ");
}

#[test]
fn unsupported_libpq_parameter_names_alternative() {
    let queries = [
        "hostaddr=10.0.0.1",
        "service=app",
        "servicefile=/f",
        "sslpassword=x",
        "sslcrl=/crl.pem",
        "sslcrldir=/crl",
        "requirepeer=postgres",
        "gssencmode=require",
        "krbsrvname=postgres",
        "gsslib=gssapi",
        "gssdelegation=1",
        "requiressl=1",
        "sslcertmode=disable",
        "sslcertmode=require",
        "sslsni=0",
        "sslkeylogfile=/keys",
        "scram_client_key=x",
        "oauth_issuer=x",
        "min_protocol_version=3.2",
        "replication=database",
    ];
    insta::assert_snapshot!(errors_of_parameters(queries), @"
    hostaddr=10.0.0.1: hostaddr: write the address as the host; verify-full then needs the address in the certificate
    service=app: service: write the host, port, dbname and user of the service into the URL
    servicefile=/f: servicefile: write the host, port, dbname and user of the service into the URL
    sslpassword=x: sslpassword: decrypt the key with `openssl pkey`, and name the decrypted file in sslkey
    sslcrl=/crl.pem: sslcrl: remove it; certificate revocation lists are not checked
    sslcrldir=/crl: sslcrldir: remove it; certificate revocation lists are not checked
    requirepeer=postgres: requirepeer: remove it, and protect the folder of the socket by its permissions
    gssencmode=require: gssencmode: remove it, and write sslmode=verify-full: encryption by GSSAPI is not supported
    krbsrvname=postgres: krbsrvname: remove it, and use a password or a client certificate: GSSAPI and SSPI are not supported
    gsslib=gssapi: gsslib: remove it, and use a password or a client certificate: GSSAPI and SSPI are not supported
    gssdelegation=1: gssdelegation: remove it, and use a password or a client certificate: GSSAPI and SSPI are not supported
    requiressl=1: requiressl: write sslmode=require instead
    sslcertmode=disable: sslcertmode: remove it, and sslcert and sslkey too
    sslcertmode=require: sslcertmode: remove it; `clientcert` in pg_hba.conf makes the server demand a certificate
    sslsni=0: sslsni: remove it; the host name is always sent
    sslkeylogfile=/keys: sslkeylogfile: remove it; the keys of TLS are never written
    scram_client_key=x: scram_client_key: write the password instead, or a password file (passfile)
    oauth_issuer=x: oauth_issuer: remove it, and use a password or a client certificate: OAuth is not supported
    min_protocol_version=3.2: min_protocol_version: remove it; the program speaks version 3.0 of the protocol
    replication=database: replication: remove it; tokens are stored over ordinary connections
    ");
    parse(
        "postgres://u@h/x?gssencmode=disable&sslcertmode=allow&sslsni=1&keepalives=1\
         &min_protocol_version=3.0&max_protocol_version=latest&replication=false\
         &sslcompression=0&tcp_user_timeout=1&uselibpqcompat=true",
    )
    .unwrap();
}

#[test]
fn parameter_of_another_client_names_libpq_parameter() {
    let queries = [
        "ssl=true",
        "ssl=false",
        "ssl=prefer",
        "sslmode=no-verify",
        "sslmode=verify_full",
        "sslmode=VerifyCA",
        "sslmode=required",
        "sslmode=true",
        "sslmode=off",
        "sslmode=tls",
        "currentSchema=app",
        "schema=app",
        "search_path=app",
        "pgbouncer=true",
        "statement_cache_size=0",
        "prepareThreshold=0",
        "connection_limit=5",
        "pool_max_conns=5",
        "sslaccept=strict",
        "sslaccept=accept_invalid_certs",
        "sslidentity=c.p12",
        "sslfactory=org.postgresql.ssl.NonValidatingFactory",
        "cafile=ca.pem",
        "sslca=ca.pem",
        "socketTimeout=10",
        "statement_timeout=5000",
        "loginTimeout=10",
        "lock_timeout=1",
        "TimeZone=UTC",
        "targetServerType=primary",
        "loadBalanceHosts=true",
        "ApplicationName=x",
        "reWriteBatchedInserts=true",
        "username=u",
        "database=x",
        "pwd=x",
    ];
    insta::assert_snapshot!(errors_of_parameters(queries), @"
    ssl=true: ssl: write sslmode=require instead or, to verify the certificate too, sslmode=verify-full
    ssl=false: ssl: write sslmode=disable instead
    ssl=prefer: ssl: write sslmode instead of ssl, with the same value
    sslmode=no-verify: sslmode must be one of disable, allow, prefer, require, verify-ca, verify-full (did you mean `require`?): replace the value of sslmode in the URL
    sslmode=verify_full: sslmode must be one of disable, allow, prefer, require, verify-ca, verify-full (did you mean `verify-full`?): replace the value of sslmode in the URL
    sslmode=VerifyCA: sslmode must be one of disable, allow, prefer, require, verify-ca, verify-full (did you mean `verify-ca`?): replace the value of sslmode in the URL
    sslmode=required: sslmode must be one of disable, allow, prefer, require, verify-ca, verify-full (did you mean `require`?): replace the value of sslmode in the URL
    sslmode=true: sslmode must be one of disable, allow, prefer, require, verify-ca, verify-full (did you mean `require`?): replace the value of sslmode in the URL
    sslmode=off: sslmode must be one of disable, allow, prefer, require, verify-ca, verify-full (did you mean `disable`?): replace the value of sslmode in the URL
    sslmode=tls: sslmode must be one of disable, allow, prefer, require, verify-ca, verify-full: replace the value of sslmode in the URL
    currentSchema=app: currentSchema: write options=-csearch_path%3DNAME, or set `database.table` to NAME.TABLE in the file
    schema=app: schema: write options=-csearch_path%3DNAME, or set `database.table` to NAME.TABLE in the file
    search_path=app: search_path: write options=-csearch_path%3DNAME, or set `database.table` to NAME.TABLE in the file
    pgbouncer=true: pgbouncer: remove it; the program recognizes a pooler without it
    statement_cache_size=0: statement_cache_size: remove it; the program recognizes a pooler without it
    prepareThreshold=0: prepareThreshold: remove it; the program recognizes a pooler without it
    connection_limit=5: connection_limit: remove it; --connections limits the connections
    pool_max_conns=5: pool_max_conns: remove it; --connections limits the connections
    sslaccept=strict: sslaccept: write sslmode=verify-full instead
    sslaccept=accept_invalid_certs: sslaccept: write sslmode=require instead
    sslidentity=c.p12: sslidentity: convert the PKCS #12 file to PEM files, and name them in sslcert and sslkey
    sslfactory=org.postgresql.ssl.NonValidatingFactory: sslfactory: remove it, and write sslmode and sslrootcert instead
    cafile=ca.pem: cafile: write sslrootcert=FILE instead
    sslca=ca.pem: sslca: write sslrootcert=FILE instead
    socketTimeout=10: socketTimeout: set `database.statement_timeout` in the file instead
    statement_timeout=5000: statement_timeout: set `database.statement_timeout` in the file instead
    loginTimeout=10: loginTimeout: write connect_timeout=SECONDS instead
    lock_timeout=1: lock_timeout: write options=-cNAME%3DVALUE with the setting's name instead
    TimeZone=UTC: TimeZone: write options=-cNAME%3DVALUE with the setting's name instead
    targetServerType=primary: targetServerType: write target_session_attrs=read-write instead
    loadBalanceHosts=true: loadBalanceHosts: write load_balance_hosts=random instead
    ApplicationName=x: ApplicationName: remove it; it is a parameter of another client
    reWriteBatchedInserts=true: reWriteBatchedInserts: remove it; it is a parameter of another client
    username=u: username: write user=NAME instead
    database=x: database: write dbname=NAME instead
    pwd=x: pwd: write password=… instead
    ");
}

#[test]
fn text_that_is_no_url_names_correction() {
    let texts = [
        "\"postgres://u@h/x\"",
        "'postgres://u@h/x'",
        "jdbc:postgresql://h:5432/x?user=u&password=p",
        "postgresql+asyncpg://u@h/x",
        "postgres+psycopg2://u@h/x",
        "pgsql://u@h/x",
        "mysql://u@h/x",
        "https://h/x",
        "postgres:/h/x",
        "h:5432",
        "psql 'postgres://u@h/x'",
        "DATABASE_URL=postgres://u@h/x",
        "export DATABASE_URL=postgres://u@h/x",
        "host=h user=u password=p dbname=x",
        "Host=h;Username=u;Password=p",
        "$DATABASE_URL",
        "postgres://u@h/x\nsecond",
        "postgres://u@h/x\ty",
    ];
    insta::assert_snapshot!(errors(texts), @r#"
    \"postgres://u@h/x\"
      the URL begins with a quotation mark
      hint: remove the quotation marks; `docker run --env-file`, for example, keeps them
    \'postgres://u@h/x\'
      the URL begins with a quotation mark
      hint: remove the quotation marks; `docker run --env-file`, for example, keeps them
    jdbc:postgresql://h:5432/x?user=u&password=p
      the URL is one of JDBC or R2DBC
      hint: write postgresql:// at the beginning and, before the host, user:password@
    postgresql+asyncpg://u@h/x
      the URL names a driver, as SQLAlchemy's URLs do
      hint: write postgresql:// without the `+` and what follows it
    postgres+psycopg2://u@h/x
      the URL names a driver, as SQLAlchemy's URLs do
      hint: write postgresql:// without the `+` and what follows it
    pgsql://u@h/x
      the URL does not begin with postgres://, postgresql:// or sqlite:
      hint: write postgres://user:password@host:5432/name, or sqlite:PATH
    mysql://u@h/x
      the URL does not begin with postgres://, postgresql:// or sqlite:
      hint: write postgres://user:password@host:5432/name, or sqlite:PATH
    https://h/x
      the URL does not begin with postgres://, postgresql:// or sqlite:
      hint: write postgres://user:password@host:5432/name, or sqlite:PATH
    postgres:/h/x
      the URL does not begin with postgres://, postgresql:// or sqlite:
      hint: write postgres://user:password@host:5432/name, or sqlite:PATH
    h:5432
      the URL does not begin with postgres://, postgresql:// or sqlite:
      hint: write postgres://user:password@host:5432/name, or sqlite:PATH
    psql \'postgres://u@h/x\'
      the URL follows the command `psql`
      hint: write the URL alone, without quotation marks
    DATABASE_URL=postgres://u@h/x
      the URL follows the name of a variable
      hint: write the URL alone, without what precedes postgres://
    export DATABASE_URL=postgres://u@h/x
      the URL follows the name of a variable
      hint: write the URL alone, without what precedes postgres://
    host=h user=u password=p dbname=x
      the text is a list of keywords and values, which is not supported
      hint: write postgres://user:password@host:5432/name?sslmode=verify-full
    Host=h;Username=u;Password=p
      the text is a list of keywords and values, which is not supported
      hint: write postgres://user:password@host:5432/name?sslmode=verify-full
    $DATABASE_URL
      the URL does not begin with postgres://, postgresql:// or sqlite:
      hint: write postgres://user:password@host:5432/name, or sqlite:PATH
    postgres://u@h/x\nsecond
      the URL contains a line break or another control character
      hint: write the URL on one line, and a control character in a password as %0A, for example
    postgres://u@h/x\ty
      the URL contains a line break or another control character
      hint: write the URL on one line, and a control character in a password as %0A, for example
    "#);
    for text in [
        "\u{feff}postgres://u@h/x",
        " postgres://u@h/x\r\n",
        "Postgres://u@h/x",
    ] {
        assert_eq!(locations(&parse(text).unwrap()), ["h:5432"], "{text}");
    }
}

#[test]
fn malformed_url_names_correction() {
    let texts = [
        "postgres://h/x",
        "postgres:///x",
        "postgres://:p@h/x",
        "postgres://u:p@::1/x",
        "postgres://u:p@2001:db8::1:5432/x",
        "postgres://u:p@[::1/x",
        "postgres://u:p@[::1]5432/x",
        "postgres://u:p@h:99999/x",
        "postgres://u:p@h:0/x",
        "postgres://u:p@a,,b/x",
        "postgres://u:p@h y/x",
        "postgres://u:p@h/x/",
        "postgres://u:p@h/x/y",
        "postgres://u%00:p@h/x",
        "postgres://u:p%zz@h/x",
        "postgres://u:p%ff@h/x",
    ];
    insta::assert_snapshot!(errors(texts), @"
    postgres://h/x
      the URL names no user
      hint: write postgres://user@host/name; unlike libpq, the program does not take the name of the operating system's user
    postgres:///x
      the URL names no user
      hint: write postgres://user@host/name; unlike libpq, the program does not take the name of the operating system's user
    postgres://:p@h/x
      the URL names no user
      hint: write postgres://user@host/name; unlike libpq, the program does not take the name of the operating system's user
    postgres://u:p@::1/x
      a host in the URL contains more than one `:`
      hint: write an IPv6 address in brackets, such as [::1]:5432; write `/`, `?` and `@` in a password as %2F, %3F and %40
    postgres://u:p@2001:db8::1:5432/x
      a host in the URL contains more than one `:`
      hint: write an IPv6 address in brackets, such as [::1]:5432; write `/`, `?` and `@` in a password as %2F, %3F and %40
    postgres://u:p@[::1/x
      a host in the URL is not valid
      hint: write postgres://user:password@host:5432/name?sslmode=verify-full
    postgres://u:p@[::1]5432/x
      a host in the URL is not valid
      hint: write postgres://user:password@host:5432/name?sslmode=verify-full
    postgres://u:p@h:99999/x
      the port is not a number from 1 to 65535
      hint: write the port as a number, and `/`, `?` and `@` in a password as %2F, %3F and %40
    postgres://u:p@h:0/x
      the port is not a number from 1 to 65535
      hint: write the port as a number, and `/`, `?` and `@` in a password as %2F, %3F and %40
    postgres://u:p@a,,b/x
      a host in the list is empty
      hint: write postgres://user:password@host:5432/name?sslmode=verify-full
    postgres://u:p@h y/x
      a host in the URL is not valid
      hint: write postgres://user:password@host:5432/name?sslmode=verify-full
    postgres://u:p@h/x/
      the database name contains a `/`
      hint: remove the `/`, or write it as %2F
    postgres://u:p@h/x/y
      the database name contains a `/`
      hint: remove the `/`, or write it as %2F
    postgres://u%00:p@h/x
      the URL contains a NUL character (%00)
      hint: write postgres://user:password@host:5432/name?sslmode=verify-full
    postgres://u:p%zz@h/x
      a `%` in the password is not followed by two hexadecimal digits
      hint: write a percent sign as %25
    postgres://u:p%ff@h/x
      the password is not valid UTF-8 when decoded
      hint: write postgres://user:password@host:5432/name?sslmode=verify-full
    ");
}

#[test]
fn placeholder_in_a_url_is_named() {
    let texts = [
        "postgres://$USER:p@h/x",
        "postgres://u:${PASS}@h/x",
        "postgres://u:$PASS@h/x",
        "postgres://postgres:[YOUR-PASSWORD]@h/x",
        "postgres://u:p@{{host}}/x",
        "postgres://u:p@<host>:5432/x",
        "postgres://u:p@h/${NAME}",
        "postgres://u:p@/x?host=$HOST",
    ];
    insta::assert_snapshot!(errors(texts), @"
    postgres://$USER:p@h/x
      the user in the URL is a placeholder or a variable that was not expanded
      hint: replace the placeholder by its value; variables are not expanded here (write a literal `$` as %24)
    postgres://u:${PASS}@h/x
      the password in the URL is a placeholder or a variable that was not expanded
      hint: replace the placeholder by its value; variables are not expanded here (write a literal `$` as %24)
    postgres://u:$PASS@h/x
      the password in the URL is a placeholder or a variable that was not expanded
      hint: replace the placeholder by its value; variables are not expanded here (write a literal `$` as %24)
    postgres://postgres:[YOUR-PASSWORD]@h/x
      the password in the URL is a placeholder or a variable that was not expanded
      hint: replace the placeholder by its value; variables are not expanded here (write a literal `$` as %24)
    postgres://u:p@{{host}}/x
      the host in the URL is a placeholder or a variable that was not expanded
      hint: replace the placeholder by its value; variables are not expanded here (write a literal `$` as %24)
    postgres://u:p@<host>:5432/x
      the host in the URL is a placeholder or a variable that was not expanded
      hint: replace the placeholder by its value; variables are not expanded here (write a literal `$` as %24)
    postgres://u:p@h/${NAME}
      the database name in the URL is a placeholder or a variable that was not expanded
      hint: replace the placeholder by its value; variables are not expanded here (write a literal `$` as %24)
    postgres://u:p@/x?host=$HOST
      the host in the URL is a placeholder or a variable that was not expanded
      hint: replace the placeholder by its value; variables are not expanded here (write a literal `$` as %24)
    ");
    let address = parse("postgres://u:$ecret$@h/x").unwrap();
    assert_eq!(
        address.password.unwrap().initial().expose_secret(),
        "$ecret$"
    );
}

#[test]
fn unescaped_delimiter_in_a_password_is_named() {
    let texts = [
        "postgres://u:hunter2@sec/ret@h/d",
        "postgres://u:hunter2/@h/d",
        "postgres://u:12/hunter2@h/d",
        "postgres://u:hunter2?x@h/d",
        "postgres://u:12?hunter2=x@h/d",
        "postgres://u:12?hunter2=x",
        "postgres://u:hunter2@x?sslmode=y@h/d",
        "postgres://u:hunter2#x@h/d",
    ];
    insta::assert_snapshot!(errors(texts), @"
    postgres://u:hunter2@sec/ret@h/d
      an `@` follows the first `/`, so user or password seem to contain a `/`
      hint: write `/` as %2F in user and password, and `@` as %40 in the database name
    postgres://u:hunter2/@h/d
      an `@` follows the first `/`, so user or password seem to contain a `/`
      hint: write `/` as %2F in user and password, and `@` as %40 in the database name
    postgres://u:12/hunter2@h/d
      an `@` follows the first `/`, so user or password seem to contain a `/`
      hint: write `/` as %2F in user and password, and `@` as %40 in the database name
    postgres://u:hunter2?x@h/d
      the port is not a number from 1 to 65535
      hint: write the port as a number, and `/`, `?` and `@` in a password as %2F, %3F and %40
    postgres://u:12?hunter2=x@h/d
      an `@` follows the first `?`, so user or password seem to contain a `?`
      hint: write `?` as %3F in user and password, and `@` as %40 in parameters
    postgres://u:12?hunter2=x
      the URL has an unknown parameter
      hint: write `?`, `&` and `%` in a password as %3F, %26 and %25
    postgres://u:hunter2@x?sslmode=y@h/d
      an `@` follows the first `?`, so user or password seem to contain a `?`
      hint: write `?` as %3F in user and password, and `@` as %40 in parameters
    postgres://u:hunter2#x@h/d
      the URL contains a `#`
      hint: write `#` as %23, in a password too
    ");
}

#[test]
fn at_sign_in_a_valid_parameter_is_accepted() {
    let address = parse("postgres://h/x?user=me@tenant&password=p@ss").unwrap();
    assert_eq!(address.user, "me@tenant");
    let address = parse("postgres://me@tenant:p@ss:w@h/x").unwrap();
    assert_eq!(address.user, "me@tenant:p@ss".split(':').next().unwrap());
    assert_eq!(
        address.password.unwrap().initial().expose_secret(),
        "p@ss:w"
    );
}

/// Letters that occur in no message, digits, and every delimiter of a URL.
const ALPHABET: &str = "[QXZJKqxzjk0-9\u{e9}\u{6f22} /?#@:\\[\\]%&=+,.;'\"\\\\$!{}<>-]{1,24}";

/// Generates raw passwords: any characters, or pieces with delimiters.
fn raw_password() -> impl Strategy<Value = String> {
    let pieces = prop::sample::select(vec![
        "QXZ", "JKq", "12", "@QXZ", "/JKq", "?JKq=", "@", "/", "?", "#", ":", "%", "&", "=",
    ]);
    let words = prop::collection::vec(pieces, 1..8).prop_map(|pieces| pieces.concat());
    prop_oneof![1 => ALPHABET, 3 => words]
}

/// Returns the pieces that reveal a password: three characters with a letter, or three digits.
///
/// The messages have no such letters; digits next to punctuation occur in them by chance.
fn pieces(password: &str) -> Vec<String> {
    let characters: Vec<char> = password.chars().collect();
    let reveals = |window: &&[char]| {
        let count = window
            .iter()
            .filter(|character| character.is_alphanumeric())
            .count();
        let has_letter = window.iter().any(|character| character.is_alphabetic());
        count == 3 || (count == 2 && has_letter)
    };
    let windows = characters.windows(3);
    windows
        .filter(reveals)
        .map(|window| window.iter().collect())
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 16_384, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn raw_password_appears_in_no_error_and_no_name(
        password in raw_password(),
        end in prop::sample::select(vec![
            "@h/d", "@h:5432/d", "@h", "@h?user=u", "@a:1,b/d?sslmode=require", "@[::1]/d", "@h/d?user=u", "",
        ]),
    ) {
        // Without an `@`, such a URL has its host where the password's `@` is.
        let password = if end.is_empty() { password.replace('@', "") } else { password };
        // What the messages always show is public too.
        let public = format!("postgres://usr{end} 5432 65535");
        let text = format!("postgres://usr:{password}{end}");
        let shown = match parse(&text) {
            Err(error) => format!("{}\n{}\n{error:?}", error.cause, error.hint),
            Ok(address) => {
                let Address { user, name, .. } = &address;
                format!("{}\n{user}\n{name}\n{address:?}", locations(&address).join("\n"))
            }
        };
        for piece in pieces(&password) {
            let leaks = shown.contains(&piece) && !public.contains(&piece);
            prop_assert!(!leaks, "`{piece}` of `{text}` is shown in: {shown}");
        }
    }
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
        let error = format!("{:?}", parse(text).unwrap_err());
        assert!(!error.to_lowercase().contains("s3cret"), "{text}: {error}");
    }
}
