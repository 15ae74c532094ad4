//! Turns clap's errors into the program's, so that all errors have one form.

use std::ffi::OsString;

use clap::error::{ContextKind, ContextValue, ErrorKind};

use crate::cli::options::SIZE;
use crate::cli::table::{Row, command_name};
use crate::cli::{COMMANDS, Given, value};
use crate::error::Error;
use crate::error::exit::Exit;
use crate::error::suggest::nearest;

/// Turns clap's error into the program's, with clap's suggestion as the hint.
///
/// `first` is the first argument.
pub(super) fn explain(error: &clap::Error, first: Option<&OsString>) -> Error {
    let first = first.and_then(|word| word.to_str()).unwrap_or_default();
    let text = error.render().to_string();
    let paragraph = text.split("\n\n").next().unwrap_or_default();
    let invalid = error.get(ContextKind::InvalidArg);
    let message = if let (ErrorKind::ValueValidation, Some(ContextValue::String(arg))) =
        (error.kind(), invalid)
    {
        // A parser's rule continues a sentence that begins with the argument's name.
        let value = match error.get(ContextKind::InvalidValue) {
            Some(ContextValue::String(value)) => value.as_str(),
            _ => "",
        };
        let rule = std::error::Error::source(error).map(ToString::to_string);
        let name = arg.split([' ', '=']).next().unwrap_or(arg);
        let name = name.trim_matches(['[', ']', '<', '>']);
        value::invalid_value(name, &rule.unwrap_or_default(), value)
    } else {
        let lines: Vec<&str> = paragraph.lines().map(str::trim).collect();
        lines.join(" ").trim_start_matches("error: ").to_string()
    };
    if let Some(rest) = message.strip_prefix("the subcommand '") {
        let name = rest.split('\'').next().unwrap_or_default();
        return misplaced_word(name, None);
    }
    let tips: Vec<&str> = text
        .lines()
        .filter_map(|line| line.trim_start().strip_prefix("tip: "))
        // clap suggests `--` before a value with a dash; no value of this program begins with one.
        .filter(|tip| !tip.starts_with("to pass '"))
        .collect();
    let hint = if tips.is_empty() {
        see_help(COMMANDS.into_iter().find(|command| *command == first))
    } else {
        tips.join("; ")
    };
    Error::new(Exit::Usage, message).hint(hint)
}

/// Returns the error of a flag whose parser refused `value`.
pub(crate) fn invalid_flag(given: &Given, row: &Row, rule: &str, value: &str) -> Error {
    if row.id == SIZE.row.id {
        if COMMANDS.contains(&value) {
            return misplaced_word(value, command_name(given.command));
        }
        if let Some(error) = misspelt_command(value) {
            return error;
        }
    }
    let message = value::invalid_value(&row.flag_name(), rule, value);
    let command = command_name(given.command);
    Error::new(Exit::Usage, message).hint(see_help(command))
}

fn see_help(command: Option<&str>) -> String {
    match command {
        Some(command) => format!("see `token_service {command} --help`"),
        None => String::from("see `token_service --help`"),
    }
}

/// Returns the error of a misspelt command, if a known command is near.
pub(super) fn misspelt_command(word: &str) -> Option<Error> {
    let command = nearest(word, &COMMANDS).filter(|command| *command != word)?;
    let error = Error::new(Exit::Usage, format!("unknown command `{word}`"));
    Some(error.hint(format!("did you mean `token_service {command}`?")))
}

/// Returns the error of a word after SIZE or an option, which clap takes for a subcommand.
fn misplaced_word(word: &str, command: Option<&str>) -> Error {
    if COMMANDS.contains(&word) {
        Error::new(Exit::Usage, format!("the command `{word}` must come first")).hint(format!(
            "SIZE and options go after it: `token_service {word} …`"
        ))
    } else {
        Error::new(Exit::Usage, format!("unexpected argument '{word}' found"))
            .hint(see_help(command))
    }
}
