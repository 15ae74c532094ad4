//! `token_service serve`: the requests of the contract over real sockets, on a real database.

mod admission;
mod formats;
mod lifecycle;
mod monitoring;
mod pages;
mod requests;
mod runs;
mod shared;
mod start;

use std::collections::HashMap;
use std::time::Duration;

use reqwest::Method;
use serde_json::Value;
use tokio::runtime::Runtime;

use crate::support::command::{Command, Run, Running};
use crate::support::database::Database;
use crate::support::source::Source;

/// The longest wait for an answer.
const LIMIT: Duration = Duration::from_secs(50);

/// A running service on a free port of loopback.
pub struct Service {
    process: Option<Running>,
    url: String,
    admin: Option<String>,
    runtime: Runtime,
    client: reqwest::Client,
}

/// A database whose table takes every token.
pub fn database() -> Database {
    Database::from_ddl("CREATE TABLE secret_tokens (data text NOT NULL)")
}

/// An answer that has arrived completely.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: HashMap<String, String>,
    pub text: String,
}

impl Answer {
    /// The body as JSON.
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error}: {}", self.text))
    }

    /// The lines of the body as JSON.
    #[track_caller]
    pub fn lines(&self) -> Vec<Value> {
        let lines = self.text.lines().map(serde_json::from_str);
        lines
            .collect::<Result<_, _>>()
            .unwrap_or_else(|error| panic!("{error}: {}", self.text))
    }

    /// The summary at the end of an ndjson report.
    #[track_caller]
    pub fn summary(&self) -> Value {
        let last = self.lines().pop().expect("a line");
        assert!(last["summary"].is_object(), "{}", self.text);
        last["summary"].clone()
    }

    /// Asserts the status.
    #[track_caller]
    pub fn expect(self, status: u16) -> Self {
        assert_eq!(self.status, status, "{:?}\n{}", self.headers, self.text);
        self
    }

    /// The problem document as status, detail and hint, for a snapshot.
    #[track_caller]
    pub fn problem(&self) -> String {
        assert_eq!(
            self.headers["content-type"], "application/problem+json",
            "{}",
            self.text
        );
        let problem = self.json();
        assert_eq!(problem["status"], self.status);
        let text = |name: &str| problem[name].as_str().unwrap_or_default().to_owned();
        format!(
            "{} {}\n{}\n{}",
            self.status,
            text("title"),
            text("detail"),
            text("hint")
        )
    }
}

impl Service {
    /// Starts a service on a database and a source, given by their URLs.
    pub fn start(database_url: &str, source_url: &str, args: &[&str]) -> Self {
        let command = Command::new()
            .env("DATABASE_URL", database_url)
            .env("TOKEN_HOST", source_url);
        Self::of(command.args(args))
    }

    /// Starts a service on a database and a source.
    pub fn on(database: &Database, source: &Source, args: &[&str]) -> Self {
        let command = Command::new().database(database).source(source);
        Self::of(command.args(args))
    }

    /// Starts a service with these options and variables.
    pub fn of(command: Command) -> Self {
        let args = ["serve", "--listen", "127.0.0.1:0"];
        let command = command.prepend_args(args.map(ToOwned::to_owned).into());
        let process = command.spawn();
        let lines = process.wait_for_stdout(|text| text.ends_with('\n'));
        let url = |words: &str| {
            let line = lines.lines().find_map(|line| line.strip_prefix(words));
            line.map(ToOwned::to_owned)
        };
        Self {
            url: url("listening on ").expect("an address"),
            admin: url("metrics and health on "),
            process: Some(process),
            runtime: tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .expect("a runtime"),
            client: client(),
        }
    }

    /// The process.
    pub fn process(&self) -> &Running {
        self.process.as_ref().expect("a process")
    }

    /// The address of a path.
    pub fn url(&self, path: &str) -> String {
        format!("{}{path}", self.url)
    }

    /// The address of a path on the second listener.
    pub fn admin_url(&self, path: &str) -> String {
        format!("{}{path}", self.admin.as_ref().expect("a second listener"))
    }

    /// The host and the port, for raw connections.
    pub fn address(&self) -> &str {
        self.url.strip_prefix("http://").expect("an address")
    }

    /// Gets a path: status and body.
    pub fn get(&self, path: &str) -> (u16, String) {
        let answer = self.send(Method::GET, path, &[], "");
        (answer.status, answer.text)
    }

    /// Sends a request and waits for the whole answer.
    pub fn send(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Vec<u8>>,
    ) -> Answer {
        self.send_to(method, &self.url(path), headers, body)
    }

    /// Sends a request to an address.
    pub fn send_to(
        &self,
        method: Method,
        url: &str,
        headers: &[(&str, &str)],
        body: impl Into<Vec<u8>>,
    ) -> Answer {
        let request = self.request(method, url, headers, body);
        self.runtime.block_on(async {
            let response = request.send().await.expect("an answer");
            whole(response).await
        })
    }

    /// Starts a run and waits for its whole report.
    pub fn run(&self, query: &str, headers: &[(&str, &str)]) -> Answer {
        self.send(Method::POST, &format!("/v1/runs{query}"), headers, "")
    }

    /// Starts a run without waiting for it, and returns its id.
    #[track_caller]
    pub fn start_run(&self, query: &str) -> String {
        let headers = [("prefer", "respond-async")];
        let answer = self.send(Method::POST, &format!("/v1/runs{query}"), &headers, "");
        answer.expect(202).json()["id"]
            .as_str()
            .expect("an id")
            .to_owned()
    }

    /// Waits until a run is in a state, and returns it.
    #[track_caller]
    pub fn wait_for_state(&self, id: &str, is_awaited: impl Fn(&Value) -> bool) -> Value {
        let until = std::time::Instant::now() + LIMIT;
        loop {
            let run = self
                .send(Method::GET, &format!("/v1/runs/{id}"), &[], "")
                .expect(200)
                .json();
            if is_awaited(&run) {
                return run;
            }
            assert!(std::time::Instant::now() < until, "{run}");
            std::thread::yield_now();
        }
    }

    /// Waits until a run has ended, and returns it.
    #[track_caller]
    pub fn wait_for_end(&self, id: &str) -> Value {
        self.wait_for_state(id, |run| {
            !matches!(run["state"].as_str(), Some("queued" | "running"))
        })
    }

    fn request(
        &self,
        method: Method,
        url: &str,
        headers: &[(&str, &str)],
        body: impl Into<Vec<u8>>,
    ) -> reqwest::RequestBuilder {
        let mut request = self.client.request(method, url).body(body.into());
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request
    }

    /// Ends the service with SIGTERM and waits for it.
    pub fn stop(mut self) -> Run {
        let process = self.process.take().expect("a process");
        process.signal("TERM");
        process.wait()
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        // A process that is dropped is killed.
        if let Some(process) = self.process.take().filter(|_| !std::thread::panicking()) {
            process.signal("TERM");
            drop(process.wait());
        }
    }
}

fn client() -> reqwest::Client {
    let _ = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::builder()
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .tls_certs_only([])
        .timeout(LIMIT)
        .build()
        .expect("a client")
}

async fn whole(response: reqwest::Response) -> Answer {
    let status = response.status().as_u16();
    let headers = response.headers().iter();
    let headers = headers
        .map(|(name, value)| {
            (
                name.to_string(),
                value.to_str().unwrap_or_default().to_owned(),
            )
        })
        .collect();
    let text = response.text().await.expect("a body");
    Answer {
        status,
        headers,
        text,
    }
}
