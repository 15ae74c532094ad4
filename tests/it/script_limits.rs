//! Tests of script limits. Each error names its limit and a remedy, and no script can catch it. The
//! process does not crash, and stays below 256 MiB.

use super::script_errors::{error_of, error_of_command};
use crate::support::command::{Command, Run};
use crate::support::database::Database;
use crate::support::ledger::{Ledger, database_command, demo_command, error_text};
use crate::support::snapshot::shows;
use crate::support::source::{Response, Source};

/// The limit for the peak memory of the process, in bytes.
const MAX_MEMORY: u64 = 256 * 1024 * 1024;

/// Runs a script that must end with the error of a limit. Returns the run and its peak memory.
#[track_caller]
fn expect_limit_with_peak(command: Command, message: &str) -> (Run, u64) {
    let (run, peak) = command.spawn().wait_with_peak_memory();
    assert_eq!(run.signal, None, "{}", run.stderr);
    assert!(!run.stdout.contains("caught"), "{}", run.stdout);
    assert!(error_text(&run).contains(message), "{}", run.stderr);
    assert!(peak < MAX_MEMORY, "{peak} bytes: {}", run.stderr);
    Ledger::of(&run);
    (run, peak)
}

/// Runs a script that must end with the error of a limit.
#[track_caller]
fn expect_limit(command: Command, message: &str) -> Run {
    expect_limit_with_peak(command, message).0
}

#[test]
fn runtime_limit_error_names_its_limit() {
    shows!(error_of("fn f(n) { f(n + 1) }\nf(1);", 3), @"
    error: the script ran past a limit: functions call each other more than 64 levels deep
      ╭▸ mine.rhai:2:1
      │
    2 │ f(1);
      ╰╴━
    hint: look for a recursion that does not end; a loop has no such limit
    ");
    shows!(error_of("let s = \"0123456789abcdef\";\nloop { s += s; }", 3), @"
    error: the script ran past a limit: a string, or the text of an array or map, took more than 1 MiB
      ╭▸ mine.rhai:2:13
      │
    2 │ loop { s += s; }
      ╰╴            ━
    hint: write it in parts, one `emit` for each line
    ");
    shows!(error_of("let a = [];\na.pad(2_000_001, 1);", 3), @"
    error: the script ran past a limit: one call added more than 2,000,000 values to an array or blob
      ╭▸ mine.rhai:2:3
      │
    2 │ a.pad(2_000_001, 1);
      ╰╴  ━━━
    hint: work page by page, `for page in fetch(SIZE).pages() { … }`
    ");
    shows!(error_of("let a = 1;\nloop { a = [a]; }", 3), @"
    error: the script ran past a limit: values are nested more than 1,000 levels deep
      ╭▸ mine.rhai:2:13
      │
    2 │ loop { a = [a]; }
      ╰╴            ━
    hint: look for a loop that puts an array, map or closure into a new one
    ");
    // The position is random: the limit is noticed a few milliseconds later.
    let allocating = error_of(
        "let m = #{}; let n = 0; loop { m[`${n}`] = blob(99_000, 1); n += 1; }",
        3,
    );
    let ends = [allocating.lines().next(), allocating.lines().last()];
    shows!(ends.map(Option::unwrap_or_default).join("\n"), @"
    error: the script ran past a limit: the process grew by more than `script.max_memory` allows
    hint: store and report page by page; a token that is neither stored nor rejected stays in memory until the end
    ");
    let many = (0..=1000).map(|n| format!("let v{n} = {n};\n"));
    shows!(error_of(&many.collect::<String>(), 3), @"
    error: the script ran past a limit: more than 1,000 variables at a time
         ╭▸ mine.rhai:1000:1
         │
    1000 │ let v999 = 999;
         ╰╴━━━
    hint: keep values that belong together in an array or a map
    ");
    let many = (0..=32).map(|n| format!("import \"other\" as other{n};\n"));
    let command = demo_command(3, &many.collect::<String>()).file("other.rhai", "");
    shows!(error_of_command(command, 3), @r#"
    error: the script ran past a limit: more than 32 imports
       ╭▸ mine.rhai:33:1
       │
    33 │ import "other" as other32;
       ╰╴━━━━━━
    hint: import each file once, at the top of the script, and not in a loop
    "#);
    let command = demo_command(3, "let n = 0;\nloop { n += 1; }")
        .file("c.yaml", "script: {max_operations: 10000}\n")
        .args(["--config", "c.yaml"]);
    shows!(error_of_command(command, 3), @"
    error: the script ran past a limit: more operations than `script.max_operations` allows
      ╭▸ mine.rhai:2:13
      │
    2 │ loop { n += 1; }
      ╰╴            ━
    hint: raise it, or look for a loop that does not end
    ");
}

#[test]
fn compile_limit_error_names_its_limit() {
    let first_lines = |script: &str| {
        let message = error_of(script, 3);
        let hint = message.lines().filter(|line| line.starts_with("hint:"));
        let lines: Vec<&str> = message.lines().take(2).chain(hint).collect();
        lines.join("\n")
    };
    let nested = format!("let x = {}1{};", "[".repeat(99), "]".repeat(99));
    shows!(first_lines(&nested), @"
    error: the script ran past a limit: an expression is nested more than 64 levels deep, or 32 in a function
      ╭▸ mine.rhai:1:29
    hint: split it with `let`
    ");
    let many = (0..=256).map(|n| format!("fn f{n}() {{ {n} }}\n"));
    shows!(first_lines(&many.collect::<String>()), @"
    error: the script ran past a limit: a file defines more than 256 functions, closures included
        ╭▸ mine.rhai:257:1
    hint: move some of them into another file, and `import` it
    ");
    let start = "fn f() { } let x = 1;\n";
    let most = 128 * 1024 - start.len();
    let largest = |line: &str| format!("{start}{}", line.repeat(most / line.len()));
    for line in ["f();", "x = x;", "[[]];", "x;", "`${x}`;"] {
        let (run, peak) = demo_command(1, &largest(line))
            .spawn()
            .wait_with_peak_memory();
        run.expect_code(3);
        assert!(peak < MAX_MEMORY / 2, "{peak} bytes: {line}");
    }
    shows!(first_lines(&"// a comment\n".repeat(25_000)), @"
    error: the script mine.rhai cannot be read
      caused by: it is larger than 128 KiB, the limit of a script
    hint: `--script FILE` names the script; without it the built-in one runs
    ");
}

#[test]
fn limit_error_cannot_be_caught() {
    for (body, message) in [
        ("f(1)", "more than 64 levels deep"),
        (
            "let s = \"0123456789abcdef\"; loop { s += s; }",
            "took more than 1 MiB",
        ),
        ("let a = [1, 2]; loop { a += a; }", "`script.max_memory`"),
        (
            "let a = 1; loop { a = [a]; }",
            "more than 1,000 levels deep",
        ),
        (
            "let m = #{}; let n = 0; loop { m[`${n}`] = blob(99_000, 1); n += 1; }",
            "`script.max_memory`",
        ),
    ] {
        let script =
            format!("fn f(n) {{ f(n + 1) }} try {{ {body}; }} catch {{ print(\"caught\"); }}");
        expect_limit(demo_command(1, &script), message).expect_code(3);
    }
    let command = demo_command(1, "try { loop { } } catch { print(\"caught\"); }")
        .file("c.yaml", "script: {max_operations: 1000}\n")
        .args(["--config", "c.yaml"]);
    expect_limit(command, "more operations").expect_code(3);
}

#[test]
fn deep_recursion_of_every_kind_ends_with_a_limit_error() {
    let wide = format!("{}f(n + 1){}", "[".repeat(6), "]".repeat(6));
    for script in [
        format!("fn f(n) {{ {wide} }} f(1);"),
        "let f = |g| g.call(g); f.call(f);".to_owned(),
        "let f = |g| retry(1, || g.call(g)); f.call(f);".to_owned(),
        "let f = |g| [1].map(|x| g.call(g)); f.call(f);".to_owned(),
        "let f = |g| [2, 1].sort(|x, y| g.call(g)); f.call(f);".to_owned(),
        "let f = |g| [2, 1].reduce(|a, b| g.call(g)); f.call(f);".to_owned(),
        "let f = |g| { report(store([\"a\"]), |o| g.call(g)); }; f.call(f);".to_owned(),
        "fn f() { try { f(); } catch { f(); } } f();".to_owned(),
        "fn f(n) { if true { while true { for x in [1] { switch n { _ => f(n + 1) } } } } } f(1);"
            .to_owned(),
        "fn f() { `${`${`${f()}`}`}` } f();".to_owned(),
        "fn f() { this.g(); } fn g() { this.f(); } let x = 1; x.f();".to_owned(),
    ] {
        expect_limit(demo_command(1, &script), "more than 64 levels deep").expect_code(3);
    }
    let command = demo_command(1, "import \"other\" as other; other::deep(|f| f.call(f));").file(
        "other.rhai",
        "fn deep(f) { other(f) } fn other(f) { f.call(f); deep(f) }",
    );
    expect_limit(command, "more than 64 levels deep").expect_code(3);
}

#[test]
fn deeply_nested_values_do_not_crash_the_process() {
    for script in [
        "let a = 1; for i in 0..900 { a = [a]; } let m = #{}; for i in 0..900 { m = #{m: m}; }",
        "let f = || 1; for i in 0..900 { let g = f; f = || g.call(); } f = 0;",
        // Closures that hold themselves are never dropped.
        "for i in 0..9999 { let f = (); f = |n| if n > 1 { f } else { n }; f.call(1); }",
    ] {
        let script = format!("{script} exit(0);");
        let (run, peak) = demo_command(1, &script).spawn().wait_with_peak_memory();
        run.expect_code(0);
        assert!(peak < MAX_MEMORY, "{peak} bytes");
    }
    for script in [
        "let a = 1; loop { a = [a]; }",
        "let m = 1; loop { m = #{m: m}; }",
        "let x = [1]; loop { x.push([x.pop()]); }",
        "let f = || 1; loop { let g = f; f = || g.call(); }",
        "fn step(f) { || f.call() } let f = || 1; loop { f = step(f); }",
        "let f = || 1; for i in 0..1_000_000 { let g = f; f = || g.call(); } f = 0;",
        "let all = []; let f = || 1; loop { let g = f; f = || g.call(); all = [f]; }",
        "[1].map(|x| { let f = || 1; loop { let g = [#{f: f}]; f = || g.len(); } });",
        "let a = []; a.pad(30_000, 1); a.reduce(|sum, n| [sum]);",
    ] {
        expect_limit(demo_command(1, script), "more than 1,000 levels deep").expect_code(3);
    }
}

/// Scripts that allocate memory without end, each in another way.
const ALLOCATING: [&str; 9] = [
    "let m = #{}; let n = 0; loop { m[`${n}`] = blob(99_000, 1); n += 1; }",
    "let m = #{}; let n = 0; loop { let s = \"x\"; s.pad(1_000_000, `${n}`); m[`${n}`] = s; n += 1; }",
    "let maps = []; maps.pad(49_000, #{a: 1}); let m = #{}; let n = 0; loop { m[`${n}`] = maps; n += 1; }",
    "let a = []; a.pad(49_000, #{a: 1}); loop { a[0] = a; a[1] = a; a[2] = a; }",
    "let s = \"\"; s.pad(99_000, \",\"); let m = #{}; let n = 0; loop { m[`${n}`] = s.split(\",\"); n += 1; }",
    "fn more() { let n = 0; loop { this[`${n}`] = blob(99_000, 1); n += 1; } } let m = #{}; m.more();",
    "let m = #{}; let n = 0; loop { let b = blob(99_000, 1); m[`${n}`] = || b; n += 1; }",
    "let held = #{}; let n = 0; loop { held[`${n}`] = tokens([\"a token\"]); n += 1; }",
    "for token in fetch(10_000_000) { }",
];

#[test]
fn script_is_stopped_below_256_mib_when_it_allocates_without_end() {
    for script in ALLOCATING {
        let (_, peak) = expect_limit_with_peak(demo_command(1, script), "`script.max_memory`");
        println!("{} MiB: {script}", peak >> 20);
    }
    // Memory of a native function counts too.
    let native = Command::new()
        .file("mine.rhai", "store(fetch(10_000_000)).failures();")
        .args(["demo", "1", "--script", "mine.rhai"])
        .args(["--report", "ndjson=run.ndjson"]);
    expect_limit(native, "`script.max_memory`");
}

#[test]
fn single_allocation_is_refused_when_it_exceeds_a_limit() {
    let a = "let a = \"a\"; a.pad(1_000_000, \"a\");";
    for (script, message) in [
        (format!("{a} a.replace(\"a\", a);"), "1 MiB"),
        (format!("{a} a.replace('a', a);"), "1 MiB"),
        (format!("{a} a.replace(\"\", a);"), "1 MiB"),
        (
            "let s = \"x\"; s.pad(9_223_372_036_854_775_807, 'y');".to_owned(),
            "1 MiB",
        ),
        (
            "let s = \"x\"; s.pad(9_223_372_036_854_775_807, \"y\");".to_owned(),
            "1 MiB",
        ),
        (
            "let x = []; x.pad(9_223_372_036_854_775_807, 1);".to_owned(),
            "2,000,000",
        ),
        (
            "let i = []; i.pad(65_535, 1); let x = []; x.pad(281_474_976_710_656, i);".to_owned(),
            "2,000,000",
        ),
        (
            "let x = []; x.pad(199_999, [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]);".to_owned(),
            "2,000,000",
        ),
        (
            "let f = |a, b, c| 1; f = f.curry([1, 2]); let x = []; x.pad(1_990_000, f);".to_owned(),
            "2,000,000",
        ),
        ("blob(9_223_372_036_854_775_807);".to_owned(), "2,000,000"),
        (
            "let b = blob(1); b.pad(9_223_372_036_854_775_807, 1);".to_owned(),
            "2,000,000",
        ),
        (
            format!("{a} let x = []; x.pad(99_000, a); print(x);"),
            "1 MiB",
        ),
        (
            format!("{a} let x = []; x.pad(99_000, a); x.to_json();"),
            "1 MiB",
        ),
        (
            format!("{a} let x = []; x.pad(99_000, a); emit(`${{x}}`);"),
            "1 MiB",
        ),
        (
            format!("{a} let x = []; x.pad(99_000, a); throw #{{x: x}};"),
            "threw a map",
        ),
        (format!("{a} a.repeat(9_223_372_036_854_775_807);"), "1 MiB"),
        (
            format!("{a} let x = []; x.pad(99_000, 1); join(x, a);"),
            "1 MiB",
        ),
    ] {
        let (_, peak) = expect_limit_with_peak(demo_command(1, &script), message);
        assert!(peak < MAX_MEMORY / 4, "{peak} bytes: {script}");
    }
}

#[test]
fn memory_limit_is_configurable_and_ignores_large_pages() {
    let allocating =
        "let m = #{}; for n in 0..200 { m[`${n}`] = blob(99_000, 1); } print(\"done\"); exit(0);";
    let with = |limit: &str| {
        demo_command(1, allocating)
            .file("c.yaml", format!("script: {{max_memory: {limit}}}\n"))
            .args(["--config", "c.yaml"])
    };
    expect_limit(with("4MiB"), "`script.max_memory`").expect_code(3);
    assert_eq!(with("64MiB").run().expect_code(0).stdout, "done\n");
    // Pages of 8 MB do not count as memory of the script.
    let page = || Response::tokens((0..8000).map(|n| format!("{n:0>1000}")));
    let source = Source::responding([page(), page(), page(), page()]);
    let script = "let n = 0; for page in fetch(SIZE, #{page_size: 8000}).pages() { n += 1; report(reject(page, \"no\")); }";
    let run = database_command(32_000, script, &source, &Database::standard())
        .file("c.yaml", "script: {max_memory: 4MiB}\n")
        .args(["--config", "c.yaml"])
        .run();
    assert_eq!(Ledger::of(&run.expect_code(0)).count("rejected"), 32_000);
}

#[test]
fn store_applies_backpressure_when_outcomes_are_dropped() {
    let script = "for n in 0..20_000 { store(`token ${n}`); }";
    let (run, peak) = demo_command(1, script).spawn().wait_with_peak_memory();
    let ledger = Ledger::of(&run.expect_code(0)).without_duplicates();
    assert_eq!(ledger.count("received"), 20_000);
    assert!(peak < MAX_MEMORY / 4, "{peak} bytes");
}

#[test]
fn this_that_is_nested_without_a_variable_ends_with_the_nesting_limit() {
    for body in [
        "for i in 0..1200 { this = [[[[[[this]]]]]]; }",
        "loop { this = [[[[[[this]]]]]]; }",
        "loop { this = #{a: #{a: this}}; }",
        "if type_of(this) != \"array\" { this = []; } loop { this.push(this); this = [this[0]]; }",
    ] {
        let script = format!("fn f() {{ {body} }} let x = 1; for i in 0..130 {{ x.f(); }}");
        expect_limit(demo_command(1, &script), "more than 1,000 levels deep").expect_code(3);
    }
    let doubled = "fn f() { loop { this += this; } } let x = \"abc\"; x.f();";
    expect_limit(demo_command(1, doubled), "`script.max_memory`").expect_code(3);
    // A long loop without a variable is no mistake, with or without `this`.
    let script =
        "fn f() { for i in 0..90_000 { this.push(1); } } let x = []; x.f(); print(x.len); exit(0);";
    assert_eq!(
        demo_command(1, script).run().expect_code(0).stdout,
        "90000\n"
    );
    let script = "for i in 0..1_000_000 { } exit(0);";
    demo_command(1, script).run().expect_code(0);
}

#[test]
fn pushing_takes_linear_time_and_arrays_may_hold_more_text_than_a_string() {
    // Quadratic pushing would take minutes.
    let script =
        "let a = []; for i in 0..1_000_000 { a.push(i); } let b = []; let t = \"t\".repeat(100);
        for i in 0..100_000 { b.push(t); } print(a.len() + b.len()); exit(0);";
    let run = demo_command(1, script).run().expect_code(0);
    assert_eq!(run.stdout, "1100000\n");
}

#[test]
fn compiling_is_bounded_in_time_and_memory() {
    let params: Vec<String> = (0..20_000).map(|n| format!("p{n}")).collect();
    let calls = "aa();".repeat(26_000);
    for script in [
        "{}".repeat(65_500),
        format!("fn f({}) {{ }}", params.join(",")),
        calls.clone(),
    ] {
        for text in [
            script.clone(),
            "import \"big\" as big; report(store(fetch(SIZE)));".to_owned(),
        ] {
            let command = demo_command(1, &text).file("big.rhai", &script);
            let (run, peak) = command.spawn().wait_with_peak_memory();
            assert_eq!(run.signal, None, "{}", run.stderr);
            assert!(peak < MAX_MEMORY, "{peak} bytes: {}", run.stderr);
        }
    }
    let command = Command::new()
        .file("mine.rhai", &calls)
        .args(["check", "mine.rhai"]);
    let (run, peak) = command.spawn().wait_with_peak_memory();
    let stderr = run.expect_code(3).stderr;
    assert!(peak < MAX_MEMORY, "{peak} bytes");
    assert!(stderr.len() < 1024 * 1024, "{} bytes", stderr.len());
}

#[test]
fn page_of_millions_of_tokens_stays_below_256_mib() {
    let source = Source::responding([Response::tokens((0..3_000_000).map(|_| "a"))]);
    let script = "let page = fetch_once(3_000_000); for token in page { break; }";
    // Only the report `text`: a debug build takes most of its time for others.
    let command = Command::new()
        .source(&source)
        .database(&Database::standard())
        .file("mine.rhai", script)
        .file("c.yaml", "source: {max_body: 64MiB}")
        .args(["3000000", "--script", "mine.rhai", "--config", "c.yaml"]);
    let (run, peak) = command.spawn().wait_with_peak_memory();
    assert_eq!(run.code, Some(5), "{}", run.stderr);
    assert!(peak < MAX_MEMORY, "{peak} bytes");
}
