//! Tests of the errors of scripts: one error with its position, the call stack and a hint.

use crate::support::command::Command;
use crate::support::ledger::{demo_command, error_text};

/// Returns the error of a demo run with this script, which must end with `code`.
#[track_caller]
pub fn error_of(script: &str, code: i32) -> String {
    error_text(&demo_command(3, script).run().expect_code(code))
}

/// Returns the error of a command, which must end with `code`.
#[track_caller]
pub fn error_of_command(command: Command, code: i32) -> String {
    error_text(&command.run().expect_code(code))
}

#[test]
fn syntax_error_shows_its_position() {
    insta::assert_snapshot!(error_of("let a = 1;\n  let x = ;", 3), @"
    error: unexpected ';'
      ╭▸ mine.rhai:2:11
      │
    2 │   let x = ;
      ╰╴          ━
    hint: no token was requested; `token_service check mine.rhai` may find more mistakes
    ");
    insta::assert_snapshot!(error_of("if SIZE > 3 {\n    print(1);\n", 3), @"
    error: expecting '}' to terminate this block
      ╭▸ mine.rhai:2:14
      │
    2 │     print(1);
      ╰╴             ━
    hint: no token was requested; `token_service check mine.rhai` may find more mistakes
    ");
    insta::assert_snapshot!(error_of("report(store(fetch(SIZE))\n\n// The end.\n", 3), @"
    error: expecting ')' to close the arguments list of this function call 'report'
      ╭▸ mine.rhai:1:26
      │
    1 │ report(store(fetch(SIZE))
      ╰╴                         ━
    hint: no token was requested; `token_service check mine.rhai` may find more mistakes
    ");
    insta::assert_snapshot!(error_of("eval(\"1\");", 3), @r#"
    error: reserved keyword 'eval' is disabled
      ╭▸ mine.rhai:1:1
      │
    1 │ eval("1");
      ╰╴━━━━
    hint: no token was requested; `token_service check mine.rhai` may find more mistakes
    "#);
}

#[test]
fn unknown_name_suggests_the_nearest_one() {
    insta::assert_snapshot!(error_of("for page in fetch(SIZE).pages() {\n    report(stroe(page));\n}", 3), @"
    error: unknown function `stroe`
      ╭▸ mine.rhai:2:12
      │
    2 │     report(stroe(page));
      ╰╴           ━━━━━ did you mean `store`?
    hint: no token was requested; `token_service check mine.rhai` may find more mistakes
    ");
    insta::assert_snapshot!(error_of("let total = 1;\nprint(totl);", 3), @"
    error: unknown variable `totl`
      ╭▸ mine.rhai:2:7
      │
    2 │ print(totl);
      ╰╴      ━━━━ did you mean `total`?
    hint: no token was requested; `token_service check mine.rhai` may find more mistakes
    ");
    insta::assert_snapshot!(error_of("fn twice() { total * 2 }\nlet total = 1;\nprint(twice());", 3), @"
    error: unknown variable `total`
      ╭▸ mine.rhai:1:14
      │
    1 │ fn twice() { total * 2 }
      ╰╴             ━━━━━
    hint: a function sees only its own variables: pass `total` as an argument
    ");
    insta::assert_snapshot!(error_of("for o in store([\"a\"]) { print(o.statu); }", 3), @r#"
    error: Outcome has no property `statu`
      ╭▸ mine.rhai:1:33
      │
    1 │ for o in store(["a"]) { print(o.statu); }
      ╰╴                                ━━━━━ did you mean `status`?
    "#);
    insta::assert_snapshot!(error_of("let t = \"a\";\nprint(t.lenght);", 3), @"
    error: string has no property `lenght`
      ╭▸ mine.rhai:2:9
      │
    2 │ print(t.lenght);
      ╰╴        ━━━━━━ it has bytes, chars, is_empty, kind, len, message
    ");
}

#[test]
fn wrong_argument_shows_the_accepted_ones() {
    insta::assert_snapshot!(error_of("report(store(fetch(SIZE), 1, 2));", 3), @"
    error: `store` takes 1 argument, not 3
      ╭▸ mine.rhai:1:8
      │
    1 │ report(store(fetch(SIZE), 1, 2));
      ╰╴       ━━━━━ it is called as `store(array)`, `store(string)`, `store(Tokens)`
    hint: no token was requested; `token_service check mine.rhai` may find more mistakes
    ");
    insta::assert_snapshot!(error_of("fn keep(token) { token }\nkeep(1, 2);", 3), @"
    error: `keep` takes 1 argument, not 2
      ╭▸ mine.rhai:2:1
      │
    2 │ keep(1, 2);
      ╰╴━━━━
    hint: no token was requested; `token_service check mine.rhai` may find more mistakes
    ");
    insta::assert_snapshot!(error_of("report(store(5));", 3), @"
    error: `store` cannot be called with (int)
      ╭▸ mine.rhai:1:8
      │
    1 │ report(store(5));
      ╰╴       ━━━━━ it is called as `store(array)`, `store(string)`, `store(Tokens)`
    ");
    insta::assert_snapshot!(error_of("fetch(\"5\");", 3), @r#"
    error: `fetch` cannot be called with (string)
      ╭▸ mine.rhai:1:1
      │
    1 │ fetch("5");
      ╰╴━━━━━ it is called as `fetch(int)`, `fetch(int, map)`
    "#);
    insta::assert_snapshot!(error_of("let n = \"5\" * 2;", 3), @r#"
    error: `*` cannot be applied to string and int
      ╭▸ mine.rhai:1:13
      │
    1 │ let n = "5" * 2;
      ╰╴            ━
    "#);
    insta::assert_snapshot!(error_of("fetch(0);", 3), @"
    error: invalid_argument: `size` must be a whole number ≥ 1
      ╭▸ mine.rhai:1:1
      │
    1 │ fetch(0);
      ╰╴━━━━━
    ");
    insta::assert_snapshot!(error_of("fetch(SIZE, #{pagesize: 4});", 3), @"
    error: invalid_argument: unknown option `pagesize`: did you mean `page_size`?
      ╭▸ mine.rhai:1:1
      │
    1 │ fetch(SIZE, #{pagesize: 4});
      ╰╴━━━━━
      = expected page_size, retries, top_up
    ");
    insta::assert_snapshot!(error_of("store([\"a\", 1]);", 3), @r#"
    error: invalid_argument: `tokens` must be strings that are not empty
      ╭▸ mine.rhai:1:1
      │
    1 │ store(["a", 1]);
      ╰╴━━━━━
    "#);
    insta::assert_snapshot!(error_of("sleep(\"2\");", 3), @r#"
    error: invalid_argument: `time` must be a duration with a unit, such as "2s"
      ╭▸ mine.rhai:1:1
      │
    1 │ sleep("2");
      ╰╴━━━━━
    "#);
}

#[test]
fn thrown_value_is_shown() {
    insta::assert_snapshot!(error_of("throw \"no way\";", 3), @r#"
    error: the script threw: no way
      ╭▸ mine.rhai:1:1
      │
    1 │ throw "no way";
      ╰╴━━━━━
    "#);
    insta::assert_snapshot!(error_of("throw #{kind: \"too_few\", message: \"too few came\", hint: \"come back\"};", 3), @r#"
    error: too_few: too few came
      ╭▸ mine.rhai:1:1
      │
    1 │ throw #{kind: "too_few", message: "too few came", hint: "come back"};
      ╰╴━━━━━
    hint: come back
    "#);
    insta::assert_snapshot!(error_of("throw #{code: 1, why: 2};", 3), @"
    error: the script threw a map with code, why
      ╭▸ mine.rhai:1:1
      │
    1 │ throw #{code: 1, why: 2};
      ╰╴━━━━━
    ");
    insta::assert_snapshot!(error_of("try {\n    fetch(-1);\n} catch (error) {\n    log_debug(error.kind);\n    throw error;\n}", 3), @"
    error: invalid_argument: `size` must be a whole number ≥ 1
      ╭▸ mine.rhai:5:5
      │
    5 │     throw error;
      ╰╴    ━━━━━
    ");
}

#[test]
fn error_shows_the_call_stack() {
    insta::assert_snapshot!(error_of("fn inner(x) {\n    throw `bad ${x}`;\n}\nfn outer(x) { inner(x + 1); }\n\nouter(1);", 3), @"
    error: the script threw: bad 2
      ╭▸ mine.rhai:2:5
      │
    2 │     throw `bad ${x}`;
      ╰╴    ━━━━━
      called from mine.rhai:4:15 in `inner`
      called from mine.rhai:6:1 in `outer`
    ");
    insta::assert_snapshot!(error_of("report(store([\"a\"]), |o| {\n    o.token + 1 - 2\n});", 3), @"
    error: `-` cannot be applied to string and int
      ╭▸ mine.rhai:2:17
      │
    2 │     o.token + 1 - 2
      ╰╴                ━
      called from mine.rhai:1:1 in a closure
    ");
    let lib = "// Helpers.\nfn check(n) {\n    if n > 2 { throw \"too many\"; }\n}\n";
    let command = demo_command(
        3,
        "import \"lib/helpers\" as helpers;\nfn start() {\n    helpers::check(SIZE);\n}\nstart();",
    )
    .file("lib/helpers.rhai", lib);
    insta::assert_snapshot!(error_of_command(command, 3), @r#"
    error: the script threw: too many
      ╭▸ lib/helpers.rhai:3:16
      │
    3 │     if n > 2 { throw "too many"; }
      ╰╴               ━━━━━
      called from mine.rhai:3:14 in `check`
      called from mine.rhai:5:1 in `start`
    "#);
    let lib = "fn invoke(action) {\n    action.call()\n}\n";
    let command = demo_command(3, "import \"lib/helpers\" as helpers;\nhelpers::invoke(|| throw \"in the script's closure\");")
        .file("lib/helpers.rhai", lib);
    insta::assert_snapshot!(error_of_command(command, 3), @r#"
    error: the script threw: in the script's closure
      ╭▸ mine.rhai:2:20
      │
    2 │ helpers::invoke(|| throw "in the script's closure");
      ╰╴                   ━━━━━
      called from lib/helpers.rhai:2:12 in a closure
      called from mine.rhai:2:10 in `invoke`
    "#);
}

#[test]
fn error_explains_a_call_of_a_closure_from_another_file() {
    let command = demo_command(3, "import \"made\" as made;\nmade::action().call();")
        .file("made.rhai", "fn action() { || 7 }");
    insta::assert_snapshot!(error_of_command(command, 3), @"
    error: a closure of another file cannot be called here
      ╭▸ mine.rhai:2:16
      │
    2 │ made::action().call();
      ╰╴               ━━━━
    hint: write a function in that file, and call it as `module::name(…)`
    ");
}
