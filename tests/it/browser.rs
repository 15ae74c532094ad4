//! Tests of the HTML report in Chromium, driven by chromedriver, and the helpers of all browser tests.
//!
//! They need a browser, so they are ignored by default: see tests/it/main.rs.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command as Program, Stdio};

use fantoccini::wd::WebDriverCompatibleCommand;
use fantoccini::{Client, ClientBuilder, Locator};
use hyper_util::client::legacy::connect::HttpConnector;
use serde_json::{Value, json};

use crate::html_report::{HOSTILE_TOKENS, Page, run, with_reports};
use crate::support;
use crate::support::command::{Command, Run};

/// A running chromedriver on a port of its choice; it stops when the value is dropped.
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
        let port_in = |line: String| {
            let (_, port) = line.split_once("started successfully on port ")?;
            Some(port.trim_end_matches('.').to_owned())
        };
        let port = lines.map_while(Result::ok).find_map(port_in);
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

/// Reads the browser's console; a command of chromedriver.
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

/// Sends a command of Chromium's developer tools.
#[derive(Debug)]
struct DevTools(&'static str, Value);

impl WebDriverCompatibleCommand for DevTools {
    fn endpoint(
        &self,
        base: &url::Url,
        session: Option<&str>,
    ) -> Result<url::Url, url::ParseError> {
        base.join(&format!(
            "session/{}/goog/cdp/execute",
            session.unwrap_or_default()
        ))
    }

    fn method_and_body(&self, _: &url::Url) -> (hyper::Method, Option<String>) {
        let body = json!({"cmd": self.0, "params": self.1});
        (hyper::Method::POST, Some(body.to_string()))
    }
}

/// A browser window that shows a page.
pub struct Window {
    /// The connection to the browser.
    pub client: Client,
}

impl Window {
    async fn open(driver: &Driver, address: &str) -> Self {
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
        client.goto(address).await.unwrap();
        Self { client }
    }

    async fn text(&self, selector: &str) -> String {
        let found = self.client.find(Locator::Css(selector)).await;
        found.expect(selector).text().await.unwrap()
    }

    pub async fn count(&self, selector: &str) -> usize {
        let found = self.client.find_all(Locator::Css(selector)).await;
        found.unwrap().len()
    }

    /// The tokens of the visible rows.
    pub async fn tokens(&self) -> Vec<String> {
        let script =
            "return [...document.querySelectorAll('td.token')].map((td) => td.textContent)";
        let found = self.client.execute(script, Vec::new()).await.unwrap();
        serde_json::from_value(found).unwrap()
    }

    async fn search(&self, text: &str) {
        let field = self.client.find(Locator::Id("search")).await.unwrap();
        // Like a user: selects all, deletes it, and types the new text.
        let keys = format!("\u{e009}a\u{e000}\u{e017}{text}");
        field.send_keys(&keys).await.unwrap();
    }

    pub async fn click(&self, selector: &str) {
        let found = self.client.find(Locator::Css(selector)).await;
        found.expect(selector).click().await.unwrap();
    }

    /// Sets features of the browser, such as the color scheme.
    pub async fn emulate(&self, params: Value) {
        let command = DevTools("Emulation.setEmulatedMedia", params);
        self.client.issue_cmd(command).await.unwrap();
    }

    /// Makes the page as wide as that of a phone; a window has a least width.
    pub async fn narrow(&self, width: u32) {
        let params = json!({"width": width, "height": 844, "deviceScaleFactor": 1, "mobile": true});
        let command = DevTools("Emulation.setDeviceMetricsOverride", params);
        self.client.issue_cmd(command).await.unwrap();
    }

    /// Returns the messages of the console since the last call.
    pub async fn console(&self) -> Vec<String> {
        let console = self.client.issue_cmd(Console).await.unwrap();
        let entries = console.as_array().unwrap().iter();
        entries.map(|entry| entry["message"].to_string()).collect()
    }

    /// Closes the window; asserts that the console is empty and no dialogue is open.
    pub async fn close(self) {
        let dialogue = self.client.get_alert_text().await;
        assert!(dialogue.is_err(), "a dialogue: {dialogue:?}");
        assert_eq!(self.console().await, [""; 0], "the console");
        self.client.close().await.unwrap();
    }
}

/// Opens an address in a browser.
pub fn in_browser<F: Future<Output = ()>>(address: &str, test: impl FnOnce(Window) -> F) {
    let driver = Driver::start();
    let runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = { runtime }.enable_all().build().unwrap();
    runtime.block_on(async {
        test(Window::open(&driver, address).await).await;
    });
}

/// Opens the page of a run in a browser.
fn show<F: Future<Output = ()>>(run: &Run, test: impl FnOnce(Window) -> F) {
    let address = url::Url::from_file_path(run.path("run.html")).unwrap();
    in_browser(address.as_str(), test);
}

#[test]
#[ignore = "needs Chromium and chromedriver; tests/run runs it if they are installed"]
fn rows_can_be_searched_filtered_and_sorted() {
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
        // `b-b` matches by the name of its constraint.
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
#[ignore = "needs Chromium and chromedriver; tests/run runs it if they are installed"]
fn hostile_tokens_are_shown_as_text() {
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

/// The document contains only the rows near the visible ones.
#[test]
#[ignore = "needs Chromium and chromedriver; tests/run runs it if they are installed"]
fn search_finds_one_of_a_hundred_thousand_tokens() {
    let run = with_reports(Command::new().args(["demo", "100000", "--report", "text"])).run();
    let run = run.expect_code(0);
    let page = Page::of(&run);
    let last: Vec<&Value> = page.rows.iter().rev().take(50).collect();
    assert_eq!(page.rows.len(), 100_000);
    let token = last[49][1].as_str().unwrap().to_owned();
    show(&run, async |window| {
        assert_eq!(window.text("#count").await, "100,000 rows");
        assert!(window.tokens().await.len() < 200);
        window.search(&token).await;
        assert_eq!(window.tokens().await, [token]);
        assert_eq!(window.text("#count").await, "1 of 100,000 rows");

        window.search("").await;
        let scroll_to_end =
            "const view = document.getElementById('view'); view.scrollTop = view.scrollHeight;
            return new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(() =>
                done(document.querySelector('tr[aria-rowindex=\"100001\"]') !== null))));";
        let seen = window
            .client
            .execute(scroll_to_end, Vec::new())
            .await
            .unwrap();
        assert_eq!(seen, json!(true), "the last row");
        window.close().await;
    });
}

/// Returns every visible text whose contrast is below that of WCAG 2.1 AA, 4.5 to 1.
pub const LOW_CONTRAST: &str = r#"
    const channel = (value) => {
      const share = value / 255;
      return share <= 0.03928 ? share / 12.92 : ((share + 0.055) / 1.055) ** 2.4;
    };
    const parse = (text) => {
      const numbers = text.match(/[\d.]+/g).map(Number);
      return { rgb: numbers.slice(0, 3), alpha: numbers.length > 3 ? numbers[3] : 1 };
    };
    const over = (top, alpha, below) => top.map((value, at) => value * alpha + below[at] * (1 - alpha));
    const luminance = ([r, g, b]) => 0.2126 * channel(r) + 0.7152 * channel(g) + 0.0722 * channel(b);
    const found = [];
    let texts = 0;
    for (const element of document.querySelectorAll("body *")) {
      const own = [...element.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim() !== "");
      const placeholder = element.placeholder ? "::placeholder" : undefined;
      if (!own && !placeholder || element.closest("script, [hidden]") || element.getClientRects().length === 0) continue;
      texts++;
      const style = getComputedStyle(element, placeholder);
      let opacity = 1;
      const layers = [];
      for (let at = element; at; at = at.parentElement) {
        opacity *= Number(getComputedStyle(at).opacity);
        layers.unshift(parse(getComputedStyle(at).backgroundColor));
      }
      const behind = layers.reduce((below, { rgb, alpha }) => over(rgb, alpha, below), [255, 255, 255]);
      const color = parse(element instanceof SVGElement ? style.fill : style.color);
      const front = over(color.rgb, color.alpha * opacity, behind);
      const [low, high] = [luminance(front), luminance(behind)].sort((a, b) => a - b);
      const ratio = (high + 0.05) / (low + 0.05);
      if (ratio < 4.5) found.push(`${element.className.baseVal ?? element.className} ${element.textContent.trim()}: ${ratio.toFixed(2)}`);
    }
    return texts < 20 ? [`only ${texts} texts`] : found;"#;

#[test]
#[ignore = "needs Chromium and chromedriver; tests/run runs it if they are installed"]
fn texts_have_enough_contrast_in_light_and_dark() {
    let run = run(&["aa", "b-b", " blanks "]);
    show(&run, async |window| {
        // One status is switched off.
        window.click("button[data-status=stored]").await;
        for scheme in ["light", "dark"] {
            window
                .emulate(json!({"features": [{"name": "prefers-color-scheme", "value": scheme}]}))
                .await;
            let back = "return getComputedStyle(document.body).backgroundColor";
            let back = window.client.execute(back, Vec::new()).await.unwrap();
            let expected = if scheme == "dark" {
                "rgb(15, 19, 25)"
            } else {
                "rgb(246, 247, 249)"
            };
            assert_eq!(back, json!(expected));
            let low = window
                .client
                .execute(LOW_CONTRAST, Vec::new())
                .await
                .unwrap();
            assert_eq!(low, json!([]), "{scheme}");
        }
        window.close().await;
    });
}

#[test]
#[ignore = "needs Chromium and chromedriver; tests/run runs it if they are installed"]
fn narrow_screen_shows_the_reason_under_the_token() {
    let run = run(&["aa", "b-b"]);
    show(&run, async |window| {
        for width in [390, 800] {
            window.narrow(width).await;
            // The reason is below the token, on the screen, and the page does not scroll sideways.
            let place = "const row = [...document.querySelectorAll('tbody tr')].find((row) => row.textContent.includes('b-b'));
                const [token, why] = [row.querySelector('td.token'), row.lastElementChild];
                const [a, b] = [token.getBoundingClientRect(), why.getBoundingClientRect()];
                return [innerWidth, why.textContent, b.top >= a.bottom - 1, b.left >= 0 && b.right <= innerWidth,
                    b.width > 100, document.documentElement.scrollWidth <= innerWidth, row.offsetHeight];";
            let place = window.client.execute(place, Vec::new()).await.unwrap();
            let reason = "23514 secret_tokens_data_check";
            assert_eq!(place, json!([width, reason, true, true, true, true, 80]));
        }
        window.close().await;
    });
}

#[test]
#[ignore = "needs Chromium and chromedriver; tests/run runs it if they are installed"]
fn blanks_at_the_ends_of_a_token_are_visible() {
    let run = run(&[" a  b ", "cc", "\u{a0}\u{3000}"]);
    show(&run, async |window| {
        let marked = "return [...document.querySelectorAll('td.token')].map((td) => [td.textContent,
            ...[...td.querySelectorAll('.blank')].map((blank) => blank.textContent + (blank.offsetWidth > 2))]);";
        let marked = window.client.execute(marked, Vec::new()).await.unwrap();
        let mut marked: Vec<Vec<String>> = serde_json::from_value(marked).unwrap();
        marked.sort();
        assert_eq!(
            marked,
            [
                vec![" a  b ", " true", " true"],
                vec!["cc"],
                vec!["\u{a0}\u{3000}", "\u{a0}\u{3000}true"],
            ]
        );
        window.close().await;
    });
}
