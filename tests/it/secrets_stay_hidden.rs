//! Secrets never appear in output. Tokens, password, source key and `Authorization` are canaries, which the
//! tests search in errors and in logs of the most verbose level. Also, no core dump is written.

use std::os::unix::fs::MetadataExt as _;

use crate::outages::{lock, lockable_table, unlock, wait_for_blocked_backend};
use crate::support::command::{Command, Run};
use crate::support::database::{Database, Login};
use crate::support::postgres::free_port;
use crate::support::source::{Gate, Response, Source};

/// The text that no output may contain.
const CANARY: &str = "canary";
const TOKENS: [&str; 3] = [
    "CanaryTokenStored",
    "Canary-token-rejected",
    "CanaryTokenLast",
];

/// A trigger that repeats the token in every message it can send.
const REPEATING_TRIGGER: &str =
    "CREATE FUNCTION talk() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    RAISE NOTICE 'notice %', NEW.data;
    RAISE WARNING 'warning %', NEW.data USING DETAIL = NEW.data, HINT = NEW.data;
    IF NEW.data LIKE '%Last' THEN
        RAISE EXCEPTION 'refused %', NEW.data USING DETAIL = NEW.data, HINT = NEW.data;
    END IF;
    RETURN NEW; END $$;
    CREATE TRIGGER talk BEFORE INSERT ON secret_tokens FOR EACH ROW EXECUTE FUNCTION talk()";

/// Scripts whose error may quote a token.
const SCRIPTS: [&str; 20] = [
    "for t in fetch(SIZE) { throw t; }",
    "for t in fetch(SIZE) { throw `bad ${t}`; }",
    "for t in fetch(SIZE) { throw #{message: t, hint: t, causes: [t], kind: \"mine\"}; }",
    "for t in fetch(SIZE) { try { throw t } catch (e) { throw e } }",
    "for t in fetch(SIZE) { parse_int(t); }",
    "for t in fetch(SIZE) { t.nothing; }",
    "for t in fetch(SIZE) { Fn(t).call(); }",
    "for t in fetch(SIZE) { import t as x; }",
    "for t in fetch(SIZE) { let m = [1]; m[t]; }",
    "for t in fetch(SIZE) { env::get(t); }",
    "for t in fetch(SIZE) { sleep(t); }",
    "for t in fetch(SIZE) { emit(\"x\", t); }",
    "for t in fetch(SIZE) { t - 1; }",
    "for t in fetch(SIZE) { store(#{a: t}); }",
    "for t in fetch(SIZE) { retry(t, || 1); }",
    "for t in fetch(SIZE) { fetch(t); }",
    "for t in fetch(SIZE) { fetch(1, #{page_size: t}); }",
    "for t in fetch(SIZE) { retry(#{attempts: 2, on: [t]}, || 1); }",
    "for o in store(fetch(SIZE)) { throw o.token; }",
    "for o in store(fetch(SIZE)) { throw o.to_json(); }",
];

const INVALID_CONFIGURATIONS: [&str; 9] = [
    "database: {password: [Canary]}",
    "database: {password: Canary, prot: 1}",
    "database:\n  password: \"Canary\n",
    "database: {password: *Canary}",
    "database: {url: \"postgres://u:Canary@h:99999/x\"}",
    "database: {password: Canary, port: x}",
    "source: {url: \"ftp://h/?key=Canary\"}",
    "source: {headers: {authorization: {a: Canary}}}",
    "source: {headers: {authorization: \"Canary\\u0001\"}}",
];

/// The result of the search.
#[derive(Default)]
pub struct SearchResult {
    /// The number of searched bytes.
    pub bytes: usize,
    /// The outputs that contain a canary.
    pub hits: Vec<String>,
}

impl SearchResult {
    fn search(&mut self, what: &str, text: &str) {
        self.bytes += text.len();
        if text.to_lowercase().contains(CANARY) {
            self.hits.push(format!("{what}: {text}"));
        }
    }

    fn run(&mut self, what: &str, command: Command) -> Run {
        let run = command.run();
        self.search(what, &run.stderr);
        run
    }
}

struct LeakTest<'a> {
    format: &'a str,
    database: &'a Database,
}

impl LeakTest<'_> {
    fn command(&self, source: &Source, login: &Login) -> Command {
        let key = format!("{}?key=CanaryKey", source.url());
        self.bare().env("TOKEN_HOST", key).database(login)
    }

    fn bare(&self) -> Command {
        self.verbose(Command::new())
    }

    fn verbose(&self, command: Command) -> Command {
        command
            .env("TOKEN_SERVICE_SOURCE_AUTHORIZATION", "Bearer CanaryAuth")
            .args(["--log-level", "trace", "--log-format", self.format])
            .args(["--error-format", self.format])
    }

    fn run(&self, source: &Source) -> Command {
        let command = self.command(source, self.database);
        command.args(["3", "--report", "ndjson=report", "--journal", "journal"])
    }

    fn tokens() -> Source {
        Source::responding([Response::tokens(TOKENS)])
    }
}

/// Provokes every known failure, and searches its output.
pub fn search() -> SearchResult {
    let mut searched = SearchResult::default();
    for format in ["text", "json"] {
        let (database, mut admin) = lockable_table();
        let password = format!("ALTER ROLE {} PASSWORD 'CanaryPassword'", database.user);
        admin.batch_execute(&password).unwrap();
        let mut database = database;
        database.set_password("CanaryPassword");
        admin.batch_execute(REPEATING_TRIGGER).unwrap();
        let test = LeakTest {
            format,
            database: &database,
        };
        source_faults(&test, &mut searched);
        database_faults(&test, &mut searched);
        for script in SCRIPTS {
            let source = LeakTest::tokens();
            let command = test.run(&source).file("mine.rhai", script);
            searched.run(
                script,
                command.args(["--script", "mine.rhai", "--out-dir", "."]),
            );
        }
        for yaml in INVALID_CONFIGURATIONS {
            searched.run(yaml, test.bare().config(yaml));
        }
        for (name, value) in [
            ("DATABASE_URL", "postgres://u:CanaryPassword@h:port/x"),
            ("DATABASE_URL", "mysql://u:CanaryPassword@h/x"),
            ("DATABASE_URL", "\"postgres://u:CanaryPassword@h/x\""),
            ("DATABASE_URL", "postgres://u:pw@CanaryPassword/x@h/x"),
            ("DATABASE_URL", "postgres://u:1/CanaryPassword@h/x"),
            ("DATABASE_URL", "postgres://u:1?CanaryPassword=x@h/x"),
            ("DB_HOST", "postgres://u:CanaryPassword@h/x"),
            ("TOKEN_HOST", "http://u:CanaryPassword@h/"),
            ("TOKEN_HOST", "Canary"),
            ("DB_PASS", "CanaryPassword"),
        ] {
            let command = test.bare().env("TOKEN_HOST", "http://h/?key=CanaryKey");
            searched.run(name, command.env(name, value));
        }
        lost_connection(&test, &mut admin, &mut searched);
    }
    searched
}

fn source_faults(test: &LeakTest, searched: &mut SearchResult) {
    for answer in [
        Response::tokens(TOKENS),
        Response::status(500).body(TOKENS.join("\n")),
        Response::status(401).body("CanaryAuth"),
        Response::status(307).header("location", "http://h/?key=CanaryKey"),
        Response::truncated(TOKENS.join("\n"), 1000),
        Response::raw("text/html", TOKENS.join("\n")),
        Response::raw("text/plain", "Canary\0Control\nCanary\u{1b}[31mEscape\n"),
        Response::raw("text/plain", &b"Canary\xffBytes\n"[..]),
        Response::tokens(["Canary".repeat(1000)]),
    ] {
        let source = Source::responding([answer]);
        let command = test.run(&source).arg("--no-top-up");
        searched.run("source", command);
    }
    let unreachable = format!("http://127.0.0.1:{}/?key=CanaryKey", free_port());
    let command = test.bare().env("TOKEN_HOST", unreachable);
    let command = command
        .database(test.database)
        .config("source: {retries: 1}");
    searched.run("no source", command);
}

fn database_faults(test: &LeakTest, searched: &mut SearchResult) {
    let none = Source::responding([]);
    for wrong in [
        Login {
            password: "CanaryWrong".to_owned(),
            ..(**test.database).clone()
        },
        Login {
            port: free_port(),
            ..(**test.database).clone()
        },
    ] {
        searched.run("login", test.command(&none, &wrong));
    }
    let mut admin = test.database.admin();
    for code in ["42501", "42703", "53400", "40001", "XX000", "P0001"] {
        let ddl = format!(
            "CREATE OR REPLACE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                 RAISE EXCEPTION 'refused %', NEW.data USING ERRCODE = '{code}',
                     DETAIL = NEW.data, HINT = NEW.data, CONSTRAINT = NEW.data, COLUMN = NEW.data;
             END $$;
             DROP TRIGGER IF EXISTS refuse ON secret_tokens;
             CREATE TRIGGER refuse BEFORE INSERT ON secret_tokens
                 FOR EACH ROW EXECUTE FUNCTION refuse()"
        );
        admin.batch_execute(&ddl).unwrap();
        let source = LeakTest::tokens();
        let run = searched.run(code, test.run(&source).args(["--patience", "200ms"]));
        let command = Command::new().database(test.database);
        let command = command.arg("replay").arg(run.path("journal"));
        let replayed = searched.run("replay", test.verbose(command));
        assert!(
            replayed.stderr.contains("3 received"),
            "{}",
            replayed.stderr
        );
    }
    admin
        .batch_execute("DROP TRIGGER refuse ON secret_tokens")
        .unwrap();
}

/// A terminated backend, and the command line of a running process.
fn lost_connection(test: &LeakTest, admin: &mut postgres::Client, searched: &mut SearchResult) {
    lock(admin);
    let gate = Gate::new();
    let source = Source::responding([
        Response::tokens(&TOKENS[..2]),
        Response::tokens(&TOKENS[2..]).after(&gate),
    ]);
    let running = test.run(&source).spawn();
    let pid = wait_for_blocked_backend(admin);
    let line = std::fs::read(format!("/proc/{}/cmdline", running.pid)).unwrap();
    searched.search("command line", &String::from_utf8_lossy(&line));
    let terminate = "SELECT pg_terminate_backend($1)";
    admin.execute(terminate, &[&pid]).unwrap();
    unlock(admin);
    gate.open();
    let run = running.wait();
    searched.search("a lost connection", &run.stderr);
}

#[test]
fn no_output_contains_a_canary() {
    let searched = search();
    assert!(searched.bytes > 10_000, "too little output was searched");
    assert!(
        searched.hits.is_empty(),
        "{}",
        searched.hits.join("\n---\n")
    );
}

#[test]
fn process_dumps_no_core_and_its_memory_is_private() {
    let database = Database::standard();
    let gate = Gate::new();
    let source = Source::responding([Response::tokens(["aa"]).after(&gate)]);
    let command = Command::new().source(&source).database(&database);
    let running = command.arg("1").spawn();
    source.wait_for(1);
    let proc = format!("/proc/{}", running.pid);
    let limits = std::fs::read_to_string(format!("{proc}/limits")).unwrap();
    let core = limits.lines().find(|line| line.starts_with("Max core"));
    let words: Vec<&str> = core.unwrap().split_whitespace().collect();
    assert_eq!(words[4..6], ["0", "0"], "{words:?}");
    // The files of a process that is not dumpable belong to root.
    assert_eq!(
        std::fs::metadata(format!("{proc}/environ")).unwrap().uid(),
        0
    );
    gate.open();
    running.wait().expect_code(0);
}
