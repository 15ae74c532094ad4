//! Tests of receipts: each token and its receipt are one transaction, a tombstone settles a token whose reply
//! was lost, and a run is continued under its id.

mod continued;
mod in_doubt;
mod sqlite;
mod stored;
mod tables;

use std::collections::BTreeSet;

use postgres::Client;

use crate::support::command::Command;
use crate::support::database::{Database, Login};
use crate::support::report::Report;
use crate::support::source::Source;

/// The position of a line of the answer to a request.
pub fn position(request: i64, line: i64) -> i64 {
    (request << 32) + line
}

/// A run with receipts and an `ndjson` report, whose log says what became of tokens in doubt.
pub fn run_command(source: &Source, login: &Login, size: usize) -> Command {
    crate::faults::run_command(source, login, size).args(["--receipts", "token_receipts"])
}

/// The receipts: position, attempt, kind and rows.
pub fn receipts(client: &mut Client) -> Vec<(i64, i32, String, Option<i32>)> {
    let found = client.query(
        "SELECT position, attempt, kind::text, rows FROM token_receipts ORDER BY position, attempt",
        &[],
    );
    let rows = found.expect("the receipts");
    let row = |row: &postgres::Row| (row.get(0), row.get(1), row.get(2), row.get(3));
    rows.iter().map(row).collect()
}

/// Asserts that at most one attempt of each token was committed.
#[track_caller]
pub fn assert_committed_once(database: &Database) {
    let sql = "SELECT count(*) FROM (SELECT FROM token_receipts WHERE kind = 't' AND rows > 0
               GROUP BY run_id, shard, position HAVING count(*) > 1) AS twice";
    let twice: i64 = database
        .admin()
        .query_one(sql, &[])
        .expect("a count")
        .get(0);
    assert_eq!(twice, 0, "tokens of which several attempts were committed");
}

/// Asserts that each token that is reported as stored has one receipt, and that no other one has one that
/// says so.
#[track_caller]
pub fn assert_receipts_agree(report: &Report, database: &Database) {
    let with_status = |status: &str| {
        let tokens = report
            .tokens
            .iter()
            .filter(|token| token["status"] == status);
        let positions = tokens.map(|token| token["position"].as_i64().expect("a position"));
        positions.collect::<BTreeSet<i64>>()
    };
    let (stored, unknown) = (with_status("stored"), with_status("unknown"));
    let found = receipts(&mut database.client()).into_iter();
    let with_row = found.filter(|(_, _, kind, rows)| kind == "t" && *rows >= Some(1));
    let with_row: BTreeSet<i64> = with_row.map(|(position, ..)| position).collect();
    let known: BTreeSet<i64> = with_row.difference(&unknown).copied().collect();
    assert_eq!(stored, known);
}
