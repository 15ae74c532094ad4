//! What `check --connect` finds out about an SQLite file: it is opened and looked at as a run does it, and
//! not changed.

use std::path::Path;

use crate::error::Fault;
use crate::error::probe::ProbeResult;
use crate::store::StoreOptions;
use crate::store::sqlite::open::{existing, look, unusable};
use crate::store::sqlite::{TableName, insert};

/// Looks at the file and the table.
pub(in crate::store) fn inspect(path: &Path, options: &StoreOptions) -> Vec<ProbeResult> {
    let shown = format!("sqlite:{}", path.display());
    let connection = match existing(path).and_then(|connection| {
        // The first thing that is read of it: anything may be called a database.
        let read = connection.pragma_query_value(None, "schema_version", |_| Ok(()));
        read.map_err(|error| unusable(Some(path), &error))?;
        Ok(connection)
    }) {
        Ok(connection) => connection,
        Err(fault) => return vec![ProbeResult::fault("database", &shown, fault)],
    };
    let StoreOptions { table, column, .. } = options;
    let place = format!("{table}.{column}");
    let looked = may_insert(&connection, path, table, column);
    let database = format!("{shown}  SQLite {}", rusqlite::version());
    vec![
        ProbeResult::fine("database", database),
        match looked {
            Err(fault) => ProbeResult::fault("table", &place, fault),
            Ok(()) => ProbeResult::fine("table", format!("{place}  INSERT yes, SELECT yes")),
        },
        ProbeResult::fine("commit", "a run uses synchronous = full"),
    ]
}

/// The INSERT is prepared, and not executed.
fn may_insert(
    connection: &rusqlite::Connection,
    path: &Path,
    table: &TableName,
    column: &str,
) -> Result<(), Fault> {
    look(connection, path, table, column)?;
    match connection.prepare(&insert(table, column)) {
        Ok(_) => Ok(()),
        Err(error) => Err(unusable(Some(path), &error)),
    }
}
