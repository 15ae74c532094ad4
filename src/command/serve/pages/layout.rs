//! The parts that all pages share: the head, the skip link and the header.

use maud::{DOCTYPE, Markup, html};

/// The icon, in the page itself: otherwise browsers request /favicon.ico.
const ICON: &str = "data:image/svg+xml,%3Csvg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 16 16'%3E\
    %3Crect width='16' height='16' rx='4' fill='%232563eb'/%3E\
    %3Cpath d='M4 8.5 6.8 11.3 12 5.5' fill='none' stroke='%23fff' stroke-width='2'/%3E%3C/svg%3E";

/// Returns a page with this title, the name of its script if it has one, and this content.
pub(super) fn page(
    title: &str,
    script: Option<&str>,
    has_logout: bool,
    content: &Markup,
) -> String {
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                title { (title) " – token_service" }
                meta name="viewport" content="width=device-width, initial-scale=1";
                // Not `no-referrer`, which makes the origin of forms opaque.
                meta name="referrer" content="same-origin";
                link rel="icon" href=(ICON);
                link rel="stylesheet" href="/assets/pages.css";
                @if let Some(name) = script {
                    script type="module" src={ "/assets/" (name) } {}
                }
            }
            body {
                a.skip href="#main" { "Skip to content" }
                header {
                    p.name { a href="/" { "token_service" } }
                    @if has_logout {
                        form method="post" action="/logout" {
                            button type="submit" { "Log out" }
                        }
                    }
                }
                main #main tabindex="-1" {
                    (content)
                    @if script.is_some() {
                        noscript { p.note { "This page requires JavaScript." } }
                    }
                }
            }
        }
    };
    page.into_string()
}
