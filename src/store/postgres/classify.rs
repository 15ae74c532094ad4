//! Classifies the error of an INSERT.
//!
//! A SQLSTATE class does not show whose fault an error is. A token is `rejected` only if the
//! error's fields and the catalog show that this token is at fault. In doubt it is `failed`. The
//! code is free of I/O, so every rule is a row of a table-driven test. The SQLSTATEs are from
//! PostgreSQL's appendix "Error Codes", the routines from PostgreSQL 13 to 18.

use tokio_postgres::error::{DbError, Severity};

use crate::pipeline::token::Token;
use crate::store::connection::ErrorClass;
use crate::store::postgres::catalog::{Catalog, Owner, Scope, is_frame};

/// The error fields of a failed INSERT.
#[derive(Clone, Copy, Debug, Default)]
pub(in crate::store) struct ServerError<'a> {
    /// The SQLSTATE.
    pub(in crate::store) code: &'a str,
    /// True for severity ERROR, which concerns the statement. FATAL and PANIC concern the
    /// connection.
    pub(in crate::store) is_error: bool,
    pub(in crate::store) schema: Option<&'a str>,
    pub(in crate::store) table: Option<&'a str>,
    pub(in crate::store) column: Option<&'a str>,
    pub(in crate::store) datatype: Option<&'a str>,
    pub(in crate::store) constraint: Option<&'a str>,
    /// The server function that raised it; a pooler's errors have none.
    pub(in crate::store) routine: Option<&'a str>,
    /// The CONTEXT, innermost frame first.
    pub(in crate::store) context: Option<&'a str>,
}

impl<'a> ServerError<'a> {
    /// Reads the fields of an error.
    pub(super) fn of(db: &'a DbError) -> Self {
        Self {
            code: db.code().code(),
            is_error: is_error(db),
            schema: db.schema(),
            table: db.table(),
            column: db.column(),
            datatype: db.datatype(),
            constraint: db.constraint(),
            routine: db.routine(),
            context: db.where_(),
        }
    }
}

/// Returns true if the error concerns the statement and not the connection.
pub(in crate::store) fn is_error(db: &DbError) -> bool {
    db.parsed_severity().map_or_else(
        || db.severity() == "ERROR",
        |severity| severity == Severity::Error,
    )
}

/// Classifies an error about `token`, which was to be inserted into the table of `catalog`.
pub(in crate::store) fn classify(
    error: &ServerError<'_>,
    catalog: &Catalog,
    token: &Token,
) -> ErrorClass {
    /// The routine of the warning that ends a wait for a synchronous standby.
    const UNCONFIRMED: &str = "SyncRepWaitForLSN";
    /// The routine that `wire` sets for an unreadable command tag.
    const UNREADABLE: &str = "unreadable_command_tag";
    if !error.is_error {
        return match error.routine {
            Some(UNCONFIRMED) => ErrorClass::Unconfirmed,
            Some(UNREADABLE) => ErrorClass::Unreadable,
            _ => ErrorClass::InDoubt,
        };
    }
    let routine = match error.routine {
        Some(routine) => routine,
        None if catalog.is_assumed() && is_about_data(error.code) => "",
        None => return classify_pooler_error(error.code),
    };
    Attribution {
        error,
        routine,
        frame: error.context.and_then(|text| entry_frame(text, catalog)),
        catalog,
        token,
    }
    .class()
}

/// The outermost function of the statement, by the error's CONTEXT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum EntryFrame {
    Of(Owner),
    Unknown,
}

/// Returns the outermost function frame, the last of a CONTEXT; a portal's parameters may follow
/// it.
fn entry_frame(context: &str, catalog: &Catalog) -> Option<EntryFrame> {
    context
        .lines()
        .rev()
        .find_map(|line| match catalog.owner(line) {
            Some(owner) => Some(EntryFrame::Of(owner)),
            None => is_frame(line).then_some(EntryFrame::Unknown),
        })
}

/// Classifies an error without a routine, which a pooler raised.
fn classify_pooler_error(code: &str) -> ErrorClass {
    match code {
        "26000" | "42P05" => ErrorClass::Unprepared,
        "25006" => ErrorClass::ReadOnly,
        "40003" | "57P01" | "57P02" | "57P05" => ErrorClass::InDoubt,
        _ => match class_of(code) {
            "08" => ErrorClass::InDoubt,
            "40" | "53" | "55" | "57" | "25" | "58" | "XX" => ErrorClass::Retry,
            "28" | "3D" | "3F" | "42" => ErrorClass::Denied { all: true },
            _ => ErrorClass::Failed,
        },
    }
}

fn class_of(code: &str) -> &str {
    code.get(..2).unwrap_or_default()
}

/// Returns true for the classes of data, constraints and triggers.
fn is_about_data(code: &str) -> bool {
    matches!(class_of(code), "22" | "23" | "44" | "54") || is_trigger_class(class_of(code))
}

/// Returns true for the classes of PL/pgSQL, triggered actions and users.
///
/// PostgreSQL's own classes begin with 0 to 4 (SQL standard), 5, F, H or X.
fn is_trigger_class(class: &str) -> bool {
    let first = class.bytes().next();
    matches!(class, "P0" | "09" | "27")
        || first.is_some_and(|first| !matches!(first, b'0'..=b'5' | b'F' | b'H' | b'X'))
}

struct Attribution<'a> {
    error: &'a ServerError<'a>,
    routine: &'a str,
    frame: Option<EntryFrame>,
    catalog: &'a Catalog,
    token: &'a Token,
}

impl Attribution<'_> {
    fn class(&self) -> ErrorClass {
        let code = self.error.code;
        if self.is_raised() {
            return self.classify_raised();
        }
        if self.is_foreign() {
            return self.classify_foreign();
        }
        match code {
            "26000" | "42P05" if self.frame.is_none() => return ErrorClass::Unprepared,
            "25006" if self.frame.is_none() => return ErrorClass::ReadOnly,
            "42501" if self.routine == "ExecWithCheckOptions" => {
                return self.rejected_if(self.catalog.is_policy_about_token());
            }
            "44000" => return self.rejected_if(self.catalog.is_view_about_token()),
            "23514" if self.is_routing() => return self.classify_routing(),
            "23502" => return self.classify_not_null(),
            "54000" => return self.classify_limit(),
            _ => {}
        }
        match class_of(code) {
            // At severity ERROR the server has rolled back, even for a connection error.
            "08" | "40" | "53" | "55" | "57" | "25" | "58" | "XX" => ErrorClass::Retry,
            "22" => self.classify_data(),
            "23" => self.classify_constraint(),
            "28" | "3D" | "3F" | "42" => ErrorClass::Denied {
                all: self.frame.is_none(),
            },
            _ => ErrorClass::Failed,
        }
    }

    /// Returns true for errors raised on purpose in a procedural language or in C.
    fn is_raised(&self) -> bool {
        const EXACT: [&str; 5] = [
            "exec_stmt_raise",
            "exec_stmt_assert",
            "croak_cstr",
            "throw_tcl_error",
            "rethrow",
        ];
        const PREFIXES: [&str; 3] = ["PLy_", "plperl", "pltcl"];
        EXACT.contains(&self.routine)
            || PREFIXES
                .iter()
                .any(|prefix| self.routine.starts_with(prefix))
            || self.catalog.is_trigger_symbol(self.routine)
            || (self.routine.is_empty() && is_trigger_class(class_of(self.error.code)))
    }

    fn classify_raised(&self) -> ErrorClass {
        let is_refused = match self.frame {
            Some(EntryFrame::Of(Owner::Trigger | Owner::Token)) => true,
            // A trigger in C has no frame.
            None => self.catalog.is_assumed() || self.catalog.is_trigger_symbol(self.routine),
            Some(EntryFrame::Of(Owner::Other) | EntryFrame::Unknown) => false,
        };
        match (self.error.code, class_of(self.error.code)) {
            ("40003", _) => rejected_if(is_refused),
            (_, "40" | "53" | "55" | "57") => ErrorClass::Retry,
            _ => rejected_if(is_refused),
        }
    }

    /// Returns true for errors of a foreign server or of the connection to it.
    fn is_foreign(&self) -> bool {
        self.catalog.has_foreign()
            && (self.routine.starts_with("pgfdw")
                || self.routine.starts_with("connect_pg")
                || matches!(class_of(self.error.code), "08" | "HV")
                || self.error.code == "40003")
    }

    /// A foreign server commits separately, so an error about its commit leaves the token in doubt.
    fn classify_foreign(&self) -> ErrorClass {
        const NEVER_CONNECTED: &str = "08001";
        let context = self.error.context.unwrap_or_default();
        match self.error.code {
            NEVER_CONNECTED => ErrorClass::Retry,
            _ if context.contains("COMMIT") => ErrorClass::InDoubt,
            "40003" | "57P01" | "57P02" => ErrorClass::InDoubt,
            code => match class_of(code) {
                "08" => ErrorClass::InDoubt,
                "40" | "53" | "55" | "57" => ErrorClass::Retry,
                _ => ErrorClass::Failed,
            },
        }
    }

    fn is_routing(&self) -> bool {
        const ROUTING: [&str; 2] = ["ExecFindPartition", "ExecPartitionCheckEmitError"];
        ROUTING.contains(&self.routine)
    }

    /// Classifies a row without a matching partition; one may be attached later.
    fn classify_routing(&self) -> ErrorClass {
        let named = self.error.table;
        let Some(relation) = named.and_then(|table| self.catalog.named(self.error.schema, table))
        else {
            // The partition was attached after the catalog was read.
            return ErrorClass::Retry;
        };
        if !self.catalog.is_routed_by_token(relation) {
            return ErrorClass::Retry;
        }
        let is_stale =
            self.routine == "ExecPartitionCheckEmitError" && self.catalog.is_below_target(relation);
        if is_stale {
            ErrorClass::Reroute
        } else {
            ErrorClass::Rejected
        }
    }

    fn classify_not_null(&self) -> ErrorClass {
        let Some(column) = self.error.column else {
            return self.classify_domain();
        };
        let relation = match self.error.table {
            Some(_) => self.relation(),
            None => self.catalog.target(),
        };
        rejected_if(relation.is_some_and(|it| self.catalog.depends_on_token(it, column)))
    }

    /// As [`rejected_if`], but always rejected in a pipeline test.
    fn rejected_if(&self, is_at_fault: bool) -> ErrorClass {
        rejected_if(is_at_fault || self.catalog.is_assumed())
    }

    /// Returns the relation that the error names, if an INSERT can write to it.
    fn relation(&self) -> Option<&crate::store::postgres::catalog::Relation> {
        self.catalog.named(self.error.schema, self.error.table?)
    }

    fn classify_domain(&self) -> ErrorClass {
        let Some(domain) = self.error.datatype else {
            return self.rejected_if(false);
        };
        rejected_if(self.frame.is_none() && self.catalog.is_only_token_domain(domain))
    }

    fn classify_constraint(&self) -> ErrorClass {
        if self.error.table.is_none() {
            return self.classify_domain();
        }
        let Some(relation) = self.relation() else {
            return ErrorClass::Failed;
        };
        if let Some(column) = self.error.column
            && self.catalog.is_assumed()
        {
            return rejected_if(self.catalog.depends_on_token(relation, column));
        }
        let name = self.error.constraint.unwrap_or_default();
        let is_unique = matches!(self.error.code, "23505" | "23P01");
        match self.catalog.scope(relation, name) {
            Scope::Token => ErrorClass::Rejected,
            Scope::Sequence if is_unique => ErrorClass::KeyTaken,
            // Clocks and random numbers collide only now and then.
            Scope::Other if is_unique => ErrorClass::Retry,
            Scope::Unknown => self.rejected_if(false),
            Scope::Sequence | Scope::Other => ErrorClass::Failed,
        }
    }

    /// Classifies a program limit: of an index, a type or the transaction numbers.
    fn classify_limit(&self) -> ErrorClass {
        const NUMBERS: [&str; 2] = ["GetNewTransactionId", "GetNewMultiXactId"];
        if NUMBERS.contains(&self.routine) || self.frame.is_some() {
            return ErrorClass::Failed;
        }
        match (self.relation(), self.error.constraint) {
            (Some(relation), Some(name)) => rejected_if(self.catalog.is_indexed(relation, name)),
            _ if self.error.table.is_some() => ErrorClass::Failed,
            _ => rejected_if(
                self.catalog
                    .is_only_token_raising(self.error.code, self.routine),
            ),
        }
    }

    /// Classifies a value that a type, a cast or an expression refuses.
    fn classify_data(&self) -> ErrorClass {
        const ENCODING: [&str; 2] = ["22021", "22P05"];
        let code = self.error.code;
        match self.frame {
            Some(EntryFrame::Of(Owner::Token)) => return ErrorClass::Rejected,
            Some(_) => return ErrorClass::Failed,
            None => {}
        }
        let is_too_long =
            || code == "22001" && self.catalog.length_limit().is_exceeded(self.token.as_str());
        rejected_if(
            code != "2200H"
                && (ENCODING.contains(&code)
                    || is_too_long()
                    || self.catalog.is_only_token_raising(code, self.routine)),
        )
    }
}

fn rejected_if(is_at_fault: bool) -> ErrorClass {
    if is_at_fault {
        ErrorClass::Rejected
    } else {
        ErrorClass::Failed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The default table with one more of each kind of object that can refuse a row; the token is
    /// `data`.
    const CATALOG: &str = include_str!("classify/catalog.json");

    fn catalog() -> Catalog {
        Catalog::parse(CATALOG, "data").unwrap()
    }

    /// Parses `code table column datatype constraint routine | context`; `-` is a missing field.
    fn class(fields: &str) -> ErrorClass {
        class_on(&catalog(), fields)
    }

    fn class_on(catalog: &Catalog, fields: &str) -> ErrorClass {
        let (fields, context) = match fields.split_once(" | ") {
            Some((fields, context)) => (fields, Some(context.replace(" < ", "\n"))),
            None => (fields, None),
        };
        let fields: Vec<&str> = fields.split_whitespace().collect();
        let field = |at: usize| Some(fields[at]).filter(|field| *field != "-");
        let (schema, table) = match field(1).and_then(|name| name.split_once('.')) {
            Some((schema, table)) => (Some(schema), Some(table)),
            None if catalog.is_assumed() => (None, field(1)),
            None => (field(1).map(|_| "public"), field(1)),
        };
        let error = ServerError {
            code: fields[0],
            is_error: true,
            schema,
            table,
            column: field(2),
            datatype: field(3),
            constraint: field(4),
            routine: field(5),
            context: context.as_deref(),
        };
        classify(&error, catalog, &Token::new("token", None))
    }

    #[track_caller]
    fn assert_each(expected: ErrorClass, cases: &[&str]) {
        for case in cases {
            assert_eq!(class(case), expected, "{case}");
        }
    }

    #[test]
    fn token_is_rejected_when_a_constraint_on_its_column_refuses_it() {
        assert_each(
            ErrorClass::Rejected,
            &[
                "23514 secret_tokens - - data_check ExecConstraints",
                "23514 secret_tokens - - both_check ExecConstraints",
                "23505 secret_tokens - - data_key _bt_check_unique",
                "23505 secret_tokens - - lower_key _bt_check_unique",
                "23505 secret_tokens - - length_key _bt_check_unique",
                "23P01 secret_tokens - - data_excl check_exclusion_or_unique_constraint",
                "23503 secret_tokens - - data_fkey ri_ReportViolation",
                "23502 secret_tokens data - - ExecConstraints",
                "23502 secret_tokens length - - ExecConstraints",
                "23514 - - token token_check ExecEvalConstraintCheck",
            ],
        );
    }

    #[test]
    fn token_fails_when_a_constraint_on_other_columns_refuses_the_row() {
        assert_each(
            ErrorClass::Failed,
            &[
                "23514 secret_tokens - - tenant_check ExecConstraints",
                "23514 secret_tokens - - added_since ExecConstraints",
                "23503 secret_tokens - - tenant_fkey ri_ReportViolation",
                "23502 secret_tokens tenant - - ExecConstraints",
                "23514 - - region region_check ExecEvalConstraintCheck",
                "23502 - - region - ExecEvalConstraintNotNull",
                "2200H - - - - nextval_internal",
                "22003 - - - - int84",
                "54000 - - - - GetNewTransactionId",
                // The audit table of a trigger, also one of the same name in another schema.
                "23514 audit - - audit_check ExecConstraints",
                "23514 audit.secret_tokens - - data_check ExecConstraints",
                "23502 audit data - - ExecConstraints",
            ],
        );
    }

    #[test]
    fn token_is_retried_when_key_of_other_columns_is_taken() {
        assert_each(
            ErrorClass::KeyTaken,
            &["23505 secret_tokens - - secret_tokens_pkey _bt_check_unique"],
        );
        assert_each(
            ErrorClass::Retry,
            &[
                "23505 secret_tokens - - tenant_key _bt_check_unique",
                "23505 secret_tokens - - partial_key _bt_check_unique",
            ],
        );
    }

    #[test]
    fn token_is_rejected_when_function_that_depends_on_it_raises() {
        let raised = "| PL/pgSQL function refuse() line 3 at RAISE";
        for code in [
            "P0001", "42501", "50001", "38000", "21000", "0A000", "08000", "08006", "40003",
            "25006", "26000", "42P05", "28000", "XX000", "UE001", "23505", "22023",
        ] {
            let case = format!("{code} - - - - exec_stmt_raise {raised}");
            assert_eq!(class(&case), ErrorClass::Rejected, "{case}");
        }
        assert_each(
            ErrorClass::Rejected,
            &[
                "P0004 - - - - exec_stmt_assert | PL/pgSQL function refuse() line 3 at ASSERT",
                "P0001 - - - - exec_stmt_raise | PL/pgSQL-Funktion refuse() Zeile 3 bei RAISE",
                "P0001 - - - - exec_stmt_raise | fonction PL/pgSQL refuse(), ligne 3 à RAISE",
                "38000 - - - - PLy_elog_impl | PL/Python function \"refuse\"",
                // A function that the trigger calls, and the trigger of an audit table.
                "P0001 - - - - exec_stmt_raise | PL/pgSQL function inner(text) line 1 at RAISE < \
                 SQL statement \"SELECT inner(NEW.data)\" < PL/pgSQL function refuse() line 1 at PERFORM",
                // Fields that the trigger's author set with RAISE.
                "23505 elsewhere id d made_up exec_stmt_raise | PL/pgSQL function refuse() line 1 at RAISE",
                "P0001 - - - - exec_stmt_raise | PL/pgSQL function valid(text) line 1 at RAISE",
                "22P02 - - - - pg_strtoint32 | SQL function \"valid\" statement 1",
                "P0001 - - - - exec_stmt_raise | PL/pgSQL function refuse() line 1 at RAISE < \
                 unnamed portal with parameters: $1 = 'token'",
                "39000 - - - - c_refuse",
            ],
        );
    }

    #[test]
    fn token_fails_when_function_independent_of_it_raises() {
        assert_each(
            ErrorClass::Failed,
            &[
                "P0001 - - - - exec_stmt_raise | PL/pgSQL function region_of() line 1 at RAISE",
                "P0001 - - - - exec_stmt_raise | PL/pgSQL function stranger() line 1 at RAISE",
                // Not raised on purpose.
                "22012 - - - - int4div | SQL statement \"SELECT 1/0\" < \
                 PL/pgSQL function refuse() line 1 at PERFORM",
                "P0002 - - - - exec_stmt_execsql | PL/pgSQL function refuse() line 1 at SQL statement",
                "54001 - - - - check_stack_depth | PL/pgSQL function refuse() line 1 at SQL statement",
                "2F005 - - - - plpgsql_exec_trigger | PL/pgSQL function refuse()",
            ],
        );
    }

    #[test]
    fn token_is_retried_when_error_is_transient() {
        assert_each(
            ErrorClass::Retry,
            &[
                "40001 - - - - CheckTargetForConflictsOut",
                "40P01 - - - - DeadLockReport",
                "55P03 - - - - ProcessInterrupts",
                "57014 - - - - ProcessInterrupts",
                "53100 - - - - mdextend",
                "58030 - - - - mdread",
                "XX000 - - - - errfinish",
                // At severity ERROR the server has rolled back, whatever the code.
                "08006 - - - - dblink_get_conn | PL/pgSQL function refuse() line 1 at PERFORM",
                "57P01 - - - - ProcessInterrupts",
                "40001 - - - - exec_stmt_raise | PL/pgSQL function refuse() line 1 at RAISE",
                "40002 - - - - exec_stmt_raise | PL/pgSQL function refuse() line 1 at RAISE",
                "53300 - - - - exec_stmt_raise | PL/pgSQL function refuse() line 1 at RAISE",
                "55P03 - - - - exec_stmt_raise | PL/pgSQL function refuse() line 1 at RAISE",
                "57P03 - - - - exec_stmt_raise | PL/pgSQL function refuse() line 1 at RAISE",
                // Raised by a pooler.
                "53300 - - - - -",
                "57014 - - - - -",
            ],
        );
    }

    #[test]
    fn denied_statement_concerns_every_token() {
        assert_each(
            ErrorClass::Denied { all: true },
            &[
                "42501 - - - - aclcheck_error",
                "42P01 - - - - parserOpenTable",
                "3D000 - - - - -",
            ],
        );
        assert_each(
            ErrorClass::Denied { all: false },
            &["42501 - - - - aclcheck_error | PL/pgSQL function refuse() line 1 at SQL statement"],
        );
    }

    #[test]
    fn connection_errors_keep_their_class() {
        assert_each(
            ErrorClass::Unprepared,
            &["26000 - - - - FetchPreparedStatement", "42P05 - - - - -"],
        );
        assert_each(
            ErrorClass::ReadOnly,
            &["25006 - - - - PreventCommandIfReadOnly"],
        );
        assert_each(ErrorClass::InDoubt, &["08P01 - - - - -", "57P01 - - - - -"]);
        let fatal = |routine| ServerError {
            code: "01000",
            routine: Some(routine),
            ..ServerError::default()
        };
        let class = |routine| classify(&fatal(routine), &catalog(), &Token::new("t", None));
        assert_eq!(class("SyncRepWaitForLSN"), ErrorClass::Unconfirmed);
        assert_eq!(class("unreadable_command_tag"), ErrorClass::Unreadable);
        assert_eq!(class("ProcessInterrupts"), ErrorClass::InDoubt);
    }

    #[test]
    fn data_error_rejects_token_only_when_no_default_can_raise_it() {
        // One default of the table is a function that may raise anything.
        assert_each(
            ErrorClass::Failed,
            &[
                "22P02 - - - - pg_strtoint32",
                "54000 - - - - index_form_tuple_context",
            ],
        );
        assert_each(
            ErrorClass::Rejected,
            &["22021 - - - - report_invalid_encoding | unnamed portal parameter $1"],
        );
        let harmless = CATALOG.replace("region_of()", "'eu'::text");
        let harmless = Catalog::parse(&harmless, "data").unwrap();
        for case in [
            "22P02 - - - - pg_strtoint32",
            "54000 - - - - index_form_tuple_context",
        ] {
            assert_eq!(class_on(&harmless, case), ErrorClass::Rejected, "{case}");
        }
        for case in ["22003 - - - - int84", "2200H - - - - nextval_internal"] {
            assert_eq!(class_on(&harmless, case), ErrorClass::Failed, "{case}");
        }
    }

    #[test]
    fn assumed_catalog_rejects_token_unless_field_names_other_cause() {
        let assumed = Catalog::assumed(
            &crate::pipeline::identifier::TableName::plain("secret_tokens"),
            "data",
        );
        for (case, expected) in [
            ("23514 - - - any_check -", ErrorClass::Rejected),
            (
                "23514 secret_tokens - - any_check ExecConstraints",
                ErrorClass::Rejected,
            ),
            ("22P02 - - - - -", ErrorClass::Rejected),
            ("P0001 - - - - -", ErrorClass::Rejected),
            ("UE001 - - - - -", ErrorClass::Rejected),
            ("23502 - tenant - - -", ErrorClass::Failed),
            ("23502 - data - - -", ErrorClass::Rejected),
            ("23514 audit - - audit_check -", ErrorClass::Failed),
            ("2200H - - - - nextval_internal", ErrorClass::Failed),
            ("50001 - - - - exec_stmt_raise", ErrorClass::Rejected),
            ("40001 - - - - exec_stmt_raise", ErrorClass::Retry),
            ("40001 - - - - -", ErrorClass::Retry),
            ("42501 - - - - -", ErrorClass::Denied { all: true }),
            ("08006 - - - - -", ErrorClass::InDoubt),
            ("0A000 - - - - -", ErrorClass::Failed),
        ] {
            assert_eq!(class_on(&assumed, case), expected, "{case}");
        }
    }
}
