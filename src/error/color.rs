//! Colours, where they are wanted. They add to words and never replace them, so that nothing is lost
//! where there are none.

use annotate_snippets::renderer::{AnsiColor, Effects, Style};

use crate::pipeline::token::Status;

/// Paints words, or leaves them as they are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Color(pub bool);

impl Color {
    /// The text in this style.
    pub fn on(self, style: Style, text: &str) -> String {
        if self.0 {
            format!("{style}{text}{style:#}")
        } else {
            text.to_owned()
        }
    }

    /// A word that says how something went, such as `ok`, `warn` or `FAIL`; blanks may follow it.
    pub fn word(self, word: &str) -> String {
        let color = match word.trim_end() {
            "ok" => AnsiColor::Green,
            "FAIL" => AnsiColor::Red,
            _ => AnsiColor::Yellow,
        };
        self.on(color.on_default().effects(Effects::BOLD), word)
    }

    /// What became of a token.
    pub fn status(self, status: Status, word: &str) -> String {
        let color = match status {
            Status::Stored => AnsiColor::Green,
            Status::Rejected => AnsiColor::Yellow,
            Status::Failed => AnsiColor::Red,
            Status::Unknown => AnsiColor::Magenta,
            Status::NotAttempted => return word.to_owned(),
        };
        self.on(color.on_default(), word)
    }

    /// What is not there, or should not be.
    pub fn red(self, text: &str) -> String {
        self.on(AnsiColor::Red.on_default(), text)
    }

    /// What is there, as it should be.
    pub fn green(self, text: &str) -> String {
        self.on(AnsiColor::Green.on_default(), text)
    }
}
