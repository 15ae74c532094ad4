//! Tests of scripts that never end: a deadline or signal stops them at once, no `try` catches this, and
//! the report is complete. Also tests deep nesting and the folders of imports.

use std::cell::RefCell;

use crate::outages::{locked_table, unlock, wait_for_blocked_backend};
use crate::support::command::Command;
use crate::support::database::Database;
use crate::support::ledger::{Ledger, database_command, demo_command, error_text};
use crate::support::source::{Gate, Response, Source};

/// Options that show whether a script was stopped at once, without measuring time.
///
/// The grace period is longer than any test. The run logs when it stops waiting for inserts in flight,
/// and this must not be what ended the script.
const LONG_GRACE: [&str; 4] = ["--grace", "1h", "--log-level", "debug"];

#[track_caller]
fn assert_stopped_at_once(stderr: &str) {
    assert!(!stderr.contains("no longer waiting"), "{stderr}");
}

/// Scripts that never end, each in another way. They log that they start.
const ENDLESS: [&str; 8] = [
    "print(\"on\"); log_start(); loop { }",
    "print(\"on\"); log_start(); loop { try { loop { } } catch { print(\"caught\"); } }",
    "print(\"on\"); log_start(); try { sleep(\"1h\"); } catch { print(\"caught\"); }",
    "print(\"on\"); log_start(); try { retry(#{attempts: 99, base_ms: 3600000, max_ms: 3600000}, || throw 1); } catch { print(\"caught\"); }",
    "print(\"on\"); log_start(); fn spin() { loop { } } let f = || spin(); [1].map(|x| f.call());",
    "print(\"on\"); log_start(); report(store([\"a\"]), |outcome| { loop { } });",
    "print(\"on\"); log_start(); let a = []; a.pad(50_000, 1); a.sort(|x, y| { loop { } }); print(\"caught\");",
    "print(\"on\"); log_start(); let a = []; a.pad(50_000, 1); a.dedup(|x, y| { loop { } }); print(\"caught\");",
];

/// Logs to standard error, which is not buffered, that the script has started.
const LOG_START: &str = "fn log_start() { log_info(\"started\"); }\n";

#[test]
fn deadline_stops_an_endless_script() {
    for script in ENDLESS {
        let script = format!("{LOG_START}{script}");
        let run = demo_command(3, &script)
            .args(["--deadline", "200ms"])
            .args(LONG_GRACE)
            .run();
        assert_stopped_at_once(&run.stderr);
        assert!(!run.stdout.contains("caught"), "{script}");
        assert!(
            run.stderr
                .contains("the deadline passed before the run was complete"),
            "{}",
            run.stderr
        );
        let ledger = Ledger::of(&run.expect_code(3)).without_duplicates();
        assert_eq!(ledger.summary["aborted_by"], "deadline");
    }
}

#[test]
fn signal_stops_an_endless_script() {
    for (script, (signal, code)) in ENDLESS
        .iter()
        .zip([("TERM", 143), ("INT", 130)].iter().cycle())
    {
        let running = demo_command(3, &format!("{LOG_START}{script}"))
            .args(LONG_GRACE)
            .spawn();
        running.wait_for_stderr(|text| text.contains("started"));
        running.signal(signal);
        let run = running.wait();
        assert_stopped_at_once(&run.stderr);
        assert!(!run.stdout.contains("caught"), "{script}");
        let ledger = Ledger::of(&run.expect_code(*code)).without_duplicates();
        assert_eq!(ledger.summary["aborted_by"], format!("SIG{signal}"));
    }
}

/// Calls that wait for the source.
const SOURCE_CALLS: [&str; 5] = [
    "fetch_once(1)",
    "for token in fetch(1) { }",
    "for page in fetch(1).pages() { }",
    "report(store(fetch(1)))",
    "retry(3, || fetch_once(1))",
];

/// Calls that wait for the database.
const DATABASE_CALLS: [&str; 4] = [
    "report(store([\"aa\"]))",
    "for outcome in store([\"aa\"]) { }",
    "store([\"aa\"]).failures()",
    "report(store([\"aa\"]), |outcome| outcome.token)",
];

/// Stops a run during a blocking call, and asserts that the script ends while the call is blocked.
///
/// `wait_until_blocked` waits for the call, and `unblock` ends it. The script must end before
/// `unblock`, and before the run stops waiting for inserts in flight, which would end the call too.
fn assert_call_is_cancelled(
    call: &str,
    command: impl Fn(&str) -> Command,
    wait_until_blocked: impl Fn(),
    unblock: impl Fn(),
) {
    let script = format!("try {{ {call}; }} catch {{ print(\"caught\"); }} print(\"caught\");");
    let running = command(&script).args(LONG_GRACE).spawn();
    wait_until_blocked();
    running.signal("TERM");
    let stderr = running.wait_for_stderr(|text| text.contains("the script has ended"));
    assert_stopped_at_once(&stderr);
    unblock();
    let run = running.wait().expect_code(143);
    assert!(!run.stdout.contains("caught"), "{call}");
    Ledger::of(&run).without_duplicates();
}

#[test]
fn call_that_waits_for_the_source_is_cancelled_at_once() {
    for call in SOURCE_CALLS {
        let gate = Gate::new();
        let source = Source::responding([Response::tokens(["aa"]).after(&gate)]);
        let database = Database::standard();
        assert_call_is_cancelled(
            call,
            |script| database_command(1, script, &source, &database),
            || source.wait_for(1),
            || gate.open(),
        );
    }
}

#[test]
fn call_that_waits_for_the_database_is_cancelled_at_once() {
    for call in DATABASE_CALLS {
        let (database, admin) = locked_table();
        let admin = RefCell::new(admin);
        let source = Source::responding([]);
        assert_call_is_cancelled(
            call,
            |script| database_command(1, script, &source, &database),
            || {
                wait_for_blocked_backend(&mut admin.borrow_mut());
            },
            || unlock(&mut admin.borrow_mut()),
        );
    }
}

#[test]
fn report_is_complete_when_the_deadline_stops_a_script() {
    for script in [
        "let page = fetch_once(SIZE); sleep(\"1h\");",
        "for token in fetch(SIZE) { sleep(\"1h\"); }",
        "for page in fetch(SIZE).pages() { report(store(page)); sleep(\"1h\"); }",
        "let outcomes = store(fetch(SIZE)); for o in outcomes { sleep(\"1h\"); }",
        "report(store(fetch(SIZE)), |outcome| { sleep(\"1h\"); });",
        "let all = []; for token in fetch(SIZE) { all.push(token); } sleep(\"1h\"); store(all);",
    ] {
        let source = Source::responding([Response::tokens(["aa", "b-b", "cc"])]);
        let run = database_command(3, script, &source, &Database::standard())
            .args(["--deadline", "700ms"])
            .run();
        let ledger = Ledger::of(&run).without_duplicates();
        assert_eq!(ledger.count("received"), 3, "{script}");
        let settled = ledger.count("stored") + ledger.count("rejected");
        let code = if settled == 3 { 3 } else { 5 };
        assert_eq!(run.code, Some(code), "{script}: {}", run.stderr);
    }
}

#[test]
fn deep_nesting_does_not_crash_the_process() {
    for script in [
        format!("let x = {}1{};", "(".repeat(5000), ")".repeat(5000)),
        format!("let x = {}1{};", "[".repeat(5000), "]".repeat(5000)),
        format!("{}{}", "if true {".repeat(5000), "}".repeat(5000)),
        format!("let x = {}1;", "-".repeat(5000)),
        format!("let x = 1{};", " + 1".repeat(5000)),
        format!("let x = {}1;", "|| ".repeat(5000)),
    ] {
        let run = demo_command(1, &script).run();
        assert_eq!(run.signal, None);
        assert!(matches!(run.code, Some(0 | 3)), "{}", &run.stderr);
    }
}

#[test]
fn imports_stay_in_the_folder_of_the_script() {
    let outside = tempfile::tempdir().unwrap();
    std::fs::write(outside.path().join("x.rhai"), "fn f() { 1 }").unwrap();
    let absolute = outside.path().join("x").display().to_string();
    let command = || {
        let command = Command::new()
            .file(
                "in/lib/x.rhai",
                "import \"lib/y\" as y; fn f() { y::g() + 1 }",
            )
            .file("in/lib/y.rhai", "fn g() { 40 }")
            .file("in/circle.rhai", "import \"circle\" as c;")
            .file("secret.rhai", "fn f() { 1 }");
        std::os::unix::fs::symlink(outside.path(), command.dir().join("in/link")).unwrap();
        command.args(["demo", "1", "--script", "in/mine.rhai"])
    };
    let run = command()
        .file(
            "in/mine.rhai",
            "import \"lib/x\" as x; print(x::f()); import \"lib/x.rhai\" as z; print(z::f()); exit(0);",
        )
        .run()
        .expect_code(0);
    assert_eq!(run.stdout, "41\n41\n");
    for (path, why) in [
        ("../secret", "without `..`"),
        ("lib/../../secret", "without `..`"),
        (absolute.as_str(), "without `..`"),
        ("link/x", "a symbolic link leads out"),
        ("none", "No such file"),
        ("circle", "circular import"),
        ("mine", "circular import"),
    ] {
        let script = format!(
            "try {{ import \"{path}\" as x; print(x::f()); }} catch (e) {{ print(e.kind); throw e; }}"
        );
        let run = command().file("in/mine.rhai", script).run().expect_code(3);
        assert_eq!(run.stdout, "import_denied\n", "{path}");
        assert!(error_text(&run).contains(why), "{path}: {}", run.stderr);
    }
    let run = command()
        .file(
            "in/mine.rhai",
            "store([\"once\"]); import \"mine\" as again;",
        )
        .run();
    assert_eq!(
        run.stdout.matches("once").count(),
        1,
        "the script runs once"
    );
}
