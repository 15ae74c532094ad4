//! Probes an SQLite file for `check --connect`: opens and checks it like a run, without changing it.

use std::path::Path;

use crate::error::Error;
use crate::error::probe::ProbeResult;
use crate::store::StoreOptions;
use crate::store::sqlite::open::{check_table, open_file, unusable};
use crate::store::sqlite::receipts::SqliteReceipts;
use crate::store::sqlite::{TableName, insert_sql};

/// Probes the file and the table.
pub(in crate::store) fn inspect(path: &Path, options: &StoreOptions) -> Vec<ProbeResult> {
    let url = format!("sqlite:{}", path.display());
    let connection = match open_file(path).and_then(|connection| {
        // The first read shows whether the file is a database.
        let read = connection.pragma_query_value(None, "schema_version", |_| Ok(()));
        read.map_err(|error| unusable(Some(path), &error))?;
        Ok(connection)
    }) {
        Ok(connection) => connection,
        Err(failure) => return vec![ProbeResult::error("database", &url, failure)],
    };
    let StoreOptions { table, column, .. } = options;
    let target = format!("{table}.{column}");
    let access = check_insert(&connection, path, table, column);
    let receipts = options.receipts.as_ref().map(|receipts| {
        let name = receipts.table.to_string();
        match SqliteReceipts::new(receipts).check(&connection) {
            Ok(Ok(())) => ProbeResult::ok("receipts", format!("{name}  INSERT yes, SELECT yes")),
            Ok(Err(error)) => ProbeResult::error("receipts", &name, error),
            Err(error) => ProbeResult::error("receipts", &name, unusable(Some(path), &error)),
        }
    });
    let database = format!("{url}  SQLite {}", rusqlite::version());
    let table = match access {
        Err(failure) => ProbeResult::error("table", &target, failure),
        Ok(()) => ProbeResult::ok("table", format!("{target}  INSERT yes, SELECT yes")),
    };
    let commit = ProbeResult::ok("commit", "a run uses synchronous = full");
    let first = [ProbeResult::ok("database", database), table];
    first.into_iter().chain(receipts).chain([commit]).collect()
}

/// Checks the table and prepares the INSERT, without executing it.
fn check_insert(
    connection: &rusqlite::Connection,
    path: &Path,
    table: &TableName,
    column: &str,
) -> Result<(), Error> {
    check_table(connection, path, table, column)?;
    match connection.prepare(&insert_sql(table, column)) {
        Ok(_) => Ok(()),
        Err(error) => Err(unusable(Some(path), &error)),
    }
}
