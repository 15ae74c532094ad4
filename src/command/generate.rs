//! Generates the man page, the shell completions and the table of options from the definition of the
//! command line.

use std::fmt::Write as _;
use std::io;

use clap::CommandFactory as _;
use clap::builder::PossibleValuesParser;
use clap_complete::Shell;
use clap_mangen::Man;
use roff::{Roff, bold, roman};

use crate::cli::help::RUN;
use crate::cli::{COMMANDS, Cli, command, has_variables, option_of, variable};
use crate::config::options::config_key;
use crate::error::suggest::nearest;
use crate::error::{Error, usage};
use crate::report::ReportFormat;

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
            let sub = command.find_subcommand(name).cloned();
            let sub = sub.ok_or_else(|| unknown_command(name))?;
            command_page(sub)
        }
    };
    page.map_err(|error| Error::from(anyhow::Error::from(error)))
}

fn unknown_command(name: &str) -> Error {
    let problem = usage(format!("unknown command `{name}`"));
    match nearest(name, &COMMANDS) {
        Some(near) => problem.hint(format!("did you mean `token_service man {near}`?")),
        None => problem.hint("`token_service -h` lists the commands"),
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

fn command_page(command: clap::Command) -> io::Result<Vec<u8>> {
    let mut page = Vec::new();
    let name = format!("token_service-{}", command.get_name());
    Man::new(command)
        .title(name)
        .manual(MANUAL)
        .render(&mut page)?;
    Ok(page)
}

/// Returns the table of options in docs/configuration.md.
pub fn options_table() -> String {
    let command = Cli::command();
    let mut text = String::from(
        "| option | variable | key of the file | default | what it is |\n|---|---|---|---|---|\n",
    );
    let mut seen = Vec::new();
    let others = command.get_subcommands().filter(|sub| has_variables(sub));
    for owner in [&command].into_iter().chain(others) {
        for arg in owner.get_arguments() {
            let Some(name) = option_of(arg).filter(|name| !seen.contains(name)) else {
                continue;
            };
            seen.push(name);
            let usage = match arg.get_long() {
                None => "SIZE".to_owned(),
                Some(_) if !arg.get_action().takes_values() => format!("--{name}"),
                Some(_) => {
                    let values = arg.get_value_names().unwrap_or_default();
                    format!("--{name} {}", values.join(" "))
                }
            };
            let command = match owner.get_name() {
                "token_service" => String::new(),
                name => format!(" of `{name}`"),
            };
            let key = config_key(name).map_or(String::new(), |key| format!("`{key}`"));
            let help = arg.get_help().map(ToString::to_string).unwrap_or_default();
            let (help, default) = help.rsplit_once(" [default: ").unwrap_or((&help, ""));
            let default = default.trim_end_matches(']');
            let variable = variable(name);
            // Writing into a string cannot fail.
            let _ = writeln!(
                text,
                "| `{usage}`{command} | `{variable}` | {key} | {default} | {help} |"
            );
        }
    }
    text
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
    let name = |arg: clap::Arg| {
        let values: Vec<&'static str> = match arg.get_long() {
            Some("mask") => vec!["none", "prefix", "sha256"],
            Some("log-level") => vec!["off", "error", "warn", "info", "debug", "trace"],
            Some("log-format" | "error-format") => vec!["text", "json"],
            Some("progress") => vec!["auto", "always", "never"],
            Some("report") => ReportFormat::ALL.map(|(name, _)| name).to_vec(),
            _ => return arg,
        };
        arg.value_parser(PossibleValuesParser::new(values))
    };
    let command = command.mut_args(name);
    command.mut_subcommands(move |sub| sub.mut_args(name))
}
