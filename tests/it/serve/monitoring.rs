//! The metrics of the service, and what reads them: the alerts and the dashboard of `deploy/monitoring`, and
//! docs/monitoring.md.
//!
//! The test `promtool` needs that program and is ignored by default: see tests/it/main.rs.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write as _;
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::serve::Service;
use crate::support::database::Database;
use crate::support::root;
use crate::support::scrape::Metrics;
use crate::support::source::{Response, Source};

const ALERTS: &str = "deploy/monitoring/alerts.yaml";
const ALERT_TESTS: &str = "deploy/monitoring/alerts.test.yaml";
const DASHBOARD: &str = "deploy/monitoring/dashboard.json";
const GUIDE: &str = "docs/monitoring.md";

/// The metrics that Prometheus makes for each target.
const OF_PROMETHEUS: [&str; 1] = ["up"];
/// Words of an expression that name no metric.
const OPERATORS: [&str; 8] = [
    "and", "or", "unless", "offset", "sum", "min", "max", "count",
];
/// Words of an expression that labels in parentheses follow.
const GROUPINGS: [&str; 4] = ["by", "without", "on", "ignoring"];

fn read(file: &str) -> String {
    fs::read_to_string(root().join(file)).expect(file)
}

/// Returns the rules of the alerts.
fn alerts() -> Vec<Value> {
    let file: Value = serde_yaml::from_str(&read(ALERTS)).unwrap();
    let groups = file["groups"].as_array().unwrap();
    let rules = groups.iter().filter_map(|group| group["rules"].as_array());
    rules.flatten().cloned().collect()
}

/// Returns the expressions of the alerts and of the panels.
fn expressions() -> Vec<String> {
    let dashboard: Value = serde_json::from_str(&read(DASHBOARD)).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    let targets = panels
        .iter()
        .flat_map(|panel| panel["targets"].as_array().unwrap());
    let (alerts, targets) = (alerts(), targets.cloned());
    let expressions = alerts.into_iter().chain(targets);
    expressions
        .map(|object| object["expr"].as_str().unwrap().to_owned())
        .collect()
}

/// Returns the metrics that the variables of the dashboard are read from.
fn metrics_of_variables() -> Vec<String> {
    let dashboard: Value = serde_json::from_str(&read(DASHBOARD)).unwrap();
    let variables = dashboard["templating"]["list"].as_array().unwrap();
    let queries = variables
        .iter()
        .filter_map(|variable| variable["definition"].as_str());
    queries
        .map(|query| {
            let arguments = query.strip_prefix("label_values(").expect(query);
            arguments.split(['{', ',']).next().unwrap().to_owned()
        })
        .collect()
}

fn is_word(letter: char) -> bool {
    letter.is_ascii_alphanumeric() || letter == '_' || letter == ':'
}

/// Returns an expression without its texts, selectors and ranges.
fn without_details(expression: &str) -> String {
    let mut plain = String::new();
    let mut end = None;
    for letter in expression.chars() {
        match (end, letter) {
            (Some(end_letter), _) => end = (letter != end_letter).then_some(end_letter),
            (None, '"') => end = Some('"'),
            (None, '{') => end = Some('}'),
            (None, '[') => end = Some(']'),
            (None, _) => plain.push(letter),
        }
    }
    plain
}

/// Returns the metrics that an expression names.
fn metrics_in(expression: &str) -> Vec<String> {
    let plain = without_details(expression);
    let mut names = Vec::new();
    let mut rest = plain.as_str();
    while let Some(start) = rest.find(is_word) {
        let word_and_rest = &rest[start..];
        let end = word_and_rest.find(|letter| !is_word(letter));
        let (word, after) = word_and_rest.split_at(end.unwrap_or(word_and_rest.len()));
        rest = after;
        let is_number = word.starts_with(|letter: char| letter.is_ascii_digit());
        let is_function = after.trim_start().starts_with('(');
        if GROUPINGS.contains(&word) {
            rest = after.split_once(')').map_or("", |(_, after)| after);
        } else if !is_number && !is_function && !OPERATORS.contains(&word) {
            names.push(word.to_owned());
        }
    }
    names
}

/// Returns the series that the selectors of an expression name, such as `name{label="value"`.
fn series_in(expression: &str) -> Vec<(String, String)> {
    let mut series = Vec::new();
    for (at, _) in expression.match_indices('{') {
        let name = expression[..at].rsplit(|letter| !is_word(letter)).next();
        let (matchers, _) = expression[at + 1..].split_once('}').unwrap();
        for matcher in matchers.split(", ") {
            let label = matcher.split(['=', '!']).next().unwrap();
            let values = matcher.split('"').nth(1).unwrap();
            // Prometheus adds the labels that variables of the dashboard select.
            for value in values.split('|').filter(|value| !value.starts_with('$')) {
                series.push((name.unwrap().to_owned(), format!("{label}={value:?}")));
            }
        }
    }
    series
}

/// A service after a run with a stored and a rejected token, and what it says at `/metrics`.
fn metrics_after_a_run() -> String {
    let database = Database::standard();
    let source = Source::responding([Response::tokens(["aa", "b-b"])]);
    let service = Service::start(&database.url(), &source.url(), &[]);
    service.run("?size=2", &[]).expect(200);
    let (status, text) = service.get("/metrics");
    assert_eq!(status, 200, "{text}");
    text
}

#[test]
fn metrics_of_alerts_and_dashboard_are_those_of_the_service() {
    // Each family has HELP and TYPE, or this fails.
    let metrics = Metrics::parse(&metrics_after_a_run());
    let is_known = |name: &str| {
        let ends = ["_bucket", "_sum", "_count"];
        let base = ends.iter().find_map(|end| name.strip_suffix(end));
        let is_family = |name: &str| metrics.families.iter().any(|family| family == name);
        is_family(name) || base.is_some_and(is_family) || OF_PROMETHEUS.contains(&name)
    };
    let expressions = expressions();
    assert!(expressions.len() > 30, "{expressions:?}");
    let named = expressions.iter().flat_map(|it| metrics_in(it));
    for name in named.chain(metrics_of_variables()) {
        assert!(is_known(&name), "{name} is no metric of the service");
    }
    for expression in &expressions {
        for (name, label) in series_in(expression) {
            let has_label = |series: &&str| {
                let labels = series.strip_prefix(name.as_str());
                labels.is_some_and(|labels| labels.starts_with('{') && labels.contains(&label))
            };
            let found = metrics.names().into_iter().find(has_label);
            assert!(found.is_some(), "no {name} has {label}: {expression}");
        }
    }
}

/// `increase` does not see the first value of a series, so an alert would miss the first failed token.
#[test]
fn counters_of_outcomes_begin_at_zero() {
    let database = Database::standard();
    let source = Source::responding([]);
    let service = Service::start(&database.url(), &source.url(), &[]);
    let metrics = Metrics::parse(&service.get("/metrics").1);
    for status in ["stored", "rejected", "failed", "unknown", "not_attempted"] {
        let name = format!("token_service_tokens_total{{status={status:?}}}");
        assert_eq!(metrics.count(&name), 0);
    }
    let outcomes = [
        "completed",
        "condition",
        "script",
        "source",
        "database",
        "stopped",
        "refused",
    ];
    for outcome in outcomes {
        let name = format!("token_service_runs_total{{outcome={outcome:?}}}");
        assert_eq!(metrics.count(&name), 0);
    }
}

#[test]
fn documented_metrics_are_those_of_the_service() {
    let guide = read(GUIDE);
    let (_, rest) = guide.split_once("<!-- service metrics -->").unwrap();
    let (table, _) = rest.split_once("<!-- /service metrics -->").unwrap();
    let rows = table.lines().filter_map(|line| line.strip_prefix("| `"));
    let documented: BTreeSet<String> = rows
        .filter_map(|row| Some(row.split_once('`')?.0.to_owned()))
        .collect();
    let metrics = Metrics::parse(&metrics_after_a_run());
    let families: BTreeSet<String> = metrics.families.into_iter().collect();
    assert_eq!(documented, families);
}

#[test]
fn guide_says_what_to_do_for_each_alert() {
    let guide = read(GUIDE);
    let alerts = alerts();
    assert!(alerts.len() > 8);
    for alert in &alerts {
        let name = alert["alert"].as_str().unwrap();
        assert!(guide.contains(&format!("\n### {name}\n")), "{name}");
        let anchor = name.to_lowercase();
        let severity = alert["labels"]["severity"].as_str().unwrap();
        let row = format!("| [{name}](#{anchor}) | {severity} | ");
        assert!(guide.contains(&row), "{row}");
        let runbook = format!("{GUIDE}#{anchor}");
        assert_eq!(alert["annotations"]["runbook"], runbook);
    }
    let count = guide.matches("\n### TokenService").count();
    assert_eq!(count, alerts.len(), "a heading is that of no alert");
}

#[test]
fn dashboard_reads_every_panel_from_its_variable() {
    let dashboard: Value = serde_json::from_str(&read(DASHBOARD)).unwrap();
    assert_eq!(dashboard["schemaVersion"], 39);
    let panels = dashboard["panels"].as_array().unwrap();
    let ids: BTreeSet<u64> = panels.iter().filter_map(|it| it["id"].as_u64()).collect();
    assert_eq!(ids.len(), panels.len(), "two panels have one id");
    for panel in panels {
        let targets = panel["targets"].as_array().unwrap();
        for object in targets.iter().chain([panel]) {
            assert_eq!(object["datasource"]["uid"], "${datasource}", "{panel}");
        }
    }
}

/// Runs promtool, which must accept the files or the input.
fn run_promtool(args: &[&str], input: &str) {
    let mut command = Command::new("promtool");
    command.args(args).current_dir(root());
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.stderr(Stdio::piped()).spawn().expect("promtool");
    let mut stdin = child.stdin.take().unwrap();
    // promtool may exit before it has read all.
    let _ = stdin.write_all(input.as_bytes());
    drop(stdin);
    let output = child.wait_with_output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    assert!(output.status.success(), "promtool {args:?}: {said}");
}

#[test]
#[ignore = "needs promtool; tests/run runs it if that is installed"]
fn promtool_accepts_the_alerts_their_tests_and_the_metrics() {
    run_promtool(&["check", "rules", ALERTS], "");
    run_promtool(&["test", "rules", ALERT_TESTS], "");
    run_promtool(&["check", "metrics"], &metrics_after_a_run());
}

#[test]
fn names_are_found_in_expressions() {
    let expression = "sum by (job) (rate(a_total{b=\"c|d\", e!=\"f\"}[5m] offset 30m)) > 2 * g \
                      and on (job) last_over_time(h[1d]) and count(up == 0.5)";
    assert_eq!(metrics_in(expression), ["a_total", "g", "h", "up"]);
    let series = |label: &str| (String::from("a_total"), String::from(label));
    let expected = [series("b=\"c\""), series("b=\"d\""), series("e=\"f\"")];
    assert_eq!(series_in(expression), expected);
}
