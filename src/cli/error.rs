//! What clap complains of, said in the form of every other problem.

use crate::error::suggest::nearest_option;
use std::ffi::OsString;

use clap::error::{ContextKind, ContextValue, ErrorKind};

use crate::cli::COMMANDS;
use crate::cli::value;
use crate::error::diagnostic::Problem;
use crate::error::exit::Exit;

/// clap's complaint in the form of every other problem, its suggestion as the hint. `first` is the
/// word that was typed first.
pub(super) fn explain(error: &clap::Error, first: Option<&OsString>) -> Problem {
    let first = first.and_then(|word| word.to_str()).unwrap_or_default();
    // What follows a command that is misspelt is not what is wrong.
    if let Some(problem) = misspelt(first) {
        return problem;
    }
    let text = error.render().to_string();
    let paragraph = text.split("\n\n").next().unwrap_or_default();
    let invalid = error.get(ContextKind::InvalidArg);
    let message = if let (ErrorKind::ValueValidation, Some(ContextValue::String(arg))) =
        (error.kind(), invalid)
    {
        // The parsers' rules continue a sentence that the argument's name begins.
        let value = match error.get(ContextKind::InvalidValue) {
            Some(ContextValue::String(value)) => value.as_str(),
            _ => "",
        };
        let rule = std::error::Error::source(error).map(ToString::to_string);
        let name = arg.split([' ', '=']).next().unwrap_or(arg);
        let name = name.trim_matches(['[', ']', '<', '>']);
        if name == "SIZE" && COMMANDS.contains(&value) {
            return misplaced(value);
        }
        if let ("SIZE", Some(problem)) = (name, misspelt(value)) {
            return problem;
        }
        value::refusal(name, &rule.unwrap_or_default(), value)
    } else {
        let lines: Vec<&str> = paragraph.lines().map(str::trim).collect();
        lines.join(" ").trim_start_matches("error: ").to_string()
    };
    if let Some(rest) = message.strip_prefix("the subcommand '") {
        let name = rest.split('\'').next().unwrap_or_default();
        return misplaced(name);
    }
    let tips: Vec<&str> = text
        .lines()
        .filter_map(|line| line.trim_start().strip_prefix("tip: "))
        // No value of this program begins with a dash.
        .filter(|tip| !tip.starts_with("to pass '"))
        .collect();
    let hint = if tips.is_empty() {
        String::from("`token_service --help` shows what can be typed")
    } else {
        tips.join("; ")
    };
    Problem::new(Exit::Usage, message).hint(hint)
}

/// A word that stands for a command and is none, where one is near.
fn misspelt(word: &str) -> Option<Problem> {
    let command = nearest_option(word, &COMMANDS).filter(|command| *command != word)?;
    let problem = Problem::new(Exit::Usage, format!("no command is called `{word}`"));
    Some(problem.hint(format!("did you mean `token_service {command}`?")))
}

/// A word that came after SIZE or an option, where clap takes each for a command.
fn misplaced(word: &str) -> Problem {
    if COMMANDS.contains(&word) {
        Problem::new(Exit::Usage, format!("the command `{word}` must come first")).hint(format!(
            "SIZE and options go after it: `token_service {word} …`"
        ))
    } else {
        Problem::new(Exit::Usage, format!("unexpected argument '{word}' found"))
            .hint("`token_service --help` shows what can be typed")
    }
}
