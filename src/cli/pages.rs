//! The man page and the completions of shells, made from the same command line that is parsed, so that
//! neither can say what is not so.

use std::io;

use clap::builder::PossibleValuesParser;
use clap_complete::Shell;
use clap_mangen::Man;
use roff::{Roff, bold, roman};

use super::command;
use super::words::RUN;
use crate::report::Format;

/// What man(1) shows of the program, in roff.
///
/// # Errors
/// Never, for it is written into memory.
pub fn man() -> io::Result<Vec<u8>> {
    let command = command();
    let commands: Vec<_> = command.get_subcommands().cloned().collect();
    let mut page = Vec::new();
    // The sections beneath the options have headings of their own here.
    let man = Man::new(command.after_help("")).manual("User Commands");
    man.render_title(&mut page)?;
    man.render_name_section(&mut page)?;
    man.render_synopsis_section(&mut page)?;
    man.render_description_section(&mut page)?;
    man.render_options_section(&mut page)?;
    let mut more = Roff::new();
    more.control("SH", ["COMMANDS"]);
    for command in &commands {
        more.control("TP", []);
        more.text([bold(format!("token_service {}", command.get_name()))]);
        let about = command.get_about().map(ToString::to_string);
        more.text([roman(about.unwrap_or_default())]);
    }
    for section in &RUN {
        more.control("SH", [section.heading]);
        for (left, right) in section.lines {
            more.control("TP", []);
            more.text([bold(*left)]);
            more.text([roman(*right)]);
        }
    }
    more.to_writer(&mut page)?;
    Ok(page)
}

/// What makes `shell` complete command lines.
pub fn completions(shell: Shell) -> Vec<u8> {
    let mut command = with_values(command());
    let name = command.get_name().to_owned();
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut command, name, &mut script);
    script
}

/// Names the values of options whose own parsers word their mistakes better than clap does.
fn with_values(command: clap::Command) -> clap::Command {
    let name = |arg: clap::Arg| {
        let values: Vec<&'static str> = match arg.get_long() {
            Some("mask") => vec!["none", "prefix", "sha256"],
            Some("log-level") => vec!["off", "error", "warn", "info", "debug", "trace"],
            Some("log-format" | "error-format") => vec!["text", "json"],
            Some("progress") => vec!["auto", "always", "never"],
            Some("report") => Format::ALL.map(|(name, _)| name).to_vec(),
            _ => return arg,
        };
        arg.value_parser(PossibleValuesParser::new(values))
    };
    let command = command.mut_args(name);
    command.mut_subcommands(move |sub| sub.mut_args(name))
}
