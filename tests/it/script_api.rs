//! Tests of each function of the script API, with valid and with invalid arguments.

use std::fs;

use super::script_errors::error_of;
use crate::support::command::{Command, Run};
use crate::support::database::Database;
use crate::support::ledger::{Ledger, database_command, demo_command};
use crate::support::snapshot::shows;
use crate::support::source::{Request, Response, Source};

/// Returns what a script prints in a demo run, which must end with `code`.
#[track_caller]
fn output_of(script: &str, code: i32) -> String {
    // Many of the scripts print only.
    let script = match code {
        0 => format!("{script} exit(0);"),
        _ => script.to_owned(),
    };
    demo_command(3, &script).run().expect_code(code).stdout
}

/// Runs against these answers and a real table. Returns the run and the requested sizes.
fn run_with_answers(
    size: u64,
    script: &str,
    answers: impl IntoIterator<Item = Response>,
) -> (Run, Vec<u64>) {
    let source = Source::responding(answers);
    let run = database_command(size, script, &source, &Database::standard()).run();
    let sizes = source.requests().iter().filter_map(Request::size).collect();
    (run, sizes)
}

/// Returns the `kind` and `message` that a script catches from a call.
#[track_caller]
fn caught_error(call: &str) -> String {
    let script = format!("try {{ {call}; }} catch (e) {{ print(`${{e.kind}}: ${{e.message}}`); }}");
    output_of(&script, 0).trim_end().to_owned()
}

#[test]
fn fetch_options_set_page_size_top_up_and_retries() {
    let answers = || [Response::tokens(["aa", "bb"]), Response::tokens(["cc"])];
    let (run, sizes) = run_with_answers(3, "store(fetch(SIZE, #{page_size: 2}));", answers());
    assert_eq!((run.code, sizes), (Some(0), vec![2, 1]));
    let (run, sizes) = run_with_answers(
        5,
        "store(fetch(SIZE, #{page_size: 3, top_up: false}));",
        answers(),
    );
    assert_eq!((run.code, sizes), (Some(4), vec![3, 2]));
    let again = [
        Response::status(503).header("retry-after", "0"),
        Response::tokens(["aa"]),
    ];
    let (run, sizes) = run_with_answers(1, "store(fetch(SIZE, #{retries: 1}));", again);
    assert_eq!((run.code, sizes), (Some(0), vec![1, 1]));
    let (run, sizes) = run_with_answers(
        1,
        "store(fetch(SIZE, #{retries: 0}));",
        [Response::status(503)],
    );
    assert_eq!((run.code, sizes), (Some(4), vec![1]));
}

#[test]
fn script_may_fetch_less_than_size() {
    let (run, sizes) = run_with_answers(5, "store(fetch(1));", [Response::tokens(["aa"])]);
    assert_eq!((run.code, sizes), (Some(0), vec![1]));
    assert_eq!(Ledger::of(&run).count("requested"), 5);
}

#[test]
fn fetch_once_returns_a_short_page_with_its_requested_size() {
    let script =
        "let page = fetch_once(3); print(`${page.len} of ${page.requested}`); store(page);";
    let (run, sizes) = run_with_answers(3, script, [Response::tokens(["aa", "bb"])]);
    assert_eq!(sizes, [3]);
    assert!(run.stdout.starts_with("2 of 3\n"), "{}", run.stdout);
    assert_eq!(Ledger::of(&run).counts(), [2, 0, 0, 0, 0]);
}

#[test]
fn invalid_arguments_are_caught_by_kind() {
    for (call, message) in [
        ("fetch(0)", "`size` must be a whole number ≥ 1"),
        ("fetch_once(-3)", "`size` must be a whole number ≥ 1"),
        (
            "fetch(1, #{page_size: 0})",
            "`page_size` must be a whole number ≥ 1",
        ),
        (
            "fetch(1, #{retries: -1})",
            "`retries` must be a whole number ≥ 0",
        ),
        ("fetch(1, #{top_up: 1})", "`top_up` must be true or false"),
        (
            "fetch(1, #{topup: true})",
            "unknown option `topup`: did you mean `top_up`?",
        ),
        (
            "retry(#{atempts: 2}, || 1)",
            "unknown option `atempts`: did you mean `attempts`?",
        ),
        ("retry(0, || 1)", "`attempts` must be a whole number ≥ 1"),
        ("retry(#{on: 1}, || 1)", "`on` must be an array of kinds"),
        (
            "sleep(\"soon\")",
            "`time` must be a duration with a unit, such as \"2s\"",
        ),
        (
            "sleep(-1)",
            "`seconds` must be a number of seconds that is not negative",
        ),
        (
            "sleep(-0.5)",
            "`seconds` must be a number of seconds that is not negative",
        ),
        (
            "store([\"\"])",
            "`tokens` must be strings that are not empty",
        ),
        ("tokens([1])", "`tokens` must be strings that are not empty"),
        ("exit(256)", "`code` must be a whole number from 0 to 255"),
    ] {
        assert_eq!(
            caught_error(call),
            format!("invalid_argument: {message}"),
            "{call}"
        );
    }
}

#[test]
fn tokens_that_a_script_makes_or_rejects_are_counted() {
    let script = "
        print(tokens([\"t\", \"u\"]).len);
        report(store(tokens([\"a\", \"b-b\"])));
        report(store([\"c\"]));
        report(store(\"d\"));
        report(reject(tokens([\"e\"]), \"one\"));
        report(reject([\"f\", \"g\"], \"two\"));
        let summary = report(reject(\"h\", \"three\"));
        print(`${summary.stored} ${summary.rejected} ${summary.received} ${summary.requested}`);";
    let run = demo_command(3, script).run().expect_code(5);
    assert!(run.stdout.contains("\n3 5 10 3\n"), "{}", run.stdout);
    let ledger = Ledger::of(&run).without_duplicates();
    assert_eq!(ledger.counts(), [3, 5, 0, 0, 2]);
    assert_eq!(ledger.with_status("rejected")[4]["reason"], "three");
}

#[test]
fn report_uses_the_lines_of_a_closure() {
    let script = "report(store([\"a\"]), |outcome| `<${outcome.token}>` + \"\\u001b\");";
    let run = demo_command(1, script).run().expect_code(0);
    assert_eq!(run.stdout, "<a>\\u{1b}\n");
    assert_eq!(Ledger::of(&run).tokens[0]["token"], "a");
}

#[test]
fn emit_and_print_write_to_standard_output_in_order() {
    let script =
        "print(\"one\"); report(store([\"two\"])); emit(\"three\\u001b\"); print(\"four\\u001b\");";
    let shown = output_of(script, 0);
    assert_eq!(shown, "one\nstored    two\nthree\\u{1b}\nfour\\u{1b}\n");
}

#[test]
fn emit_writes_files_only_inside_out_dir() {
    let script = "emit(\"a\", \"sub/x.txt\"); emit(\"b\", \"sub/x.txt\");
        for name in [\"../y\", \"/tmp/y\", \"sub/../../y\", \"\", \"out\"] {
            try { emit(\"c\", name); print(`wrote ${name}`); } catch (e) { print(e.kind); }
        }
        exit(0);";
    let run = demo_command(1, script)
        .args(["--out-dir", "."])
        .run()
        .expect_code(0);
    let written = fs::read_to_string(run.path("sub/x.txt")).unwrap();
    assert_eq!(written, "a\nb\n");
    assert_eq!(
        run.stdout,
        format!("{}wrote out\n", "invalid_argument\n".repeat(4))
    );
}

#[test]
fn emit_writes_no_file_that_the_run_reads_or_writes() {
    let names = [
        "mine.rhai",
        "lib/used.rhai",
        "run.ndjson",
        "run.ndjson.partial",
        "run.journal",
        "m.prom",
        "m.prom.partial",
        "c.yaml",
        "secret",
        "link",
        "hard",
        "pipe",
        "folder",
    ];
    let script = format!(
        "import \"lib/used\" as used;
         for name in {names:?} {{
            try {{ emit(\"x\", name); print(`wrote ${{name}}`); }} catch (e) {{ print(e.kind); }}
         }}
         emit(\"x\", \"free\"); report(store(fetch(SIZE)));"
    );
    let source = Source::responding([Response::tokens(["aa"])]);
    let command = database_command(1, &script, &source, &Database::standard())
        .file("lib/used.rhai", "fn f() { 1 }")
        .file("c.yaml", "run: {deadline: 1m}")
        .file("secret", "Bearer key")
        .link("link", "c.yaml")
        .file("target", "kept")
        .file("folder/x", "");
    let dir = command.dir();
    fs::hard_link(dir.join("target"), dir.join("hard")).unwrap();
    nix::unistd::mkfifo(&dir.join("pipe"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    let run = command
        .env("TOKEN_SERVICE_SOURCE_AUTHORIZATION_FILE", "secret")
        .args([
            "--config",
            "c.yaml",
            "--out-dir",
            ".",
            "--journal",
            "run.journal",
        ])
        .args(["--metrics", "m.prom"])
        .run()
        .expect_code(0);
    let refused = "invalid_argument\n".repeat(names.len());
    assert_eq!(run.stdout, format!("{refused}stored    aa\n"));
    let read = |name| fs::read_to_string(run.path(name)).unwrap();
    assert_eq!(
        (read("c.yaml").as_str(), read("target").as_str()),
        ("run: {deadline: 1m}", "kept")
    );
    assert_eq!(read("free"), "x\n");
    assert!(read("run.journal").contains("\"aa\""));
}

#[test]
fn out_dir_that_cannot_be_written_is_an_error_before_a_token_is_requested() {
    let source = Source::responding([]);
    let script = "for token in fetch(SIZE) { emit(token, \"x\"); }";
    for folder in ["file", "file/below"] {
        let run = database_command(1, script, &source, &Database::standard())
            .file("file", "")
            .args(["--out-dir", folder])
            .run()
            .expect_code(2);
        assert!(source.sizes().is_empty());
        assert!(
            run.stderr.starts_with(&format!(
                "error: the output folder `{folder}` cannot be written"
            )),
            "{}",
            run.stderr
        );
        assert!(
            run.stderr.contains("no token was requested"),
            "{}",
            run.stderr
        );
    }
}

#[test]
fn imports_and_folders_of_check_skip_pipes() {
    let pipe = |command: Command, name: &str| {
        let path = command.dir().join(name);
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        command
    };
    let command = pipe(demo_command(1, "import \"pipe\" as pipe;"), "pipe.rhai");
    let run = command.run().expect_code(3);
    assert!(
        run.stderr.contains("it is not a regular file"),
        "{}",
        run.stderr
    );
    let command = pipe(demo_command(1, "report(store(fetch(SIZE)));"), "pipe.rhai");
    let dir = command.dir().to_owned();
    let run = Command::new().args(["check"]).arg(dir).run().expect_code(0);
    assert!(run.stdout.contains("mine.rhai"), "{}", run.stdout);
    assert!(!run.stdout.contains("pipe"), "{}", run.stdout);
}

#[test]
fn loop_and_catch_variables_hide_constants_of_the_same_name() {
    let script = "const t = \"none\"; const e = 1;
        for t in [\"aa\", \"bb\"] { print(t); }
        for SIZE in 7..9 { print(SIZE); }
        try { throw \"thrown\"; } catch (e) { print(e); }
        print(t); print(e); print(SIZE); exit(0);";
    assert_eq!(output_of(script, 0), "aa\nbb\n7\n8\nthrown\nnone\n1\n3\n");
    let error = error_of("const L = #{max: 3};\nL.max = 5;", 3);
    assert!(
        error.starts_with("error: cannot change the constant `L`"),
        "{error}"
    );
}

#[test]
fn only_whole_numbers_from_0_to_255_are_exit_codes() {
    for argument in [
        "\"1\"",
        "1.0",
        "()",
        "256",
        "-1",
        "[1]",
        "env::get(\"TOKEN_CODE\")",
    ] {
        let script = format!(
            "store([\"aa\"]); try {{ exit({argument}); }} catch (e) {{ print(e.message); }}"
        );
        let run = demo_command(1, &script)
            .env("TOKEN_CODE", "7")
            .run()
            .expect_code(0);
        assert!(
            run.stdout
                .starts_with("`code` must be a whole number from 0 to 255"),
            "{argument}: {}",
            run.stdout
        );
    }
    let script = "exit(env::int(\"TOKEN_CODE\"));";
    demo_command(1, script)
        .env("TOKEN_CODE", "7")
        .run()
        .expect_code(7);
}

#[test]
fn environment_variables_are_read_as_whole_numbers() {
    let script = "print(env::int(\"TOKEN_N\") + 1); print(env::int(\"TOKEN_N\", 9)); print(env::int(\"TOKEN_M\", 9));
        print(env::int(\"TOKEN_M\") == ()); try { env::int(\"TOKEN_X\"); } catch (e) { print(e.message); } exit(0);";
    let run = demo_command(1, script)
        .env("TOKEN_N", " 41 ")
        .env("TOKEN_X", "4.5")
        .run()
        .expect_code(0);
    assert_eq!(
        run.stdout,
        "42\n41\n9\ntrue\n`TOKEN_X` must be a whole number in the environment\n"
    );
}

#[test]
fn script_sees_the_id_the_start_and_the_dry_run_of_its_run() {
    let script = "fn id() { run::ID } print(id()); print(run::STARTED_AT); print(run::DRY_RUN);
        print(now().rfc3339() >= run::STARTED_AT); report(store(fetch(SIZE)));";
    let run = demo_command(1, script)
        .args(["--dry-run"])
        .run()
        .expect_code(0);
    let ledger = Ledger::of(&run);
    let lines: Vec<&str> = run.stdout.lines().collect();
    assert_eq!(ledger.summary["run_id"], lines[0]);
    // The report shows more digits.
    let started_at = ledger.summary["started_at"].as_str().unwrap();
    assert!(
        started_at.starts_with(lines[1].trim_end_matches('Z')),
        "{started_at} {}",
        lines[1]
    );
    assert_eq!(lines[2..4], ["true", "true"]);
}

#[test]
fn mask_shows_what_the_report_shows() {
    let script = "print(mask(\"abcdefghijkl\")); exit(0);";
    let shown = |mask| {
        demo_command(1, script)
            .args(["--mask", mask])
            .run()
            .expect_code(0)
            .stdout
    };
    assert_eq!(shown("none").lines().next(), Some("abcdefghijkl"));
    assert_eq!(shown("prefix").lines().next(), Some("abcd…"));
    assert!(
        shown("sha256").starts_with("sha256:d682ed4c"),
        "{}",
        shown("sha256")
    );
}

#[test]
fn values_become_text() {
    let script = "print(format(2, 2)); print(format(2.345, 1)); print(format(-0.5, 0)); print(\"-\".repeat(5)); print(\"-\".repeat(0));
        print([1, \"a\", (), #{k: 'c'}].to_json()); print(\"q\\\"\".to_json()); print((5).to_json()); print(fetch(1).to_json());
        for entry in #{b: 2, a: 1}.keys() { print(entry); }
        let map = #{b: 2, a: 1}; for entry in map { print(`${entry[0]}=${entry[1]}`); } exit(0);";
    assert_eq!(
        output_of(script, 0),
        "2.00\n2.3\n-0\n-----\n\n[1,\"a\",null,{\"k\":\"c\"}]\n\"q\\\"\"\n5\n\"Tokens\"\na\nb\na=1\nb=2\n"
    );
    assert_eq!(
        caught_error("format(1, 21)"),
        "invalid_argument: `decimals` must be a whole number from 0 to 20"
    );
    assert_eq!(
        caught_error("format(\"1\", 1)"),
        "invalid_argument: `number` must be a number"
    );
    assert_eq!(
        caught_error("\"a\".repeat(-1)"),
        "invalid_argument: `count` must be a whole number that is not negative"
    );
}

#[test]
fn script_that_writes_files_is_refused_when_out_dir_is_not_set() {
    let source = Source::responding([]);
    let script = "fn put(text) { emit(text, \"x\"); }\nfor token in fetch(SIZE) { put(token); }";
    let run = database_command(1, script, &source, &Database::standard()).run();
    let run = run.expect_code(2);
    assert!(source.sizes().is_empty());
    shows!(run.stderr, @r#"
    error: `emit` writes a file, but no output folder is configured
      ╭▸ mine.rhai:1:16
      │
    1 │ fn put(text) { emit(text, "x"); }
      ╰╴               ━━━━
    hint: `--out-dir DIR` names the folder that scripts may write to; no token was requested
    "#);
    for call in ["\"a\".emit(\"x\")", "host::emit(\"a\", \"x\")"] {
        let run = demo_command(1, &format!("{call};")).run().expect_code(2);
        assert!(
            run.stderr.contains("no output folder is configured"),
            "{call}"
        );
    }
    for script in [
        "fn emit(one, other) { print(`${one}${other}`); } emit(\"a\", \"b\");",
        "try { emit(\"a\", \"b\"); } catch (e) { print(\"ab\"); }",
    ] {
        assert_eq!(output_of(script, 0), "ab\n");
    }
}

#[test]
fn retry_repeats_retryable_errors() {
    let counting = |retry: &str, thrown: &str| {
        let script = format!(
            "let calls = 0;
             try {{ print({retry}, || {{ calls += 1; if calls < 3 {{ throw {thrown}; }} \"done\" }})); }}
             catch (e) {{ print(\"gave up\"); }}
             print(calls);"
        );
        output_of(&script, 0)
    };
    let fast = "retry(#{attempts: 5, base_ms: 1}";
    assert_eq!(counting(fast, "\"text\""), "done\n3\n");
    assert_eq!(
        counting("retry(3", "#{kind: \"x\", retry_after_ms: 0}"),
        "done\n3\n"
    );
    assert_eq!(
        counting("retry(2", "#{kind: \"x\", retry_after_ms: 0}"),
        "gave up\n2\n"
    );
    assert_eq!(
        counting(fast, "#{kind: \"x\", retryable: false}"),
        "gave up\n1\n"
    );
    let on = "retry(#{base_ms: 1, on: [\"x\"]}";
    assert_eq!(
        counting(on, "#{kind: \"x\", retryable: false}"),
        "done\n3\n"
    );
    assert_eq!(
        counting(on, "#{kind: \"y\", retryable: true}"),
        "gave up\n1\n"
    );
    assert_eq!(
        counting("retry(#{on: [\"thrown\"], base_ms: 1}", "\"x\""),
        "done\n3\n"
    );
}

#[test]
fn retry_succeeds_when_the_source_recovers() {
    let again = || Response::status(503).header("retry-after", "0");
    let script = "store(retry(3, || fetch_once(1)));";
    let source = Source::responding([again(), again(), Response::tokens(["aa"])]);
    let run = database_command(1, script, &source, &Database::standard())
        .file("c.yaml", "source: {retries: 0}\n")
        .args(["--config", "c.yaml"])
        .run();
    assert_eq!(Ledger::of(&run.expect_code(0)).counts(), [1, 0, 0, 0, 0]);
}

#[test]
fn retry_repeats_a_possibly_served_request_only_when_allowed() {
    let asked = |options: &str, args: &[&str]| {
        let script = format!("retry(#{{attempts: 3, base_ms: 1{options}}}, || fetch_once(7));");
        let source = Source::responding([Response::status(500).always()]);
        let run = database_command(7, &script, &source, &Database::standard())
            .file("c.yaml", "source: {retries: 0}\n")
            .args(["--config", "c.yaml"])
            .args(args)
            .run()
            .expect_code(4);
        let unseen = format!("{} perhaps issued unseen", 7 * source.sizes().len());
        assert!(run.stderr.contains(&unseen), "{unseen}: {}", run.stderr);
        source.sizes().len()
    };
    assert_eq!(asked("", &[]), 1);
    assert_eq!(asked(", on: [\"http_connect\"]", &[]), 1);
    assert_eq!(asked(", on: [\"http_status\"]", &[]), 3);
    assert_eq!(asked("", &["--dangerously-repeat-requests"]), 3);
}

#[test]
fn sleep_accepts_durations_and_seconds() {
    assert_eq!(
        output_of("sleep(\"1ms\"); sleep(0); sleep(0.001); print(\"up\");", 0),
        "up\n"
    );
}

#[test]
fn log_functions_write_fields_to_standard_error() {
    let script = "log_debug(\"d\"); log_info(\"i\", #{to: \"a b\", n: 1}); log_warn(\"w\"); log_error(\"e\"); exit(0);";
    let run = demo_command(1, script).run().expect_code(0);
    assert_eq!(run.stdout, "");
    assert!(!run.stderr.contains("DEBUG d"), "{}", run.stderr);
    for message in ["INFO i n=1 to=\"a b\"\n", "WARN w\n", "ERROR e\n"] {
        assert!(run.stderr.contains(message), "{message}: {}", run.stderr);
    }
    let json = ["--log-format", "json", "--log-level", "debug"];
    let run = demo_command(1, script).args(json).run().expect_code(0);
    let lines = run.stderr.lines().filter(|line| line.starts_with('{'));
    let lines: Vec<serde_json::Value> = lines
        .map(|line| serde_json::from_str(line).unwrap())
        .filter(|line: &serde_json::Value| line["target"] == "script")
        .collect();
    let severities: Vec<_> = lines.iter().map(|line| &line["severity"]).collect();
    assert_eq!(severities, ["DEBUG", "INFO", "WARNING", "ERROR"]);
    assert_eq!(lines[1]["message"], "i");
    assert_eq!(lines[1]["fields"], serde_json::json!({"n": 1, "to": "a b"}));
    assert_eq!(lines[2].get("fields"), None);
}

#[test]
fn exit_ends_the_script_from_anywhere() {
    for script in [
        "exit(7); print(1);",
        "let f = || exit(7); f.call(); print(1);",
        "fn f() { exit(7) } fn g() { f(); print(1); } g();",
        "try { exit(7); } catch { print(1); }",
        "retry(3, || exit(7)); print(1);",
        "for token in tokens([\"a\"]) { store(token); exit(7); }",
    ] {
        let run = demo_command(1, script).run().expect_code(7);
        assert!(!run.stdout.contains('1'), "{script}: {}", run.stdout);
        Ledger::of(&run);
    }
    let run = demo_command(3, "report(store(fetch(SIZE)), |o| exit(7));").run();
    Ledger::of(&run.expect_code(7)).without_duplicates();
}

#[test]
fn outcomes_and_tokens_expose_their_properties() {
    let script = "
        let outcomes = store([\"a\", \"b-b\"]);
        for o in outcomes {
            print(`${o.token} ${o.status} ${o.stored} ${o.attempts} ${o.ms >= 0.0} ${o.sqlstate} ${o.constraint} ${o.reason}`);
        }
        let c = outcomes.counts;
        print(`${c.stored} ${c.rejected} ${c.failed} ${c.unknown} ${c.not_attempted}`);
        print(outcomes.failures().len);
        for o in reject(\"x\", \"no\") { print(o.to_json()); }
        let t = tokens([\"y\"]);
        print(`${t} ${t.len()} ${t.is_empty()}`);
        store(t);";
    insta::assert_snapshot!(output_of(script, 0), @r#"
    stored    a
    a stored true 1 true   
    rejected  b-b  23514 secret_tokens_data_check
    b-b rejected false 1 true 23514 secret_tokens_data_check 
    1 1 0 0 0
    0
    rejected  x  no
    {"token":"x","status":"rejected","attempts":0,"ms":0.0,"reason":"no"}
    Tokens(1 requested) 1 false
    stored    y
    "#);
}

#[test]
fn constants_and_environment_are_visible_in_functions_and_closures() {
    let script = "
        fn size() { `${SIZE} ${config::SIZE} ${config::VARS.list[1]} ${config::VARS.deep.pi}` }
        print(size());
        print((|| `${SIZE} ${config::SIZE}`).call());
        print(env::get(\"TOKEN_REGION\"));
        print(env::get(\"TOKEN_NONE\", \"default\"));
        print(env::get(\"TOKEN_NONE\") == ());
        print(env::get(\"HOME\") == ());
        exit(0);";
    let run = demo_command(3, script)
        .file(
            "c.yaml",
            "script: {vars: {list: [x, y], deep: {pi: 3.5}}}\n",
        )
        .args(["--config", "c.yaml"])
        .env("TOKEN_REGION", "north")
        .run()
        .expect_code(0);
    assert_eq!(run.stdout, "3 3 y 3.5\n3 3\nnorth\ndefault\ntrue\ntrue\n");
    let run = demo_command(
        1,
        "print(env::get(\"MY_X\")); print(env::get(\"TOKEN_X\") == ()); exit(0);",
    )
    .file("c.yaml", "script: {env_prefix: MY_}\n")
    .args(["--config", "c.yaml"])
    .env("MY_X", "mine")
    .env("TOKEN_X", "hidden")
    .run();
    assert_eq!(run.expect_code(0).stdout, "mine\ntrue\n");
}

#[test]
fn shadowed_function_is_callable_through_host() {
    let script =
        "fn store(tokens) { print(\"mine\"); host::store(tokens) } report(store([\"a\"]));";
    assert_eq!(output_of(script, 0), "mine\nstored    a\n");
}

#[test]
fn join_makes_one_text_of_values() {
    let script = "print(join([\"a\", 2, 1.5, true, 'c', ()], \";\")); print(join([], \";\"));
        let outcomes = [];
        for outcome in store([\"aa\", \"bb\"]) { outcomes.push(outcome); }
        print(host::join(outcomes, \"\\n\"));";
    let expected = "a;2;1.5;true;c;\n\nstored    aa\nstored    bb\naa\nbb\n";
    assert_eq!(output_of(script, 0), expected);
    assert_eq!(
        caught_error("join([#{a: 1}], \";\")"),
        "invalid_argument: `array` must be strings, numbers, bools, outcomes or `()`"
    );
}
