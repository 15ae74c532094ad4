//! Clients that disconnect, the end of the service, and what is left after a crash.

use std::io::Write as _;
use std::net::TcpStream;

use reqwest::Method;
use serde_json::json;

use super::{Service, database};
use crate::support::command::Command;
use crate::support::response::{Gate, Response};
use crate::support::source::{Source, refused_url};

#[test]
fn client_that_disconnects_does_not_end_its_run() {
    let gate = Gate::new();
    let source = Source::responding([Response::tokens(["aa", "bb"]).after(&gate)]);
    let database = database();
    let service = Service::on(&database, &source, &[]);
    let mut socket = TcpStream::connect(service.address()).unwrap();
    let request = "POST /v1/runs?size=2 HTTP/1.1\r\nhost: localhost\r\ncontent-length: 0\r\n\r\n";
    socket.write_all(request.as_bytes()).unwrap();
    source.wait_for(1);
    drop(socket);
    gate.open();
    let list = service
        .send(Method::GET, "/v1/runs", &[], "")
        .expect(200)
        .json();
    let id = list[0]["id"].as_str().unwrap();
    let run = service.wait_for_end(id);
    assert_eq!((&run["stored"], &run["exit_code"]), (&json!(2), &json!(0)));
    assert_eq!(database.rows().len(), 2);
}

#[test]
fn ending_service_refuses_new_runs_and_completes_those_under_way() {
    let gate = Gate::new();
    let source = Source::responding([Response::tokens(["aa"]).after(&gate)]);
    let database = database();
    let service = Service::on(&database, &source, &["--grace", "30s"]);
    let id = service.start_run("?size=1");
    source.wait_for(1);
    service.process().signal("TERM");
    service
        .process()
        .wait_for_stderr(|text| text.contains("shutting down"));
    let refused = service.send(Method::POST, "/v1/runs?size=1", &[], "");
    insta::assert_snapshot!(refused.problem(), @r"
    503 Service Unavailable
    the service is shutting down and starts no new runs
    send the request again: another instance may take it
    ");
    service.send(Method::GET, "/readyz", &[], "").expect(503);
    service.send(Method::GET, "/healthz", &[], "").expect(200);
    gate.open();
    let path = format!("/v1/runs/{id}/report");
    let report = service.send(Method::GET, &path, &[], "").expect(200);
    assert_eq!(report.summary()["exit_code"], 0);
    service.stop().expect_code(0);
    assert_eq!(database.rows(), ["aa"]);
}

#[test]
fn ending_service_stops_runs_that_take_longer_than_half_of_the_grace_period() {
    let first = Response::tokens(["aa"]);
    let second = Response::tokens(["bb"]).after(&Gate::new());
    let source = Source::responding([first, second]);
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().to_str().unwrap();
    let args = ["--grace", "1s", "--fetch-concurrency", "1", "--data", data];
    let service = Service::on(&database(), &source, &args);
    let id = service.start_run("?size=2");
    source.wait_for(2);
    service.wait_for_state(&id, |run| run["stored"] == 1);
    service.stop().expect_code(0);
    let report = std::fs::read_to_string(folder.path().join(format!("{id}.ndjson"))).unwrap();
    assert!(report.contains("\"aborted_by\":\"SIGTERM\""), "{report}");
    let kept = std::fs::read_to_string(folder.path().join(format!("{id}.json"))).unwrap();
    assert!(kept.contains("\"state\":\"stopped\""), "{kept}");
}

#[test]
fn reports_are_kept_across_restarts_if_there_is_a_folder() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().to_str().unwrap();
    let (database, source) = (database(), Source::generating(|size| size));
    let key = [("idempotency-key", "k")];
    let first = Service::on(&database, &source, &["--data", data]);
    let report = first.run("?size=6", &key).expect(200);
    let id = report.headers["run-id"].clone();
    first.stop().expect_code(0);
    for file in std::fs::read_dir(&folder).unwrap() {
        use std::os::unix::fs::PermissionsExt as _;
        let file = file.unwrap();
        let mode = file.metadata().unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, 0o600, "{file:?}");
    }
    let second = Service::on(&database, &source, &["--data", data]);
    let path = format!("/v1/runs/{id}/report?after=2");
    let rest = second.send(Method::GET, &path, &[], "").expect(200);
    assert_eq!(rest.lines(), report.lines()[2..]);
    let again = second.run("?size=6", &key).expect(200);
    assert_eq!(
        (again.headers["run-id"].clone(), again.text),
        (id, report.text)
    );
    assert_eq!(database.rows().len(), 6);
}

#[test]
fn interrupted_run_is_replayed() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().to_str().unwrap();
    let database = database();
    let first = Response::tokens(["aa", "bb", "cc"]);
    let second = Response::tokens(["dd"]).after(&Gate::new());
    let source = Source::responding([first, second]);
    let args = ["--data", data, "--fetch-concurrency", "1"];
    let service = Service::on(&database, &source, &args);
    let id = service.start_run("?size=4");
    service.wait_for_state(&id, |run| run["stored"] == 3);
    source.wait_for(2);
    service.process().signal("KILL");
    service.stop();
    let service = Service::on(&database, &source, &args);
    let path = format!("/v1/runs/{id}");
    let run = service.send(Method::GET, &path, &[], "").expect(200).json();
    assert_eq!(
        (&run["state"], &run["received"]),
        (&json!("interrupted"), &json!(3))
    );
    let report = format!("{path}/report");
    insta::assert_snapshot!(service.send(Method::GET, &report, &[], "").problem(), @r"
    409 Conflict
    the run was interrupted, so its report is incomplete
    POST /v1/runs/ID/replay settles what it left, and reports every token
    ");
    let replay = format!("{path}/replay");
    let settled = service
        .send(Method::POST, &replay, &[], "")
        .expect(200)
        .summary();
    assert_eq!(settled["replay_of"], id);
    let list = service
        .send(Method::GET, "/v1/runs", &[], "")
        .expect(200)
        .json();
    assert_eq!(list[0]["replay_of"], id);
    assert_eq!(
        (&settled["stored"], &settled["unknown"]),
        (&json!(3), &json!(0))
    );
    let mut rows = database.rows();
    rows.sort_unstable();
    assert_eq!(rows, ["aa", "bb", "cc"], "nothing is stored twice");
    let run = service.send(Method::GET, &path, &[], "").expect(200).json();
    assert_eq!(
        (&run["state"], &run["stored"]),
        (&json!("completed"), &json!(3))
    );
    assert_eq!(
        service
            .send(Method::GET, &report, &[], "")
            .expect(200)
            .summary(),
        settled
    );
    insta::assert_snapshot!(service.send(Method::POST, &replay, &[], "").problem(), @r"
    409 Conflict
    the run was not interrupted, or is being replayed
    its state is at /v1/runs/ID
    ");
}

#[test]
fn report_of_a_run_that_did_not_start_is_its_problem() {
    let service = Service::start("postgres://u@127.0.0.1:1/d", &refused_url(), &[]);
    let id = service.start_run("?size=1");
    let run = service.wait_for_end(&id);
    assert_eq!(
        (&run["exit_code"], &run["received"]),
        (&json!(5), &json!(0))
    );
    for accept in ["application/x-ndjson", "text/plain", "text/html"] {
        let path = format!("/v1/runs/{id}/report");
        let answer = service
            .send(Method::GET, &path, &[("accept", accept)], "")
            .expect(503);
        assert_eq!(answer.json()["detail"], run["error"]["message"]);
    }
}

#[test]
fn report_that_could_not_be_written_is_not_taken_for_a_whole_one() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().to_str().unwrap();
    let (database, source) = (database(), Source::generating(|size| size));
    let command = Command::new()
        .database(&database)
        .source(&source)
        .args(["--data", data]);
    // Writes fail as on a full disk.
    let service = Service::of(command.file_limit(64));
    let id = service.start_run("?size=3000");
    let run = service.wait_for_end(&id);
    assert_ne!(run["exit_code"], 0, "{run}");
    let settled = ["stored", "rejected", "failed", "unknown", "not_attempted"];
    let settled: u64 = settled
        .iter()
        .map(|name| run[*name].as_u64().unwrap())
        .sum();
    assert_eq!(run["received"], settled, "{run}");
    let path = format!("/v1/runs/{id}/report");
    service.send(Method::GET, &path, &[], "").expect(410);
    assert!(!folder.path().join(format!("{id}.ndjson")).exists());
}

#[test]
fn folder_is_used_by_one_process() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().to_str().unwrap();
    let (database, source) = (database(), Source::generating(|size| size));
    let _first = Service::on(&database, &source, &["--data", data]);
    let second = Command::new().database(&database).source(&source).args([
        "serve",
        "--listen",
        "127.0.0.1:0",
        "--data",
        data,
    ]);
    let run = second.run().expect_code(2);
    assert!(
        run.error().contains("another process uses the folder"),
        "{}",
        run.stderr
    );
}

#[test]
fn cloud_run_gets_no_asynchronous_runs_unless_the_processor_is_always_allocated() {
    let (database, source) = (database(), Source::generating(|size| size));
    let of = |yaml: &str| {
        let command = Command::new()
            .database(&database)
            .source(&source)
            .env("K_SERVICE", "tokens")
            .config(yaml);
        Service::of(command)
    };
    let headers = [("prefer", "respond-async")];
    let service = of("{}\n");
    let refused = service.send(Method::POST, "/v1/runs?size=1", &headers, "");
    insta::assert_snapshot!(refused.problem(), @r"
    409 Conflict
    an asynchronous run would stop when the answer is sent: Cloud Run takes the processor away then
    leave out `Prefer: respond-async`; or allocate the CPU always and set `serve.cpu_always`
    ");
    service.run("?size=1", &[]).expect(200);
    let service = of("serve: {cpu_always: true}\n");
    service
        .send(Method::POST, "/v1/runs?size=1", &headers, "")
        .expect(202);
}
