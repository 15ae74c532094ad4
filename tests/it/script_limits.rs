//! The limits of scripts: each names itself and says what to do, none can be caught, and whatever a
//! script piles up, the process stays in one piece and below 256 MiB.

use crate::support::command::{Command, Run};
use crate::support::database::Database;
use crate::support::ledger::{Ledger, database_command, demo_command, error_text};
use crate::support::snapshot::shows;
use crate::support::source::{Response, Source};

use super::script_errors::{said, said_with};

/// The most that the process may ever have held.
const MOST: u64 = 256 * 1024 * 1024;

/// Runs a script that must end with a limit, uncaught, in one piece; gives its peak too.
#[track_caller]
fn limited_peak(command: Command, said: &str) -> (Run, u64) {
    let (run, peak) = command.spawn().wait_with_peak_memory();
    assert_eq!(run.signal, None, "{}", run.stderr);
    assert!(!run.stdout.contains("caught"), "{}", run.stdout);
    assert!(error_text(&run).contains(said), "{}", run.stderr);
    assert!(peak < MOST, "{peak} bytes: {}", run.stderr);
    Ledger::of(&run);
    (run, peak)
}

#[track_caller]
fn limited(command: Command, said: &str) -> Run {
    limited_peak(command, said).0
}

#[test]
fn each_limit_that_a_running_script_passes_names_itself() {
    shows!(said("fn f(n) { f(n + 1) }\nf(1);", 3), @"
    error: the script ran past a limit: functions call each other more than 64 levels deep
      ╭▸ mine.rhai:2:1
      │
    2 │ f(1);
      ╰╴━
    hint: look for a recursion that does not end; a loop has no such limit
    ");
    shows!(said("let s = \"0123456789abcdef\";\nloop { s += s; }", 3), @"
    error: the script ran past a limit: a string, or all strings in one value, took more than 1 MiB
      ╭▸ mine.rhai:2:10
      │
    2 │ loop { s += s; }
      ╰╴         ━
    hint: hold fewer tokens at a time: `for page in fetch(SIZE).pages() { … }` holds one page
    ");
    shows!(said("let tokens = [\"a token of 22 letters\"];\nloop { tokens += tokens; }", 3), @"
    error: the script ran past a limit: a string, or all strings in one value, took more than 1 MiB
      ╭▸ mine.rhai:2:15
      │
    2 │ loop { tokens += tokens; }
      ╰╴              ━
    hint: hold fewer tokens at a time: `for page in fetch(SIZE).pages() { … }` holds one page
    ");
    shows!(said("let a = [1];\nloop { a += a; }", 3), @"
    error: the script ran past a limit: an array or blob, or all of them in one value, held more than 100,000 values
      ╭▸ mine.rhai:2:10
      │
    2 │ loop { a += a; }
      ╰╴         ━
    hint: work page by page, `for page in fetch(SIZE).pages() { … }`, and keep sums instead of values
    ");
    shows!(said("let b = blob(100_000);\nb.push(1);", 3), @"
    error: the script ran past a limit: an array or blob, or all of them in one value, held more than 100,000 values
      ╭▸ mine.rhai:2:3
      │
    2 │ b.push(1);
      ╰╴  ━━━━
    hint: work page by page, `for page in fetch(SIZE).pages() { … }`, and keep sums instead of values
    ");
    shows!(said("let m = #{};\nfor n in 0..100_001 { m[`${n}`] = n; }\nm.len();", 3), @"
    error: the script ran past a limit: a map, or all maps in one value, held more than 100,000 entries
      ╭▸ mine.rhai:3:3
      │
    3 │ m.len();
      ╰╴  ━━━
    hint: work page by page, `for page in fetch(SIZE).pages() { … }`, and keep sums instead of values
    ");
    shows!(said("let a = 1;\nloop { a = [a]; }", 3), @"
    error: the script ran past a limit: values lie in each other more than 1,000 deep
      ╭▸ mine.rhai:2:8
      │
    2 │ loop { a = [a]; }
      ╰╴       ━
    hint: look for an array, map or closure that is put into a new one again and again
    ");
    // Where it is noticed, a few milliseconds later, is by chance.
    let greedy = said(
        "let m = #{}; let n = 0; loop { m[`${n}`] = blob(99_000, 1); n += 1; }",
        3,
    );
    let ends = [greedy.lines().next(), greedy.lines().last()];
    shows!(ends.map(Option::unwrap_or_default).join("\n"), @"
    error: the script ran past a limit: the process grew by more than `script.max_memory` allows
    hint: let go of what is done: store and report page by page; a token that was neither stored nor rejected is held until the end
    ");
    let many = (0..=1000).map(|n| format!("let v{n} = {n};\n"));
    shows!(said(&many.collect::<String>(), 3), @"
    error: the script ran past a limit: more than 1,000 variables at a time
         ╭▸ mine.rhai:1000:1
         │
    1000 │ let v999 = 999;
         ╰╴━━━
    hint: keep values that belong together in an array or a map
    ");
    let many = (0..=32).map(|n| format!("import \"other\" as other{n};\n"));
    let command = demo_command(3, &many.collect::<String>()).file("other.rhai", "");
    shows!(said_with(command, 3), @r#"
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
    shows!(said_with(command, 3), @"
    error: the script ran past a limit: more operations than `script.max_operations` allows
      ╭▸ mine.rhai:2:13
      │
    2 │ loop { n += 1; }
      ╰╴            ━
    hint: raise it, or look for a loop that does not end
    ");
}

#[test]
fn each_limit_that_a_text_passes_names_itself() {
    let first_lines = |script: &str| {
        let said = said(script, 3);
        let hint = said.lines().filter(|line| line.starts_with("hint:"));
        let lines: Vec<&str> = said.lines().take(2).chain(hint).collect();
        lines.join("\n")
    };
    let nested = format!("let x = {}1{};", "[".repeat(99), "]".repeat(99));
    shows!(first_lines(&nested), @"
    error: the script ran past a limit: an expression is nested more than 64 levels deep, or 32 in a function
      ╭▸ mine.rhai:1:29
    hint: take it apart with `let`
    ");
    let many = (0..=256).map(|n| format!("fn f{n}() {{ {n} }}\n"));
    shows!(first_lines(&many.collect::<String>()), @"
    error: the script ran past a limit: a file defines more than 256 functions, closures included
        ╭▸ mine.rhai:257:1
    hint: move some of them into a file of their own, and `import` it
    ");
    let start = "fn f() { } let x = 1;\n";
    let most = 128 * 1024 - start.len();
    let largest = |line: &str| format!("{start}{}", line.repeat(most / line.len()));
    for line in ["f();", "x = x;", "[[]];", "x;", "`${x}`;"] {
        let (run, peak) = demo_command(1, &largest(line))
            .spawn()
            .wait_with_peak_memory();
        run.expect_code(0);
        assert!(peak < MOST / 2, "{peak} bytes: {line}");
    }
    shows!(first_lines(&"// a comment\n".repeat(25_000)), @"
    error: the script mine.rhai cannot be read
      caused by: it is larger than 128 KiB, the limit of a script
    hint: `--script FILE` names the script; without it the built-in one runs
    ");
}

#[test]
fn limits_cannot_be_caught() {
    for (body, said) in [
        ("f(1)", "more than 64 levels deep"),
        (
            "let s = \"0123456789abcdef\"; loop { s += s; }",
            "took more than 1 MiB",
        ),
        (
            "let a = [1, 2]; loop { a += a; }",
            "more than 100,000 values",
        ),
        ("let a = 1; loop { a = [a]; }", "more than 1,000 deep"),
        (
            "let m = #{}; let n = 0; loop { m[`${n}`] = blob(99_000, 1); n += 1; }",
            "`script.max_memory`",
        ),
    ] {
        let script =
            format!("fn f(n) {{ f(n + 1) }} try {{ {body}; }} catch {{ print(\"caught\"); }}");
        limited(demo_command(1, &script), said).expect_code(3);
    }
    let command = demo_command(1, "try { loop { } } catch { print(\"caught\"); }")
        .file("c.yaml", "script: {max_operations: 1000}\n")
        .args(["--config", "c.yaml"]);
    limited(command, "more operations").expect_code(3);
}

#[test]
fn deep_recursion_of_every_kind_leaves_the_process_in_one_piece() {
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
        limited(demo_command(1, &script), "more than 64 levels deep").expect_code(3);
    }
    let command = demo_command(1, "import \"other\" as other; other::deep(|f| f.call(f));").file(
        "other.rhai",
        "fn deep(f) { other(f) } fn other(f) { f.call(f); deep(f) }",
    );
    limited(command, "more than 64 levels deep").expect_code(3);
}

#[test]
fn values_that_lie_in_each_other_are_dropped_in_one_piece() {
    for script in [
        "let a = 1; for i in 0..900 { a = [a]; } let m = #{}; for i in 0..900 { m = #{m: m}; }",
        "let f = || 1; for i in 0..900 { let g = f; f = || g.call(); } f = 0;",
        // Closures that hold themselves are never dropped.
        "for i in 0..9999 { let f = (); f = |n| if n > 1 { f } else { n }; f.call(1); }",
    ] {
        let (run, peak) = demo_command(1, script).spawn().wait_with_peak_memory();
        run.expect_code(0);
        assert!(peak < MOST, "{peak} bytes");
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
        limited(demo_command(1, script), "more than 1,000 deep").expect_code(3);
    }
}

/// Scripts that pile up memory, each in its own way.
const GREEDY: [&str; 9] = [
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
fn a_greedy_script_is_ended_below_256_mib() {
    for script in GREEDY {
        let (_, peak) = limited_peak(demo_command(1, script), "`script.max_memory`");
        println!("{} MiB: {script}", peak >> 20);
    }
    // What a native piles up counts too.
    let piled_up = Command::new()
        .file("mine.rhai", "store(fetch(10_000_000)).failures();")
        .args(["demo", "1", "--script", "mine.rhai"])
        .args(["--report", "ndjson=run.ndjson"]);
    limited(piled_up, "`script.max_memory`");
}

#[test]
fn what_takes_too_much_in_one_stroke_is_refused_before() {
    let a = "let a = \"a\"; a.pad(1_000_000, \"a\");";
    for (script, said) in [
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
            "100,000",
        ),
        (
            "let i = []; i.pad(65_535, 1); let x = []; x.pad(281_474_976_710_656, i);".to_owned(),
            "100,000",
        ),
        (
            "let x = []; x.pad(9_999, [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]);".to_owned(),
            "100,000",
        ),
        (
            "let f = |a, b, c| 1; f = f.curry([1, 2]); let x = []; x.pad(99_000, f);".to_owned(),
            "100,000",
        ),
        ("blob(9_223_372_036_854_775_807);".to_owned(), "100,000"),
        (
            "let b = blob(1); b.pad(9_223_372_036_854_775_807, 1);".to_owned(),
            "100,000",
        ),
        (format!("{a} let x = []; x.pad(99_000, a);"), "1 MiB"),
    ] {
        let (_, peak) = limited_peak(demo_command(1, &script), said);
        assert!(peak < MOST / 4, "{peak} bytes: {script}");
    }
}

#[test]
fn the_memory_limit_is_the_user_s_and_leaves_room_for_large_pages() {
    let greedy = "let m = #{}; for n in 0..200 { m[`${n}`] = blob(99_000, 1); } print(\"done\");";
    let with = |limit: &str| {
        demo_command(1, greedy)
            .file("c.yaml", format!("script: {{max_memory: {limit}}}\n"))
            .args(["--config", "c.yaml"])
    };
    limited(with("4MiB"), "`script.max_memory`").expect_code(3);
    assert_eq!(with("64MiB").run().expect_code(0).stdout, "done\n");
    // Pages of 8 MB are the source's doing, not the script's.
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
fn a_script_that_lets_go_of_all_it_stores_does_not_outrun_the_store() {
    let script = "for n in 0..20_000 { store(`token ${n}`); }";
    let (run, peak) = demo_command(1, script).spawn().wait_with_peak_memory();
    let ledger = Ledger::of(&run.expect_code(0)).without_duplicates();
    assert_eq!(ledger.count("received"), 20_000);
    assert!(peak < MOST / 4, "{peak} bytes");
}
