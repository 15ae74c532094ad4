//! `check` finds every error in one pass and has no false positives. `api` prints a reference whose
//! examples run.

use serde_json::Value;

use crate::support::command::Command;
use crate::support::ledger::demo_command;
use crate::support::root;
use crate::support::snapshot::{settings, shows};

#[test]
fn check_reports_the_errors_of_several_files_in_one_pass() {
    let run = Command::new()
        .file("sound.rhai", "report(store(fetch(SIZE)));")
        .file(
            "calls.rhai",
            "fn f() { 1 }\nf(2);\n\nreport(stroe(fetch(SIZE)));\n  store(1, 2);\n",
        )
        .file("syntax.rhai", "let x = ;")
        .args([
            "check",
            "calls.rhai",
            "sound.rhai",
            "syntax.rhai",
            "none.rhai",
        ])
        .run()
        .expect_code(3);
    assert_eq!(run.stdout, "ok    sound.rhai\n");
    insta::assert_snapshot!(run.stderr, @"
    error: `f` takes 0 arguments, not 1
      ╭▸ calls.rhai:2:1
      │
    2 │ f(2);
      ╰╴━
    error: unknown function `stroe`
      ╭▸ calls.rhai:4:8
      │
    4 │ report(stroe(fetch(SIZE)));
      ╰╴       ━━━━━ did you mean `store`?
    error: `store` takes 1 argument, not 2
      ╭▸ calls.rhai:5:3
      │
    5 │   store(1, 2);
      ╰╴  ━━━━━ it is called as `store(array)`, `store(string)`, `store(Tokens)`
    error: unexpected ';'
      ╭▸ syntax.rhai:1:9
      │
    1 │ let x = ;
      ╰╴        ━
    error: the script none.rhai cannot be read
      caused by: No such file or directory (os error 2)
    hint: pass scripts, or folders that contain *.rhai files
    ");
}

#[test]
fn check_uses_the_built_in_script_when_no_script_is_named() {
    let run = Command::new().arg("check").run().expect_code(0);
    assert_eq!(run.stdout, "ok    scripts/default.rhai\n");
}

#[test]
fn check_finds_the_scripts_below_a_folder() {
    let check = |name| {
        Command::new()
            .file("a/two.rhai", "stor(1);")
            .file("a/lib/one.rhai", "fn f() { 1 }")
            .file("a/note.txt", "no script")
            .file("b/note.txt", "no script")
            .args(["check", name])
            .run()
    };
    let run = check("a").expect_code(3);
    assert_eq!(run.stdout, "ok    a/lib/one.rhai\n");
    assert!(run.stderr.contains("a/two.rhai:1:1"), "{}", run.stderr);
    let all = [check("b").expect_code(2), check("c.rhai").expect_code(3)];
    let all: String = all.map(|run| run.stderr).concat();
    shows!(all, @"
    error: no script in b
    hint: pass scripts, or folders that contain *.rhai files
    error: the script c.rhai cannot be read
      caused by: No such file or directory (os error 2)
    hint: pass scripts, or folders that contain *.rhai files
    ");
}

#[test]
fn check_exits_with_2_when_the_configuration_is_invalid() {
    let run = Command::new()
        .file("c.yaml", "source:\n  tiemout: 3s\n")
        .args(["check", "--config", "c.yaml"])
        .run()
        .expect_code(2);
    settings().bind(|| {
        insta::assert_snapshot!(run.stderr, @"
        error: unknown key `tiemout` in `source`
          ╭▸ c.yaml:2:3
          │
        2 │   tiemout: 3s
          ╰╴  ━━━━━━━ did you mean `timeout`?
        ");
    });
}

/// Valid scripts of every kind, each of which also runs.
const VALID_SCRIPTS: [&str; 16] = [
    "import \"lib/helpers\" as helpers; fn f() { config::SIZE + config::VARS.len() } print(f() + helpers::size());",
    "let page = (); retry(1, || page = tokens([\"a\"])); if page != () { report(store(page)); }",
    "let x = 1; x = \"text\"; x = store([\"a\"]); for o in x { if o.status == \"stored\" { print(o.status); } } let e = #{status: \"mine\", kind: \"mine\"}; print(e.status == \"none\" || e.kind == \"other\");",
    "fn reject(x) { x } fn line(o) { o.token } print(reject(1)); report(store([\"a\"]), Fn(\"line\")); report(host::store([\"b\"]).failures().store()); let s = report(store([\"c\"]), |o| `${o.token.len} ${o.ms}`); print(s.stored + s.requested);",
    "let f = |x| x + 1; print(f.call(1)); print(f.curry(2).call());",
    "fn twice() { this * 2 } let n = 4; print(n.twice());",
    "let map = #{greet: |name| `hi ${name}`, deep: #{two: || 2}}; print(map.greet(\"x\")); print(map.deep.two());",
    "let map = #{}; map.later = |x| x; map[\"other\"] = || 1; print(map.later(1)); print(map.other());",
    "import \"lib/helpers\" as helpers; print(helpers::half(4));",
    "print(!(3 in [1, 2]) && -SIZE < 0 && 3 !in [1]); print(2 ** 3 % 5 << 1 | 1 & 3 ^ 2);",
    "for i in 0..=3 { print(i); } for (x, i) in [1] { print(x + i); } do { break; } while true;",
    "print([3, 1].map(|v| v * 2).filter(|v| v > 2).reduce(|sum, v| sum + v, 0)); let a = [2, 1]; a.sort(); print(a.len);",
    "let m = #{a: #{b: [1]}}; print(m.a.b[0] ?? 1); print(m?.none?.y ?? \"none\"); m.a.b[0] += 1; m.a.c = 2;",
    "let p = Fn(\"half\"); fn half(n) { n / 2 } print(p.call(4)); print(is_def_fn(\"half\", 1)); print(type_of(p));",
    "switch SIZE { 1 => print(1), 2..9 => print(2), _ => print(3) } try { throw 1 } catch (e) { print(e) } let x = if SIZE > 1 { 1 } else { 2 };",
    "fn store(x) { host::store(x) } report(store([\"a\"])); fn retry(n) { n } retry(1); print(env::get(\"TOKEN_X\", \"\")); const A = 1; print(global::A);",
];

/// Returns a script that ends without an error although it may request no token.
fn without_request(script: &str) -> String {
    format!("{script}\nexit(0);\n")
}

#[test]
fn valid_scripts_pass_check_and_run() {
    let lib = "fn half(n) { n / 2 } fn size() { config::SIZE }\n";
    for script in VALID_SCRIPTS {
        let script = &without_request(script);
        let check = Command::new()
            .file("lib/helpers.rhai", lib)
            .file("mine.rhai", script)
            .args(["check", "mine.rhai"])
            .run();
        assert_eq!(check.code, Some(0), "{script}: {}", check.stderr);
        assert_eq!(check.stderr, "", "{script}");
        // Some of them print only.
        let script = format!("{script}\nexit(0);");
        let run = demo_command(3, &script).file("lib/helpers.rhai", lib).run();
        assert_eq!(run.code, Some(0), "{script}: {}", run.stderr);
    }
}

#[test]
fn reference_is_deterministic() {
    for format in ["md", "json", "d.rhai"] {
        assert_eq!(api(format), api(format), "{format}");
    }
}

fn api(format: &str) -> String {
    let run = Command::new().args(["api", "--format", format]).run();
    run.expect_code(0).stdout
}

#[test]
fn api_is_printed_as_json_and_as_definitions() {
    let json: Value = serde_json::from_str(&api("json")).unwrap();
    let functions = json["functions"].as_array().unwrap();
    for name in [
        "fetch",
        "fetch_once",
        "tokens",
        "store",
        "reject",
        "report",
        "emit",
        "retry",
        "sleep",
        "log_info",
        "exit",
    ] {
        assert!(
            functions.iter().any(|function| function["name"] == name),
            "{name}"
        );
    }
    let definitions = api("d.rhai");
    assert!(
        definitions.contains("fn fetch(size: int, options: map) -> Tokens;"),
        "{definitions}"
    );
    assert!(!definitions.contains("RhaiResultOf") && !definitions.contains("context"));
}

#[test]
fn reference_in_the_repository_is_up_to_date() {
    let printed = Command::new().arg("api").run().expect_code(0).stdout;
    let committed = std::fs::read_to_string(root().join("docs/script-api.md")).unwrap_or_default();
    assert!(
        printed == committed,
        "docs/script-api.md is out of date; run `cargo run -- api > docs/script-api.md`"
    );
}

#[test]
fn tables_of_primitives_are_up_to_date() {
    const HEAD: &str = "| call | what it does |\n";
    for name in ["README.md", "docs/scripting.md"] {
        let path = root().join(name);
        let page = std::fs::read_to_string(&path).unwrap();
        let (before, rest) = page.split_once(HEAD).unwrap();
        let (_, after) = rest.split_once("\n\n").unwrap();
        let table = token_service::primitives_table();
        let expected = format!("{before}{table}\n{after}");
        if std::env::var_os("TOKEN_SERVICE_UPDATE").is_some() {
            std::fs::write(path, expected).unwrap();
        } else {
            assert!(
                page == expected,
                "TOKEN_SERVICE_UPDATE=1 cargo test --test it tables_of_primitives updates {name}"
            );
        }
    }
}

/// Every function of the reference, with its module and its doc comment.
fn functions() -> Vec<(String, String)> {
    let json: Value = serde_json::from_str(&api("json")).unwrap();
    // `host::` is left out, because it repeats the primitives.
    let namespaces = [("", &json), ("env", &json["modules"]["env"])];
    let library = json["library"].as_object().unwrap();
    let modules = library.iter().map(|(name, module)| (name.as_str(), module));
    let mut functions = Vec::new();
    for (module, namespace) in namespaces.into_iter().chain(modules) {
        for function in namespace["functions"].as_array().unwrap() {
            let comments = function["docComments"].as_array();
            let comments = comments.into_iter().flatten().map(Value::to_string);
            let comment: String = comments.collect();
            let name = format!("{module} {}", function["name"]);
            let lines = comment.replace("\\n", "\n");
            let lines = lines
                .lines()
                .map(|line| line.trim_start_matches(['"', '/']));
            let lines: Vec<&str> = lines.collect();
            functions.push((
                name,
                lines.join("\n").replace("\\\"", "\"").replace("\\\\", "\\"),
            ));
        }
    }
    functions
}

/// The examples in a text.
fn examples(text: &str) -> Vec<&str> {
    text.split("```rhai\n")
        .skip(1)
        .filter_map(|rest| rest.split("```").next())
        .collect()
}

#[test]
fn every_function_has_a_description_and_an_example() {
    let functions = functions();
    assert!(functions.len() > 60, "{}", functions.len());
    for (name, comment) in functions {
        assert!(comment.trim_start().len() > 20, "{name}: {comment}");
        assert!(
            !examples(&comment).is_empty(),
            "{name} has no example: {comment}"
        );
    }
}

#[test]
fn every_example_prints_what_its_comments_say() {
    let printed = api("md");
    let examples = examples(&printed);
    assert!(examples.len() >= functions().len(), "{}", examples.len());
    for example in examples {
        let example = format!("{example}\nexit(0);");
        let run = demo_command(3, &example).args(["--out-dir", "."]).run();
        // Without top-up the demo's source may fall short.
        let may_fall_short = example.contains("top_up: false") || example.contains("fetch_once");
        let code = if may_fall_short && run.code == Some(4) {
            4
        } else {
            0
        };
        assert_eq!(run.code, Some(code), "{example}: {}", run.stderr);
        let printed: Vec<&str> = run.stdout.lines().collect();
        let mut from = 0;
        let comments = example.lines().filter(|line| line.contains("print("));
        for comment in comments.filter_map(|line| line.split_once("// ")) {
            let found = printed[from..]
                .iter()
                .position(|line| *line == comment.1.trim());
            let at = found.unwrap_or_else(|| panic!("{example} printed {printed:?}"));
            from += at + 1;
        }
    }
}

#[test]
fn every_example_passes_check() {
    let printed = api("md");
    let mut command = Command::new().arg("check");
    for (number, example) in examples(&printed).into_iter().enumerate() {
        let name = format!("example{number}.rhai");
        command = command.file(&name, without_request(example)).arg(name);
    }
    let run = command.run().expect_code(0);
    assert_eq!(run.stderr, "");
}

#[test]
fn definitions_have_valid_syntax() {
    let definitions = api("d.rhai");
    let types = [
        "int", "float", "bool", "string", "array", "map", "Fn", "?", "()",
    ];
    let own = ["Tokens", "Pages", "Outcomes", "Outcome", "Time"];
    let is_type = |name: &str| types.contains(&name) || own.contains(&name);
    // Words that Rhai reserves, although a name in Rust may be one of them.
    let reserved = [
        "default", "go", "match", "module", "new", "spawn", "sync", "use", "with", "yield",
    ];
    let is_name = |name: &str| {
        let mut chars = name.chars();
        !reserved.contains(&name)
            && chars
                .next()
                .is_some_and(|first| first.is_ascii_alphabetic())
            && chars.all(|char| char.is_ascii_alphanumeric() || char == '_')
    };
    let mut count = 0;
    for line in definitions.lines() {
        let words = line.trim();
        if words.is_empty() || words.starts_with("///") || words == "}" || words == "module static;"
        {
            continue;
        }
        if let Some(module) = words.strip_prefix("module ") {
            assert!(module.strip_suffix(" {").is_some_and(is_name), "{line}");
        } else if let Some(constant) = words.strip_prefix("const ") {
            let (name, kind) = constant.trim_end_matches(';').split_once(": ").unwrap();
            assert!(is_name(name) && is_type(kind), "{line}");
        } else {
            let function = words.strip_prefix("fn ").expect(line);
            let (head, gives) = function.split_once(") -> ").expect(line);
            let (name, params) = head.split_once('(').expect(line);
            assert!(is_name(name.strip_prefix("get ").unwrap_or(name)), "{line}");
            assert!(is_type(gives.strip_suffix(';').expect(line)), "{line}");
            for param in params.split(", ").filter(|param| !param.is_empty()) {
                let (name, kind) = param.split_once(": ").expect(line);
                assert!(is_name(name) && is_type(kind), "{line}");
            }
            count += 1;
        }
    }
    assert!(count > 70, "{count}");
    for part in [
        "const SIZE: int;",
        "module config {",
        "module env {",
        "module host {",
    ] {
        assert!(definitions.contains(part), "{part}");
    }
}
