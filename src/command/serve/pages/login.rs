//! The login form: it exchanges the token of the service for a session.

use maud::html;

use crate::command::serve::pages::layout::page;

/// Returns the login form, with an error message if the last attempt failed.
pub fn login_page(has_failed: bool) -> String {
    let content = html! {
        h1 { "Log in" }
        section.card.narrow {
            form method="post" action="/login" {
                // Password managers store a password with a user name; the form does not send this one.
                input type="text" autocomplete="username" value="token_service" hidden;
                label for="token" { "Token" }
                div.field {
                    input #token name="token" type="password" autocomplete="current-password" required autofocus
                        aria-describedby="token-hint token-error" aria-invalid=[has_failed.then_some("true")];
                    button.primary type="submit" { "Log in" }
                }
                p.note #token-hint {
                    "The value of " code { "TOKEN_SERVICE_SERVE_TOKEN" } " of this service."
                }
                div.problem #token-error role="alert" {
                    @if has_failed { p { "Error: the token is not valid" } }
                }
            }
        }
    };
    page("Log in", None, false, &content)
}
