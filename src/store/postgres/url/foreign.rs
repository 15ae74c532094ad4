//! Hints for unsupported parameters and for parameters of other clients.

use crate::store::postgres::url::UrlError;

const SCHEMA: &str =
    "write options=-csearch_path%3DNAME, or set `database.table` to NAME.TABLE in the file";
const POOLER: &str = "remove it; the program recognizes a pooler without it";
const POOL: &str = "remove it; --connections limits the connections";
const KERBEROS: &str = "remove it, and use a password or a client certificate: GSSAPI and SSPI are \
                        not supported";
const OAUTH: &str = "remove it, and use a password or a client certificate: OAuth is not supported";
const CRL: &str = "remove it; certificate revocation lists are not checked";
const SCRAM_KEY: &str = "write the password instead, or a password file (passfile)";
const SERVICE: &str = "write the host, port, dbname and user of the service into the URL";
const TLS: &str = "remove it, and write sslmode and sslrootcert instead";
const STATEMENT_TIMEOUT: &str = "set `database.statement_timeout` in the file instead";
const CONNECT_TIMEOUT: &str = "write connect_timeout=SECONDS instead";
const SETTING: &str = "write options=-cNAME%3DVALUE with the setting's name instead";
const CLIENT: &str = "remove it; it is a parameter of another client";

/// Parameter names in lower case, and what to write instead.
const ALTERNATIVES: [(&[&str], &str); 29] = [
    // libpq's parameters.
    (
        &["hostaddr"],
        "write the address as the host; verify-full then needs the address in the certificate",
    ),
    (&["service", "servicefile"], SERVICE),
    (
        &["sslpassword"],
        "decrypt the key with `openssl pkey`, and name the decrypted file in sslkey",
    ),
    (&["sslcrl", "sslcrldir"], CRL),
    (
        &["requirepeer"],
        "remove it, and protect the folder of the socket by its permissions",
    ),
    (&["krbsrvname", "gsslib", "gssdelegation"], KERBEROS),
    (&["requiressl"], "write sslmode=require instead"),
    (
        &["sslkeylogfile"],
        "remove it; the keys of TLS are never written",
    ),
    (&["scram_client_key", "scram_server_key"], SCRAM_KEY),
    (
        &[
            "oauth_issuer",
            "oauth_client_id",
            "oauth_client_secret",
            "oauth_scope",
        ],
        OAUTH,
    ),
    // Parameters of other clients.
    (
        &["currentschema", "schema", "search_path", "searchpath"],
        SCHEMA,
    ),
    (
        &[
            "pgbouncer",
            "statement_cache_size",
            "prepared_statement_cache_size",
            "statement_cache_capacity",
            "statement_cache_mode",
            "default_query_exec_mode",
            "prepared_statements",
            "preparethreshold",
            "preparedstatementcachequeries",
            "preparedstatementcachesizemib",
            "binary_parameters",
            "supa",
        ],
        POOLER,
    ),
    (
        &[
            "connection_limit",
            "max_connections",
            "maxpoolsize",
            "minpoolsize",
            "pool",
            "pool_max_conns",
            "pool_min_conns",
            "pool_size",
            "pool_timeout",
            "pooling",
        ],
        POOL,
    ),
    (
        &["sslidentity"],
        "convert the PKCS #12 file to PEM files, and name them in sslcert and sslkey",
    ),
    (
        &[
            "sslfactory",
            "sslhostnameverifier",
            "sslpasswordcallback",
            "socketfactory",
            "trustservercertificate",
        ],
        TLS,
    ),
    (
        &["ssl_ca", "sslca", "cafile", "ca"],
        "write sslrootcert=FILE instead",
    ),
    (&["ssl_cert", "cert"], "write sslcert=FILE instead"),
    (&["ssl_key", "key"], "write sslkey=FILE instead"),
    (
        &[
            "statement_timeout",
            "socket_timeout",
            "sockettimeout",
            "command_timeout",
            "commandtimeout",
            "query_timeout",
        ],
        STATEMENT_TIMEOUT,
    ),
    (
        &[
            "logintimeout",
            "connecttimeout",
            "connection_timeout",
            "timeout",
        ],
        CONNECT_TIMEOUT,
    ),
    (
        &[
            "lock_timeout",
            "idle_in_transaction_session_timeout",
            "datestyle",
            "timezone",
            "intervalstyle",
            "role",
        ],
        SETTING,
    ),
    (
        &["targetservertype"],
        "write target_session_attrs=read-write instead",
    ),
    (
        &["loadbalancehosts"],
        "write load_balance_hosts=random instead",
    ),
    (
        &["applicationname", "encoding", "charset", "tcpkeepalive"],
        CLIENT,
    ),
    (
        &[
            "rewritebatchedinserts",
            "stringtype",
            "binarytransfer",
            "defaultrowfetchsize",
            "allowmultiqueries",
            "reaping_frequency",
            "checkout_timeout",
            "conn_max_age",
            "pgx",
        ],
        CLIENT,
    ),
    (&["username"], "write user=NAME instead"),
    (&["database", "db"], "write dbname=NAME instead"),
    (&["pass", "passwd", "pwd"], "write password=… instead"),
    (&["server"], "write host=NAME instead"),
];

/// Returns the error for an unsupported parameter that this file knows.
pub(super) fn unsupported_parameter(key: &str, value: &str) -> Option<UrlError> {
    let lower = key.to_ascii_lowercase();
    let hint = match (lower.as_str(), value) {
        (amp, _) if amp.starts_with("amp;") => {
            return Some(UrlError::new(
                "the URL has `&amp;` between parameters",
                "write `&` instead of `&amp;`",
            ));
        }
        ("ssl", "false" | "0" | "no" | "off" | "disable") => "write sslmode=disable instead",
        ("ssl", "allow" | "prefer" | "require" | "verify-ca" | "verify-full") => {
            "write sslmode instead of ssl, with the same value"
        }
        ("ssl", _) => {
            "write sslmode=require instead or, to verify the certificate too, sslmode=verify-full"
        }
        ("sslaccept", "accept_invalid_certs") => "write sslmode=require instead",
        ("sslaccept", _) => "write sslmode=verify-full instead",
        ("gssencmode", "require") => {
            "remove it, and write sslmode=verify-full: encryption by GSSAPI is not supported"
        }
        ("sslcertmode", "disable") => "remove it, and sslcert and sslkey too",
        ("sslcertmode", "require") => {
            "remove it; `clientcert` in pg_hba.conf makes the server demand a certificate"
        }
        ("sslsni", "0") => "remove it; the host name is always sent",
        ("min_protocol_version", value) if !is_default("min_protocol_version", value) => {
            "remove it; the program speaks version 3.0 of the protocol"
        }
        ("replication", value) if !is_default("replication", value) => {
            "remove it; tokens are stored over ordinary connections"
        }
        (lower, _) => {
            let mut alternatives = ALTERNATIVES.iter();
            let (_, hint) = alternatives.find(|(names, _)| names.contains(&lower))?;
            hint
        }
    };
    // A name that this file knows is no secret.
    Some(UrlError::new(
        format!("the parameter `{key}` is not supported"),
        hint,
    ))
}

/// Returns true for an unsupported libpq parameter whose value requests nothing.
pub(super) fn has_no_effect(key: &str, value: &str) -> bool {
    is_default(key, value)
}

fn is_default(key: &str, value: &str) -> bool {
    match key {
        "gssencmode" => matches!(value, "" | "disable" | "prefer"),
        "sslcertmode" => matches!(value, "" | "allow"),
        "sslsni" => matches!(value, "" | "1"),
        "min_protocol_version" => matches!(value, "" | "3.0"),
        "replication" => matches!(value, "" | "false" | "off" | "no" | "0"),
        _ => false,
    }
}
