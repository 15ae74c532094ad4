//! Why the database cannot be used, in words that say what to do next.
//!
//! Each of the usual mistakes (wrong password, no TLS, no table, no right, a standby) gets a
//! message, its cause in the server's own words, and a hint that names the setting to look at.

use tokio_postgres::{Error, Row};

use super::super::name::quote_identifier;
use super::super::sqlstate::{AtConnect, Full, at_connect, code_of, full};
use super::connect::{Connector, Hitch};
use super::wire::Violation;
use super::{Address, Given, Host};
use crate::fault::{Fault, Kind, chain};

impl Connector {
    /// Why there is no connection where nobody said anything in time.
    pub(super) fn timed_out(&self, host: &Host) -> Fault {
        Fault::new(Kind::DbConnect, "the database cannot be reached")
            .cause(format!(
                "{} did not answer within {}",
                host.place(),
                humantime::format_duration(self.address.connect_timeout)
            ))
            .hint(format!(
                "check {} and that no firewall drops the packets, or raise connect_timeout",
                self.address.place_set_by()
            ))
            .retryable()
    }

    /// The SQL that gives the role this right on the table.
    pub(super) fn grant(&self, right: &str) -> String {
        let role = quote_identifier(&self.address.user);
        format!("GRANT {right} ON {} TO {role}", self.table)
    }

    /// Judges what `LOOK` saw.
    pub(super) fn judge(&self, row: &Row) -> Result<(), Fault> {
        let get = |index| row.try_get::<_, Option<bool>>(index).ok().flatten();
        let user = &self.address.user;
        let table = &self.table;
        if get(0) == Some(false) {
            return Err(denied("42501", "the database refuses inserts")
                .cause(format!(
                    "role \"{user}\" has no INSERT right on {table}, column \"{}\"",
                    self.column
                ))
                .hint(self.grant("INSERT")));
        }
        if let Ok(Some(sequence)) = row.try_get::<_, Option<String>>(1) {
            return Err(denied("42501", "the database refuses inserts")
                .cause(format!(
                    "role \"{user}\" has no USAGE right on sequence {sequence}"
                ))
                .hint(format!(
                    "GRANT USAGE ON SEQUENCE {sequence} TO {}",
                    quote_identifier(user)
                )));
        }
        if get(4) == Some(true) {
            return Err(denied("55000", "the table does not survive a crash")
                .cause(format!("{table}, or a partition of it, is UNLOGGED"))
                .hint(format!(
                    "ALTER TABLE {table} SET LOGGED: what is called stored must stay stored"
                )));
        }
        if let Ok(Some(kind)) = row.try_get::<_, Option<String>>(5) {
            return Err(denied("42804", "the column does not keep whole tokens")
                .cause(format!(
                    "column \"{}\" of {table} is of type \"{kind}\", which cuts what it is given",
                    self.column
                ))
                .hint("`database.column` must name a column of type text or varchar"));
        }
        Ok(())
    }

    /// Why the host will not do, and what to do about it.
    pub(super) fn hitch(&self, host: &Host, hitch: &Hitch) -> Fault {
        match hitch {
            Hitch::Error(error) => self.refusal(host, error),
            Hitch::Password(fault) => fault.clone(),
            Hitch::Options(error) => self.options_refused(host, error),
            Hitch::Io(error) => self.unreachable(host, vec![error.to_string()]),
            Hitch::Violation(violation) => self.violation(host, violation),
            Hitch::ReadOnly => denied("25006", "the database takes no writes")
                .cause(format!("{} is a standby or read-only", host.place()))
                .hint(format!(
                    "{} must name the primary, and the role must not be set to read only",
                    self.address.host_set_by()
                ))
                .retryable(),
        }
    }

    /// Why there is no connection, and what to do about it.
    pub(super) fn refusal(&self, host: &Host, error: &Error) -> Fault {
        let place = host.place();
        let Some(db) = error.as_db_error() else {
            return self.unreachable(host, chain(error));
        };
        let said = db.code().code();
        let cause = format!("{} ({said})", db.message());
        let code = code_of(said, db.message());
        let user = &self.address.user;
        let (message, hint) = match code {
            // So it says too where the client's certificate is for another role.
            "28P01" if self.address.sslcert.is_some() => (
                "the database refused to connect",
                format!(
                    "{} must match a role of {place}, and sslcert be for that role",
                    self.address.login_set_by()
                ),
            ),
            "28P01" => (
                "the database refused to connect",
                format!(
                    "{} must match a role of {place}",
                    self.address.login_set_by()
                ),
            ),
            "28000" if db.message().contains("client certificate") => (
                "the database refused to connect",
                format!(
                    "set sslcert and sslkey to a certificate for \"{user}\", of an authority \
                     that {place} knows"
                ),
            ),
            "28000" => (
                "the database refused to connect",
                format!(
                    "the role may not exist, or pg_hba.conf of {place} lets \"{user}\" in from \
                     elsewhere or with another {} only (now {})",
                    self.address.sslmode_set_by(),
                    self.address.sslmode.as_str()
                ),
            ),
            "3D000" => (
                "the database refused to connect",
                format!(
                    "{} must name a database of {place}",
                    self.address.set_by("DB_NAME", "the path")
                ),
            ),
            "53300" => (
                "the database refused to connect",
                if said == code {
                    self.full(host, full(db.routine()))
                } else {
                    format!("{place} has no connection left: wait, or raise max_client_conn")
                },
            ),
            "57P03" => (
                "the database refused to connect",
                format!("{place} is starting up or shutting down: try again in a moment"),
            ),
            "57014" | "55P03" => (
                "the database did not answer in time",
                format!("another session may hold a lock on {}", self.table),
            ),
            "42P01" | "3F000" => (
                "the table does not exist",
                format!(
                    "`database.table` must name a table of \"{}\" at {place}, with its schema \
                     where that is not in the search path",
                    self.address.name
                ),
            ),
            "42703" => (
                "the column does not exist",
                format!("`database.column` must name a column of {}", self.table),
            ),
            "42804" => (
                "the column does not take text",
                format!(
                    "`database.column` must name a text column of {}",
                    self.table
                ),
            ),
            "42501" => (
                "the database denies access",
                format!("\"{user}\" needs CONNECT, USAGE on the schema and INSERT on the table"),
            ),
            _ => (
                "the database refused to connect",
                format!("the server's log at {place} says more"),
            ),
        };
        match at_connect(code) {
            AtConnect::Denied => denied(code, message),
            AtConnect::Busy => Fault::new(Kind::DbConnect, message).retryable(),
        }
        .cause(cause)
        .hint(hint)
    }

    /// Whose connections are all taken, and how to give it more.
    fn full(&self, host: &Host, full: Full) -> String {
        let place = host.place();
        let Address { user, name, .. } = &self.address;
        match full {
            Full::Server => {
                format!("{place} has no connection left: wait, or raise max_connections")
            }
            Full::Role => format!(
                "role \"{user}\" has no connection left at {place}: wait, or raise its limit \
                 with ALTER ROLE {} CONNECTION LIMIT n",
                quote_identifier(user)
            ),
            Full::Database => format!(
                "database \"{name}\" has no connection left at {place}: wait, or raise its limit \
                 with ALTER DATABASE {} CONNECTION LIMIT n",
                quote_identifier(name)
            ),
        }
    }

    /// What to say if the server refuses the startup options of the address.
    fn options_refused(&self, host: &Host, error: &Error) -> Fault {
        let mut fault = self.refusal(host, error);
        "the database refuses the startup options".clone_into(&mut fault.message);
        fault.hint(format!(
            "remove or correct {}; a pooler may accept none",
            self.address.set_by("the startup options", "`options`")
        ))
    }

    /// What to say if the server broke a rule of the protocol or exceeded a limit.
    fn violation(&self, host: &Host, violation: &Violation) -> Fault {
        let place = host.place();
        let cause = format!("{place}: {violation}");
        match violation {
            Violation::AuthMethod { .. } => denied(
                "28000",
                "require_auth excludes the database's authentication method",
            )
            .cause(cause)
            .hint(format!(
                "no password was sent; change {}, or pg_hba.conf of {place}",
                self.address.set_by("require_auth", "require_auth")
            )),
            Violation::OpenTransaction => Fault::new(
                Kind::DbConnect,
                "the connection is in use by another client",
            )
            .cause(cause)
            .hint(format!(
                "a pooler at {place} must end a transaction before it hands over its connection"
            ))
            .retryable(),
            _ => Fault::new(Kind::DbConnect, "the database's answer cannot be read")
                .cause(cause)
                .hint(format!(
                    "check that {} name a PostgreSQL server",
                    self.address.place_set_by()
                ))
                .retryable(),
        }
    }

    fn unreachable(&self, host: &Host, causes: Vec<String>) -> Fault {
        let place = host.place();
        let text = causes.join(": ");
        let (message, hint, retryable) = if text.contains("password missing") {
            return denied("28P01", "the database refused to connect")
                .cause(format!(
                    "{place} asks for a password and none is configured"
                ))
                .hint(match &self.address.given {
                    Given::Parts => "set DB_PASS or DB_PASS_FILE".to_owned(),
                    Given::Url(name) => format!("put the password into {name}"),
                });
        } else if text.contains("did not use channel binding") {
            (
                "the database does not prove that it knows the password",
                "channel_binding=require needs TLS and a role with a SCRAM password".to_owned(),
                false,
            )
        } else if text.contains("does not support TLS") {
            (
                "the database offers no TLS",
                format!(
                    "turn TLS on at {place}; or, if the network is trusted, set {}",
                    self.address.set_by("DB_SSLMODE=prefer", "sslmode=prefer")
                ),
                false,
            )
        } else if ["UnknownIssuer", "CaUsedAsEndEntity", "BadSignature"]
            .iter()
            .any(|word| text.contains(word))
        {
            (
                "the database's certificate is not trusted",
                "set sslrootcert to the certificate of the authority that issued it".to_owned(),
                false,
            )
        } else if text.contains("not valid for name") || text.contains("NotValidForName") {
            (
                "the database's certificate is for another host",
                format!(
                    "{} must be a name in the certificate; verify-ca does not look at the name",
                    self.address.host_set_by()
                ),
                false,
            )
        } else if text.contains("received fatal alert") {
            (
                "the database refused the TLS connection",
                format!(
                    "sslcert may be of an authority that {place} does not know; its log says more"
                ),
                false,
            )
        } else if ["TLS", "certificate", "alert"]
            .iter()
            .any(|word| text.contains(word))
        {
            (
                "the database cannot be reached over TLS",
                format!(
                    "{} is {}; see also sslrootcert, sslcert and sslkey",
                    self.address.sslmode_set_by(),
                    self.address.sslmode.as_str()
                ),
                false,
            )
        } else if host.is_socket() {
            (
                "the database cannot be reached",
                format!(
                    "{} must be the folder of the server's socket, and the server must run",
                    self.address.host_set_by()
                ),
                true,
            )
        } else {
            (
                "the database cannot be reached",
                format!(
                    "check {} and that the server runs",
                    self.address.place_set_by()
                ),
                true,
            )
        };
        let mut fault = Fault::new(Kind::DbConnect, message).hint(hint);
        fault.retryable = retryable;
        // The outermost one says "error connecting to server", which everybody knows by now.
        let causes: Vec<_> = if causes.len() > 1 {
            causes.into_iter().skip(1).collect()
        } else {
            causes
        };
        let mut causes = causes.into_iter();
        fault = fault.cause(format!("{place}: {}", causes.next().unwrap_or_default()));
        causes.fold(fault, Fault::cause)
    }
}

fn denied(sqlstate: &str, message: &str) -> Fault {
    Fault::new(
        Kind::DbDenied {
            sqlstate: sqlstate.to_owned(),
        },
        message,
    )
}

/// True where waiting would not help.
pub(super) fn is_denied(fault: &Fault) -> bool {
    matches!(fault.kind, Kind::DbDenied { .. }) && !fault.retryable
}

/// True if the server refused the role's password.
pub(super) fn is_wrong_password(fault: &Fault) -> bool {
    matches!(&fault.kind, Kind::DbDenied { sqlstate } if sqlstate == "28P01")
}

/// The fault that ends the run where every token would meet the same verdict.
pub(in super::super) fn every_insert_denied(code: &str, message: &str) -> Fault {
    denied(code, "the database refuses every insert")
        .cause(format!("{message} ({code})"))
        .hint("look at the table's definition and the role's rights; nothing more was sent")
}
