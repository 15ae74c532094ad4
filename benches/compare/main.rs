//! The comparison of token_service with its alternatives, run by `cargo bench`.
//!
//! `cargo bench --locked -- --help` lists the options. docs/performance.md contains the results.
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "the harness prints its results, and rounds the figures"
)]

use std::panic::PanicHookInfo;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Result, ensure};
use clap::Parser as _;

use bench_report::BenchReport;
use environment::BenchEnvironment;
use machine::Machine;
use options::BenchOptions;
use results::BenchResults;

mod bench_report;
mod calibrate;
mod chart;
mod clock;
mod command_output;
mod contender;
mod delay;
mod documents;
mod environment;
mod file_system;
mod format;
mod machine;
mod measured_command;
mod options;
mod pipeline_variant;
mod rate_limiter;
mod results;
mod rounds;
mod scratch_folders;
mod sections;
mod server_cpu;
mod service;
mod sql;
mod statistics;
mod table;
#[allow(
    dead_code,
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "the code is shared with the tests, which panic on errors"
)]
mod test_support;
mod token_source;

fn main() -> ExitCode {
    std::panic::set_hook(Box::new(print_panic));
    let mut args = std::env::args_os().skip(1);
    let result = match args.next() {
        Some(arg) if arg == measured_command::WRAPPER_ARG => measured_command::run_wrapper(args),
        Some(arg) if arg == pipeline_variant::PROCESS_ARG => pipeline_variant::run(args),
        _ => run_comparison(&BenchOptions::parse()),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Prints a panic as an error message. The test support panics if, for example, PostgreSQL is missing.
fn print_panic(info: &PanicHookInfo) {
    let message = info.payload_as_str().unwrap_or("internal error");
    let location = info.location().map(ToString::to_string);
    eprintln!("error: {message} (at {})", location.unwrap_or_default());
}

fn run_comparison(options: &BenchOptions) -> Result<()> {
    if !options.bench {
        // `cargo test --all-targets` runs this binary too, without `--bench`.
        println!("run `cargo bench --locked` to start the comparison");
        return Ok(());
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut env = BenchEnvironment::start(options.scale())?;
    let machine = Machine::describe(&env.server_version()?, env.server_folder())?;
    for (name, value) in &machine.facts {
        env.print_progress(&format!("{name}: {value}"));
    }
    let mut results = BenchResults::default();
    let mut failed = Vec::new();
    for (section, measure) in sections::ALL {
        if !options.includes(section) {
            continue;
        }
        match measure(&mut env) {
            Ok(section_results) => results.append(section_results),
            Err(error) => {
                // The results of the other sections are still reported.
                env.print_progress(&format!("failed: {section:?}: {error:#}"));
                failed.push(format!("{section:?}"));
            }
        }
    }
    let report = BenchReport {
        machine,
        results,
        rounds: env.scale.rounds,
        minutes: env.elapsed_minutes(),
        caveat: options.caveat(),
    };
    print!("{}", report.to_text());
    for path in report.write(root, options.is_full() && failed.is_empty())? {
        println!("wrote {}", path.display());
    }
    ensure!(failed.is_empty(), "sections failed: {}", failed.join(", "));
    Ok(())
}
