//! The formats of a report, as the run goes on and afterwards.

use reqwest::Method;

use super::{Service, database};
use crate::support::command::Command;
use crate::support::database::Database;
use crate::support::response::Response;
use crate::support::source::Source;

const TYPES: [(&str, &str); 5] = [
    ("text/plain", "text/plain; charset=utf-8"),
    ("text/csv", "text/csv; charset=utf-8"),
    ("application/json", "application/json"),
    ("application/yaml", "application/yaml"),
    ("text/html", "text/html; charset=utf-8"),
];

#[test]
fn each_format_is_the_one_of_the_command_line() {
    let database = Database::standard();
    let source = Source::responding([Response::tokens(["aa", "b-b"]).always()]);
    let service = Service::on(&database, &source, &[]);
    for (accept, content_type) in TYPES {
        let answer = service.run("?size=2", &[("accept", accept)]).expect(200);
        assert_eq!(answer.headers["content-type"], content_type);
        let text = &answer.text;
        let id = &answer.headers["run-id"];
        match accept {
            "text/plain" => assert_eq!(
                text.lines().collect::<std::collections::BTreeSet<_>>(),
                [
                    "rejected  b-b  23514 secret_tokens_data_check",
                    "stored    aa"
                ]
                .into()
            ),
            "text/csv" => assert!(text.starts_with("token,status,attempts,ms"), "{text}"),
            "application/json" => {
                let report = answer.json();
                assert_eq!(report["tokens"].as_array().unwrap().len(), 2);
                assert_eq!(report["summary"]["run_id"], *id);
            }
            "application/yaml" => assert!(text.contains(&format!("run_id: \"{id}\"")), "{text}"),
            _ => assert!(
                text.contains("<title>") && text.ends_with("</html>\n"),
                "{text}"
            ),
        }
        // The same report again, from what is kept.
        let path = format!("/v1/runs/{id}/report");
        let again = service
            .send(Method::GET, &path, &[("accept", accept)], "")
            .expect(200);
        match accept {
            // Its chart of arrival is that of the run only.
            "text/html" => assert!(!again.text.contains("Outcomes over time")),
            _ => assert_eq!(again.text, *text, "{accept}"),
        }
    }
}

#[test]
fn query_beats_accept() {
    let (database, source) = (database(), Source::generating(|size| size));
    let service = Service::on(&database, &source, &[]);
    let answer = service
        .run("?size=1&format=csv", &[("accept", "text/html")])
        .expect(200);
    assert_eq!(answer.headers["content-type"], "text/csv; charset=utf-8");
}

#[test]
fn text_has_the_lines_of_the_script() {
    let database = database();
    let source = Source::responding([Response::tokens(["aa"]).always()]);
    let script = "emit(\"begin\");\nreport(store(fetch(SIZE)), |outcome| `${outcome.status}!`);\nprint(\"end\");\n";
    let command = Command::new()
        .database(&database)
        .source(&source)
        .file("mine.rhai", script)
        .args(["--script", "mine.rhai"]);
    let service = Service::of(command);
    let text = service
        .run("?size=1", &[("accept", "text/plain")])
        .expect(200)
        .text;
    assert_eq!(text, "begin\nstored!\nend\n");
    // What a script prints is no part of other formats.
    let lines = service.run("?size=1", &[]).expect(200).lines();
    assert_eq!(lines.len(), 2);
}
