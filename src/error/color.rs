//! Terminal colors. They only repeat what the text says.

use annotate_snippets::renderer::{AnsiColor, Effects, Style};

use crate::pipeline::token::Status;

/// Colors text if true, else leaves it plain.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Color(pub bool);

impl Color {
    /// Returns the text in this style.
    pub fn paint(self, style: Style, text: &str) -> String {
        if self.0 {
            format!("{style}{text}{style:#}")
        } else {
            text.to_owned()
        }
    }

    /// Colors a result such as `ok`, `warn` or `FAIL`; trailing blanks are kept.
    pub fn result(self, result: &str) -> String {
        let color = match result.trim_end() {
            "ok" => AnsiColor::Green,
            "FAIL" => AnsiColor::Red,
            _ => AnsiColor::Yellow,
        };
        self.paint(color.on_default().effects(Effects::BOLD), result)
    }

    /// Colors a token's status, or a text about it.
    pub fn status(self, status: Status, text: &str) -> String {
        let color = match status {
            Status::Stored => AnsiColor::Green,
            Status::Rejected => AnsiColor::Yellow,
            Status::Failed => AnsiColor::Red,
            Status::Unknown => AnsiColor::Magenta,
            Status::NotAttempted => return text.to_owned(),
        };
        self.paint(color.on_default(), text)
    }

    /// Colors text that was expected but is missing.
    pub fn red(self, text: &str) -> String {
        self.paint(AnsiColor::Red.on_default(), text)
    }

    /// Colors text that was found.
    pub fn green(self, text: &str) -> String {
        self.paint(AnsiColor::Green.on_default(), text)
    }
}
