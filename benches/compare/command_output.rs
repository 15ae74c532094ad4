//! Reads the output of helper programs such as git and docker.

use std::process::Command;

/// Returns the trimmed standard output of a program, or `None` if it is missing or fails.
pub fn command_output(program: &str, args: &[&str]) -> Option<String> {
    let mut command = Command::new(program);
    command.args(args).current_dir(env!("CARGO_MANIFEST_DIR"));
    let output = command.output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| text.trim().to_owned())
}
