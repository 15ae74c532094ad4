//! Generates the man page, the shell completions and the table of options from the definition of the
//! command line.

use std::fmt::Write as _;
use std::io;

use clap::builder::PossibleValuesParser;
use clap_complete::Shell;
use clap_mangen::Man;
use roff::{Roff, bold, roman};

use crate::cli::help::RUN;
use crate::cli::options::{ROWS, row_of_flag};
use crate::cli::table::{Row, Shape, Unset, command_name, on};
use crate::cli::{COMMANDS, command};
use crate::config::keys::all_rows;
use crate::error::suggest::nearest;
use crate::error::{Error, usage};

/// The manual that the pages belong to.
const MANUAL: &str = "User Commands";

/// Returns the man page of the program, or of one of its commands, in roff.
///
/// # Errors
/// If there is no such command.
pub(crate) fn man(name: Option<&str>) -> Result<Vec<u8>, Error> {
    let page = match name {
        None => program_page(command()),
        Some(name) => {
            // The whole tree is built so that usage names the program.
            let mut command = command();
            command.build();
            let sub = find_command(&command, name).cloned();
            let sub = sub.ok_or_else(|| unknown_command(name))?;
            command_page(name, sub)
        }
    };
    page.map_err(|error| Error::from(anyhow::Error::from(error)))
}

/// Finds a command by its name; `receipts-prune` is the command `prune` of `receipts`.
fn find_command<'a>(program: &'a clap::Command, name: &str) -> Option<&'a clap::Command> {
    program.find_subcommand(name).or_else(|| {
        let (parent, child) = name.split_once('-')?;
        program.find_subcommand(parent)?.find_subcommand(child)
    })
}

fn unknown_command(name: &str) -> Error {
    let error = usage(format!("unknown command `{name}`"));
    match nearest(name, &COMMANDS) {
        Some(near) => error.hint(format!("did you mean `token_service man {near}`?")),
        None => error.hint("`token_service -h` lists the commands"),
    }
}

fn program_page(command: clap::Command) -> io::Result<Vec<u8>> {
    let commands: Vec<_> = command.get_subcommands().cloned().collect();
    let mut page = Vec::new();
    // The sections below the options have headings of their own in the page.
    let man = Man::new(command.after_help("").after_long_help("")).manual(MANUAL);
    man.render_title(&mut page)?;
    man.render_name_section(&mut page)?;
    man.render_synopsis_section(&mut page)?;
    man.render_description_section(&mut page)?;
    man.render_options_section(&mut page)?;
    let mut sections = Roff::new();
    sections.control("SH", ["COMMANDS"]);
    for command in &commands {
        sections.control("TP", []);
        sections.text([bold(format!("token_service {}", command.get_name()))]);
        let about = command.get_about().map(ToString::to_string);
        sections.text([roman(about.unwrap_or_default())]);
    }
    for section in &RUN {
        sections.control("SH", [section.heading]);
        for (left, right) in section.lines {
            sections.control("TP", []);
            sections.text([bold(*left)]);
            sections.text([roman(*right)]);
        }
    }
    sections.control("SH", ["SEE ALSO"]);
    let pages = commands
        .iter()
        .map(|command| format!("`token_service man {}`", command.get_name()));
    sections.text([roman(pages.collect::<Vec<_>>().join(", "))]);
    sections.to_writer(&mut page)?;
    Ok(page)
}

fn command_page(name: &str, command: clap::Command) -> io::Result<Vec<u8>> {
    let mut page = Vec::new();
    Man::new(command)
        .title(format!("token_service-{name}"))
        .manual(MANUAL)
        .render(&mut page)?;
    Ok(page)
}

/// Returns the table of options in docs/configuration.md.
pub fn options_table() -> String {
    let mut text = String::from(
        "| option | variable | key of the file | default | what it is |\n|---|---|---|---|---|\n",
    );
    for row in ROWS {
        let usage = row.usage();
        let of_command = of_commands(row.on);
        let variable = row.variable_name().unwrap_or_default();
        let key = match row.key {
            "" => String::new(),
            key => format!("`{key}`"),
        };
        let (default, help) = (row.default_text().unwrap_or_default(), row.help_text());
        // Writing into a string cannot fail.
        let _ = writeln!(
            text,
            "| `{usage}`{of_command} | `{variable}` | {key} | {default} | {help} |"
        );
    }
    text
}

/// Returns the commands that take an option besides a run, unless a run takes it too.
fn of_commands(commands: u16) -> String {
    if commands & on::RUN != 0 {
        return String::new();
    }
    let bits = (0..u16::BITS).map(|bit| commands & 1 << bit);
    let names: Vec<String> = bits
        .filter_map(command_name)
        .map(|name| format!("`{name}`"))
        .collect();
    match names.as_slice() {
        [] => String::new(),
        names => format!(" of {}", names.join(" and ")),
    }
}

/// Returns the table of the keys in a section of the configuration file, for docs/configuration.md.
pub fn keys_table(section: &str) -> String {
    let mut text = String::from("| key | type | default | meaning |\n|---|---|---|---|\n");
    for row in all_rows().filter(|row| row.section_and_key().0 == section && !row.key.is_empty()) {
        let (_, key) = row.section_and_key();
        let default = match row.unset {
            Unset::Nothing => String::new(),
            Unset::Value(value) => format!("`{value}`"),
            Unset::Described(words) => words.to_owned(),
        };
        let (kind, help) = (kind_of(row), row.help_text());
        let _ = writeln!(text, "| `{key}` | {kind} | {default} | {help} |");
    }
    text
}

/// Returns the type of a key's value.
fn kind_of(row: &Row) -> String {
    if !row.values.is_empty() {
        let values = row.values.iter().map(|value| format!("`{value}`"));
        return values.collect::<Vec<_>>().join(", ");
    }
    match (row.metavar, row.shape) {
        (_, Shape::Switch) => "true or false".to_owned(),
        ("N", _) => "number".to_owned(),
        ("FILE" | "DIR", _) => "path".to_owned(),
        ("URL", _) => "URL".to_owned(),
        ("ADDR", _) => "address".to_owned(),
        ("I/N", _) => "`I/N` or `/N`".to_owned(),
        (name, Shape::List) => format!("list of {}s", name.to_lowercase()),
        (name, _) if name.chars().all(char::is_uppercase) => name.to_lowercase(),
        (name, _) => name.to_owned(),
    }
}

/// Returns the completion script of a shell.
pub fn completions(shell: Shell) -> Vec<u8> {
    let mut command = with_values(command());
    let name = command.get_name().to_owned();
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut command, name, &mut script);
    script
}

/// Adds the possible values of options; clap's own value parsers have less helpful errors.
fn with_values(command: clap::Command) -> clap::Command {
    let name = |arg: clap::Arg| match arg.get_long().and_then(row_of_flag) {
        // An argument of one command may share its name with an option of others.
        Some(row) if !row.values.is_empty() && row.id == arg.get_id().as_str() => {
            arg.value_parser(PossibleValuesParser::new(row.values))
        }
        _ => arg,
    };
    command.mut_args(name).mut_subcommands(with_values)
}
