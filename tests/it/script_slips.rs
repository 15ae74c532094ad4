//! Tests of the messages for slips: words and symbols of other languages, and values of the wrong type.
//! Each has its place, its cause, and a hint that says what to write.

use serde_json::Value;

use crate::support::command::Command;
use crate::support::ledger::{demo_command, error_text};

/// Checks each script, and returns a line per error: place, message and hint.
fn checked(scripts: &[&str]) -> String {
    let mut command = Command::new().arg("check");
    for (number, script) in scripts.iter().enumerate() {
        let name = format!("{number:02}.rhai");
        command = command.file(&name, script).arg(name);
    }
    let run = command.args(["--error-format", "json"]).run();
    let run = run.expect_code(3);
    let mut shown = Vec::new();
    for line in run.stderr.lines() {
        let error: Value = serde_json::from_str(line).unwrap();
        let text = |key: &str| error[key].as_str().unwrap_or("-");
        let number: usize = text("file")[..2].parse().unwrap();
        shown.push(format!(
            "{}\n  {}:{} {} ({})\n",
            scripts[number].replace('\n', " ⏎ "),
            error["line"],
            error["column"],
            text("message"),
            if text("hint") == "-" {
                text("label")
            } else {
                text("hint")
            },
        ));
    }
    shown.concat()
}

#[test]
fn words_of_other_languages_get_a_hint() {
    insta::assert_snapshot!(checked(&[
        "if SIZE == 1 { print(1); } elif SIZE == 2 { print(2); }",
        "if SIZE == 1 { print(1); } elseif SIZE == 2 { print(2); }",
        "var x = 1;",
        "let mut x = 1;",
        "let x = null;",
        "let x = None;",
        "let x = nil;",
        "let x = True;",
        "if SIZE > 1 and SIZE < 5 { print(1); }",
        "if SIZE > 1 or SIZE < 5 { print(1); }",
        "if not SIZE > 1 { print(1); }",
        "if SIZE is 5 { print(1); }",
        "print(self.x);",
        "def f(x):\n    return x",
        "function f(x) { x }",
        "async fn f() { 1 }",
        "let f = lambda x: x + 1;",
        "class A {}",
        "console.log(1);",
        "try { print(1); } except (e) { print(e); }",
        "try { print(1); } catch (e) { print(e); } finally { print(2); }",
        "unless SIZE > 1 { print(1); }",
        "repeat { print(1); } until true;",
        "if SIZE > 1 { pass }",
        "from \"lib/stats\" import mean;",
        "let m = new Map();",
        "match SIZE { 1 => print(1) }",
        "switch SIZE { case 1: print(1); }",
        "print(typeof SIZE);",
        "let go = 1;",
    ]));
}

#[test]
fn symbols_of_other_languages_get_a_hint() {
    insta::assert_snapshot!(checked(&[
        "let a = [1].map(x => x + 1);",
        "let f = (a, b) => a + b;",
        "let i = 0;\ni++;",
        "let i = 0;\n--i;",
        "if SIZE === 1 { print(1); }",
        "if SIZE !== 1 { print(1); }",
        "if SIZE = 1 { print(1); }",
        "let x = SIZE > 1 ? 1 : 2;",
        "for i in 0...3 { print(i); }",
        "print(f\"{SIZE} tokens\");",
        "print('text');",
        "print(“text”);",
        "print(\"text);",
        "x := 5;",
        "x = 5;",
        "let m = {a: 1};",
        "let m = {\"a\": 1};",
        "let x: int = 5;",
        "fn f(x: int) { x }",
        "fn f(x) -> int { x }",
        "for (let i = 0; i < 5; i++) { print(i); }",
        "for i = 0; i < 5 { print(i); }",
        "if SIZE > 1:\n    print(1)",
        "if (SIZE > 1) print(1);",
        "let a = [1, 2, 3];\nprint(a[0:2]);",
        "let (a, b) = (1, 2);",
        "# a comment\nprint(1);",
        "-- a comment\nprint(1);",
        "print($SIZE);",
        "let a = 1 + \\\n 2;",
        "let x\u{a0}= 1;",
        "let x = 1\nlet y = 2;",
        "try { print(1); } catch e { print(e); }",
        "export fn f() { 1 }",
        "import lib/stats as stats;",
        "const A = 1;\nA = 2;",
    ]));
}

#[test]
fn functions_of_other_languages_get_a_hint() {
    insta::assert_snapshot!(checked(&[
        "print(\"a\".toUpperCase());",
        "print([1].length());",
        "println(\"a\");",
        "print(parseInt(\"1\"));",
        "print([1].includes(1));",
        "let s = require(\"lib/stats\");",
    ]));
}

#[test]
fn byte_order_mark_and_first_line_with_interpreter_are_skipped() {
    let run = Command::new()
        .file("mark.rhai", "\u{feff}let x = ;\n")
        .file("tool.rhai", "#!/usr/bin/env token_service\nlet x = ;\n")
        .file("both.rhai", "\u{feff}#!/usr/bin/env x\nimport \"lib\" as lib;\nreport(store(fetch(lib::size())));\n")
        .file("lib.rhai", "\u{feff}#!no\nfn size() { 1 }\n")
        .args(["check", "both.rhai", "mark.rhai", "tool.rhai"])
        .run()
        .expect_code(3);
    assert_eq!(run.stdout, "ok    both.rhai\n");
    assert!(run.stderr.contains("mark.rhai:1:9\n"), "{}", run.stderr);
    assert!(run.stderr.contains("tool.rhai:2:9\n"), "{}", run.stderr);
    let run = Command::new()
        .file("mine.rhai", "\u{feff}#!x\nthrow \"here\";\n")
        .args(["demo", "1", "--script", "mine.rhai"])
        .run()
        .expect_code(3);
    assert!(run.stderr.contains("mine.rhai:2:1\n"), "{}", run.stderr);
}

/// Returns the error of a demo run with this script.
fn failed(script: &str) -> String {
    error_text(&demo_command(3, script).run().expect_code(3))
}

#[test]
fn values_of_the_wrong_type_get_a_place_and_a_hint() {
    let scripts = [
        "let mixed = config::VARS.mixed ?? [0, 1.5];\nmixed.sort();",
        "let a = [1, 2];\nprint(a.map(|v| a.len() + v));",
        "let a = [2, 1];\nfor x in a.sort() { print(x); }",
        "fn five() { 5 }\nfor x in five() { print(x); }",
        "let text = \"abc\";\ntext[0] = \"x\";",
        "if SIZE { print(1); }",
        "let f = |a, b| a;\nreport(store([\"a\"]), f);",
        "retry(1, |n| n);",
        "import \"./lib/x\" as x;",
        "throw [fetch(1)];",
    ];
    let errors: Vec<String> = scripts.iter().map(|script| failed(script)).collect();
    insta::assert_snapshot!(errors.join("\n"));
}

#[test]
fn caught_error_of_the_language_has_a_kind() {
    let script = "
        fn show(e) { emit(`${e.kind} ${e.retryable} ${e.error}`); }
        try { let a = [1]; print(a[SIZE]); } catch (e) { show(e); }
        try { print(SIZE / 0); } catch (problem) { emit(problem.kind); let again = || problem.retryable; emit(`${again.call()}`); }
        try { try { print(SIZE / 0); } catch (e) { throw e; } } catch (e) { show(e); }
        try { fetch(0); } catch (e) { emit(e.kind); }
        try { throw #{error: 1, message: 2, kind: \"mine\"}; } catch (e) { emit(e.kind); }
        import \"lib/div\" as div;
        emit(div::kind());
        exit(0);";
    let lib = "fn kind() { try { 1 / 0 } catch (fault) { return fault.kind; } }";
    let run = demo_command(3, script).file("lib/div.rhai", lib).run();
    let run = run.expect_code(0);
    insta::assert_snapshot!(run.stdout, @"
    language false ErrorArrayBounds
    language
    false
    language false ErrorArithmetic
    invalid_argument
    mine
    language
    ");
}

#[test]
fn log_fields_name_values_without_paths() {
    let script =
        "log_info(\"a\", #{tokens: fetch(1), closure: |x| x, outcomes: [store([\"a\"])]});";
    let run = demo_command(3, script).run();
    assert!(
        run.stderr
            .contains("closure=\"a closure\" outcomes=[\"Outcomes\"] tokens=\"Tokens\""),
        "{}",
        run.stderr
    );
}
