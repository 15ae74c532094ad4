//! The page of one run: its progress and totals while it runs, then its HTML report. The script fills it.

use maud::{Markup, html};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use crate::command::serve::pages::PageFacts;
use crate::command::serve::pages::layout::page;
use crate::pipeline::token::Status;

/// The formats to download, with the extensions of the files.
const DOWNLOADS: [(&str, &str); 5] = [
    ("ndjson", "ndjson"),
    ("csv", "csv"),
    ("json", "json"),
    ("yaml", "yaml"),
    ("text", "txt"),
];

/// The characters of an id that a path must encode: all but those of a UUID.
const IN_PATH: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-');

/// Returns the page of the run with this id.
pub fn run_page(id: &str, facts: &PageFacts) -> String {
    let content = html! {
        p { a href="/" { "All runs" } }
        h1 #title tabindex="-1" { "Run " code { (id) } }
        p #status role="status" aria-live="polite" { "Loading the run…" }
        div #run data-id=(id) data-can-run-async[facts.can_run_async] data-keeps-reports[facts.keeps_reports] {
            (actions(facts))
            section.card #failure hidden aria-labelledby="failure-title" {
                h2 #failure-title { "Why the run failed" }
                div.problem #failure-text {}
            }
            section.card #progress hidden { (progress()) }
            section.card #totals hidden aria-label="Totals" { (totals()) }
            section.card #rejections hidden { (rejections()) }
            section.card #report hidden aria-labelledby="report-title" { (report(id)) }
            p.note #no-report hidden {
                "The report of this run is not available. The service keeps reports only if it runs with "
                code { "--data DIR" } "."
            }
        }
        (confirmation())
    };
    let title = format!("Run {id}");
    page(&title, Some("run.js"), facts.has_login, &content)
}

/// Returns the buttons, with the notes on them.
fn actions(facts: &PageFacts) -> Markup {
    html! {
        @if !facts.can_run_async {
            p.note #request-note hidden {
                "Keep this page open: on this platform a run makes progress only while a request is open."
            }
        }
        p.note #replay-note hidden {
            "The service ended before this run. A replay stores the tokens that are safe to store again, \
             and checks those whose outcome is unknown."
        }
        p.note #replayed hidden { "Replayed by run " a href="/" { code {} } "." }
        div.actions {
            button.danger #stop type="button" hidden { "Stop run" }
            button.primary #replay type="button" hidden { "Replay run" }
        }
        div.problem #problem role="alert" {}
    }
}

/// Returns the progress bar: the share of each status among the requested tokens.
fn progress() -> Markup {
    html! {
        div #bar role="progressbar" aria-label="Progress" aria-valuemin="0" {
            svg.shares viewBox="0 0 100 1" preserveAspectRatio="none" aria-hidden="true" {
                rect.bar-back width="100" height="1" {}
                @for status in Status::ALL {
                    rect.(status) x="0" width="0" height="1" data-status=(status) {}
                }
            }
        }
        p.note #progress-text {}
    }
}

/// Returns the figures; the script shows those that are hidden once it knows them.
fn totals() -> Markup {
    let figure = |name: &str, label: &str, is_hidden: bool| {
        html! {
            div hidden[is_hidden] { dt { (label) } dd data-figure=(name) { "–" } }
        }
    };
    html! {
        dl {
            (figure("requested", "requested", false))
            (figure("received", "received", false))
            @for status in Status::ALL {
                div {
                    dt { span.dot.(status) {} (status.as_str().replace('_', " ")) }
                    dd data-figure=(status) { "–" }
                }
            }
            (figure("rate", "settled per second", false))
            (figure("duration", "duration", true))
            (figure("requests", "requests", true))
            (figure("p50", "commit latency, p50", true))
            (figure("p99", "commit latency, p99", true))
        }
    }
}

/// Returns the frame of the table of the latest rejections.
fn rejections() -> Markup {
    html! {
        table.rejections {
            caption { "Latest rejections" }
            thead { tr { th scope="col" { "Token" } th scope="col" { "Why" } } }
            tbody #rejected {}
        }
    }
}

/// Returns the frame of the HTML report, and the links to the other formats.
fn report(id: &str) -> Markup {
    let path = utf8_percent_encode(id, IN_PATH);
    let address = |format: &str| format!("/v1/runs/{path}/report?format={format}");
    html! {
        h2 #report-title { "Report" }
        ul.links {
            li { a href=(address("html")) { "Open as a page" } }
            @for (format, extension) in DOWNLOADS {
                li {
                    a href=(address(format)) download={ (id) "." (extension) } { "Download " (format) }
                }
            }
        }
        // The report contains tokens, which are not trusted: its scripts have no access to the session.
        iframe #frame title={ "Report of run " (id) } sandbox="allow-scripts" data-src=(address("html")) {}
    }
}

/// Returns the dialog that confirms a stop.
fn confirmation() -> Markup {
    html! {
        dialog #confirmation aria-labelledby="confirmation-title" aria-describedby="confirmation-text" {
            h2 #confirmation-title { "Stop this run?" }
            p #confirmation-text {
                "Inserts in flight are settled. Tokens that are not yet sent are reported as not attempted."
            }
            div.actions {
                button #keep type="button" autofocus { "Keep running" }
                button.danger #confirm type="button" { "Stop run" }
            }
        }
    }
}
