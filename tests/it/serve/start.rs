//! How the service starts: addresses, who has to authenticate, and mistakes in the configuration.

use super::{Service, database};
use crate::support::command::Command;
use crate::support::source::{Source, refused_url};

fn command() -> Command {
    Command::new()
        .env("DATABASE_URL", "postgres://u@127.0.0.1:1/d")
        .env("TOKEN_HOST", refused_url())
        .arg("serve")
}

#[test]
fn mistakes_in_the_configuration_are_reported_at_the_start() {
    let error = |command: Command| command.run().expect_code(2).error().to_owned();
    let errors = [
        error(command().args(["--listen", "0.0.0.0:0"])),
        error(command().env("PORT", "8080")),
        error(command().env("PORT", "http")),
        error(command().args(["--listen", "localhost"])),
        error(command().args(["--max-runs", "0"])),
        error(command().args([
            "--listen",
            "127.0.0.1:8080",
            "--admin-listen",
            "127.0.0.1:8080",
        ])),
        error(
            command()
                .arg("--no-auth")
                .env("TOKEN_SERVICE_SERVE_TOKEN", "s3cret"),
        ),
        error(command().env("TOKEN_SERVICE_SERVE_TOKEN", "s3cret token")),
        error(command().config("serve: {max_run: 3}\n")),
    ];
    let errors = errors.join("\n\n");
    assert!(!errors.contains("s3cret"));
    insta::assert_snapshot!(errors);
}

#[test]
fn script_with_a_mistake_keeps_the_service_from_starting() {
    let command = command()
        .file("mine.rhai", "report(stroe(fetch(SIZE)));\n")
        .args(["--listen", "127.0.0.1:0", "--script", "mine.rhai"]);
    let run = command.run().expect_code(3);
    assert!(
        run.error().contains("did you mean `store`?"),
        "{}",
        run.stderr
    );
}

#[test]
fn address_that_is_in_use_is_reported() {
    let (database, source) = (database(), Source::generating(|size| size));
    let service = Service::on(&database, &source, &[]);
    let run = command()
        .args(["--listen", service.address()])
        .run()
        .expect_code(2);
    assert!(
        run.error()
            .starts_with("error: cannot listen on 127.0.0.1:"),
        "{}",
        run.stderr
    );
}

#[test]
fn service_starts_without_its_database_and_is_not_ready() {
    let service = Service::start("postgres://u@127.0.0.1:1/d", &refused_url(), &[]);
    let (status, text) = service.get("/readyz");
    assert_eq!(status, 503, "{text}");
    assert!(text.contains("\"ready\":false"), "{text}");
    assert_eq!(service.get("/healthz"), (200, "ok\n".to_owned()));
    service.stop().expect_code(0);
}

#[test]
fn log_lines_of_a_run_have_its_id() {
    let (database, source) = (database(), Source::generating(|size| size));
    let service = Service::on(&database, &source, &[]);
    assert_eq!(
        service.run("?size=1", &[]).expect(200).summary()["stored"],
        1
    );
    let run = service.stop().expect_code(0);
    assert!(run.stderr.contains("run_id="), "{}", run.stderr);
}
