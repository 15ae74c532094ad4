//! Tests of `token_service test`: a case gives the result of a real run, and the same result each time.
//! The cases of `examples/`, `scripts/` and docs/testing.md must pass.

use std::fs;
use std::path::PathBuf;

use crate::support::command::Command;
use crate::support::database::Database;
use crate::support::doc_blocks::read;
use crate::support::root;
use crate::support::source::{Response, Source};

/// Lists the files in a folder of the repository whose names end with `ending`.
fn files_ending_with(folder: &str, ending: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(root().join(folder)).unwrap();
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.retain(|path| path.display().to_string().ends_with(ending));
    paths.sort();
    paths
}

fn test() -> Command {
    Command::new().arg("test")
}

#[test]
fn cases_of_examples_and_scripts_pass() {
    let command = test()
        .arg(root().join("examples"))
        .arg(root().join("scripts"));
    let run = command.run();
    assert_eq!(run.code, Some(0), "{}", run.stdout);
    let folders = ["examples", "scripts", "scripts/lib"];
    let files = folders
        .map(|folder| files_ending_with(folder, ".test.yaml"))
        .concat();
    let texts = files.iter().map(|file| fs::read_to_string(file).unwrap());
    let count_cases = |text: String| {
        text.lines()
            .filter(|line| line.starts_with("- name:"))
            .count()
    };
    let cases: usize = texts.map(count_cases).sum();
    assert!(cases >= 50);
    let closing = format!("\n{cases} passed, 0 failed in ");
    assert!(run.stdout.contains(&closing), "{}", run.stdout);
    let mut scripts = folders
        .map(|folder| files_ending_with(folder, ".rhai"))
        .concat();
    // A `.test.rhai` file belongs to the cases of a module, and is not a module.
    scripts.retain(|script| !script.display().to_string().ends_with(".test.rhai"));
    for script in scripts {
        assert!(
            script.with_extension("test.yaml").exists(),
            "{script:?} is not tested"
        );
    }
}

/// A script that sleeps while pages are fetched ahead, so that a race would change its output.
const RACE: &str = "
    let seen = 0;
    for page in fetch(SIZE).pages() {
        seen += page.len;
        emit(`page ${seen}`);
        let outcomes = store(page);
        if seen == 4 { break; }
        sleep(\"1s\");
        report(outcomes);
    }
    for outcome in store([\"x\", \"y\"]) { emit(outcome.token); if outcome.token == \"x\" { break; } }
";

#[test]
fn case_result_is_deterministic() {
    let delays = ["0s", "100ms", "200ms", "300ms", "400ms", "500ms"];
    let entries = delays.map(|delay| format!("    - {{count: 2, delay: {delay}}}\n"));
    let entries = entries.concat();
    let cases: Vec<String> = (0..40)
        .map(|n| {
            format!(
                "- name: case {n}
  script: race.rhai
  size: 12
  options: {{page_size: 2}}
  source:
{entries}  store:
    t3: [{{sqlstate: \"40001\", delay: 1s}}, stored]
  expect: {{exit: 99, stdout: none, requests: 99, slept: 99s, stderr: none}}
"
            )
        })
        .collect();
    let run = test()
        .file("race.rhai", RACE)
        .file("a.test.yaml", cases.concat())
        .args(["--jobs", "4"])
        .run()
        .expect_code(1);
    let plain = |part: &str| {
        let lines = part.lines().skip(2).filter(|line| line.starts_with(' '));
        lines.collect::<Vec<_>>().join("\n")
    };
    let mut outcomes: Vec<String> = run.stdout.split("FAIL  ").skip(1).map(plain).collect();
    assert_eq!(outcomes.len(), 40);
    outcomes.dedup();
    assert_eq!(outcomes.len(), 1, "{}", outcomes.join("\n---\n"));
}

/// Returns the `source` of a case, the equivalent answers of a real source, and a script.
fn equivalent_sources() -> Vec<(&'static str, Vec<Response>, &'static str)> {
    vec![
        (
            "[tokens: [aa, b-b], tokens: [cc, dd, ee]]",
            vec![
                Response::tokens(["aa", "b-b"]),
                Response::tokens(["cc", "dd", "ee"]),
            ],
            "report(store(fetch(SIZE)));",
        ),
        (
            "[{status: 503, retry_after: 0s}, {status: 500}]",
            vec![
                Response::status(503).header("retry-after", "0"),
                Response::status(500),
            ],
            "report(store(fetch(SIZE)));",
        ),
        (
            "[{tokens: [aa, bb], cut: true}]",
            vec![Response::truncated("aa\nbb\n", 1000)],
            "report(store(fetch(SIZE)), |o| `${o.status}: ${o.token}`);",
        ),
        (
            "[tokens: [aa, \"c\\td\", cc]]",
            vec![Response::tokens(["aa", "c\td", "cc"])],
            "for token in fetch(SIZE) { if token != \"cc\" { report(store(token)); } }",
        ),
        (
            "[body: \"<html>\"]",
            vec![Response::raw("text/plain", "<html>")],
            "try { fetch_once(1); } catch (e) { emit(`${e.kind} ${e.message}`); } throw \"gone\";",
        ),
    ]
}

#[test]
fn case_result_equals_the_result_of_a_real_run() {
    for (entries, answers, script) in equivalent_sources() {
        let source = Source::responding(answers);
        let database = Database::standard();
        let real = Command::new()
            .source(&source)
            .database(&database)
            .file("mine.rhai", script)
            .args(["3", "--script", "mine.rhai"])
            .run();
        let check = "{sqlstate: \"23514\", constraint: secret_tokens_data_check}";
        let code = real.code.unwrap();
        let requests = source.requests().len();
        let mut lines: Vec<&str> = real.stdout.lines().collect();
        lines.sort_unstable();
        // Addresses, times and the order of outcomes may differ.
        let error = real.stderr.lines().find(|line| line.starts_with("error:"));
        let message = error.unwrap_or_default();
        let summary = real
            .stderr
            .lines()
            .find(|line| line.contains(" requested, "));
        let summary = summary
            .and_then(|line| Some(line.rsplit_once(" in ")?.0))
            .unwrap_or_default();
        let yaml = format!(
            "- name: a
  script: mine.rhai
  size: 3
  source: {entries}
  store: {{b-b: {check}}}
  expect:
    exit: {code}
    requests: {requests}
    stderr: [{message:?}, {summary:?}]
    stdout: the real one
"
        );
        let played = test()
            .file("mine.rhai", script)
            .file("a.test.yaml", yaml)
            .run();
        let mut got: Vec<&str> = played
            .stdout
            .lines()
            .filter_map(|line| line.strip_prefix("      + "))
            .collect();
        got.sort_unstable();
        assert_eq!(got, lines, "{script}: {}", played.stdout);
        let differences = played
            .stdout
            .lines()
            .filter(|line| line.contains(": expected"));
        let differences: Vec<&str> = differences.collect();
        assert!(differences.is_empty(), "{script}: {}", played.stdout);
    }
}

/// Returns the fenced blocks of `docs/testing.md` in one language.
fn blocks(kind: &str) -> Vec<String> {
    let blocks = read("docs/testing.md").into_iter();
    let of_kind = blocks.filter(|block| block.kind == kind);
    of_kind.map(|block| block.text).collect()
}

#[test]
fn every_case_of_the_guide_passes() {
    let script = blocks("rhai").concat();
    let cases = blocks("yaml");
    assert!(cases.len() >= 7);
    let command = cases
        .iter()
        .enumerate()
        .fold(test(), |command, (at, yaml)| {
            command.file(&format!("{at}.test.yaml"), yaml)
        });
    let run = command.file("files.rhai", script).run();
    assert_eq!(run.code, Some(0), "{}", run.stdout);
}

#[test]
fn guide_shows_the_number_of_cases() {
    let run = Command::new()
        .args(["test"])
        .args([root().join("examples"), root().join("scripts")])
        .run()
        .expect_code(0);
    let last = run.stdout.lines().last().unwrap();
    let (counts, _) = last.split_once(" in ").unwrap();
    let guide = fs::read_to_string(root().join("docs/testing.md")).unwrap();
    assert!(guide.contains(&format!("\n{counts} in ")), "{counts}");
}

#[test]
fn every_key_is_documented_in_the_guide() {
    let guide = fs::read_to_string(root().join("docs/testing.md")).unwrap();
    for unknown in [
        "xyzzy: 1",
        "options: {xyzzy: 1}",
        "source: [xyzzy: 1]",
        "store: {a: {xyzzy: 1}}",
        "signals: [xyzzy: 1]",
        "expect: {xyzzy: 1}",
        "expect: {counts: {xyzzy: 1}}",
        "expect: {reports: {xyzzy: 1}}",
    ] {
        let yaml = format!("- name: a\n  {unknown}\n");
        let run = test().file("a.test.yaml", yaml).run().expect_code(2);
        let (_, known) = run.stderr.split_once("known keys: ").expect(unknown);
        for key in known.trim().split(", ") {
            let forms = [
                format!("`{key}`"),
                format!("`{key}:"),
                format!("{{{key}:"),
                format!(", {key}:"),
            ];
            let is_documented = forms.iter().any(|way| guide.contains(way));
            assert!(is_documented, "{key} of {unknown}");
        }
    }
}

#[test]
fn no_token_is_in_doubt_when_a_dry_run_loses_its_connection() {
    let yaml = "- name: sent again
  size: 3
  options: {dry_run: true}
  source: [tokens: [aa, bb, cc]]
  store: {aa: [found, {reject: so}], bb: [unknown, {reject: so}], cc: [lost, {reject: so}]}
  expect: {counts: {rejected: 3}}
- name: not sent any more
  size: 1
  options: {dry_run: true, patience: 1s}
  source: [tokens: [aa]]
  store: {aa: down}
  expect: {exit: 5, counts: {failed: 1}}
";
    let run = test().file("a.test.yaml", yaml).run();
    assert_eq!(run.code, Some(0), "{}{}", run.stdout, run.stderr);
}

#[test]
fn every_report_format_of_a_case_is_compared() {
    let formats = [
        ("text", "stored    aa"),
        ("ndjson", "{\"token\":\"aa\""),
        ("json", "{"),
        ("csv", "token,status"),
        ("yaml", "version: 1"),
    ];
    let wrong = formats.map(|(format, _)| format!("{format}: none"));
    let yaml = format!(
        "- name: a\n  size: 1\n  source: [tokens: [aa]]\n  expect: {{reports: {{{}}}}}\n",
        wrong.join(", ")
    );
    let run = test().file("a.test.yaml", yaml).run().expect_code(1);
    for (format, begin) in formats {
        let differs = format!("reports.{format}: - expected, + got\n      - none\n      + {begin}");
        assert!(run.stdout.contains(&differs), "{format}: {}", run.stdout);
    }
}

#[test]
fn case_does_not_see_the_process_environment() {
    let yaml = "- name: a
  script: a.rhai
  env: {TOKEN_B: own, OTHER: hidden}
  expect:
    exit: 3
    stdout: |
      none own none
- name: masked
  size: 1
  env: {TOKEN_SERVICE_MASK: prefix}
  source: [tokens: [abcdefghijkl]]
  expect: {report: \"stored    abcd…\"}
";
    let script = "emit(env::get(\"TOKEN_A\", \"none\") + \" \" + env::get(\"TOKEN_B\") + \" \" + env::get(\"OTHER\", \"none\"));";
    let run = test()
        .env("TOKEN_A", "real")
        .env("TOKEN_SERVICE_SIZE", "none")
        .file("a.rhai", script)
        .file("a.test.yaml", yaml)
        .run();
    assert_eq!(run.code, Some(0), "{}{}", run.stdout, run.stderr);
}

#[test]
fn case_script_imports_from_its_own_folder() {
    let run = test()
        .file("scripts/lib/words.rhai", "fn greet(name) { `hi ${name}` }")
        .file(
            "scripts/mine.rhai",
            "import \"lib/words\" as words;\nemit(words::greet(\"you\"));\nwords::greet();\n",
        )
        .file(
            "tests/a.test.yaml",
            "- name: a\n  script: ../scripts/mine.rhai\n  expect: {stdout: hi you}\n",
        )
        .run()
        .expect_code(1);
    assert!(
        run.stdout.contains("╭▸ scripts/mine.rhai:3:"),
        "{}",
        run.stdout
    );
}

#[test]
fn clock_of_a_case_covers_timestamp_and_now() {
    let script =
        "let began = timestamp(); print(now().rfc3339()); sleep(\"90m\"); print(now().rfc3339());
        print(now().hour); print(now().weekday); print(began.elapsed); print(run::ID); exit(0);";
    let yaml = "
- name: a
  script: a.rhai
  expect:
    slept: 90m
    stdout: |
      1970-01-01T00:00:00.000Z
      1970-01-01T01:30:00.000Z
      1
      4
      5400.0
      00000000-0000-0000-0000-000000000000
";
    let run = test()
        .file("a.rhai", script)
        .file("a.test.yaml", yaml)
        .run();
    assert_eq!(run.code, Some(0), "{}{}", run.stdout, run.stderr);
}
