//! Canaries: tokens, password, source key and `Authorization` that are looked for in everything the
//! process says of itself, whatever goes wrong, at the most talkative level. And no core dump.

use std::os::unix::fs::MetadataExt as _;

use crate::outages::{lock, lockable, unlock, waiting_backend};
use crate::support::command::{Command, Run};
use crate::support::database::{Database, Login};
use crate::support::postgres::free_port;
use crate::support::source::{Gate, Response, Source};

/// What no message may hold.
const CANARY: &str = "canary";
const TOKENS: [&str; 3] = [
    "CanaryTokenStored",
    "Canary-token-rejected",
    "CanaryTokenLast",
];

/// Says on every occasion what it was given.
const TALKATIVE: &str = "CREATE FUNCTION talk() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    RAISE NOTICE 'notice %', NEW.data;
    RAISE WARNING 'warning %', NEW.data USING DETAIL = NEW.data, HINT = NEW.data;
    IF NEW.data LIKE '%Last' THEN
        RAISE EXCEPTION 'refused %', NEW.data USING DETAIL = NEW.data, HINT = NEW.data;
    END IF;
    RETURN NEW; END $$;
    CREATE TRIGGER talk BEFORE INSERT ON secret_tokens FOR EACH ROW EXECUTE FUNCTION talk()";

/// Scripts that end with an error which may quote a token.
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

const YAML: [&str; 9] = [
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

/// How much was searched.
#[derive(Default)]
pub struct Searched {
    /// Bytes of logs, errors and command lines.
    pub bytes: usize,
    /// What held a canary.
    pub hits: Vec<String>,
}

impl Searched {
    fn look(&mut self, what: &str, text: &str) {
        self.bytes += text.len();
        if text.to_lowercase().contains(CANARY) {
            self.hits.push(format!("{what}: {text}"));
        }
    }

    fn run(&mut self, what: &str, command: Command) -> Run {
        let run = command.run();
        self.look(what, &run.stderr);
        run
    }
}

struct Stage<'a> {
    layout: &'a str,
    database: &'a Database,
}

impl Stage<'_> {
    fn command(&self, source: &Source, login: &Login) -> Command {
        let key = format!("{}?key=CanaryKey", source.url());
        self.bare().env("TOKEN_HOST", key).database(login)
    }

    fn bare(&self) -> Command {
        self.talkative(Command::new())
    }

    fn talkative(&self, command: Command) -> Command {
        command
            .env("TOKEN_SERVICE_SOURCE_AUTHORIZATION", "Bearer CanaryAuth")
            .args(["--log-level", "trace", "--log-format", self.layout])
            .args(["--error-format", self.layout])
    }

    fn run(&self, source: &Source) -> Command {
        let command = self.command(source, self.database);
        command.args(["3", "--report", "ndjson=report", "--journal", "journal"])
    }

    fn tokens() -> Source {
        Source::responding([Response::tokens(TOKENS)])
    }
}

/// Goes through every way to fail that the tests know.
pub fn search() -> Searched {
    let mut searched = Searched::default();
    for layout in ["text", "json"] {
        let (database, mut admin) = lockable();
        let password = format!("ALTER ROLE {} PASSWORD 'CanaryPassword'", database.user);
        admin.batch_execute(&password).unwrap();
        let mut database = database;
        database.set_password("CanaryPassword");
        admin.batch_execute(TALKATIVE).unwrap();
        let stage = Stage {
            layout,
            database: &database,
        };
        source_faults(&stage, &mut searched);
        database_faults(&stage, &mut searched);
        for script in SCRIPTS {
            let source = Stage::tokens();
            let command = stage.run(&source).file("mine.rhai", script);
            searched.run(
                script,
                command.args(["--script", "mine.rhai", "--out-dir", "."]),
            );
        }
        for yaml in YAML {
            searched.run(yaml, stage.bare().config(yaml));
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
            let command = stage.bare().env("TOKEN_HOST", "http://h/?key=CanaryKey");
            searched.run(name, command.env(name, value));
        }
        crash(&stage, &mut admin, &mut searched);
    }
    searched
}

fn source_faults(stage: &Stage, searched: &mut Searched) {
    for answer in [
        Response::tokens(TOKENS),
        Response::status(500).body(TOKENS.join("\n")),
        Response::status(401).body("CanaryAuth"),
        Response::status(307).header("location", "http://h/?key=CanaryKey"),
        Response::cut(TOKENS.join("\n"), 1000),
        Response::raw("text/html", TOKENS.join("\n")),
        Response::raw("text/plain", "Canary\0Control\nCanary\u{1b}[31mEscape\n"),
        Response::raw("text/plain", &b"Canary\xffBytes\n"[..]),
        Response::tokens(["Canary".repeat(1000)]),
    ] {
        let source = Source::responding([answer]);
        let command = stage.run(&source).arg("--no-top-up");
        searched.run("source", command);
    }
    let gone = format!("http://127.0.0.1:{}/?key=CanaryKey", free_port());
    let command = stage.bare().env("TOKEN_HOST", gone);
    let command = command
        .database(stage.database)
        .config("source: {retries: 1}");
    searched.run("no source", command);
}

fn database_faults(stage: &Stage, searched: &mut Searched) {
    let none = Source::responding([]);
    for wrong in [
        Login {
            password: "CanaryWrong".to_owned(),
            ..(**stage.database).clone()
        },
        Login {
            port: free_port(),
            ..(**stage.database).clone()
        },
    ] {
        searched.run("login", stage.command(&none, &wrong));
    }
    let mut admin = stage.database.admin();
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
        let source = Stage::tokens();
        let run = searched.run(code, stage.run(&source).args(["--patience", "200ms"]));
        let command = Command::new().database(stage.database);
        let command = command.arg("replay").arg(run.path("journal"));
        let replayed = searched.run("replay", stage.talkative(command));
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

/// A connection that is cut, the command line of a living process, and a signal.
fn crash(stage: &Stage, admin: &mut postgres::Client, searched: &mut Searched) {
    lock(admin);
    let gate = Gate::new();
    let source = Source::responding([
        Response::tokens(&TOKENS[..2]),
        Response::tokens(&TOKENS[2..]).after(&gate),
    ]);
    let running = stage.run(&source).spawn();
    let pid = waiting_backend(admin);
    let line = std::fs::read(format!("/proc/{}/cmdline", running.pid)).unwrap();
    searched.look("command line", &String::from_utf8_lossy(&line));
    let cut = "SELECT pg_terminate_backend($1)";
    admin.execute(cut, &[&pid]).unwrap();
    unlock(admin);
    gate.open();
    let run = running.wait();
    searched.look("a cut connection", &run.stderr);
}

#[test]
fn no_canary_is_heard() {
    let searched = search();
    assert!(searched.bytes > 10_000, "it said too little to be worth it");
    assert!(
        searched.hits.is_empty(),
        "{}",
        searched.hits.join("\n---\n")
    );
}

#[test]
fn a_crash_leaves_no_core_and_the_memory_is_nobody_else_s() {
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
    // A process that may not be dumped has its files owned by root.
    assert_eq!(
        std::fs::metadata(format!("{proc}/environ")).unwrap().uid(),
        0
    );
    gate.open();
    running.wait().expect_code(0);
}
