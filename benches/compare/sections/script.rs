//! The `script` section: the cost of scripting, compared with the same calls in Rust.
//!
//! If valgrind is installed, the goal is about instructions, which do not depend on the load of the
//! machine. Otherwise it is about CPU time.

use std::fs;

use anyhow::{Context as _, Result};

use crate::command_output::command_output;
use crate::environment::BenchEnvironment;
use crate::format::{format_count, format_number};
use crate::measured_command::MeasuredCommand;
use crate::pipeline_variant::{PROCESS_ARG, PipelineVariant};
use crate::results::{BenchResults, Goal, RatioLimit};
use crate::statistics::{ContenderSamples, MedianRange, Sample};
use crate::table::Table;
use crate::token_source::TokenKind;

/// The maximum ratio of the cost of the default script to that of the calls in Rust.
const MAX_RATIO: f64 = 1.02;
/// The maximum additional CPU time per token of a script that loops over each outcome, in
/// microseconds.
const MAX_LOOP_MICROS: f64 = 1.0;

/// Measures the section.
pub fn measure(env: &mut BenchEnvironment) -> Result<BenchResults> {
    let tokens = env.scale.script;
    let results = measure_cpu_time(env, tokens)?;
    let mut tables = vec![cpu_time_table(&results, tokens)];
    let script_goal = if command_output("valgrind", &["--version"]).is_some() {
        let counts = count_all_instructions(env)?;
        tables.push(instruction_table(env, &counts));
        instruction_goal(&counts, env.scale.local)
    } else {
        cpu_time_goal(&results, tokens)
    };
    Ok(BenchResults {
        goals: vec![script_goal, loop_goal(&results)],
        tables,
        ..BenchResults::default()
    })
}

/// The instructions of a variant, from callgrind.
#[derive(Clone, Copy)]
struct InstructionCount {
    /// Instructions per process, in millions.
    per_process: f64,
    /// Instructions per token.
    per_token: f64,
}

impl InstructionCount {
    /// Returns the instructions of a run of `tokens` tokens, in millions.
    fn total(self, tokens: u64) -> f64 {
        self.per_process + self.per_token * tokens as f64 / 1e6
    }
}

/// Returns the command that runs a variant, under another program if there is a `launcher`.
fn variant_command(
    env: &BenchEnvironment,
    variant: PipelineVariant,
    tokens: u64,
    launcher: Option<MeasuredCommand>,
) -> Result<MeasuredCommand> {
    let this_binary = std::env::current_exe()?;
    let command = match launcher {
        Some(launcher) => launcher.arg(this_binary),
        None => MeasuredCommand::new(this_binary),
    };
    Ok(command
        .args([PROCESS_ARG, variant.name(), &tokens.to_string()])
        .arg(env.source(TokenKind::AllStored).url()))
}

fn measure_cpu_time(env: &mut BenchEnvironment, tokens: u64) -> Result<[ContenderSamples; 3]> {
    let mut results = PipelineVariant::ALL.map(|variant| ContenderSamples {
        name: variant.name().to_owned(),
        samples: Vec::new(),
    });
    let rounds = env.scale.rounds;
    for round in 1..=rounds {
        for (variant, result) in PipelineVariant::ALL.into_iter().zip(&mut results) {
            env.reset()?;
            let usage = variant_command(env, variant, tokens, None)?.run()?;
            let (name, cpu) = (variant.name(), usage.cpu);
            env.print_progress(&format!(
                "script, round {round} of {rounds}: {name}: {cpu:.2} s of CPU time"
            ));
            result.samples.push(Sample::from_usage(&usage, tokens));
        }
    }
    Ok(results)
}

fn count_all_instructions(env: &mut BenchEnvironment) -> Result<[InstructionCount; 3]> {
    let [small, large] = env.scale.instructions;
    let mut counts = [InstructionCount {
        per_process: 0.0,
        per_token: 0.0,
    }; 3];
    for (variant, count) in PipelineVariant::ALL.into_iter().zip(&mut counts) {
        let small_total = count_instructions(env, variant, small)?;
        let large_total = count_instructions(env, variant, large)?;
        count.per_token = (large_total - small_total) / (large - small) as f64;
        count.per_process = (small_total - count.per_token * small as f64) / 1e6;
    }
    Ok(counts)
}

/// Runs a variant under callgrind and returns the number of its instructions.
fn count_instructions(
    env: &mut BenchEnvironment,
    variant: PipelineVariant,
    tokens: u64,
) -> Result<f64> {
    env.reset()?;
    let output = env.scratch.on_disk("callgrind");
    let callgrind = MeasuredCommand::new("valgrind")
        .arg("--tool=callgrind")
        .arg(format!("--callgrind-out-file={}", output.display()));
    variant_command(env, variant, tokens, Some(callgrind))?.run()?;
    let text = fs::read_to_string(&output)?;
    let total = text.lines().find_map(|line| line.strip_prefix("totals: "));
    let total = total.context("the output of callgrind has no totals")?;
    let total: f64 = total.trim().parse()?;
    env.print_progress(&format!(
        "script: {}: {:.0} million instructions for {} tokens",
        variant.name(),
        total / 1e6,
        format_count(tokens)
    ));
    Ok(total)
}

fn cpu_time_table(results: &[ContenderSamples; 3], tokens: u64) -> Table {
    let mut table = Table::new(
        "Scripting, CPU time",
        format!(
            "{} tokens into the demo's table in memory. The processes differ only in the code that \
             makes the calls. Loading, compiling and checking the script are included.",
            format_count(tokens)
        ),
        &["variant", "µs per token", "to Rust"],
    );
    let cpu = Sample::client_cpu_micros_per_token;
    for result in results {
        table.add_row([
            result.name.clone(),
            result.median_range(cpu).format(2),
            result.ratio(&results[0], cpu).format(3),
        ]);
    }
    table
}

fn instruction_table(env: &BenchEnvironment, counts: &[InstructionCount; 3]) -> Table {
    let [small, large] = env.scale.instructions.map(format_count);
    let tokens = env.scale.local;
    let total_column = format!("total for {} tokens, to Rust", format_count(tokens));
    let mut table = Table::new(
        "Scripting, instructions",
        format!(
            "The same processes under callgrind. A run of {small} tokens and one of {large} give the \
             instructions per process and per token."
        ),
        &[
            "variant",
            "per process, millions",
            "per token",
            "to Rust",
            &total_column,
        ],
    );
    let rust = counts[0];
    for (variant, count) in PipelineVariant::ALL.into_iter().zip(counts) {
        table.add_row([
            variant.name().to_owned(),
            format_number(count.per_process, 1),
            format_number(count.per_token, 0),
            format_number(count.per_token / rust.per_token, 3),
            format_number(count.total(tokens) / rust.total(tokens), 3),
        ]);
    }
    table
}

fn cpu_time_goal([rust, default_script, _]: &[ContenderSamples; 3], tokens: u64) -> Goal {
    let cpu = Sample::client_cpu_micros_per_token;
    let format_cpu = |samples: &ContenderSamples| {
        format!("{} µs per token", samples.median_range(cpu).format(2))
    };
    Goal::ratio(
        format!("default script, {} tokens, CPU time", format_count(tokens)),
        RatioLimit::AtMost(MAX_RATIO, "the same calls in Rust"),
        [format_cpu(default_script), format_cpu(rust)],
        default_script.ratio(rust, cpu),
    )
}

fn instruction_goal([rust, default_script, _]: &[InstructionCount; 3], tokens: u64) -> Goal {
    let format_total = |count: &InstructionCount| {
        format!("{} M instructions", format_number(count.total(tokens), 0))
    };
    let ratio = MedianRange::of([default_script.total(tokens) / rust.total(tokens)]);
    Goal {
        // Two decimals are too few for a limit of 2 %.
        ratio: ratio.format(3),
        ..Goal::ratio(
            format!("default script, {} tokens", format_count(tokens)),
            RatioLimit::AtMost(MAX_RATIO, "the same calls in Rust"),
            [format_total(default_script), format_total(rust)],
            ratio,
        )
    }
}

fn loop_goal([_, default_script, loop_script]: &[ContenderSamples; 3]) -> Goal {
    let cpu = Sample::client_cpu_micros_per_token;
    let pairs = loop_script.samples.iter().zip(&default_script.samples);
    let difference = MedianRange::of(
        pairs.map(|(loop_script, default_script)| cpu(loop_script) - cpu(default_script)),
    );
    Goal::figure(
        "a script that loops over each outcome, CPU time",
        "≤ 1 µs per token more",
        format!("{} µs more", difference.format(2)),
        difference.median <= MAX_LOOP_MICROS,
    )
}
