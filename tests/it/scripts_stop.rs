//! Scripts that would not end, go too deep or reach too far: each is stopped promptly, by no `try`
//! to be caught, with the report complete and the process in one piece.

use std::cell::RefCell;

use crate::outages::{locked, unlock, waiting_backend};
use crate::support::command::Command;
use crate::support::database::Database;
use crate::support::ledger::{Ledger, database_command, demo_command, error_text};
use crate::support::source::{Gate, Response, Source};

/// No test here needs a clock to tell a script that is let go at once from one that is cut off later:
/// how many milliseconds "at once" takes depends on what else the machine does. The grace is longer
/// than any test may take, and the run says when it gives up what is in flight, after seconds: that
/// must not have been what ended the script.
const WATCHED: [&str; 4] = ["--grace", "1h", "--log-level", "debug"];

#[track_caller]
fn was_let_go_at_once(stderr: &str) {
    assert!(!stderr.contains("no longer waiting"), "{stderr}");
}

/// Scripts that wait for ever, each in its own way, after they said so.
const ENDLESS: [&str; 8] = [
    "print(\"on\"); emit_on(); loop { }",
    "print(\"on\"); emit_on(); loop { try { loop { } } catch { print(\"caught\"); } }",
    "print(\"on\"); emit_on(); try { sleep(\"1h\"); } catch { print(\"caught\"); }",
    "print(\"on\"); emit_on(); try { retry(#{attempts: 99, base_ms: 3600000, max_ms: 3600000}, || throw 1); } catch { print(\"caught\"); }",
    "print(\"on\"); emit_on(); fn spin() { loop { } } let f = || spin(); [1].map(|x| f.call());",
    "print(\"on\"); emit_on(); report(store([\"a\"]), |outcome| { loop { } });",
    "print(\"on\"); emit_on(); let a = []; a.pad(50_000, 1); a.sort(|x, y| { loop { } }); print(\"caught\");",
    "print(\"on\"); emit_on(); let a = []; a.pad(50_000, 1); a.dedup(|x, y| { loop { } }); print(\"caught\");",
];

/// Says on standard error, which is not buffered, that the script has begun.
const EMIT_ON: &str = "fn emit_on() { log_info(\"begun\"); }\n";

#[test]
fn a_deadline_ends_what_would_not_end() {
    for script in ENDLESS {
        let script = format!("{EMIT_ON}{script}");
        let run = demo_command(3, &script)
            .args(["--deadline", "200ms"])
            .args(WATCHED)
            .run();
        was_let_go_at_once(&run.stderr);
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
fn a_signal_ends_what_would_not_end() {
    for (script, (signal, code)) in ENDLESS
        .iter()
        .zip([("TERM", 143), ("INT", 130)].iter().cycle())
    {
        let running = demo_command(3, &format!("{EMIT_ON}{script}"))
            .args(WATCHED)
            .spawn();
        running.wait_for_stderr(|text| text.contains("begun"));
        running.signal(signal);
        let run = running.wait();
        was_let_go_at_once(&run.stderr);
        assert!(!run.stdout.contains("caught"), "{script}");
        let ledger = Ledger::of(&run.expect_code(*code)).without_duplicates();
        assert_eq!(ledger.summary["aborted_by"], format!("SIG{signal}"));
    }
}

/// Calls that wait for the source.
const FOR_SOURCE: [&str; 5] = [
    "fetch_once(1)",
    "for token in fetch(1) { }",
    "for page in fetch(1).pages() { }",
    "report(store(fetch(1)))",
    "retry(3, || fetch_once(1))",
];

/// Calls that wait for the database.
const FOR_DATABASE: [&str; 4] = [
    "report(store([\"aa\"]))",
    "for outcome in store([\"aa\"]) { }",
    "store([\"aa\"]).failures()",
    "report(store([\"aa\"]), |outcome| outcome.token)",
];

/// Stops a run in a call that waits, and sees that the script ends although what it waits for does not
/// come: `arrive` waits until it waits, `free` lets it go on. The script must have ended before that,
/// and before the run itself gave up what is in flight, which would let go of it too.
fn stops(call: &str, command: impl Fn(&str) -> Command, arrive: impl Fn(), free: impl Fn()) {
    let script = format!("try {{ {call}; }} catch {{ print(\"caught\"); }} print(\"caught\");");
    let running = command(&script).args(WATCHED).spawn();
    arrive();
    running.signal("TERM");
    let said = running.wait_for_stderr(|text| text.contains("the script has ended"));
    was_let_go_at_once(&said);
    free();
    let run = running.wait().expect_code(143);
    assert!(!run.stdout.contains("caught"), "{call}");
    Ledger::of(&run).without_duplicates();
}

#[test]
fn a_call_that_waits_for_the_source_lets_go_of_the_script_at_once() {
    for call in FOR_SOURCE {
        let gate = Gate::new();
        let source = Source::responding([Response::tokens(["aa"]).after(&gate)]);
        let database = Database::standard();
        stops(
            call,
            |script| database_command(1, script, &source, &database),
            || source.wait_for(1),
            || gate.open(),
        );
    }
}

#[test]
fn a_call_that_waits_for_the_database_lets_go_of_the_script_at_once() {
    for call in FOR_DATABASE {
        let (database, admin) = locked();
        let admin = RefCell::new(admin);
        let source = Source::responding([]);
        stops(
            call,
            |script| database_command(1, script, &source, &database),
            || {
                waiting_backend(&mut admin.borrow_mut());
            },
            || unlock(&mut admin.borrow_mut()),
        );
    }
}

#[test]
fn a_deadline_in_the_middle_leaves_a_complete_report() {
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
fn deep_nesting_is_refused_before_it_runs() {
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
fn imports_stay_in_the_script_s_folder() {
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
            "import \"lib/x\" as x; print(x::f()); import \"lib/x.rhai\" as z; print(z::f());",
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
