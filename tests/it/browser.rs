//! The HTML report in a real browser: Chromium, driven through its chromedriver.
//!
//! Ignored unless asked for, as tests/it/main.rs explains: it takes a browser.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command as Program, Stdio};

use fantoccini::wd::WebDriverCompatibleCommand;
use fantoccini::{Client, ClientBuilder, Locator};
use hyper_util::client::legacy::connect::HttpConnector;
use serde_json::{Value, json};

use crate::html_report::{HOSTILE_TOKENS, Page, reporting, run};
use crate::support;
use crate::support::command::{Command, Run};

/// A chromedriver of the test's own, on a port that it chose itself; ends with the value.
struct Driver {
    child: Child,
    port: String,
}

impl Driver {
    fn start() -> Self {
        support::time_limit::start();
        let mut child = Program::new("chromedriver")
            .arg("--port=0")
            .stdout(Stdio::piped())
            .spawn()
            .expect("chromedriver: tests/run installs it");
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let said = |line: String| {
            let (_, port) = line.split_once("started successfully on port ")?;
            Some(port.trim_end_matches('.').to_owned())
        };
        let port = lines.map_while(Result::ok).find_map(said);
        Self {
            port: port.expect("the port that chromedriver listens on"),
            child,
        }
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What the browser wrote to its console; chromedriver's own command.
#[derive(Debug)]
struct Console;

impl WebDriverCompatibleCommand for Console {
    fn endpoint(
        &self,
        base: &url::Url,
        session: Option<&str>,
    ) -> Result<url::Url, url::ParseError> {
        base.join(&format!("session/{}/se/log", session.unwrap_or_default()))
    }

    fn method_and_body(&self, _: &url::Url) -> (hyper::Method, Option<String>) {
        (
            hyper::Method::POST,
            Some(json!({"type": "browser"}).to_string()),
        )
    }
}

/// A browser window of this size that shows a page.
struct Window {
    client: Client,
}

impl Window {
    async fn open(driver: &Driver, page: &Path) -> Self {
        let options = json!({
            "goog:chromeOptions": {
                "args": ["--headless=new", "--no-sandbox", "--disable-gpu", "--window-size=1200,900"],
            },
            "goog:loggingPrefs": {"browser": "ALL"},
        });
        let client = ClientBuilder::new(HttpConnector::new())
            .capabilities(options.as_object().unwrap().clone())
            .connect(&format!("http://127.0.0.1:{}", driver.port))
            .await
            .expect("chromium: tests/run installs it");
        let address = url::Url::from_file_path(page).unwrap();
        client.goto(address.as_str()).await.unwrap();
        Self { client }
    }

    async fn text(&self, selector: &str) -> String {
        let found = self.client.find(Locator::Css(selector)).await;
        found.expect(selector).text().await.unwrap()
    }

    async fn count(&self, selector: &str) -> usize {
        let found = self.client.find_all(Locator::Css(selector)).await;
        found.unwrap().len()
    }

    /// The tokens in the rows that are seen.
    async fn tokens(&self) -> Vec<String> {
        let script =
            "return [...document.querySelectorAll('td.token')].map((td) => td.textContent)";
        let found = self.client.execute(script, Vec::new()).await.unwrap();
        serde_json::from_value(found).unwrap()
    }

    async fn search(&self, text: &str) {
        let field = self.client.find(Locator::Id("search")).await.unwrap();
        // As a person would: everything is marked, deleted, and written anew.
        let anew = format!("\u{e009}a\u{e000}\u{e017}{text}");
        field.send_keys(&anew).await.unwrap();
    }

    async fn click(&self, selector: &str) {
        let found = self.client.find(Locator::Css(selector)).await;
        found.expect(selector).click().await.unwrap();
    }

    /// Ends it; nothing may have been complained of, and no dialogue been opened.
    async fn close(self) {
        let dialogue = self.client.get_alert_text().await;
        assert!(dialogue.is_err(), "a dialogue: {dialogue:?}");
        let console = self.client.issue_cmd(Console).await.unwrap();
        assert_eq!(console, json!([]), "the console");
        self.client.close().await.unwrap();
    }
}

/// Shows the page of a run.
fn show<F: Future<Output = ()>>(run: &Run, look: impl FnOnce(Window) -> F) {
    let driver = Driver::start();
    let runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = { runtime }.enable_all().build().unwrap();
    runtime.block_on(async {
        look(Window::open(&driver, &run.path("run.html")).await).await;
    });
}

#[test]
#[ignore = "needs Chromium and its chromedriver; tests/run asks for it where they are"]
fn a_page_is_shown_and_its_rows_are_searched_filtered_and_sorted() {
    let run = run(&["aa", "b-b", "cc", "c-c", "dd"]);
    show(&run, async |window| {
        let title = window.client.title().await.unwrap();
        assert_eq!(title, "token_service: 5 tokens: 3 stored, 2 rejected");
        assert_eq!(window.text(".verdict").await, "completed");
        assert!(window.count("svg.chart rect").await > 2);
        assert_eq!(window.text("#count").await, "5 rows");
        let first = window.tokens().await;
        assert_eq!(first.len(), 5);
        assert!(
            first[0].contains('-') && first[1].contains('-'),
            "rejected first: {first:?}"
        );

        window.search("C").await;
        let mut found = window.tokens().await;
        found.sort();
        // The other one has the letter in its constraint.
        assert_eq!(found, ["b-b", "c-c", "cc"]);
        assert_eq!(window.text("#count").await, "3 of 5 rows");
        window.click("button[data-status=rejected]").await;
        assert_eq!(window.tokens().await, ["cc"]);
        window.click("button[data-status=rejected]").await;
        window.search("nothing like it").await;
        assert_eq!(window.tokens().await, [""; 0]);

        window.search("").await;
        window.click("th[data-key='1'] button").await;
        assert_eq!(window.tokens().await, ["aa", "b-b", "c-c", "cc", "dd"]);
        window.click("th[data-key='1'] button").await;
        assert_eq!(window.tokens().await, ["dd", "cc", "c-c", "b-b", "aa"]);
        window.close().await;
    });
}

#[test]
#[ignore = "needs Chromium and its chromedriver; tests/run asks for it where they are"]
fn a_hostile_token_is_text_to_a_browser() {
    let run = run(&HOSTILE_TOKENS);
    show(&run, async |window| {
        let mut shown = window.tokens().await;
        let mut expected: Vec<String> = HOSTILE_TOKENS
            .map(|token| token.replace('\u{202e}', "\\u{202e}"))
            .into();
        shown.sort();
        expected.sort();
        assert_eq!(shown, expected);
        assert_eq!(
            window
                .count("img, iframe, body script[src], svg[onload]")
                .await,
            0
        );
        window.search("<img src=x").await;
        assert_eq!(window.tokens().await, [HOSTILE_TOKENS[0]]);
        window.close().await;
    });
}

/// One row of 100,000 is found, and no more rows stand in the document than are seen.
#[test]
#[ignore = "needs Chromium and its chromedriver; tests/run asks for it where they are"]
fn a_hundred_thousand_tokens_are_searched() {
    let run = reporting(Command::new().args(["demo", "100000", "--report", "text"])).run();
    let run = run.expect_code(0);
    let page = Page::of(&run);
    let last: Vec<&Value> = page.rows.iter().rev().take(50).collect();
    assert_eq!(page.rows.len(), 100_000);
    let wanted = last[49][1].as_str().unwrap().to_owned();
    show(&run, async |window| {
        assert_eq!(window.text("#count").await, "100,000 rows");
        assert!(window.tokens().await.len() < 200);
        window.search(&wanted).await;
        assert_eq!(window.tokens().await, [wanted]);
        assert_eq!(window.text("#count").await, "1 of 100,000 rows");

        window.search("").await;
        let to_the_end =
            "const view = document.getElementById('view'); view.scrollTop = view.scrollHeight;
            return new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(() =>
                done(document.querySelector('tr[aria-rowindex=\"100001\"]') !== null))));";
        let seen = window.client.execute(to_the_end, Vec::new()).await.unwrap();
        assert_eq!(seen, json!(true), "the last row");
        window.close().await;
    });
}
