//! Tests of token statuses on tables of any shape. `rejected` needs evidence against the token,
//! `stored` needs the confirmation of the server, and a look-up proves absence only on tables of a
//! known shape.

mod attribution;
mod catalog;
mod confirmation;
mod faulty_pooler;
mod incompatible_server;
mod long;
mod look_ups;
mod other_columns;
mod privileges;
mod refused_at_start;
mod refused_relations;
mod synchronous_replication;
mod triggers;

use std::collections::HashMap;
use std::fmt::Write as _;
use std::sync::LazyLock;

use crate::support::cluster::Cluster;
use crate::support::command::{Command, Run};
use crate::support::database::{Database, Login};
use crate::support::report::Report;
use crate::support::verify::count;

/// A token, and its expected status. `|` separates several allowed statuses.
type ExpectedStatus = (&'static str, &'static str);

/// Not stored because of the infrastructure. A run that ends early leaves the rest unsent.
const FAILED: &str = "failed|not_attempted";
/// Certainly not stored. The evidence against the token may or may not suffice.
const ABSENT: &str = "rejected|failed|not_attempted";

/// A table, and the expected statuses of tokens on it.
struct TableCase {
    /// Names the case if it fails.
    name: &'static str,
    /// Creates `secret_tokens` in an empty schema, which is first in the search path.
    ddl: &'static str,
    /// The tokens in the order of the input, and their statuses.
    expected: &'static [ExpectedStatus],
}

/// Returns a case.
const fn case(
    name: &'static str,
    ddl: &'static str,
    expected: &'static [ExpectedStatus],
) -> TableCase {
    TableCase {
        name,
        ddl,
        expected,
    }
}

/// `bad` is rejected, and tokens before and after it are stored.
const BAD_REJECTED: &[ExpectedStatus] = &[("aa", "stored"), ("bad", "rejected"), ("cc", "stored")];
/// `bad` fails, and tokens before and after it are stored.
const BAD_FAILED: &[ExpectedStatus] = &[("aa", "stored"), ("bad", "failed"), ("cc", "stored")];
/// `bad` is not stored, and tokens before and after it are.
const BAD_ABSENT: &[ExpectedStatus] = &[
    ("aa", "stored"),
    ("bad", "rejected|failed"),
    ("cc", "stored"),
];
/// No token is stored, and none is at fault.
const ALL_FAILED: &[ExpectedStatus] = &[("aa", FAILED), ("bb", FAILED)];

/// Prepares a run that reads these tokens, with a patience of one second.
fn run_of<T: AsRef<str>>(login: &Login, tokens: impl IntoIterator<Item = T>) -> Command {
    let lines: String = tokens
        .into_iter()
        .map(|token| token.as_ref().to_owned() + "\n")
        .collect();
    Command::new()
        .database(login)
        .file("tokens.txt", lines)
        .args(["--input", "tokens.txt", "--report", "ndjson"])
        .args(["--connections", "1"])
        .env("TOKEN_SERVICE_PATIENCE", "1s")
}

/// Counts the occurrences of each value of a column.
fn values(login: &Login, sql: &str) -> HashMap<String, u64> {
    let found = login.client().query(sql, &[]).expect("the rows");
    let values: Vec<String> = found.iter().map(|row| row.get(0)).collect();
    count(&values)
}

const ROWS: &str = "SELECT data::text FROM secret_tokens";

/// Creates a schema for a case, and sets it first in the search path of the owner.
fn create_schema(database: &Database, schema: &str, ddl: &str) {
    let owner = &database.user;
    let sql = format!(
        "CREATE SCHEMA {schema};
         ALTER ROLE {owner} SET search_path = {schema}, public;
         SET search_path = {schema}, public;"
    );
    let mut client = database.client();
    client.batch_execute(&sql).expect("a schema");
    if let Err(error) = client.batch_execute(ddl) {
        panic!("{error:?} in {ddl}");
    }
}

/// Describes what is wrong with a run: its exit code, a status, or a row that contradicts a status.
fn mismatches(
    run: &Run,
    expected: &[ExpectedStatus],
    before: &HashMap<String, u64>,
    login: &Login,
) -> String {
    let after = values(login, ROWS);
    let all_settled = expected
        .iter()
        .all(|(_, status)| ["stored", "rejected"].contains(status));
    let may_refuse = expected.iter().all(|(_, status)| status.contains("failed"));
    let mut faults = String::new();
    if run.stdout.is_empty() {
        if !(may_refuse && run.code == Some(5)) {
            let _ = writeln!(faults, "  no report, exit {:?}", run.code);
        }
    } else {
        let report = Report::of_run(run);
        let evidence_is_open = expected
            .iter()
            .any(|(_, status)| status.contains("rejected|"));
        let code = if all_settled { 0 } else { 5 };
        if !evidence_is_open && run.code != Some(code) {
            let _ = writeln!(faults, "  exit {:?} instead of {code}", run.code);
        }
        for (token, statuses) in expected {
            let got = report.token(token)["status"].as_str().unwrap_or_default();
            let get = |rows: &HashMap<String, u64>| rows.get(*token).copied().unwrap_or(0);
            let new = get(&after) - get(before);
            if !statuses.split('|').any(|status| status == got) {
                let token = report.token(token);
                let _ = writeln!(faults, "  {token} instead of {statuses}");
            }
            if (got == "stored" && new != 1) || (got != "stored" && got != "unknown" && new != 0) {
                let _ = writeln!(faults, "  {token} is {got} with {new} new rows");
            }
        }
    }
    if faults.is_empty() {
        return faults;
    }
    let errors = run
        .stderr
        .lines()
        .filter(|line| !line.contains("requested"));
    let errors: Vec<&str> = errors.take(6).collect();
    format!("{faults}    {}", errors.join("\n    "))
}

/// A server that does not sync its files, because these tests create hundreds of tables.
static SERVER: LazyLock<Cluster> = LazyLock::new(Cluster::new);

/// Returns an empty database on that server.
fn database() -> Database {
    Database::on(&SERVER)
}

/// Runs every case on one database, and panics with a list of the failed ones.
#[track_caller]
fn check(cases: &[TableCase]) {
    check_within("1s", cases);
}

/// Runs every case on one database with this `--patience`.
#[track_caller]
fn check_within(patience: &str, cases: &[TableCase]) {
    let database = &database();
    let mut faults = Vec::new();
    for (number, case) in cases.iter().enumerate() {
        create_schema(database, &format!("case_{number}"), case.ddl);
        let before = values(database, ROWS);
        let tokens = case.expected.iter().map(|(token, _)| token);
        let run = run_of(database, tokens)
            .args(["--patience", patience])
            .run();
        let mismatches = mismatches(&run, case.expected, &before, database);
        if !mismatches.is_empty() {
            faults.push(format!("{}:\n{mismatches}", case.name));
        }
    }
    let failed_cases = faults.len();
    assert!(
        faults.is_empty(),
        "{failed_cases} of {} cases failed:\n{}",
        cases.len(),
        faults.join("\n")
    );
}
