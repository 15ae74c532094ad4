//! The page without its rows: conclusion, totals, charts, and the frame of the table.
#![expect(
    clippy::cast_precision_loss,
    reason = "shares are shown with one decimal"
)]

use maud::{Markup, PreEscaped, html};

use crate::error::escape::escape;
use crate::error::exit::Cause;
use crate::observe::number::grouped;
use crate::pipeline::numbers::{NUMBERS, Numbers, OnPage};
use crate::pipeline::token::Status;
use crate::report::html::charts::{self, duration};
use crate::report::html::totals::HtmlTotals;
use crate::report::summary::Summary;

/// Maximum number of causes to show.
const SHOWN_CAUSES: usize = 12;

/// Returns the rest of the head and the body, without the script.
pub(super) fn page(totals: &HtmlTotals, summary: &Summary, rows: &[u64; 5]) -> Markup {
    let numbers = &summary.numbers;
    let outcome = outcome(numbers);
    let (is_good, conclusion) = conclusion(summary);
    html! {
        title { "token_service: " (outcome) }
        (PreEscaped("</head>\n<body>"))
        header {
            p.name { "token_service" }
            h1 { (outcome) }
            p {
                span.verdict.good[is_good] { (conclusion) }
                span.soft { " exit code " (summary.exit_code) }
            }
            (inputs(summary))
            @if summary.dry_run {
                p.note { "Dry run: each insert was rolled back; nothing was stored." }
            }
        }
        main {
            section.card { (shares(numbers)) }
            section.card aria-label="Totals" { (figures(summary)) }
            div.two {
                @if !summary.run.is_merged { section.card {
                    h2 { "Outcomes over time, tokens/s" }
                    @if totals.timeline.columns.is_empty() {
                        p.soft { "No token was received." }
                    } @else {
                        (charts::timeline(&totals.timeline))
                    }
                } }
                section.card {
                    h2 { "Commit latency, tokens" }
                    @if summary.latencies.is_empty() {
                        p.soft { "No token was sent." }
                    } @else {
                        (charts::latencies(&summary.latencies))
                        div.figures {
                            @for (name, value) in summary.latencies.percentiles() {
                                span { span.soft { (name) } " " b { (duration(value)) } }
                            }
                        }
                    }
                }
            }
            @if numbers.rejected > 0 {
                section.card { (causes(totals, numbers.rejected)) }
            }
            section.card.tokens { (table(totals, numbers, rows)) }
        }
    }
}

/// Returns what ran: source, database, table and script, and the run itself.
fn inputs(summary: &Summary) -> Markup {
    let run = &summary.run;
    let start = utc_time(&run.started_at.to_string());
    html! {
        dl.inputs {
            @for (name, value) in &summary.inputs {
                div { dt { (name) } dd { (escape(value)) } }
            }
            div { dt { "started" } dd { (start) } }
            div { dt { "run" } dd { (run.run_id) } }
            @if let Some(replayed) = &run.replay_of {
                div { dt { "replay of run" } dd { (escape(replayed)) } }
            }
            div { dt { "version" } dd { "token_service " (env!("CARGO_PKG_VERSION")) } }
        }
    }
}

fn outcome(numbers: &Numbers) -> String {
    let named = Status::ALL.map(|status| (numbers.of(status), status.as_str()));
    let parts: Vec<String> = named
        .iter()
        .filter(|(count, _)| *count > 0)
        .map(|(count, name)| format!("{} {}", grouped(*count), name.replace('_', " ")))
        .collect();
    match numbers.total() {
        0 => "No token was received".to_owned(),
        1 => format!("1 token: {}", parts.join(", ")),
        total => format!("{} tokens: {}", grouped(total), parts.join(", ")),
    }
}

/// Returns a time to the second.
fn utc_time(rfc3339: &str) -> String {
    let seconds = rfc3339.get(..19).unwrap_or(rfc3339);
    format!("{} UTC", seconds.replace('T', " "))
}

/// Returns whether the run succeeded, and a description of its exit code.
fn conclusion(summary: &Summary) -> (bool, String) {
    let text = match (summary.exit_code, summary.aborted_by) {
        (0, _) => "completed",
        (_, Some(Cause::Deadline)) => "stopped by the deadline",
        (130 | 143, Some(signal)) => return (false, format!("stopped by {}", signal.as_str())),
        (1, _) => "completed, but a --fail-on condition holds",
        (3, _) => "the script ended with an error",
        (4, _) => "the source did not supply all tokens",
        (5, _) => "some tokens are not settled",
        _ => "ended by the script",
    };
    (summary.exit_code == 0, text.to_owned())
}

/// Returns a bar with the share of each status, and its legend.
fn shares(numbers: &Numbers) -> Markup {
    let share = |count: u64| count as f64 * 100.0 / numbers.total().max(1) as f64;
    let mut left = 0.0;
    let segments = Status::ALL.map(|status| {
        let (from, width) = (left, share(numbers.of(status)));
        left += width;
        (status, format!("{from:.3}"), format!("{width:.3}"))
    });
    html! {
        svg.shares viewBox="0 0 100 1" preserveAspectRatio="none" role="img" aria-label="Shares by status" {
            rect.bar-back width="100" height="1" {}
            @for (status, from, width) in segments {
                rect class=(status) x=(from) width=(width) height="1" {}
            }
        }
        ul.legend {
            @for status in Status::ALL {
                @let count = numbers.of(status);
                li.none[count == 0] {
                    span.dot.(status) {} (status.as_str().replace('_', " "))
                    b data-count=(status) { (grouped(count)) }
                    span.soft { " " (format!("{:.1}", share(count))) " %" }
                }
            }
        }
    }
}

/// Returns the numbers of requests and tokens, the duration and the rate.
fn figures(summary: &Summary) -> Markup {
    let numbers = &summary.numbers;
    let rows = |place| NUMBERS.iter().filter(move |row| row.on_page == place);
    let below = |name| {
        let notes = rows(OnPage::Below(name)).filter(|row| row.of(numbers) > 0);
        let notes = notes.map(|row| format!("{} {}", grouped(row.of(numbers)), row.words));
        notes.collect::<Vec<_>>().join(", ")
    };
    let has_notes = |name| rows(OnPage::Below(name)).next().is_some();
    html! {
        dl {
            @for row in rows(OnPage::Figure) {
                div {
                    dt { (row.name) }
                    dd {
                        (grouped(row.of(numbers)))
                        @if has_notes(row.name) { small { (below(row.name)) } }
                    }
                }
            }
            div { dt { "duration" } dd { (duration(summary.duration_ms() as f64)) } }
            div { dt { "settled per second" } dd { (grouped(summary.rate())) } }
        }
    }
}

/// Returns the rejections by cause, the most frequent first.
fn causes(totals: &HtmlTotals, rejected: u64) -> Markup {
    let mut causes: Vec<(&str, u64)> = totals
        .causes
        .iter()
        .map(|(cause, count)| (cause.as_str(), *count))
        .collect();
    causes.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    let shown = causes.len().min(SHOWN_CAUSES);
    let rest: u64 = causes.drain(shown..).map(|(_, count)| count).sum();
    let others = rest + totals.other_causes;
    if others > 0 {
        causes.push(("other reasons", others));
    }
    html! {
        h2 { "Rejected by" }
        ul.causes {
            @for (cause, count) in causes {
                li {
                    code title=(escape(cause)) { (escape(cause)) }
                    svg viewBox="0 0 100 1" preserveAspectRatio="none" aria-hidden="true" {
                        rect.bar-back width="100" height="1" {}
                        rect.rejected width=(format!("{:.2}", count as f64 * 100.0 / rejected as f64)) height="1" {}
                    }
                    b { (grouped(count)) }
                }
            }
        }
    }
}

/// Returns the frame of the table; the script fills it.
fn table(totals: &HtmlTotals, numbers: &Numbers, rows: &[u64; 5]) -> Markup {
    let missing: Vec<String> = Status::ALL
        .iter()
        .map(|status| (*status, rows[*status as usize], numbers.of(*status)))
        .filter(|(_, rows, all)| rows < all)
        .map(|(status, rows, all)| {
            let name = status.as_str().replace('_', " ");
            format!("the first {} of {} {name}", grouped(rows), grouped(all))
        })
        .collect();
    html! {
        h2 { "Tokens" }
        div.tools #tools hidden {
            input #search type="search" placeholder="Search tokens and reasons" aria-label="Search tokens and reasons"
                autocomplete="off" spellcheck="false";
            @for status in Status::ALL {
                @if numbers.of(status) > 0 {
                    button type="button" data-status=(status) aria-pressed="true" {
                        span.dot.(status) {} (status.as_str().replace('_', " "))
                    }
                }
            }
            span.soft #count role="status" {}
        }
        @if totals.masked { p.note { "Tokens are masked in this report." } }
        @if !missing.is_empty() {
            p.note #part {
                "The table is incomplete; it has " (missing.join(", "))
                ". An ndjson report has all tokens."
            }
        }
        noscript { p.note { "The table requires JavaScript." } }
        div #view tabindex="0" role="region" aria-label="Tokens" {
            table {
                thead {
                    tr {
                        @for (key, name) in [(0, "Status"), (1, "Token"), (2, "Attempts"), (3, "ms"), (4, "Why")] {
                            th scope="col" data-key=(key) { button type="button" { (name) } }
                        }
                    }
                }
                tbody #body {}
            }
        }
        p.note #cut hidden { "Only the first 1,000 rows are printed." }
    }
}
