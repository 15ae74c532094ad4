//! The SQLite backend: one connection on a thread of its own, one transaction per token.
//!
//! The schema of a file is never changed. The demo's table is in memory. SQLite's errors are mapped
//! to PostgreSQL's SQLSTATEs, so that a script handles one kind of code.

mod inspect;
mod open;
pub(super) mod receipt_rows;
mod receipts;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rusqlite::{Connection as RusqliteConnection, ErrorCode, OpenFlags, ffi};

use crate::error::{Error, ErrorKind};
use crate::pipeline::identifier::{TableName, quote_identifier};
use crate::pipeline::receipts::{Receipt, ReceiptLog};
use crate::pipeline::token::Token;
use crate::store::StoreOptions;
use crate::store::connection::{
    Connection, ConnectionLost, Database, ErrorClass, Found, LookUpResult, Reply,
};
use crate::store::in_flight::InDoubtSet;
use crate::store::pool::Pool;
use crate::store::queue::Queue;
use crate::store::receipts::{EarlierReceipts, ProcessStart};
pub(super) use crate::store::sqlite::inspect::inspect;
use crate::store::sqlite::open::{open_table, unusable};
use crate::store::sqlite::receipts::SqliteReceipts;
use crate::store::sqlstate::{DetailCache, ServerDetail};

/// How long SQLite waits for a lock; short, so that an abort is noticed in between.
const BUSY_TIMEOUT: Duration = Duration::from_secs(1);

/// An SQLite file, or the demo's table in memory.
#[derive(Clone)]
pub(super) struct SqliteDatabase {
    path: Option<PathBuf>,
    table: TableName,
    column: String,
    receipts: Option<SqliteReceipts>,
    is_dry_run: bool,
}

/// Opens the file at `path` or a demo table in memory, and starts the writer.
pub(super) async fn open(
    path: Option<&Path>,
    options: &StoreOptions,
    queue: &Arc<Queue>,
) -> Result<Pool<SqliteDatabase>, Error> {
    let database = SqliteDatabase {
        path: path.map(Path::to_owned),
        table: options.table.clone(),
        column: options.column.clone(),
        receipts: options.receipts.as_ref().map(SqliteReceipts::new),
        is_dry_run: options.dry_run,
    };
    let first = database.connect().await?;
    Pool::start_on_thread("sqlite", database, first, queue, options)
}

impl SqliteDatabase {
    fn open_connection(&self) -> Result<SqliteConnection, Error> {
        let connection = open_table(self.path.as_deref(), &self.table, &self.column)?;
        let insert = insert_sql(&self.table, &self.column);
        // Every INSERT takes it from the cache.
        let prepared = connection.prepare_cached(&insert).map(drop);
        prepared.map_err(|error| unusable(self.path.as_deref(), &error))?;
        if let Some(receipts) = &self.receipts {
            let checked = receipts.check(&connection);
            checked.map_err(|error| unusable(self.path.as_deref(), &error))??;
        }
        Ok(SqliteConnection {
            table: self.table.table.clone(),
            column: self.column.clone(),
            insert,
            receipts: self.receipts.clone(),
            is_dry_run: self.is_dry_run,
            state: Mutex::new((connection, DetailCache::default())),
        })
    }

    /// Counts the rows of each value. No late write is possible: SQLite rolls back the transaction of a
    /// process that died.
    fn count_rows(&self, values: &[String]) -> Result<HashMap<String, u64>, Error> {
        let path = self.path.as_deref();
        let Some(file) = path else {
            return Ok(HashMap::new());
        };
        let count_all = || {
            let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
            let connection = RusqliteConnection::open_with_flags(file, flags)?;
            let mut statement = connection.prepare(&count_sql(&self.table, &self.column))?;
            let mut counts = HashMap::new();
            for value in values {
                let count = statement.query_row([value], |row| row.get::<_, i64>(0))?;
                counts.insert(value.clone(), u64::try_from(count).unwrap_or(0));
            }
            Ok(counts)
        };
        count_all().map_err(|error| unusable(path, &error))
    }
}

impl Database for SqliteDatabase {
    type Connection = SqliteConnection;

    async fn connect(&self) -> Result<SqliteConnection, Error> {
        let database = self.clone();
        let opened = tokio::task::spawn_blocking(move || database.open_connection());
        opened.await.unwrap_or_else(|_| {
            let message = "the SQLite thread has ended unexpectedly";
            Err(Error::of(ErrorKind::DbConnect, message))
        })
    }

    async fn read_receipts(&self, start: Option<ProcessStart>) -> Result<EarlierReceipts, Error> {
        let Some(receipts) = self.receipts.clone() else {
            return Ok(EarlierReceipts::default());
        };
        let database = self.clone();
        let read = move || {
            let connection =
                open_table(database.path.as_deref(), &database.table, &database.column)?;
            let unusable = |error| unusable(database.path.as_deref(), &error);
            let mut earlier = receipts.read(&connection).map_err(unusable)?;
            if let Some(start) = start {
                earlier.check()?;
                while !receipts
                    .mark(&connection, earlier.generation, start)
                    .map_err(unusable)?
                {
                    earlier.generation += 1;
                    earlier.check()?;
                }
            }
            Ok(earlier)
        };
        let read = tokio::task::spawn_blocking(read);
        read.await.unwrap_or_else(|_| {
            let message = "the SQLite thread has ended unexpectedly";
            Err(Error::of(ErrorKind::DbConnect, message))
        })
    }

    async fn recheck(
        &self,
        values: &[String],
        _: Option<i64>,
    ) -> Result<HashMap<String, u64>, Error> {
        self.count_rows(values)
    }
}

/// A connection to an SQLite database. Its INSERTs block the thread.
pub(super) struct SqliteConnection {
    table: String,
    column: String,
    insert: String,
    /// The receipts, if they are written.
    receipts: Option<SqliteReceipts>,
    /// True if each INSERT is rolled back.
    is_dry_run: bool,
    state: Mutex<(RusqliteConnection, DetailCache)>,
}

impl Connection for SqliteConnection {
    /// A connection to a file is never lost.
    type Session = ();

    async fn insert(&self, token: Token) -> Reply {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let (connection, details) = &mut *state;
        // Dropping the transaction rolls the INSERT back.
        let transaction = (self.is_dry_run || self.receipts.is_some())
            .then(|| connection.unchecked_transaction())
            .transpose();
        let inserted = transaction.and_then(|transaction| {
            let mut statement = connection.prepare_cached(&self.insert)?;
            let rows = statement.execute([token.as_str()])?;
            if let (Some(receipts), Some(transaction)) = (&self.receipts, transaction) {
                receipts.insert(connection, token.receipt, rows)?;
                transaction.commit()?;
            }
            Ok(rows)
        });
        let error = match inserted {
            Ok(0) => return Reply::Rowless,
            Ok(_) => return Reply::Stored,
            Err(error) => error,
        };
        let (class, code) = match &error {
            rusqlite::Error::SqliteFailure(failure, _) => classify(*failure),
            _ => (ErrorClass::Denied { all: true }, "XX000"),
        };
        let message = match &error {
            rusqlite::Error::SqliteFailure(_, Some(text)) => text.clone(),
            error => error.to_string(),
        };
        if let Some(receipts) = &self.receipts
            && (receipts.is_taken(&message) || class == ErrorClass::InDoubt)
        {
            // The receipt tells what became of the token.
            return Reply::Lost(None);
        }
        let class = match code {
            "23502" | "23505" if !names_column(&message, &self.table, &self.column) => {
                ErrorClass::Failed
            }
            _ => class,
        };
        let constraint = (code == "23514").then(|| constraint(&message)).flatten();
        let server_detail = ServerDetail {
            code,
            constraint,
            message: &message,
            names: [constraint, Some(&self.table), Some(&self.column), None],
        };
        Reply::Error(class, details.get(&server_detail, token.as_str()))
    }

    async fn look_up(&self, lost: &InDoubtSet<()>) -> Result<LookUpResult, ConnectionLost> {
        const UNKNOWN: Found =
            Found::Unknown("the database cannot tell whether the token was stored");
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let tokens = lost.tokens.iter().map(|it| match &self.receipts {
            Some(receipts) => receipts
                .settle(&state.0, it.token.receipt)
                .unwrap_or(UNKNOWN),
            None => UNKNOWN,
        });
        Ok(LookUpResult::Found(tokens.collect()))
    }

    async fn write_receipts(&self, receipts: Vec<Receipt>) -> Reply {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let written = self
            .receipts
            .as_ref()
            .map(|table| table.write(&state.0, &receipts));
        if let Some(Err(error)) = written {
            ReceiptLog::warn_lost(receipts.len(), &error.to_string());
        }
        Reply::Stored
    }

    fn into_session(self) {}
}

fn count_sql(table: &TableName, column: &str) -> String {
    format!(
        "SELECT count(*) FROM {} WHERE {} = ?1",
        table.to_sql(),
        quote_identifier(column)
    )
}

fn insert_sql(table: &TableName, column: &str) -> String {
    format!(
        "INSERT INTO {} ({}) VALUES (?1)",
        table.to_sql(),
        quote_identifier(column)
    )
}

/// Classifies a failed INSERT and returns PostgreSQL's SQLSTATE for it.
fn classify(failure: ffi::Error) -> (ErrorClass, &'static str) {
    let rejected = ErrorClass::Rejected;
    match failure.code {
        ErrorCode::ConstraintViolation => (
            rejected,
            match failure.extended_code {
                ffi::SQLITE_CONSTRAINT_CHECK => "23514",
                ffi::SQLITE_CONSTRAINT_NOTNULL => "23502",
                ffi::SQLITE_CONSTRAINT_UNIQUE
                | ffi::SQLITE_CONSTRAINT_PRIMARYKEY
                | ffi::SQLITE_CONSTRAINT_ROWID => "23505",
                ffi::SQLITE_CONSTRAINT_FOREIGNKEY => "23503",
                _ => "23000",
            },
        ),
        ErrorCode::TypeMismatch => (rejected, "22000"),
        ErrorCode::TooBig => (rejected, "54000"),
        ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked => (ErrorClass::Retry, "55P03"),
        ErrorCode::DiskFull => (ErrorClass::Failed, "53100"),
        ErrorCode::OutOfMemory => (ErrorClass::Failed, "53200"),
        ErrorCode::ReadOnly => (ErrorClass::Failed, "25006"),
        ErrorCode::OperationInterrupted => (ErrorClass::Failed, "57014"),
        // The write or its sync failed: it is not known whether the commit is durable.
        ErrorCode::SystemIoFailure => (ErrorClass::InDoubt, "58030"),
        ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase => {
            (ErrorClass::Denied { all: true }, "XX001")
        }
        ErrorCode::Unknown => (ErrorClass::Denied { all: true }, "42000"),
        _ => (ErrorClass::Denied { all: true }, "XX000"),
    }
}

/// Returns true if the message of a NOT NULL or UNIQUE constraint names the token's column.
///
/// The message has `table.column` after a colon. For an index on an expression it has the index name
/// instead; then the token counts as the cause.
fn names_column(message: &str, table: &str, column: &str) -> bool {
    let Some((_, columns)) = message.split_once(": ") else {
        return false;
    };
    let token = format!("{table}.{column}");
    columns.starts_with("index ")
        || columns
            .split(", ")
            .any(|column| column.eq_ignore_ascii_case(&token))
}

/// Returns the name of a CHECK constraint, which follows a colon.
///
/// For an unnamed constraint SQLite gives the expression instead.
fn constraint(message: &str) -> Option<&str> {
    let (_, name) = message.split_once(": ")?;
    let is_name = name
        .chars()
        .all(|char| char.is_alphanumeric() || char == '_');
    is_name.then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::token::{Outcome, Status};
    use crate::runtime::clock::SystemClock;
    use crate::store::{DatabaseTarget, Store};

    #[test]
    fn token_is_at_fault_only_when_sqlite_names_its_column() {
        let names = |message| names_column(message, "secret_tokens", "data");
        assert!(names("UNIQUE constraint failed: secret_tokens.data"));
        assert!(names(
            "UNIQUE constraint failed: secret_tokens.tenant, secret_tokens.data"
        ));
        assert!(names("UNIQUE constraint failed: index 'lower_data'"));
        assert!(!names("UNIQUE constraint failed: secret_tokens.tenant"));
        assert!(!names("NOT NULL constraint failed: secret_tokens.tenant"));
        assert!(!names("NOT NULL constraint failed: audit.data"));
    }

    use crate::observe::otel::Tracer;
    use crate::pipeline::channel::PageStream;
    use crate::pipeline::token::{Page, TokenDefect};
    use crate::runtime::shutdown::Shutdown;

    fn options(target: DatabaseTarget) -> StoreOptions {
        StoreOptions {
            receipts: None,
            target,
            table: TableName::plain("secret_tokens"),
            column: "data".to_owned(),
            connections: Some(2),
            processes: 1,
            pipeline: None,
            dry_run: false,
            statement_timeout: Duration::from_secs(30),
            idle_limit: None,
            session: String::new(),
            tracer: Tracer::default(),
            expected: 0,
            patience: Duration::from_secs(1),
        }
    }

    fn file(schema: &str) -> (tempfile::TempDir, std::path::PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tokens.db");
        RusqliteConnection::open(&path)
            .unwrap()
            .execute_batch(schema)
            .unwrap();
        (folder, path)
    }

    fn count_of(outcomes: &[Outcome], status: Status) -> usize {
        outcomes.iter().filter(|o| o.status == status).count()
    }

    fn block<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap()
            .block_on(future)
    }

    async fn store(
        options: StoreOptions,
        page: Page,
        shutdown: Shutdown,
    ) -> (Vec<Outcome>, Option<Error>) {
        let store = Store::open(options, shutdown, Arc::new(SystemClock))
            .await
            .unwrap();
        let mut stream = store.store(
            PageStream::ready([page]),
            &Shutdown::new(),
            &Tracer::default(),
        );
        let mut outcomes = Vec::new();
        let mut error = None;
        while let Some(next) = stream.next().await {
            match next {
                Ok(batch) => outcomes.extend(batch),
                Err(end) => error = Some(end),
            }
        }
        store.close().await;
        (outcomes, error)
    }

    fn page(texts: &[&str]) -> Page {
        Page::from_texts(texts.iter().map(|text| (*text, None)))
    }

    fn find<'a>(outcomes: &'a [Outcome], text: &str) -> &'a Outcome {
        outcomes
            .iter()
            .find(|outcome| outcome.token.as_str() == text)
            .unwrap()
    }

    #[test]
    fn demo_stores_and_rejects_tokens() {
        block(async {
            let page = Page::from_texts([
                ("aa", None),
                ("b-b", None),
                ("c\0c", Some(TokenDefect::ControlCharacter)),
            ]);
            let (outcomes, error) =
                store(options(DatabaseTarget::Demo), page, Shutdown::new()).await;
            assert_eq!(error, None);
            assert_eq!(outcomes.len(), 3);
            assert_eq!(find(&outcomes, "aa").status, Status::Stored);
            let rejected = find(&outcomes, "b-b");
            assert_eq!(rejected.status, Status::Rejected);
            assert_eq!(rejected.token.attempts, 1);
            assert_eq!(rejected.detail().sqlstate.as_deref(), Some("23514"));
            assert_eq!(
                rejected.detail().constraint.as_deref(),
                Some("secret_tokens_data_check")
            );
            let invalid = find(&outcomes, "c\0c");
            assert_eq!(invalid.token.attempts, 0);
            assert_eq!(
                invalid.detail().reason.as_deref(),
                Some("control character")
            );
        });
    }

    #[test]
    fn constraints_and_triggers_of_a_file_decide_each_token() {
        let (_folder, path) = file(
            "CREATE TABLE secret_tokens (data TEXT UNIQUE CHECK (data <> 'no'), n);
             CREATE TRIGGER skip BEFORE INSERT ON secret_tokens WHEN new.data = 'skip'
               BEGIN SELECT RAISE(IGNORE); END;
             CREATE TRIGGER stop BEFORE INSERT ON secret_tokens WHEN new.data = 'stop'
               BEGIN SELECT RAISE(ABORT, 'not this one'); END;",
        );
        block(async {
            let texts = page(&["aa", "aa", "no", "skip", "stop", "bb"]);
            let target = DatabaseTarget::Sqlite(path.clone());
            let (outcomes, error) = store(options(target), texts, Shutdown::new()).await;
            assert_eq!(error, None);
            let codes: Vec<_> = outcomes
                .iter()
                .map(|outcome| {
                    let code = outcome.detail().sqlstate.as_deref().unwrap_or("");
                    (outcome.token.as_str(), outcome.status, code)
                })
                .collect();
            assert_eq!(
                codes,
                [
                    ("aa", Status::Stored, ""),
                    ("aa", Status::Rejected, "23505"),
                    ("no", Status::Rejected, "23514"),
                    ("skip", Status::Rejected, ""),
                    ("stop", Status::Rejected, "23000"),
                    ("bb", Status::Stored, ""),
                ]
            );
            assert_eq!(find(&outcomes, "no").detail().constraint, None);
            let message = find(&outcomes, "stop").detail().message.as_deref();
            assert_eq!(message, Some("not this one"));
        });
        let count: i64 = RusqliteConnection::open(path)
            .unwrap()
            .query_row("SELECT count(*) FROM secret_tokens", [], |row| row.get(0))
            .unwrap();
        assert_eq!(count, 2);
    }

    #[test]
    fn unusable_file_or_table_is_one_error() {
        let (folder, path) = file("CREATE TABLE other (x)");
        let missing = folder.path().join("missing.db");
        let wrong = folder.path().join("wrong.db");
        std::fs::write(&wrong, "x".repeat(4096)).unwrap();
        block(async {
            let mut renamed = options(DatabaseTarget::Sqlite(path.clone()));
            renamed.table = TableName::plain("other");
            for (options, message) in [
                (
                    options(DatabaseTarget::Sqlite(missing.clone())),
                    "the database file does not exist",
                ),
                (
                    options(DatabaseTarget::Sqlite(path.clone())),
                    "the table does not exist",
                ),
                (renamed, "the column does not exist"),
                (
                    options(DatabaseTarget::Sqlite(wrong)),
                    "the database file cannot be used",
                ),
            ] {
                let error = Store::open(options, Shutdown::new(), Arc::new(SystemClock))
                    .await
                    .err()
                    .unwrap();
                assert_eq!(error.message, message);
                assert!(error.exit == crate::error::exit::Exit::Database);
                assert!(
                    error
                        .hint
                        .as_deref()
                        .unwrap()
                        .ends_with("no token was requested")
                );
            }
            assert!(!missing.exists());
        });
    }

    #[test]
    fn run_ends_when_the_table_is_dropped() {
        let (_folder, path) = file("CREATE TABLE secret_tokens (data TEXT)");
        block(async {
            let options = options(DatabaseTarget::Sqlite(path.clone()));
            let store = Store::open(options, Shutdown::new(), Arc::new(SystemClock))
                .await
                .unwrap();
            RusqliteConnection::open(&path)
                .unwrap()
                .execute_batch("DROP TABLE secret_tokens")
                .unwrap();
            let mut stream = store.store(
                PageStream::ready([page(&["aa"; 100])]),
                &Shutdown::new(),
                &Tracer::default(),
            );
            let (mut failed, mut not_attempted) = (0, 0);
            loop {
                match stream.next().await.unwrap() {
                    Ok(batch) => {
                        failed += count_of(&batch, Status::Failed);
                        not_attempted += count_of(&batch, Status::NotAttempted);
                    }
                    Err(error) => {
                        assert!(
                            matches!(error.kind, Some(ErrorKind::DbDenied { .. })),
                            "{error:?}"
                        );
                        break;
                    }
                }
            }
            assert_eq!(
                (failed, not_attempted),
                (1, 99),
                "the first was sent, and refused"
            );
            store.close().await;
        });
    }

    #[test]
    fn every_token_is_reported_when_run_is_stopped() {
        block(async {
            let shutdown = Shutdown::new();
            shutdown.stop_for(crate::error::exit::Cause::Terminate);
            let texts = page(&["aa"; 1000]);
            let (outcomes, error) = store(options(DatabaseTarget::Demo), texts, shutdown).await;
            assert_eq!((outcomes.len(), error), (1000, None));
            assert!(outcomes.iter().all(|o| o.status == Status::NotAttempted));
        });
    }

    #[test]
    fn every_token_is_reported_when_stream_is_stopped() {
        block(async {
            let store = Store::open(
                options(DatabaseTarget::Demo),
                Shutdown::new(),
                Arc::new(SystemClock),
            )
            .await
            .unwrap();
            let mut stream = store.store(
                PageStream::ready([page(&vec!["aa"; 20_000])]),
                &Shutdown::new(),
                &Tracer::default(),
            );
            let mut outcomes = stream.next().await.unwrap().unwrap();
            stream.stop();
            while let Some(batch) = stream.next().await {
                outcomes.extend(batch.unwrap());
            }
            assert_eq!(outcomes.len(), 20_000);
            let stored = count_of(&outcomes, Status::Stored);
            assert!(stored > 0 && stored < 20_000, "{stored}");
            store.close().await;
        });
    }
}
