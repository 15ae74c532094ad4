//! `check` over a folder of broken scripts finds each planted error at its position, and nothing else. A
//! comment describes each error of its line: `// COLUMN SEVERITY: MESSAGE`.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::support::command::Command;
use crate::support::root;
use crate::support::snapshot::shows;

/// File, line, column, severity and message.
type Finding = (String, u64, u64, String, String);

fn scripts_in(folder: &Path) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|kind| kind == "rhai"))
        .collect();
    found.sort();
    found
}

fn expected_findings(file: &str, text: &str) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (number, line) in (1..).zip(text.lines()) {
        for comment in line.split("// ").skip(1) {
            let Some((column, rest)) = comment.split_once(' ') else {
                continue;
            };
            let (Ok(column), Some((severity, message))) = (column.parse(), rest.split_once(": "))
            else {
                continue;
            };
            findings.push((
                file.to_owned(),
                number,
                column,
                severity.to_owned(),
                message.trim().to_owned(),
            ));
        }
    }
    findings
}

fn check(names: &[String], folder: &str) -> (Vec<Value>, String) {
    let mut command = Command::new();
    for path in scripts_in(&root().join(folder)) {
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        command = command.file(&name, fs::read(&path).unwrap());
    }
    for path in scripts_in(&root().join(folder).join("lib")) {
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        command = command.file(&format!("lib/{name}"), fs::read(&path).unwrap());
    }
    let run = command
        .arg("check")
        .args(names)
        .args(["--error-format", "json"])
        .run()
        .expect_code(3);
    let lines = run.stderr.lines();
    let found = lines.map(|line| serde_json::from_str(line).unwrap());
    (found.collect(), run.stdout)
}

#[test]
fn check_finds_exactly_the_planted_errors() {
    let folder = root().join("tests/broken");
    let mut expected = Vec::new();
    let mut names = Vec::new();
    for path in scripts_in(&folder) {
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        expected.extend(expected_findings(
            &name,
            &fs::read_to_string(&path).unwrap(),
        ));
        names.push(name);
    }
    for path in scripts_in(&folder.join("lib")) {
        let name = format!("lib/{}", path.file_name().unwrap().to_str().unwrap());
        expected.extend(expected_findings(
            &name,
            &fs::read_to_string(&path).unwrap(),
        ));
    }
    assert!(expected.len() > 90, "{}", expected.len());
    let (found, stdout) = check(&names, "tests/broken");
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let number = |value: &Value| value.as_u64().unwrap_or_default();
    let mut findings: Vec<Finding> = found
        .iter()
        .map(|object| {
            (
                text(&object["file"]),
                number(&object["line"]),
                number(&object["column"]),
                text(&object["severity"]),
                text(&object["message"]),
            )
        })
        .collect();
    // The findings of a file must be in the order of their positions.
    let of = |name: &str| -> Vec<&Finding> {
        findings
            .iter()
            .filter(|finding| finding.0 == name)
            .collect()
    };
    for name in &names {
        assert!(of(name).is_sorted_by_key(|finding| (finding.1, finding.2)));
    }
    findings.sort();
    expected.sort();
    assert_eq!(findings, expected);
    // The other files have warnings alone.
    let is_error = |name: &&String| {
        let mut of_file = expected.iter().filter(|finding| finding.0 == **name);
        of_file.any(|finding| finding.3 == "error")
    };
    let warned = names.iter().filter(|name| !is_error(name));
    let warned: Vec<String> = warned.map(|name| format!("warn  {name}\n")).collect();
    assert_eq!(stdout, warned.concat());
    // `end_column` is behind the word, or behind the closing quote.
    let ends = |message: &str| {
        let object = found
            .iter()
            .find(|object| text(&object["message"]) == message);
        object.map(|object| number(&object["end_column"]) - number(&object["column"]))
    };
    assert_eq!(ends("unknown function `fetch_onse`"), Some(10));
    assert_eq!(ends("no token ever has the status `faild`"), Some(7));
}

#[test]
fn findings_have_hints() {
    let (found, _) = check(
        &["hidden.rhai", "loops.rhai", "imports.rhai", "spaces.rhai"].map(str::to_owned),
        "tests/broken",
    );
    let mut hints: Vec<String> = found
        .iter()
        .filter_map(|object| object["hint"].as_str().map(str::to_owned))
        .collect();
    hints.dedup();
    insta::assert_snapshot!(hints.join("\n"), @r#"
    give it another name, or call the primitive in it as `host::store(…)`
    an empty loop does not throw an error where it occurs; `report(store(tokens))` reads them too
    an empty loop does not throw an error where it occurs; `report(outcomes)` reads them too
    an import names a file below the script's folder (import "lib/mine" as mine;) or a module of the library (import "lib/stats" as stats;)
    move what both need into a third file that imports neither
    "#);
}

#[test]
fn check_exits_with_0_when_only_warnings_are_found() {
    let run = Command::new()
        .file(
            "mine.rhai",
            "fn store(tokens) { tokens }\nfor token in fetch(SIZE) { }\n",
        )
        .args(["check", "mine.rhai"])
        .run()
        .expect_code(0);
    assert_eq!(run.stdout, "warn  mine.rhai\n");
    insta::assert_snapshot!(run.stderr, @"
    warning: this function hides the primitive `store`
      ╭▸ mine.rhai:1:4
      │
    1 │ fn store(tokens) { tokens }
      ╰╴   ━━━━━
    hint: give it another name, or call the primitive in it as `host::store(…)`
    warning: this loop reads tokens and does nothing with them
      ╭▸ mine.rhai:2:1
      │
    2 │ for token in fetch(SIZE) { }
      ╰╴━━━
    hint: an empty loop does not throw an error where it occurs; `report(store(tokens))` reads them too
    ");
}

#[test]
fn errors_of_configuration_and_scripts_are_reported_together() {
    let run = Command::new()
        .file("c.yaml", "source:\n  tiemout: 3s\n")
        .file("mine.rhai", "report(stroe(fetch(SIZE)));")
        .env("DB_HOST", "db.internal")
        .env("MAX_TOKENS", "few")
        .args(["check", "--config", "c.yaml", "mine.rhai"])
        .run()
        .expect_code(2);
    shows!(run.stderr, @"
    error: unknown key `tiemout` in `source`
      ╭▸ c.yaml:2:3
      │
    2 │   tiemout: 3s
      ╰╴  ━━━━━━━ did you mean `timeout`?
    error: the database's user is missing
    hint: set DB_USER, or `database.user` in the file
    error: the database's name is missing
    hint: set DB_NAME, or `database.name` in the file
    error: MAX_TOKENS must be a whole number of at least 1, not `few`
    error: unknown function `stroe`
      ╭▸ mine.rhai:1:8
      │
    1 │ report(stroe(fetch(SIZE)));
      ╰╴       ━━━━━ did you mean `store`?
    ");
}

#[test]
fn module_needs_no_request() {
    let run = Command::new()
        .file(
            "mine.rhai",
            "import \"lib/text\" as text; text::say(); exit(0);",
        )
        .file(
            "lib/text.rhai",
            "print(\"ready\");\nfn say() { print(\"hi\") }\n",
        )
        .file(
            "lib/limits.rhai",
            "const FEW = 3;\nexport const MANY = FEW * 10;\n",
        )
        .file(
            "lib/code.rhai",
            "import \"text\" as text;\nfn code() { 1 }\n",
        )
        .file("lib/idle.rhai", "print(\"nothing\");\n")
        .args(["check", "."])
        .run()
        .expect_code(0);
    assert_eq!(
        run.stdout,
        "ok    ./lib/code.rhai\nwarn  ./lib/idle.rhai\nok    ./lib/limits.rhai\nok    ./lib/text.rhai\nok    ./mine.rhai\n"
    );
}

#[test]
fn error_in_an_imported_file_is_reported_once() {
    let run = Command::new()
        .file("one.rhai", "import \"lib/bad\" as bad; bad::f();")
        .file("two.rhai", "import \"lib/bad\" as bad; bad::f();")
        .file("lib/bad.rhai", "fn f() {\n    stroe(1)\n}\n")
        .args(["check", "one.rhai", "two.rhai", "lib/bad.rhai"])
        .run()
        .expect_code(3);
    assert_eq!(
        run.stderr.matches("unknown function").count(),
        1,
        "{}",
        run.stderr
    );
    assert!(run.stderr.contains("lib/bad.rhai:2:5"), "{}", run.stderr);
}
