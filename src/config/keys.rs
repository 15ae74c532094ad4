//! The settings that are no flags: a row for each key of the configuration file, with its variable if it
//! has one. The settings that are flags have rows in `cli::options`.

use std::path::PathBuf;
use std::time::Duration;

use url::Url;

use crate::cli::options::{self, path};
use crate::cli::table::Shape::{Switch, Text, Texts, Tree};
use crate::cli::table::Unset::{Described, Value};
use crate::cli::table::Variable::Named;
use crate::cli::table::on::CASE;
use crate::cli::table::{Row, options, setting};
use crate::cli::value::{self, ParseResult};
use crate::pipeline::identifier::TableName;
use crate::report::mask::Mask;
use crate::store::postgres::{RequireAuth, SslMode, SslNegotiation, TargetSession};

options! {
    /// The token source; without a scheme `https://` is assumed
    SOURCE_URL: Url = value::source_url,
        Row { variable: Named("TOKEN_HOST"), is_secret: true, ..setting("source.url", "URL") };
    /// Headers of each request; `TOKEN_SERVICE_SOURCE_AUTHORIZATION` replaces `authorization`
    HEADERS: String = text,
        Row { shape: Texts, is_secret: true, ..setting("source.headers", "mapping of texts") };
    /// The header of an idempotency key, such as `Idempotency-Key`, if the source gives the same tokens for
    /// the same key. Requests that it may have served are then repeated
    IDEMPOTENCY_HEADER: String = value::idempotency_header,
        Row {
            unset: Described("no key"), on: CASE, ..setting("source.idempotency_header", "name")
        };
    /// Limit for one request including its answer
    TIMEOUT: Duration = value::positive_duration,
        Row { unset: Value("10s"), on: CASE, ..setting("source.timeout", "DURATION") };
    /// Limit for connecting
    SOURCE_CONNECT_TIMEOUT: Duration = value::positive_duration,
        Row { unset: Value("5s"), ..setting("source.connect_timeout", "DURATION") };
    /// How long an idle connection is used again; with `0s` each request opens one, so that none is sent
    /// on a connection that the source is closing
    KEEP_ALIVE: Duration = value::duration,
        Row { unset: Value("0s"), ..setting("source.keep_alive", "DURATION") };
    /// Client certificate in PEM format
    TLS_CERT: PathBuf = path,
        Row { shape: Text, ..setting("source.tls.cert", "FILE") };
    /// Its key in PEM format, without passphrase
    TLS_KEY: PathBuf = path,
        Row { shape: Text, ..setting("source.tls.key", "FILE") };
    /// The certificates of the only authorities to trust, in PEM format
    TLS_CA: PathBuf = path,
        Row {
            shape: Text, unset: Described("`SSL_CERT_FILE`, else the system's authorities"),
            ..setting("source.tls.ca", "FILE")
        };
    /// The largest answer
    MAX_BODY: u64 = value::bytes,
        Row { unset: Value("32MiB"), ..setting("source.max_body", "SIZE") };
    /// The longest token; a longer one is `rejected`
    MAX_TOKEN: u64 = value::bytes,
        Row { unset: Value("1KiB"), on: CASE, ..setting("source.max_token", "SIZE") };

    /// The whole address; excludes the parts
    DATABASE_URL: String = text,
        Row {
            variable: Named("DATABASE_URL"), shape: Text, is_secret: true,
            ..setting("database.url", "URL")
        };
    /// One host, or several separated by commas
    HOST: String = text,
        Row { variable: Named("DB_HOST"), shape: Text, ..setting("database.host", "text") };
    /// One port, or one per host: `"5432,5433"`
    PORT: Vec<u16> = value::ports,
        Row {
            variable: Named("DB_PORT"), unset: Described("5432"),
            ..setting("database.port", "number or text")
        };
    /// The role
    USER: String = text,
        Row { variable: Named("DB_USER"), shape: Text, ..setting("database.user", "text") };
    /// The password
    PASSWORD: String = text,
        Row {
            variable: Named("DB_PASS"), shape: Text, is_secret: true,
            ..setting("database.password", "text")
        };
    /// The database
    NAME: String = text,
        Row { variable: Named("DB_NAME"), shape: Text, ..setting("database.name", "text") };
    /// The TLS mode, see [TLS](#tls)
    SSLMODE: SslMode = str::parse,
        Row {
            variable: Named("DB_SSLMODE"), unset: Described("`require`, or `prefer` on loopback"),
            ..setting("database.sslmode", "mode")
        };
    /// A file with trusted certificates
    SSLROOTCERT: PathBuf = path,
        Row {
            shape: Text,
            unset: Described("`~/.postgresql/root.crt` if it exists, else the system's authorities"),
            ..setting("database.sslrootcert", "path or `system`")
        };
    /// Client certificate in PEM format
    SSLCERT: PathBuf = path,
        Row { shape: Text, ..setting("database.sslcert", "FILE") };
    /// Client key in PEM format
    SSLKEY: PathBuf = path,
        Row { shape: Text, ..setting("database.sslkey", "FILE") };
    /// `direct` starts TLS at once (PostgreSQL 17 and later)
    SSLNEGOTIATION: SslNegotiation = str::parse,
        Row {
            values: &["postgres", "direct"], unset: Value("postgres"),
            ..setting("database.sslnegotiation", "")
        };
    /// Accepted authentication methods, as in libpq: a list of `password`, `md5`, `scram-sha-256` and `none`,
    /// or of excluded ones with `!`
    REQUIRE_AUTH: RequireAuth = str::parse,
        Row { ..setting("database.require_auth", "text") };
    /// Which host to use
    TARGET_SESSION_ATTRS: TargetSession = str::parse,
        Row {
            values: &["read-write", "primary", "any"], unset: Value("read-write"),
            ..setting("database.target_session_attrs", "")
        };
    /// The table, with its schema if needed
    TABLE: TableName = TableName::parse,
        Row { unset: Value("secret_tokens"), ..setting("database.table", "name") };
    /// A column of type `text`, `varchar`, `char` or `citext`, or of a domain over them
    COLUMN: String = not_empty,
        Row { unset: Value("data"), ..setting("database.column", "name") };
    /// The server's limit for one INSERT
    STATEMENT_TIMEOUT: Duration = value::positive_duration,
        Row { unset: Value("30s"), ..setting("database.statement_timeout", "DURATION") };
    /// Limit for connecting to one host, TLS and authentication included
    CONNECT_TIMEOUT: Duration = value::positive_duration,
        Row { unset: Value("10s"), ..setting("database.connect_timeout", "DURATION") };

    /// What a script sees as `config::VARS`
    VARS: String = text,
        Row {
            shape: Tree, unset: Described("empty"),
            ..setting("script.vars", "mapping of any values")
        };
    /// The most operations of a script; 0 means no limit
    MAX_OPERATIONS: u64 = value::number,
        Row { unset: Value("0"), on: CASE, ..setting("script.max_operations", "N") };
    /// How much the process may grow while a script runs
    MAX_MEMORY: u64 = value::bytes,
        Row { unset: Value("80MiB"), ..setting("script.max_memory", "SIZE") };
    /// The prefix of variables that `env::get` may read
    ENV_PREFIX: String = not_empty,
        Row { unset: Value("TOKEN_"), on: CASE, ..setting("script.env_prefix", "text") };

    /// How the reports of a service show tokens, as --mask
    SERVE_MASK: Mask = value::mask,
        Row {
            values: &["none", "prefix", "sha256"], unset: Described("as `run.mask`"),
            ..setting("serve.mask", "")
        };
    /// True if the processor is always allocated on Cloud Run, so that a run may go on after its answer
    CPU_ALWAYS: bool = value::switch,
        Row { shape: Switch, ..setting("serve.cpu_always", "") };

    /// The largest SIZE that is accepted
    MAX_TOKENS: u64 = value::positive,
        Row { variable: Named("MAX_TOKENS"), ..setting("", "N") };
}

/// Returns the rows of both tables.
pub(crate) fn all_rows() -> impl Iterator<Item = &'static Row> {
    ROWS.iter().chain(options::ROWS)
}

#[allow(clippy::unnecessary_wraps, reason = "has the signature of a parser")]
fn text(text: &str) -> ParseResult<String> {
    Ok(text.to_owned())
}

fn not_empty(text: &str) -> ParseResult<String> {
    if text.is_empty() || text.contains('\0') {
        Err(String::from("must not be empty"))
    } else {
        Ok(text.to_owned())
    }
}

#[cfg(test)]
#[allow(clippy::expect_used)]
mod tests {
    use std::collections::BTreeSet;
    use std::ffi::OsStr;

    use super::*;
    use crate::cli::table::Unset;

    #[test]
    fn defaults_and_possible_values_are_accepted_by_their_parsers() {
        for row in all_rows() {
            let default = match row.unset {
                Unset::Value(text) => Some(text),
                Unset::Nothing | Unset::Described(_) => None,
            };
            for value in row.values.iter().copied().chain(default) {
                (row.check)(OsStr::new(value)).expect(row.id);
            }
        }
    }

    #[test]
    fn no_two_rows_share_a_flag_a_key_or_a_variable() {
        let mut names = BTreeSet::new();
        for row in all_rows() {
            let key = Some(format!("`{}`", row.key)).filter(|_| !row.key.is_empty());
            let flag = Some(row.flag_name()).filter(|_| !row.flag.is_empty());
            for name in [key, flag, row.variable_name()].into_iter().flatten() {
                assert!(names.insert(name.clone()), "{name}");
            }
        }
    }
}
