//! The comparison harness: token_service and its alternatives on this machine, in one run.
//! `cargo bench --locked -- --help` lists the options; docs/performance.md holds the results.
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "it prints, and its figures are rounded"
)]

use std::panic::PanicHookInfo;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Result, ensure};
use clap::Parser as _;

use document::Report;
use findings::Findings;
use machine::Machine;
use options::Options;
use stage::Stage;

mod calibrate;
mod chart;
mod contender;
mod delay;
mod document;
mod embedded;
mod findings;
mod gauge;
mod machine;
mod options;
mod product;
mod psycopg;
mod rounds;
mod scratch;
mod sections;
mod series;
mod server_time;
mod stage;
mod supply;
#[allow(
    dead_code,
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "written for tests, which fail by panicking"
)]
mod support;
mod sweep;
mod text;

fn main() -> ExitCode {
    std::panic::set_hook(Box::new(fallen));
    let mut args = std::env::args_os().skip(1);
    let done = match args.next() {
        Some(word) if word == gauge::WORD => gauge::stand_between(args),
        Some(word) if word == embedded::WORD => embedded::run(args),
        _ => compare(&Options::parse()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// The tests' support panics where it cannot go on, such as without a PostgreSQL; its words are for
/// people.
fn fallen(info: &PanicHookInfo) {
    let what = info.payload_as_str().unwrap_or("a crash");
    let place = info.location().map(ToString::to_string);
    eprintln!("error: {what} (at {})", place.unwrap_or_default());
}

fn compare(options: &Options) -> Result<()> {
    if !options.bench {
        // `cargo test --all-targets` starts it too.
        println!("`cargo bench --locked` runs the comparison");
        return Ok(());
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let in_tree = options.write || options.is_full();
    let mut stage = Stage::set(options.scale())?;
    let machine = Machine::describe(&mut stage)?;
    for (name, fact) in &machine.facts {
        stage.say(&format!("{name}: {fact}"));
    }
    if options.sweep {
        let folder = if in_tree {
            root.join("docs")
        } else {
            Path::new(env!("CARGO_TARGET_TMPDIR")).join("benchmarks")
        };
        return sweep::run(
            &mut stage,
            &machine,
            options.quick,
            &folder.join("sweep.md"),
        );
    }

    let mut findings = Findings::default();
    let mut failed = Vec::new();
    for (section, measure) in sections::ALL {
        if !options.wants(section) {
            continue;
        }
        match measure(&mut stage) {
            Ok(found) => findings.add(found),
            Err(error) => {
                // What the other sections measure is not lost by it.
                stage.say(&format!("FAILED: {section:?}: {error:#}"));
                failed.push(format!("{section:?}"));
            }
        }
    }
    let report = Report {
        machine,
        findings,
        rounds: stage.scale.rounds,
        minutes: stage.minutes(),
        caveat: options.caveat(),
    };
    print!("{}", report.print());
    for path in report.write(root, in_tree && failed.is_empty())? {
        println!("wrote {}", path.display());
    }
    ensure!(failed.is_empty(), "failed: {}", failed.join(", "));
    Ok(())
}
