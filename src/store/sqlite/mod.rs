//! The SQLite backend: one thread, one transaction per token, with the same queue as PostgreSQL.
//!
//! The schema of a file is never changed. The demo's table is in memory. SQLite's errors are mapped
//! to PostgreSQL's SQLSTATEs, so that a script handles one kind of code.

mod inspect;
mod open;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rusqlite::{Connection, ErrorCode, OpenFlags, Statement, ffi};
use tokio::sync::oneshot;

use crate::error::{Error, ErrorKind};
use crate::pipeline::token::{Detail, Outcome, Status, Token};
use crate::store::identifier::{TableName, quote_identifier};
use crate::store::outcome_batch::OutcomeBatch;
use crate::store::queue::{Chunk, ConsumerGuard, Queue, StoreEnd, StoreJob};
pub(super) use crate::store::sqlite::inspect::inspect;
use crate::store::sqlite::open::{denied, open, unusable};
use crate::store::sqlstate::{DetailCache, ServerDetail};
use crate::store::{BackendFuture, StoreBackend, StoreOptions};

/// How long SQLite waits for a lock; short, so that an abort is noticed in between.
const BUSY_TIMEOUT: Duration = Duration::from_millis(200);
/// How often an INSERT is tried while the database is locked.
const MAX_TRIES: u32 = 25;
/// Outcomes are sent at least this often.
const FLUSH_INTERVAL: Duration = Duration::from_millis(20);

/// The thread that writes to the database.
pub(super) struct SqliteWorker {
    done: oneshot::Receiver<()>,
    path: Option<PathBuf>,
    count_sql: String,
}

impl SqliteWorker {
    /// Starts the thread, which opens the file at `path` or a demo table in memory.
    pub(super) async fn open(
        path: Option<&Path>,
        options: &StoreOptions,
        queue: &Arc<Queue>,
    ) -> Result<Self, Error> {
        let (ready, opened) = oneshot::channel();
        let (finish, done) = oneshot::channel();
        let path = path.map(Path::to_owned);
        let (table, column) = (options.table.clone(), options.column.clone());
        let is_dry_run = options.dry_run;
        let count_sql = count_sql(&table, &column);
        let opened_path = path.clone();
        let queue = Arc::clone(queue);
        std::thread::Builder::new()
            .name("sqlite".to_owned())
            .spawn(move || {
                match open(path.as_deref(), &table, &column) {
                    Err(fault) => {
                        let _ = ready.send(Err(fault));
                    }
                    Ok(connection) => match connection.prepare(&insert_sql(&table, &column)) {
                        Err(error) => {
                            let _ = ready.send(Err(unusable(path.as_deref(), &error)));
                        }
                        Ok(statement) => {
                            let _guard = ConsumerGuard(Arc::clone(&queue));
                            drop(ready.send(Ok(())));
                            let mut writer = SqliteWriter::new(statement, &queue, &table, &column);
                            writer.dry_run = is_dry_run.then_some(&connection);
                            writer.run();
                        }
                    },
                }
                let _ = finish.send(());
            })
            .map_err(|error| {
                Error::of(ErrorKind::DbConnect, "cannot start the SQLite thread")
                    .cause(error.to_string())
            })?;
        opened.await.unwrap_or_else(|_| {
            Err(Error::of(
                ErrorKind::DbConnect,
                "the SQLite thread has ended unexpectedly",
            ))
        })?;
        Ok(Self {
            done,
            path: opened_path,
            count_sql,
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
            let connection = Connection::open_with_flags(file, flags)?;
            let mut statement = connection.prepare(&self.count_sql)?;
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

impl StoreBackend for SqliteWorker {
    fn recheck<'a>(
        &'a self,
        values: &'a [String],
        _: Option<i64>,
    ) -> BackendFuture<'a, Result<HashMap<String, u64>, Error>> {
        Box::pin(async { self.count_rows(values) })
    }

    fn join(self: Box<Self>) -> BackendFuture<'static, ()> {
        Box::pin(async {
            let _ = self.done.await;
        })
    }
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

/// The result of an INSERT, with PostgreSQL's SQLSTATE.
enum InsertResult {
    Settled(Status, Option<Arc<Detail>>),
    Busy(Arc<Detail>),
    Denied(Arc<Detail>),
}

struct SqliteWriter<'a> {
    statement: Statement<'a>,
    queue: &'a Queue,
    table: &'a str,
    column: &'a str,
    details: DetailCache,
    no_row: Arc<Detail>,
    batch: OutcomeBatch,
    last_flush: Instant,
    /// The connection, if each INSERT is rolled back.
    dry_run: Option<&'a Connection>,
}

impl<'a> SqliteWriter<'a> {
    fn new(
        statement: Statement<'a>,
        queue: &'a Queue,
        table: &'a TableName,
        column: &'a str,
    ) -> Self {
        Self {
            statement,
            queue,
            table: &table.table,
            column,
            details: DetailCache::default(),
            no_row: Detail::reason("the database stored no row: a trigger skipped it"),
            batch: OutcomeBatch::default(),
            last_flush: Instant::now(),
            dry_run: None,
        }
    }

    fn run(&mut self) {
        while let Ok(chunk) = self.queue.chunks.recv_blocking() {
            self.queue.mark_taken(&chunk);
            self.store(chunk);
            if self.queue.chunks.is_empty() {
                self.batch.flush();
            }
        }
        self.batch.flush();
    }

    fn store(&mut self, mut chunk: Chunk) {
        while !self.must_stop(&chunk.job) {
            let Some(mut token) = chunk.take() else {
                return;
            };
            let started = Instant::now();
            let (status, detail) = self.settle(&chunk.job, &mut token);
            let outcome = Outcome {
                token,
                status,
                elapsed: started.elapsed(),
                detail,
            };
            self.batch.push(&chunk.job, outcome);
            if self.last_flush.elapsed() >= FLUSH_INTERVAL {
                self.batch.flush();
                self.last_flush = Instant::now();
            }
        }
        // Dropping the chunk reports its remaining tokens; stored ones must be sent first.
        self.batch.flush();
    }

    fn must_stop(&self, job: &StoreJob) -> bool {
        job.is_stopping() || self.queue.shutdown.stopping().is_cancelled()
    }

    /// Stores a token, and waits for locks.
    fn settle(&mut self, job: &StoreJob, token: &mut Token) -> (Status, Option<Arc<Detail>>) {
        let mut tries = 0;
        loop {
            tries += 1;
            token.attempts = token.attempts.saturating_add(1);
            match self.insert(token) {
                InsertResult::Settled(status, detail) => return (status, detail),
                InsertResult::Busy(_) if tries < MAX_TRIES && !self.must_stop(job) => {}
                InsertResult::Busy(detail) => return (Status::Failed, Some(detail)),
                InsertResult::Denied(detail) => {
                    let code = detail.sqlstate.clone().unwrap_or_default();
                    let fault = denied(&code, "the database refuses every insert")
                        .cause(detail.message.clone().unwrap_or_default());
                    job.set_fault(&fault);
                    self.queue.fail_all(StoreEnd {
                        status: Status::NotAttempted,
                        detail: Arc::clone(&detail),
                        fault,
                    });
                    return (Status::Failed, Some(detail));
                }
            }
        }
    }

    fn insert(&mut self, token: &Token) -> InsertResult {
        // Dropping the transaction rolls the INSERT back.
        let transaction = self.dry_run.map(Connection::unchecked_transaction);
        let inserted = match transaction {
            Some(Err(error)) => Err(error),
            Some(Ok(_)) | None => self.statement.execute([token.as_str()]),
        };
        let error = match inserted {
            Ok(0) => {
                return InsertResult::Settled(Status::Rejected, Some(Arc::clone(&self.no_row)));
            }
            Ok(_) => return InsertResult::Settled(Status::Stored, None),
            Err(error) => error,
        };
        let (kind, code) = match &error {
            rusqlite::Error::SqliteFailure(failure, _) => classify(*failure),
            _ => (ErrorMeaning::Denied, "XX000"),
        };
        let message = match &error {
            rusqlite::Error::SqliteFailure(_, Some(text)) => text.clone(),
            error => error.to_string(),
        };
        let kind = match code {
            "23502" | "23505" if !names_column(&message, self.table, self.column) => {
                ErrorMeaning::Settled(Status::Failed)
            }
            _ => kind,
        };
        let constraint = (code == "23514").then(|| constraint(&message)).flatten();
        let detail = self.details.get(
            &ServerDetail {
                code,
                constraint,
                message: &message,
                names: [constraint, Some(self.table), Some(self.column), None],
            },
            token.as_str(),
        );
        match kind {
            ErrorMeaning::Settled(status) => InsertResult::Settled(status, Some(detail)),
            ErrorMeaning::Busy => InsertResult::Busy(detail),
            ErrorMeaning::Denied => InsertResult::Denied(detail),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ErrorMeaning {
    Settled(Status),
    Busy,
    Denied,
}

/// Classifies a failed INSERT and returns PostgreSQL's SQLSTATE for it.
fn classify(failure: ffi::Error) -> (ErrorMeaning, &'static str) {
    let rejected = ErrorMeaning::Settled(Status::Rejected);
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
        ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked => (ErrorMeaning::Busy, "55P03"),
        ErrorCode::DiskFull => (ErrorMeaning::Settled(Status::Failed), "53100"),
        ErrorCode::OutOfMemory => (ErrorMeaning::Settled(Status::Failed), "53200"),
        ErrorCode::ReadOnly => (ErrorMeaning::Settled(Status::Failed), "25006"),
        ErrorCode::OperationInterrupted => (ErrorMeaning::Settled(Status::Failed), "57014"),
        // The write or its sync failed: it is not known whether the commit is durable.
        ErrorCode::SystemIoFailure => (ErrorMeaning::Settled(Status::Unknown), "58030"),
        ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase => (ErrorMeaning::Denied, "XX001"),
        ErrorCode::Unknown => (ErrorMeaning::Denied, "42000"),
        _ => (ErrorMeaning::Denied, "XX000"),
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
            target,
            table: TableName::plain("secret_tokens"),
            column: "data".to_owned(),
            connections: 2,
            pipeline: None,
            dry_run: false,
            statement_timeout: Duration::from_secs(30),
            session: String::new(),
            tracer: Tracer::default(),
            expected: 0,
            patience: Duration::from_secs(1),
        }
    }

    fn file(schema: &str) -> (tempfile::TempDir, std::path::PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tokens.db");
        Connection::open(&path)
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
        let mut stream = store.store(PageStream::ready([page]));
        let mut outcomes = Vec::new();
        let mut fault = None;
        while let Some(next) = stream.next().await {
            match next {
                Ok(batch) => outcomes.extend(batch),
                Err(end) => fault = Some(end),
            }
        }
        store.close().await;
        (outcomes, fault)
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
            let (outcomes, fault) =
                store(options(DatabaseTarget::Demo), page, Shutdown::new()).await;
            assert_eq!(fault, None);
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
            let (outcomes, fault) = store(options(target), texts, Shutdown::new()).await;
            assert_eq!(fault, None);
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
        let count: i64 = Connection::open(path)
            .unwrap()
            .query_row("SELECT count(*) FROM secret_tokens", [], |row| row.get(0))
            .unwrap();
        assert_eq!(count, 2);
    }

    #[test]
    fn unusable_file_or_table_is_one_fault() {
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
                let fault = Store::open(options, Shutdown::new(), Arc::new(SystemClock))
                    .await
                    .err()
                    .unwrap();
                assert_eq!(fault.message, message);
                assert!(fault.exit == crate::error::exit::Exit::Database);
                assert!(
                    fault
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
            Connection::open(&path)
                .unwrap()
                .execute_batch("DROP TABLE secret_tokens")
                .unwrap();
            let mut stream = store.store(PageStream::ready([page(&["aa"; 100])]));
            let (mut failed, mut not_attempted) = (0, 0);
            loop {
                match stream.next().await.unwrap() {
                    Ok(batch) => {
                        failed += count_of(&batch, Status::Failed);
                        not_attempted += count_of(&batch, Status::NotAttempted);
                    }
                    Err(fault) => {
                        assert!(
                            matches!(fault.kind, Some(ErrorKind::DbDenied { .. })),
                            "{fault:?}"
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
            let (outcomes, fault) = store(options(DatabaseTarget::Demo), texts, shutdown).await;
            assert_eq!((outcomes.len(), fault), (1000, None));
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
            let mut stream = store.store(PageStream::ready([page(&vec!["aa"; 20_000])]));
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
