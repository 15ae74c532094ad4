//! Opens an SQLite file and checks its table, or creates the demo's table in memory.

use std::path::Path;

use rusqlite::{Connection, MAIN_DB, OpenFlags};

use crate::error::{Error, ErrorKind};
use crate::pipeline::identifier::{TableName, quote_identifier};
use crate::store::connection::denied;
use crate::store::sqlite::BUSY_TIMEOUT;

pub(super) fn open_table(
    path: Option<&Path>,
    table: &TableName,
    column: &str,
) -> Result<Connection, Error> {
    let Some(path) = path else {
        return open_demo(table, column).map_err(|error| unusable(None, &error));
    };
    let connection = open_file(path)?;
    check_table(&connection, path, table, column)?;
    set_up(&connection).map_err(|error| unusable(Some(path), &error))?;
    Ok(connection)
}

/// Opens the existing file at `path`, without changing it.
pub(super) fn open_file(path: &Path) -> Result<Connection, Error> {
    if !path.is_file() {
        return Err(
            Error::of(ErrorKind::DbConnect, "the database file does not exist")
                .cause(format!("no file {}", path.display()))
                .hint("sqlite:PATH must name an existing SQLite file with the table in it"),
        );
    }
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    Connection::open_with_flags(path, flags)
        .and_then(|connection| connection.busy_timeout(BUSY_TIMEOUT).map(|()| connection))
        .map_err(|error| unusable(Some(path), &error))
}

fn open_demo(table: &TableName, column: &str) -> rusqlite::Result<Connection> {
    let connection = Connection::open_in_memory()?;
    let column = quote_identifier(column);
    connection.execute_batch(&format!(
        "CREATE TABLE {} (id INTEGER PRIMARY KEY, {column} TEXT NOT NULL \
         CONSTRAINT {} CHECK ({column} NOT LIKE '%-%'))",
        TableName::plain(&table.table).to_sql(),
        quote_identifier(&format!("{}_data_check", table.table)),
    ))?;
    Ok(connection)
}

/// Checks the table, its column and that the file is writable.
pub(super) fn check_table(
    connection: &Connection,
    path: &Path,
    table: &TableName,
    column: &str,
) -> Result<(), Error> {
    let unusable = |error| unusable(Some(path), &error);
    let columns = connection
        .prepare("SELECT name FROM pragma_table_xinfo(?1, ?2)")
        .and_then(|mut statement| {
            statement
                .query_map((&table.table, table.schema.as_deref()), |row| row.get(0))?
                .collect::<rusqlite::Result<Vec<String>>>()
        })
        .map_err(unusable)?;
    if columns.is_empty() {
        return Err(denied("42P01", "the table does not exist")
            .cause(format!("no table {} in {}", table.to_sql(), path.display()))
            .hint("create it first: token_service never changes the schema of a database"));
    }
    if !columns.iter().any(|name| name.eq_ignore_ascii_case(column)) {
        return Err(denied("42703", "the column does not exist")
            .cause(format!("no column \"{column}\" in {}", table.to_sql()))
            .hint(format!("the table has the columns {}", columns.join(", "))));
    }
    if connection.is_readonly(MAIN_DB).map_err(unusable)? {
        return Err(denied("25006", "the database takes no writes")
            .cause(format!("{} is read-only", path.display()))
            .hint("the file and its folder must be writable"));
    }
    Ok(())
}

/// Sets the pragmas of a run's connection.
fn set_up(connection: &Connection) -> rusqlite::Result<()> {
    // Not every file system supports WAL; the fallback is as safe, but slower.
    let _ = connection.pragma_update_and_check(None, "journal_mode", "wal", |_| Ok(()));
    connection.pragma_update(None, "synchronous", "full")?;
    // Rows are only inserted: half a MiB of cache is enough.
    connection.pragma_update(None, "cache_size", -512)?;
    connection.pragma_update(None, "foreign_keys", "on")
}

pub(super) fn unusable(path: Option<&Path>, error: &rusqlite::Error) -> Error {
    let failure = Error::of(ErrorKind::DbConnect, "the database file cannot be used");
    match path {
        Some(path) => failure
            .cause(format!("{}: {error}", path.display()))
            .hint("sqlite:PATH must name an SQLite file that this user may read and write"),
        None => failure.cause(error.to_string()),
    }
}
