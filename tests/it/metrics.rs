//! Tests of `--metrics FILE`, which writes the results of a run for `node_exporter`'s textfile collector.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};

use crate::support::command::{Command, Run};
use crate::support::database::Database;
use crate::support::postgres::free_port;
use crate::support::report::Report;
use crate::support::scrape::Metrics;
use crate::support::snapshot::shows;
use crate::support::source::{Gate, Response, Source};

fn metrics_of(run: &Run) -> Metrics {
    Metrics::parse(&fs::read_to_string(run.path("run.prom")).expect("the metrics file"))
}

fn service(source: &Source, database: &Database) -> Command {
    let command = Command::new().source(source).database(database);
    command.args(["--report", "ndjson", "--metrics", "run.prom"])
}

#[test]
fn metrics_match_the_summary() {
    let database = Database::standard();
    let answers = [
        Response::status(503).header("retry-after", "0"),
        Response::tokens(["aa", "b-b", "", "b-b"]),
        Response::tokens(["cc", "dd"]),
    ];
    let source = Source::responding(answers);
    let now = || {
        std::time::UNIX_EPOCH
            .elapsed()
            .expect("a time")
            .as_secs_f64()
    };
    let before = now();
    let run = service(&source, &database).arg("5").run().expect_code(0);
    let (metrics, report) = (metrics_of(&run), Report::of_run(&run));
    for status in ["stored", "rejected", "failed", "unknown", "not_attempted"] {
        let name = format!("token_service_tokens{{status=\"{status}\"}}");
        assert_eq!(metrics.count(&name), report.count(status), "{status}");
    }
    for (name, key) in [
        ("token_service_tokens_requested", "requested"),
        ("token_service_tokens_received", "received"),
        ("token_service_tokens_surplus", "surplus"),
        ("token_service_requests", "requests"),
        ("token_service_exit_code", "exit_code"),
        ("token_service_commit_latency_seconds_count", "received"),
    ] {
        assert_eq!(metrics.count(name), report.count(key), "{name}");
    }
    assert_eq!(metrics.count("token_service_requests_top_ups"), 1);
    assert_eq!(metrics.count("token_service_requests_repeated"), 1);
    assert_eq!(metrics.count("token_service_dry_run"), 0);
    let refused =
        "token_service_rejected{constraint=\"secret_tokens_data_check\",sqlstate=\"23514\"}";
    assert_eq!(metrics.count(refused), 2);
    let millis = |name: &str| metrics.get(name).expect(name) * 1000.0;
    let duration = report.summary["duration_ms"].as_f64().unwrap();
    assert!((millis("token_service_run_duration_seconds") - duration).abs() < 1e-6);
    for (quantile, name) in [
        ("0.5", "p50"),
        ("0.95", "p95"),
        ("0.99", "p99"),
        ("1", "max"),
    ] {
        let quantile = format!("token_service_commit_latency_seconds{{quantile=\"{quantile}\"}}");
        let expected = report.summary["latency_ms"][name].as_f64().unwrap();
        assert!((millis(&quantile) - expected).abs() < 1e-3, "{name}");
    }
    let at = metrics.get("token_service_last_run_timestamp_seconds");
    assert!(at.is_some_and(|at| at >= before && at <= now()));
    assert_eq!(
        metrics.get("token_service_build_info{version=\"0.1.0\"}"),
        Some(1.0)
    );
}

#[test]
fn metrics_file_is_replaced_atomically_and_world_readable() {
    let database = Database::standard();
    let gate = Gate::new();
    let source = Source::responding([Response::tokens(["aa"]).after(&gate)]);
    let command = service(&source, &database)
        .file("run.prom", "old\n")
        .arg("1");
    let path = command.dir().join("run.prom");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    let running = command.spawn();
    source.wait_for(1);
    assert_eq!(fs::read_to_string(&path).unwrap(), "old\n");
    gate.open();
    let run = running.wait().expect_code(0);
    assert_eq!(
        metrics_of(&run).count("token_service_tokens{status=\"stored\"}"),
        1
    );
    assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o644);
    assert!(!run.path("run.prom.partial").exists());
}

#[test]
fn metrics_omit_counts_when_the_run_fails_at_start() {
    let source = Source::responding([]);
    let nowhere = format!("postgres://u:p@127.0.0.1:{}/d", free_port());
    let run = Command::new()
        .source(&source)
        .env("DATABASE_URL", nowhere)
        .args(["1", "--metrics", "run.prom"])
        .run()
        .expect_code(5);
    assert_eq!(
        metrics_of(&run).names(),
        [
            "token_service_build_info{version=\"0.1.0\"}",
            "token_service_exit_code",
            "token_service_last_run_timestamp_seconds",
            "token_service_run_duration_seconds",
        ]
    );
    assert_eq!(metrics_of(&run).count("token_service_exit_code"), 5);
}

#[test]
fn metrics_are_written_when_a_signal_stops_the_run() {
    let database = Database::standard();
    let gate = Gate::new();
    let source = Source::responding([
        Response::tokens(["aa"]),
        Response::tokens(["bb"]).after(&gate),
    ]);
    let running = service(&source, &database).arg("2").spawn();
    source.wait_for(2);
    running.signal("TERM");
    running.wait_for_stderr(|text| text.contains("stopping"));
    gate.open();
    let run = running.wait().expect_code(143);
    assert_eq!(metrics_of(&run).count("token_service_exit_code"), 143);
    let report = Report::of_run(&run);
    assert_eq!(
        metrics_of(&run).count("token_service_tokens_received"),
        report.count("received")
    );
}

#[test]
fn no_token_is_requested_when_the_metrics_file_cannot_be_written() {
    let database = Database::standard();
    let source = Source::responding([]);
    let command = Command::new().source(&source).database(&database);
    let run = command.args(["1", "--metrics", "no/such/run.prom"]).run();
    shows!(run.transcript(), @"
    exit: 2
    --- stdout
    --- stderr
    error: the metrics file no/such/run.prom cannot be written
      caused by: No such file or directory (os error 2)
    hint: check that its folder exists and is writable; no token was requested
    ");
    assert!(source.requests().is_empty());

    let command = Command::new().source(&source).database(&database);
    let twice = ["1", "--report", "text=run.prom", "--metrics", "run.prom"];
    let run = command.args(twice).run();
    shows!(run.transcript(), @"
    exit: 2
    --- stdout
    --- stderr
    error: the metrics file `run.prom` would overwrite the report
    hint: give the metrics file a path of its own
    ");
    assert!(source.requests().is_empty());
}

#[test]
fn constraint_label_is_other_when_a_trigger_puts_a_token_into_the_constraint() {
    let database = Database::standard().with_sql(
        "CREATE FUNCTION talk() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            RAISE EXCEPTION 'no' USING ERRCODE = '23514', CONSTRAINT = 'c ' || NEW.data;
        END $$;
        CREATE TRIGGER talk BEFORE INSERT ON secret_tokens FOR EACH ROW EXECUTE FUNCTION talk()",
    );
    let source = Source::responding([Response::tokens(["CanaryOne", "CanaryTwo"])]);
    let run = service(&source, &database).arg("2").run().expect_code(0);
    let text = fs::read_to_string(run.path("run.prom")).unwrap();
    assert!(!text.contains("Canary"), "{text}");
    let other = "token_service_rejected{constraint=\"other\",sqlstate=\"23514\"}";
    assert_eq!(metrics_of(&run).count(other), 2);
}

#[test]
fn metrics_file_is_set_by_variable_or_configuration_and_written_by_replay() {
    let stored = |run: &Run| metrics_of(run).count("token_service_tokens{status=\"stored\"}");
    let dry = ["demo", "3", "--dry-run", "--report", "ndjson=run.ndjson"];
    let run = Command::new()
        .env("TOKEN_SERVICE_METRICS", "run.prom")
        .args(dry)
        .run();
    let run = run.expect_code(0);
    assert_eq!(metrics_of(&run).count("token_service_dry_run"), 1);

    let command = Command::new().args(["demo", "3"]);
    let by_file = command.config("run: {metrics: run.prom}");
    let run = by_file.run().expect_code(0);
    assert_eq!(metrics_of(&run).count("token_service_tokens_received"), 3);

    let database = Database::standard();
    let report = "{\"token\":\"aa\",\"status\":\"failed\",\"attempts\":1,\"ms\":0.0}\n";
    let command = Command::new()
        .database(&database)
        .file("run.ndjson", report);
    let replay = ["replay", "run.ndjson", "--metrics", "run.prom"];
    assert_eq!(stored(&command.args(replay).run().expect_code(0)), 1);
}

/// Returns the names of the series with their labels.
fn series(run: &Run) -> Vec<String> {
    let text = fs::read_to_string(run.path("run.prom")).unwrap();
    let samples = text.lines().filter(|line| !line.starts_with('#'));
    let names = samples.map(|line| line.rsplit_once(' ').unwrap().0.to_owned());
    names.collect()
}

/// `node_exporter` drops a series that two files have.
#[test]
fn labels_tell_the_files_of_two_jobs_apart() {
    let labelled = |job: &str| {
        let command = Command::new().file("tokens", "aa\nb-b\n");
        let run = command
            .args(["demo", "--input", "tokens", "--metrics", "run.prom"])
            .args([
                "--metrics-label",
                job,
                "--metrics-label",
                "team=a \"b\" \\ c",
            ])
            .run()
            .expect_code(0);
        // A parser accepts the file.
        metrics_of(&run);
        series(&run)
    };
    let (nightly, hourly) = (labelled("job=nightly"), labelled("job=hourly"));
    assert_eq!(nightly.len(), hourly.len());
    for name in &nightly {
        assert!(name.contains("job=\"nightly\""), "{name}");
        assert!(name.contains(r#"team="a \"b\" \\ c""#), "{name}");
        assert!(!hourly.contains(name), "{name}");
    }
}

#[test]
fn metrics_label_is_set_by_variable_or_configuration_for_every_command() {
    let assert_labelled = |run: Run| {
        let names = series(&run.expect_code(0));
        let is_labelled = |name: &String| name.contains("job=\"a\"");
        assert!(
            names.len() > 10 && names.iter().all(is_labelled),
            "{names:?}"
        );
    };
    let demo = || Command::new().args(["demo", "3", "--metrics", "run.prom"]);
    assert_labelled(demo().env("TOKEN_SERVICE_METRICS_LABEL", "job=a").run());
    assert_labelled(demo().config("run: {metrics_label: [job=a]}").run());
    let report = demo().args(["--report", "ndjson"]).run().stdout;
    let merge = Command::new()
        .file("report", report)
        .args(["merge", "report"]);
    let merge = merge.args(["--metrics", "run.prom", "--metrics-label", "job=a"]);
    assert_labelled(merge.run());
}

#[test]
fn invalid_metrics_label_is_refused() {
    let labels = [
        "job", "=x", "1a=x", "a-b=x", "ü=x", "__name=x", "status=x", "le=x", "job=",
    ];
    let errors = labels.map(|label| {
        let run = Command::new().args(["demo", "3", "--metrics-label", label]);
        run.run().expect_code(2).error().to_owned()
    });
    let twice = ["--metrics-label", "a=1", "--metrics-label", "a=2"];
    let run = Command::new().args(["demo", "3"]).args(twice).run();
    shows!(format!("{}\n{}", errors.join("\n"), run.expect_code(2).error()), @"
    error: --metrics-label must be NAME=VALUE, such as job=nightly, not `job`
    hint: see `token_service demo --help`
    error: --metrics-label must have a name of ASCII letters, digits and `_` that begins with no digit, not `=x`
    hint: see `token_service demo --help`
    error: --metrics-label must have a name of ASCII letters, digits and `_` that begins with no digit, not `1a=x`
    hint: see `token_service demo --help`
    error: --metrics-label must have a name of ASCII letters, digits and `_` that begins with no digit, not `a-b=x`
    hint: see `token_service demo --help`
    error: --metrics-label must have a name of ASCII letters, digits and `_` that begins with no digit, not `ü=x`
    hint: see `token_service demo --help`
    error: --metrics-label must have a name that does not begin with `__`, which Prometheus reserves, not `__name=x`
    hint: see `token_service demo --help`
    error: --metrics-label must have another name than those of the metrics' own labels: constraint, quantile, sqlstate, status, version, le, not `status=x`
    hint: see `token_service demo --help`
    error: --metrics-label must have another name than those of the metrics' own labels: constraint, quantile, sqlstate, status, version, le, not `le=x`
    hint: see `token_service demo --help`
    error: --metrics-label must have a value: an empty label is the same as none, not `job=`
    hint: see `token_service demo --help`
    error: the metrics label `a` is given twice
    hint: give each --metrics-label a name of its own
    ");
}
