//! Turns clap's errors into the program's, so that all errors have one form.

use std::ffi::OsString;

use clap::error::{ContextKind, ContextValue, ErrorKind};

use crate::cli::options::{SIZE, row_of_flag};
use crate::cli::table::{Row, command_name, on};
use crate::cli::{COMMANDS, Given, value};
use crate::error::Error;
use crate::error::exit::Exit;
use crate::error::suggest::nearest;

/// Turns clap's error into the program's, with clap's suggestion as the hint.
///
/// `args` is the command line, the program's name first.
pub(super) fn explain(error: &clap::Error, args: &[OsString]) -> Error {
    let words: Vec<&str> = args.iter().skip(1).filter_map(|arg| arg.to_str()).collect();
    let first = words.first().copied().unwrap_or_default();
    let command = COMMANDS.into_iter().find(|command| *command == first);
    let command = match (command, words.get(1)) {
        (Some("receipts"), Some(&"prune")) => command_name(on::PRUNE),
        (command, _) => command,
    };
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
    if let (ErrorKind::UnknownArgument, Some(ContextValue::String(word))) = (error.kind(), invalid)
        && let Some(error) = dash_for_path(word, &words, command)
    {
        return error;
    }
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
        see_help(command)
    } else {
        tips.join("; ")
    };
    Error::new(Exit::Usage, message).hint(hint)
}

/// Explains an unknown argument that begins with a dash and follows a flag with a path.
fn dash_for_path(word: &str, words: &[&str], command: Option<&str>) -> Option<Error> {
    let place = words.iter().position(|known| known.starts_with(word))?;
    let flag = words[..place].last()?;
    let row = flag.strip_prefix("--").and_then(row_of_flag)?;
    row.takes_path().then(|| {
        let message = format!("{flag} must be a path, not `{word}`");
        let hint = format!(
            "write ./{word} for a file of this name; {}",
            see_help(command)
        );
        Error::new(Exit::Usage, message).hint(hint)
    })
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
