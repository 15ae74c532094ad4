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
    ]), @r#"
    if SIZE == 1 { print(1); } elif SIZE == 2 { print(2); }
      1:28 `elif` is not a word of Rhai (write `else if … { … }`)
    if SIZE == 1 { print(1); } elseif SIZE == 2 { print(2); }
      1:28 `elseif` is not a word of Rhai (write `else if … { … }`)
    var x = 1;
      1:1 `var` is not a word of Rhai (write `let name = …;`, whose value can change)
    let mut x = 1;
      1:9 `mut` is not a word of Rhai (write `let name = …;`, whose value can change)
    let x = null;
      1:9 `null` is not a word of Rhai (write `()`, the value that means nothing)
    let x = None;
      1:9 `None` is not a word of Rhai (write `()`, the value that means nothing)
    let x = nil;
      1:9 `nil` is not a word of Rhai (write `()`, the value that means nothing)
    let x = True;
      1:9 `True` is not a word of Rhai (write `true`)
    if SIZE > 1 and SIZE < 5 { print(1); }
      1:13 `and` is not a word of Rhai (write `&&`)
    if SIZE > 1 or SIZE < 5 { print(1); }
      1:13 `or` is not a word of Rhai (write `||`)
    if not SIZE > 1 { print(1); }
      1:4 `not` is not a word of Rhai (write `!` before the value, or `!=`)
    if SIZE is 5 { print(1); }
      1:9 `is` is not a word of Rhai (write `==`, or `type_of(value) == "string"`)
    print(self.x);
      1:7 `self` is not a word of Rhai (write `this`, in a function that is called as `value.name()`)
    def f(x): ⏎     return x
      1:1 `def` is not a word of Rhai (write `fn name(first, second) { … }`)
    function f(x) { x }
      1:1 `function` is not a word of Rhai (write `fn name(first, second) { … }`)
    async fn f() { 1 }
      1:1 `async` is not a word of Rhai (write `fn name(first, second) { … }`)
    let f = lambda x: x + 1;
      1:9 `lambda` is not a word of Rhai (write `|item| item + 1`)
    class A {}
      1:1 `class` is not a word of Rhai (write a map: `#{name: value}`)
    console.log(1);
      1:1 `console` is not a word of Rhai (write `print(text)` or `log_info(text)`)
    try { print(1); } except (e) { print(e); }
      1:19 `except` is not a word of Rhai (write `catch (error) { … }`)
    try { print(1); } catch (e) { print(e); } finally { print(2); }
      1:43 `finally` is not a word of Rhai (write the code behind the `try`: it runs in both cases)
    unless SIZE > 1 { print(1); }
      1:1 `unless` is not a word of Rhai (write `if !condition { … }`)
    repeat { print(1); } until true;
      1:1 `repeat` is not a word of Rhai (write `do { … } until condition;`)
    if SIZE > 1 { pass }
      1:15 `pass` is not a word of Rhai (write nothing: a block may be empty)
    from "lib/stats" import mean;
      1:1 `from` is not a word of Rhai (write `import "lib/name" as name;`)
    let m = new Map();
      1:9 `new` is not a word of Rhai (write a value: `#{name: value}` for a map, `[]` for an array)
    match SIZE { 1 => print(1) }
      1:1 `match` is not a word of Rhai (write `switch value { 1 => …, _ => … }`)
    switch SIZE { case 1: print(1); }
      1:15 `case` is not a word of Rhai (write the value alone: `switch value { 1 => …, _ => … }`)
    print(typeof SIZE);
      1:7 `typeof` is not a word of Rhai (write `type_of(value)`)
    let go = 1;
      1:5 `go` is a reserved word, so it is no name (choose another name, such as `go_`)
    "#);
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
    ]), @r#"
    let a = [1].map(x => x + 1);
      1:17 `=>` does not make a closure (write `|item| item + 1`)
    let f = (a, b) => a + b;
      1:10 `=>` does not make a closure (write `|item| item + 1`)
    let i = 0; ⏎ i++;
      2:2 `++` is not an operator of Rhai (write `number += 1;`)
    let i = 0; ⏎ --i;
      2:1 `--` is not an operator of Rhai (write `number -= 1;`)
    if SIZE === 1 { print(1); }
      1:9 `===` is not an operator of Rhai (write `==`, which also compares the types)
    if SIZE !== 1 { print(1); }
      1:9 `!==` is not an operator of Rhai (write `!=`, which also compares the types)
    if SIZE = 1 { print(1); }
      1:9 `=` assigns a value, and is no value itself (write `==` to compare, or a statement for each assignment)
    let x = SIZE > 1 ? 1 : 2;
      1:18 `? :` is not an operator of Rhai (write `if condition { one } else { other }`)
    for i in 0...3 { print(i); }
      1:11 `...` is not an operator of Rhai (write `0..3` for 0 to 2 or `0..=3` for 0 to 3, and `one + other` to join arrays)
    print(f"{SIZE} tokens");
      1:7 no letter such as `f` stands before a text (write the text between backticks, with values in it: `${value} tokens`)
    print('text');
      1:7 `'text'` is not one character (a text is in quotation marks: "text"; `'a'` is a single character)
    print(“text”);
      1:7 `“` is not a quotation mark of Rhai (write " at both ends of a text)
    print("text);
      1:7 the text that begins here has no end (a text in quotation marks ends in its line; write a longer one between backticks)
    x := 5;
      1:1 the variable `x` is not declared (write `let x = …;`)
    x = 5;
      1:1 the variable `x` is not declared (write `let x = …;`)
    let m = {a: 1};
      1:10 a map begins with `#{` (write `#{name: value}`)
    let m = {"a": 1};
      1:13 a map begins with `#{` (write `#{name: value}`)
    let x: int = 5;
      1:6 a variable has no type (write `let name = …;`)
    fn f(x: int) { x }
      1:7 a parameter has no type (write its name alone: `fn name(first) { … }`)
    fn f(x) -> int { x }
      1:9 a function does not name the type that it returns (write `fn name(first) { … }`)
    "#);
}

#[test]
fn statements_of_other_languages_get_a_hint() {
    insta::assert_snapshot!(checked(&[
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
        "print \"text\";",
        "report(store(fetch(size = 5)));",
        "let m = #{a = 1};",
        "switch SIZE { 1: print(1) }",
        "let x = y = 5;",
        "let x = ~1;",
        "@once\nprint(1);",
    ]), @r#"
    for (let i = 0; i < 5; i++) { print(i); }
      1:6 `for` goes through values (write `for item in values { … }`, or `for number in 0..5 { … }` to count)
    for i = 0; i < 5 { print(i); }
      1:7 `for` goes through values (write `for item in values { … }`, or `for number in 0..5 { … }` to count)
    if SIZE > 1: ⏎     print(1)
      1:12 a block is in braces (write `if condition { … }`, and so with every loop)
    if (SIZE > 1) print(1);
      1:15 a block is in braces (write `if condition { … }`, and so with every loop)
    let a = [1, 2, 3]; ⏎ print(a[0:2]);
      2:10 `[…]` takes one index (write `array.extract(start, count)`, or `text.sub_string(start, count)`)
    let (a, b) = (1, 2);
      1:5 `let` declares one variable at a time (write a `let` for each: `let first = pair[0];`)
    # a comment ⏎ print(1);
      1:1 a comment begins with `//` (write `// text`)
    -- a comment ⏎ print(1);
      1:1 a comment begins with `//` (write `// text`)
    print($SIZE);
      1:7 a variable has no `$` (write its name alone; `${name}` is for backticks)
    let a = 1 + \ ⏎  2;
      1:13 a line that goes on needs no `\` (remove it: a statement ends at its `;`)
    let x = 1;
      1:6 here is an invisible character, U+00A0 (replace it by a space)
    let x = 1 ⏎ let y = 2;
      2:1 the statement before this line has no end (end it with `;`)
    try { print(1); } catch e { print(e); }
      1:25 the variable of `catch` is in parentheses (write `catch (error) { … }`)
    export fn f() { 1 }
      1:8 `export` exports constants, not functions (every `fn` of a module can be called, unless it is `private fn`)
    import lib/stats as stats;
      1:8 the path of an import is a text (write it in quotation marks: `import "lib/name" as name;`)
    const A = 1; ⏎ A = 2;
      2:1 cannot change the constant `A` (copy it first: `let a = A;`)
    print "text";
      1:1 a call has its arguments in parentheses (write `print(…);`)
    report(store(fetch(size = 5)));
      1:20 an argument has no name (write its value alone; options are a map, such as `#{page_size: 100}`)
    let m = #{a = 1};
      1:13 an entry of a map has a name and a value (write `#{name: value}`)
    switch SIZE { 1: print(1) }
      1:16 a case of `switch` has no colon (write `value => result,`)
    let x = y = 5;
      1:9 `=` assigns a value, and is no value itself (write `==` to compare, or a statement for each assignment)
    let x = ~1;
      1:9 `~` is not a symbol of Rhai (remove it, or put it into a text in quotation marks)
    @once ⏎ print(1);
      1:1 `@` is not a symbol of Rhai (remove it, or put it into a text in quotation marks)
    "#);
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
    ]), @r#"
    print("a".toUpperCase());
      1:11 unknown function `toUpperCase` (in Rhai: `to_upper`)
    print([1].length());
      1:11 unknown function `length` (in Rhai: `len`)
    println("a");
      1:1 unknown function `println` (in Rhai: `print(text)`)
    print(parseInt("1"));
      1:7 unknown function `parseInt` (in Rhai: `parse_int(text)`)
    print([1].includes(1));
      1:11 unknown function `includes` (in Rhai: `contains`)
    let s = require("lib/stats");
      1:9 unknown function `require` (in Rhai: `import "lib/name" as name;`)
    "#);
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
    let lib = "fn each(action) { action.call(1) }";
    let command = demo_command(3, script).file("lib/each.rhai", lib);
    error_text(&command.run().expect_code(3))
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
        "import \"lib/each\" as each;\neach::each(|| 1);",
        "import \"./lib/x\" as x;",
        "throw [fetch(1)];",
    ];
    let errors: Vec<String> = scripts.iter().map(|script| failed(script)).collect();
    insta::assert_snapshot!(errors.join("\n"), @r#"
    error: values of different types have no order
      ╭▸ mine.rhai:2:7
      │
    2 │ mixed.sort();
      ╰╴      ━━━━
    hint: pass a closure that compares them: `array.sort(|one, other| one <= other);`
    error: the closure uses `a` while `map` goes through it
      ╭▸ mine.rhai:2:9
      │
    2 │ print(a.map(|v| a.len() + v));
      ╰╴        ━━━
    hint: copy what the closure needs first, such as `let count = a.len();`
    error: this loop has no values to go through
      ╭▸ mine.rhai:2:10
      │
    2 │ for x in a.sort() { print(x); }
      ╰╴         ━
    hint: `sort` changes its value in place and returns nothing: call it before the loop
    error: this loop has no values to go through
      ╭▸ mine.rhai:2:10
      │
    2 │ for x in five() { print(x); }
      ╰╴         ━━━━
    hint: `for` reads an array, a text, a range such as `0..5`, or a stream of tokens or outcomes
    error: this value is string, but char is needed
      ╭▸ mine.rhai:2:9
      │
    2 │ text[0] = "x";
      ╰╴        ━
    hint: one character is in single quotes: 'a'
    error: this value is int, but bool is needed
      ╭▸ mine.rhai:1:4
      │
    1 │ if SIZE { print(1); }
      ╰╴   ━━━━
    hint: a condition is `true` or `false`: compare the value
    error: this closure is called with 1 argument, but has another number of parameters
      ╭▸ mine.rhai:2:1
      │
    2 │ report(store(["a"]), f);
      ╰╴━━━━━━
    hint: `report` passes one outcome, `retry` nothing, and a function of an array one item
    error: this closure is called with no argument, but has another number of parameters
      ╭▸ mine.rhai:1:1
      │
    1 │ retry(1, |n| n);
      ╰╴━━━━━
    hint: `report` passes one outcome, `retry` nothing, and a function of an array one item
    error: this closure is called with 1 argument, but has another number of parameters
      ╭▸ lib/each.rhai:1:26
      │
    1 │ fn each(action) { action.call(1) }
      ╰╴                         ━━━━
      called from mine.rhai:2:7 in `each`
    hint: `report` passes one outcome, `retry` nothing, and a function of an array one item
    error: import_denied: cannot import `./lib/x`: write it without `./`: import "lib/x"
      ╭▸ mine.rhai:1:8
      │
    1 │ import "./lib/x" as x;
      ╰╴       ━━━━━━━━━
    hint: an import names a file below the script's folder (import "lib/mine" as mine;) or a module of the library (import "lib/stats" as stats;)
    error: the script threw: ["Tokens"]
      ╭▸ mine.rhai:1:1
      │
    1 │ throw [fetch(1)];
      ╰╴━━━━━
    "#);
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
