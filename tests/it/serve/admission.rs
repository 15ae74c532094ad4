//! How many runs the service accepts, and how slow readers are held back.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use reqwest::Method;
use serde_json::json;

use super::{Service, database};
use crate::support::response::{Gate, Response};
use crate::support::scrape::Metrics;
use crate::support::source::Source;

#[test]
fn runs_beyond_the_queue_are_refused() {
    let gate = Gate::new();
    let source = Source::responding([Response::tokens(["aa"]).after(&gate).always()]);
    let args = ["--max-runs", "1", "--queue", "1"];
    let service = Service::on(&database(), &source, &args);
    let running = service.start_run("?size=1");
    source.wait_for(1);
    let queued = service.start_run("?size=1");
    let state = |id: &str| {
        let path = format!("/v1/runs/{id}");
        service.send(Method::GET, &path, &[], "").expect(200).json()["state"].clone()
    };
    assert_eq!(
        (state(&running), state(&queued)),
        (json!("running"), json!("queued"))
    );
    let refused = service.send(Method::POST, "/v1/runs?size=1", &[], "");
    assert_eq!(refused.headers["retry-after"], "1");
    insta::assert_snapshot!(refused.problem(), @r"
    429 Too Many Requests
    1 runs go on and 1 wait, and no more are accepted
    send the request again later; --max-runs and --queue set the numbers
    ");
    gate.open();
    for id in [&running, &queued] {
        assert_eq!(service.wait_for_end(id)["exit_code"], 0);
    }
    service.run("?size=1", &[]).expect(200);
}

#[test]
fn queued_run_can_be_stopped() {
    let gate = Gate::new();
    let source = Source::responding([Response::tokens(["aa"]).after(&gate)]);
    let service = Service::on(&database(), &source, &["--max-runs", "1"]);
    let running = service.start_run("?size=1");
    source.wait_for(1);
    let queued = service.start_run("?size=1");
    service
        .send(Method::DELETE, &format!("/v1/runs/{queued}"), &[], "")
        .expect(202);
    let run = service.wait_for_end(&queued);
    assert_eq!(
        (&run["state"], &run["received"]),
        (&json!("stopped"), &json!(0))
    );
    gate.open();
    assert_eq!(service.wait_for_end(&running)["exit_code"], 0);
}

#[test]
fn slow_reader_holds_up_only_its_own_run() {
    let database = database();
    let source = Source::generating(|size| size);
    let service = Service::on(&database, &source, &["--page-size", "2000"]);
    // It reads the head of the answer and nothing more.
    let mut slow = TcpStream::connect(service.address()).unwrap();
    let request =
        "POST /v1/runs?size=1000000 HTTP/1.1\r\nhost: localhost\r\ncontent-length: 0\r\n\r\n";
    slow.write_all(request.as_bytes()).unwrap();
    let mut head = [0; 512];
    slow.read_exact(&mut head).unwrap();
    let head = String::from_utf8_lossy(&head);
    let id = head.split("run-id: ").nth(1).unwrap()[..36].to_owned();
    // The run stands still once its window and the buffers of the sockets are full: other runs find the
    // same number of requests again and again.
    let of_others = 50;
    let mut requests = source.requests().len();
    loop {
        for _ in 0..of_others {
            service.run("?size=1", &[]).expect(200);
        }
        let now = source.requests().len();
        if std::mem::replace(&mut requests, now) + of_others == now {
            break;
        }
    }
    let path = format!("/v1/runs/{id}");
    let held_up = service.send(Method::GET, &path, &[], "").expect(200).json();
    assert_eq!(held_up["state"], "running");
    assert!(
        held_up["received"].as_u64().unwrap() < 1_000_000,
        "{held_up}"
    );
    service.send(Method::DELETE, &path, &[], "").expect(202);
    drop(slow);
    let run = service.wait_for_end(&id);
    assert_eq!(run["state"], "stopped");
    assert_eq!(
        database.rows().len() as u64 - of_other_runs(&service),
        run["stored"],
        "{run}"
    );
}

/// Returns how many runs besides the stopped one have stored their token.
fn of_other_runs(service: &Service) -> u64 {
    let (_, metrics) = service.get("/metrics");
    Metrics::parse(&metrics).count("token_service_runs_total{outcome=\"completed\"}")
}
