//! docs/observability.md names what the program emits, and nothing else.

use std::collections::BTreeSet;
use std::fs;

use serde_json::Value;

use crate::support::collector::{Collector, Span};
use crate::support::command::{Command, Run};
use crate::support::database::Database;
use crate::support::root;
use crate::support::scrape::Metrics;
use crate::support::source::{Response, Source};

fn text() -> String {
    fs::read_to_string(root().join("docs/observability.md")).expect("the document")
}

/// The first cells of the tables in `text`, and of those alone what stands in backticks.
fn first_cells(text: &str) -> BTreeSet<String> {
    let rows = text.lines().filter_map(|line| line.strip_prefix("| `"));
    let names = rows.filter_map(|row| row.split_once('`'));
    names.map(|(name, _)| name.to_owned()).collect()
}

/// Those of a section.
fn documented(section: &str) -> BTreeSet<String> {
    let text = text();
    let begin = text.find(section).expect("the section");
    let rest = &text[begin + section.len()..];
    let end = rest.find("\n## ").unwrap_or(rest.len());
    first_cells(&rest[..end])
}

/// The lines between a comment and the one that ends it.
fn between(mark: &str) -> String {
    let text = text();
    let (_, rest) = text
        .split_once(&format!("<!-- {mark} -->"))
        .expect("a beginning");
    let (table, _) = rest
        .split_once(&format!("<!-- /{mark} -->"))
        .expect("an end");
    table.to_owned()
}

#[test]
fn every_metric_is_documented_and_every_documented_metric_is_there() {
    let database = Database::standard();
    let source = Source::responding([Response::tokens(["aa", "b-b"])]);
    let command = Command::new().source(&source).database(&database);
    let run = command.args(["2", "--metrics", "run.prom"]).run();
    let run = run.expect_code(0);
    let text = fs::read_to_string(run.path("run.prom")).expect("a file");
    let there: BTreeSet<String> = Metrics::parse(&text).families.into_iter().collect();
    assert_eq!(there, documented("## Metrics for Prometheus\n"));
}

#[test]
fn every_span_and_attribute_and_otlp_metric_is_documented_and_every_documented_one_is_there() {
    let (database, collector) = (Database::standard(), Collector::new());
    let told = |command: Command| {
        let command = command.env("OTEL_EXPORTER_OTLP_ENDPOINT", collector.endpoint());
        command.database(&database)
    };
    let replayed = "{\"token\":\"zz\",\"status\":\"failed\",\"attempts\":1,\"ms\":0.0}\n";
    let command = told(Command::new()).file("old.ndjson", replayed);
    command.args(["replay", "old.ndjson"]).run().expect_code(0);
    let names = |spans: Vec<Span>| spans.into_iter().map(|span| span.name).collect();
    let of_replay: BTreeSet<String> = names(collector.spans());
    assert!(of_replay.contains("replay"), "{of_replay:?}");

    let collector = Collector::new();
    let busy = Response::status(503).header("retry-after", "0");
    let source = Source::responding([busy, Response::tokens(["aa", "b-b"])]);
    let command = Command::new().source(&source).database(&database).arg("2");
    let command = command.env("OTEL_EXPORTER_OTLP_ENDPOINT", collector.endpoint());
    command.run().expect_code(0);
    let spans = collector.spans();
    let attributes: BTreeSet<String> = spans
        .iter()
        .flat_map(|span| span.attributes.keys().cloned())
        .collect();
    let there: BTreeSet<String> = names(spans);
    let there: BTreeSet<String> = there.union(&of_replay).cloned().collect();
    assert_eq!(there, first_cells(&between("spans")));
    assert_eq!(attributes, first_cells(&between("attributes")));
    // With their units, in the second column.
    let metrics = between("metrics");
    let rows = metrics.lines().filter(|line| line.starts_with("| `"));
    let cell = |row: &str, index| row.split('`').nth(index).expect("a cell").to_owned();
    let documented: BTreeSet<_> = rows.map(|row| (cell(row, 1), cell(row, 3))).collect();
    assert_eq!(collector.metric_names(), documented);
}

/// The keys of the log lines of runs that meet much.
fn keys() -> BTreeSet<String> {
    let log = ["--log-format", "json", "--log-level", "trace"];
    let lines = |run: Run| {
        let lines = run.stderr.lines().filter(|line| line.starts_with('{'));
        let parse = |line: &str| serde_json::from_str::<Value>(line).expect("a JSON object");
        lines.map(parse).collect::<Vec<_>>()
    };
    let database = Database::standard();
    let busy = Response::status(503).header("retry-after", "0");
    let source = Source::responding([busy, Response::tokens(["aa"])]);
    let command = Command::new().source(&source).database(&database).arg("1");
    let retried = command.args(log).run().expect_code(0);
    let script = "log_info(\"i\", #{severity: \"EMERGENCY\"}); debug(1);";
    let command = Command::new().file("mine.rhai", script);
    let scripted = command
        .args(["demo", "1", "--script", "mine.rhai"])
        .args(log);
    let torn = "{\"token\":\"aa\",\"status\":\"failed\",\"attempts\":1,\"ms\":0.0}\n{\"tok";
    let command = Command::new().database(&database).file("torn.ndjson", torn);
    let replayed = command.args(["replay", "torn.ndjson"]).args(log);
    let all = [
        retried,
        scripted.run().expect_code(0),
        replayed.run().expect_code(0),
    ];
    let all = all.into_iter().flat_map(lines);
    all.flat_map(|line| {
        line.as_object()
            .expect("an object")
            .keys()
            .cloned()
            .collect::<Vec<_>>()
    })
    .collect()
}

#[test]
fn every_key_of_a_log_line_is_documented() {
    let there = keys();
    let known = documented("## Logs\n");
    let unknown: Vec<_> = there.difference(&known).collect();
    assert!(unknown.is_empty(), "not documented: {unknown:?}");
    for key in [
        "time", "severity", "message", "target", "fields", "kind", "wait", "failures",
    ] {
        assert!(there.contains(key), "{key} did not come: {there:?}");
    }
}

/// The names of the fields in each `tracing::info!(…)` and its like, as they are written.
fn written() -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    let mut folders = vec![root().join("src")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let text = fs::read_to_string(&path).expect("text");
            // What stands in the tests of a file is not said by the program.
            let text = text.split("#[cfg(test)]").next().unwrap_or_default();
            for call in text.split("tracing::").skip(1) {
                let level = call.split_once("!(");
                let is_level =
                    |name: &str| ["trace", "debug", "info", "warn", "error"].contains(&name);
                let Some((_, call)) = level.filter(|(name, _)| is_level(name)) else {
                    continue;
                };
                // The message comes last.
                let fields = call.split('"').next().unwrap_or_default();
                let fields = fields
                    .split(',')
                    .map(str::trim)
                    .filter(|field| !field.is_empty());
                for field in fields.filter(|field| !field.starts_with("target:")) {
                    let name = field.trim_start_matches(['?', '%']);
                    let name = name.split([' ', '=']).next().unwrap_or_default();
                    names.insert(name.to_owned());
                }
            }
        }
    }
    names
}

#[test]
fn every_field_that_is_written_somewhere_is_documented() {
    let written = written();
    assert!(written.len() > 10, "{written:?}");
    let known = documented("## Logs\n");
    let unknown: Vec<_> = written.difference(&known).collect();
    assert!(unknown.is_empty(), "not documented: {unknown:?}");
    let of_the_layout = ["time", "severity", "message", "target"];
    let idle: Vec<_> = known.difference(&written).collect();
    let idle: Vec<_> = idle
        .into_iter()
        .filter(|key| !of_the_layout.contains(&key.as_str()))
        .collect();
    assert!(idle.is_empty(), "documented, but never written: {idle:?}");
}
