//! The page of all runs: the form that starts a run, and the frame of the table, which the script fills.

use maud::{Markup, html};

use crate::command::serve::pages::PageFacts;
use crate::command::serve::pages::layout::page;
use crate::observe::number::grouped;

/// The columns of the table, and true for numbers.
const COLUMNS: [(&str, bool); 8] = [
    ("State", false),
    ("Run", false),
    ("Started", false),
    ("Requested", true),
    ("Stored", true),
    ("Rejected", true),
    ("Others", true),
    ("Exit code", true),
];

/// Returns the page of all runs.
pub fn runs_page(facts: &PageFacts) -> String {
    let content = html! {
        h1 { "Runs" }
        (form(facts))
        section.card {
            // Explicit roles keep the semantics of the table where CSS changes its display.
            table.runs role="table" {
                caption { "Runs, newest first" }
                thead role="rowgroup" {
                    tr role="row" {
                        @for (name, is_number) in COLUMNS {
                            th.number[is_number] scope="col" role="columnheader" { (name) }
                        }
                    }
                }
                tbody #rows role="rowgroup" {}
            }
            p.note #freshness role="status" { "Loading the runs…" }
            p.note { "Others are tokens that are failed, unknown or not attempted." }
        }
    };
    page("Runs", Some("runs.js"), facts.has_login, &content)
}

/// Returns the form that starts a run.
fn form(facts: &PageFacts) -> Markup {
    html! {
        section.card.narrow aria-labelledby="start-title" {
            h2 #start-title { "Start a run" }
            form #start novalidate data-can-run-async[facts.can_run_async] {
                label for="size" { "SIZE, the number of tokens" }
                div.field {
                    input #size name="size" type="text" inputmode="numeric" autocomplete="off" required
                        value=(facts.default_size) aria-describedby="size-hint size-problem";
                    button.primary #start-button type="submit" { "Start run" }
                }
                p.note #size-hint {
                    @match facts.max_tokens {
                        Some(max) => { "A whole number from 1 to " (grouped(max)) "." }
                        None => { "A whole number of at least 1." }
                    }
                }
                div.problem #size-problem role="alert" {}
            }
        }
    }
}
