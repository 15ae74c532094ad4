//! Checks that docs/observability.md names exactly the metrics, spans and log fields of the program.

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

/// Returns the names in backticks at the start of the table rows in `text`.
fn first_cells(text: &str) -> BTreeSet<String> {
    let rows = text.lines().filter_map(|line| line.strip_prefix("| `"));
    let names = rows.filter_map(|row| row.split_once('`'));
    names.map(|(name, _)| name.to_owned()).collect()
}

/// Returns the names in the tables of a section.
fn documented(section: &str) -> BTreeSet<String> {
    let text = text();
    let begin = text.find(section).expect("the section");
    let rest = &text[begin + section.len()..];
    let end = rest.find("\n## ").unwrap_or(rest.len());
    first_cells(&rest[..end])
}

/// Returns the text between the comments `mark` and `/mark`.
fn text_between(mark: &str) -> String {
    let text = text();
    let (_, rest) = text
        .split_once(&format!("<!-- {mark} -->"))
        .expect("the start comment");
    let (table, _) = rest
        .split_once(&format!("<!-- /{mark} -->"))
        .expect("the end comment");
    table.to_owned()
}

#[test]
fn documented_metrics_equal_the_emitted_ones() {
    let database = Database::standard();
    let source = Source::responding([Response::tokens(["aa", "b-b"])]);
    let command = Command::new().source(&source).database(&database);
    let run = command.args(["2", "--metrics", "run.prom"]).run();
    let run = run.expect_code(0);
    let text = fs::read_to_string(run.path("run.prom")).expect("the metrics file");
    let emitted: BTreeSet<String> = Metrics::parse(&text).families.into_iter().collect();
    assert_eq!(emitted, documented("## Metrics for Prometheus\n"));
}

#[test]
fn documented_spans_attributes_and_otlp_metrics_equal_the_emitted_ones() {
    let (database, collector) = (Database::standard(), Collector::new());
    let with_collector = |command: Command| {
        let command = command.env("OTEL_EXPORTER_OTLP_ENDPOINT", collector.endpoint());
        command.database(&database)
    };
    let replayed = "{\"token\":\"zz\",\"status\":\"failed\",\"attempts\":1,\"ms\":0.0}\n";
    let command = with_collector(Command::new()).file("old.ndjson", replayed);
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
    let emitted: BTreeSet<String> = names(spans);
    let emitted: BTreeSet<String> = emitted.union(&of_replay).cloned().collect();
    assert_eq!(emitted, first_cells(&text_between("spans")));
    assert_eq!(attributes, first_cells(&text_between("attributes")));
    // The second column holds the unit.
    let metrics = text_between("metrics");
    let rows = metrics.lines().filter(|line| line.starts_with("| `"));
    let cell = |row: &str, index| row.split('`').nth(index).expect("a cell").to_owned();
    let documented: BTreeSet<_> = rows.map(|row| (cell(row, 1), cell(row, 3))).collect();
    assert_eq!(collector.metric_names(), documented);
}

/// Collects the keys of log lines of runs that retry, log from a script and replay a torn report.
fn emitted_keys() -> BTreeSet<String> {
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
    let script = "log_info(\"i\", #{severity: \"EMERGENCY\"}); debug(1); exit(0);";
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
fn every_log_key_is_documented() {
    let emitted = emitted_keys();
    let known = documented("## Logs\n");
    let unknown: Vec<_> = emitted.difference(&known).collect();
    assert!(unknown.is_empty(), "not documented: {unknown:?}");
    for key in [
        "time", "severity", "message", "target", "fields", "kind", "wait", "failures",
    ] {
        assert!(emitted.contains(key), "{key} was not emitted: {emitted:?}");
    }
}

/// Collects the field names in all calls of `tracing` macros in `src`.
fn fields_in_source() -> BTreeSet<String> {
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
            // The program does not log what its unit tests log.
            let text = text.split("#[cfg(test)]").next().unwrap_or_default();
            for call in text.split("tracing::").skip(1) {
                let level = call.split_once("!(");
                let is_level =
                    |name: &str| ["trace", "debug", "info", "warn", "error"].contains(&name);
                let Some((_, call)) = level.filter(|(name, _)| is_level(name)) else {
                    continue;
                };
                // The message is the last argument.
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
fn documented_log_fields_equal_the_fields_in_the_source() {
    let written = fields_in_source();
    assert!(written.len() > 10, "{written:?}");
    let known = documented("## Logs\n");
    let unknown: Vec<_> = written.difference(&known).collect();
    assert!(unknown.is_empty(), "not documented: {unknown:?}");
    let of_the_format = ["time", "severity", "message", "target"];
    let unused: Vec<_> = known.difference(&written).collect();
    let unused: Vec<_> = unused
        .into_iter()
        .filter(|key| !of_the_format.contains(&key.as_str()))
        .collect();
    assert!(
        unused.is_empty(),
        "documented, but never written: {unused:?}"
    );
}
