//! Tests of errors from outside a script: imports, and errors of the source and the database that the
//! script does not catch. Also tests errors as JSON.

use super::script_errors::{error_of, error_of_command};
use crate::support::command::{Command, Run};
use crate::support::database::Database;
use crate::support::ledger::{database_command, demo_command, error_text};
use crate::support::snapshot::settings;
use crate::support::source::{Gate, Response, Source};

fn run_with_answers(script: &str, answers: impl IntoIterator<Item = Response>) -> Run {
    let source = Source::responding(answers);
    database_command(3, script, &source, &Database::standard()).run()
}

#[test]
fn import_error_names_its_reason() {
    insta::assert_snapshot!(error_of("import \"../secrets\" as s;", 3), @r#"
    error: import_denied: cannot import `../secrets`: it must lie in the script's folder, without `..`
      ╭▸ mine.rhai:1:8
      │
    1 │ import "../secrets" as s;
      ╰╴       ━━━━━━━━━━━━
    hint: an import names a file below the script's folder (import "lib/mine" as mine;) or a module of the library (import "lib/stats" as stats;)
    "#);
    insta::assert_snapshot!(error_of("import \"lib/none\" as n;", 3), @r#"
    error: import_denied: cannot import `lib/none`: lib/none.rhai: No such file or directory (os error 2)
      ╭▸ mine.rhai:1:8
      │
    1 │ import "lib/none" as n;
      ╰╴       ━━━━━━━━━━
    hint: an import names a file below the script's folder (import "lib/mine" as mine;) or a module of the library (import "lib/stats" as stats;)
    "#);
    let command = demo_command(3, "import \"a\" as a;")
        .file("a.rhai", "import \"b\" as b;")
        .file("b.rhai", "\nimport \"a\" as a;");
    insta::assert_snapshot!(error_of_command(command, 3), @r#"
    error: import_denied: cannot import `a`: circular import
      ╭▸ b.rhai:2:8
      │
    2 │ import "a" as a;
      ╰╴       ━━━
      called from a.rhai:1:8
      called from mine.rhai:1:8
    hint: move what both need into a third file that imports neither
    "#);
    let command = demo_command(3, "import \"lib/bad\" as bad;")
        .file("lib/bad.rhai", "fn f() {\n    let = 1;\n}");
    insta::assert_snapshot!(error_of_command(command, 3), @"
    error: expecting name of a variable
      ╭▸ lib/bad.rhai:2:9
      │
    2 │     let = 1;
      ╰╴        ━
      called from mine.rhai:1:8
    ");
}

#[test]
fn uncaught_source_or_database_error_shows_position_and_hint() {
    settings().bind(|| {
        let unavailable = || Response::status(503).header("retry-after", "2");
        let config = "source: {retries: 0}\n";
        let source = Source::responding([unavailable()]);
        let command = database_command(
            3,
            "let size = 3;\nlet page = fetch_once(size);",
            &source,
            &Database::standard(),
        )
        .file("c.yaml", config)
        .args(["--config", "c.yaml"]);
        insta::assert_snapshot!(error_of_command(command, 4), @"
        error: http_status: the token source answered 503 Service Unavailable
          ╭▸ mine.rhai:2:12
          │
        2 │ let page = fetch_once(size);
          ╰╴           ━━━━━━━━━━
          caused by: POST http://127.0.0.1:[port]/tokens
          = retryable (trying again may help, and is safe), retry_after_ms 2000
        hint: `retries` limits the repetitions; if it is not set, such answers are waited out for `--patience`
        ");
        let dry = [Response::tokens([""; 0]).always()];
        let run = run_with_answers("report(store(fetch(SIZE)));", dry);
        insta::assert_snapshot!(error_text(&run.expect_code(4)), @"
        error: short_supply: the token source has no more tokens: received 0 of 3
          ╭▸ mine.rhai:1:1
          │
        1 │ report(store(fetch(SIZE)));
          ╰╴━━━━━━
          caused by: 3 requests in a row returned no tokens
        hint: request fewer tokens, or try again when the source has more
        ");
        // The table is dropped after the run has checked it.
        let (gate, database) = (Gate::new(), Database::standard());
        let source = Source::responding([Response::tokens(["aa"]).after(&gate)]);
        let script = "let page = fetch_once(1);\nreport(store(page));";
        let running = database_command(1, script, &source, &database).spawn();
        source.wait_for(1);
        database
            .client()
            .batch_execute("DROP TABLE secret_tokens")
            .unwrap();
        gate.open();
        insta::assert_snapshot!(error_text(&running.wait().expect_code(5)), @r#"
        error: db_denied: the database refuses every insert
          ╭▸ mine.rhai:2:1
          │
        2 │ report(store(page));
          ╰╴━━━━━━
          caused by: relation "…" does not exist (42P01)
        hint: check the table's definition and the role's rights; nothing more was sent
        "#);
    });
}

#[test]
fn errors_are_json_objects_when_error_format_is_json() {
    let json = |command: Command| {
        let run = command.args(["--error-format", "json"]).run();
        let run = run.expect_code(3);
        let line = run.stderr.lines().find(|line| line.starts_with('{'));
        line.expect("a line with a JSON object").to_owned()
    };
    let command = demo_command(3, "import \"lib/a\" as a;\na::f();").file(
        "lib/a.rhai",
        "fn f() {\n    throw #{kind: \"mine\", message: \"x\", hint: \"y\", retryable: true};\n}",
    );
    insta::assert_snapshot!(json(command), @r#"{"severity":"error","message":"x","kind":"mine","file":"lib/a.rhai","line":2,"column":5,"end_column":10,"frames":[{"name":"f","file":"mine.rhai","line":2,"column":4}],"notes":["retryable (trying again may help, and is safe)"],"hint":"y","exit_code":3}"#);
    insta::assert_snapshot!(json(demo_command(3, "fetch(SIZE, #{retry: 1});")), @r#"{"severity":"error","message":"unknown option `retry`: one of page_size, retries, top_up","kind":"invalid_argument","file":"mine.rhai","line":1,"column":1,"end_column":6,"exit_code":3}"#);
    insta::assert_snapshot!(json(demo_command(3, "let über = 1; prnt(über);")), @r#"{"severity":"error","message":"unexpected 'ü'","file":"mine.rhai","line":1,"column":5,"end_column":9,"hint":"no token was requested; `token_service check mine.rhai` may find more mistakes","exit_code":3}"#);
    insta::assert_snapshot!(json(demo_command(3, "fn f(n) { f(n + 1) }\nf(1);")), @r#"{"severity":"error","message":"the script ran past a limit: functions call each other more than 64 levels deep","file":"mine.rhai","line":2,"column":1,"end_column":2,"hint":"look for a recursion that does not end; a loop has no such limit","exit_code":3}"#);
}

#[test]
fn error_explains_a_closure_that_calls_itself() {
    let script = "let f = ();\nf = |n| if n > 0 { f.call(n - 1) } else { 0 };\nf.call(2);";
    insta::assert_snapshot!(error_of(script, 3), @"
    error: a value is used while it is being called or changed
      ╭▸ mine.rhai:3:3
      │
    3 │ f.call(2);
      ╰╴  ━━━━
    hint: a closure cannot call itself through its variable; write a function instead: `fn name(…) { … }`
    ");
}

#[test]
fn error_shows_the_call_stack_across_files() {
    let command = demo_command(
        3,
        "import \"outer\" as outer;\nfn start(size) {\n    outer::work(size)\n}\nretry(1, || start(SIZE));",
    )
    .file(
        "outer.rhai",
        "import \"lib/inner\" as inner;\nfn work(size) {\n    [size].map(|n| inner::check(n))\n}\n",
    )
    .file(
        "lib/inner.rhai",
        "fn check(n) {\n    let more = n - 3;\n    fetch(more)\n}\n",
    );
    insta::assert_snapshot!(error_of_command(command, 3), @"
    error: invalid_argument: `size` must be a whole number ≥ 1
      ╭▸ lib/inner.rhai:3:5
      │
    3 │     fetch(more)
      ╰╴    ━━━━━
      called from outer.rhai:3:27 in `check`
      called from outer.rhai:3:12 in a closure
      called from outer.rhai:3:12 in `map`
      called from mine.rhai:3:12 in `work`
      called from mine.rhai:5:13 in `start`
      called from mine.rhai:5:1 in a closure
    ");
}
