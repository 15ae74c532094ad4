//! What scripting costs: the default script against the same calls made in Rust, and a script that
//! looks at each outcome. Where valgrind is installed instructions are counted too, which no other
//! process on the machine can disturb; without, CPU time decides.

use std::fs;

use anyhow::{Context as _, Result};

use super::super::embedded::{self, Way};
use super::super::findings::{Bound, Findings, Goal, Table};
use super::super::gauge::Task;
use super::super::machine::run;
use super::super::series::{Sample, Series, Spread, count, number};
use super::super::stage::Stage;

/// How much more the default script may cost than Rust, for as many tokens as the other goals.
const CHEAP: f64 = 1.02;
/// The most that looking at an outcome may cost, in microseconds.
const LOOK: f64 = 1.0;

/// Measures it.
pub fn measure(stage: &mut Stage) -> Result<Findings> {
    let tokens = stage.scale.script;
    let all = by_time(stage, tokens)?;
    let mut tables = vec![times(&all, tokens)];
    let [rust, default, looping] = &all;
    let against_rust = if run("valgrind", &["--version"]).is_some() {
        let counted = by_instructions(stage)?;
        tables.push(instructions(stage, &counted));
        by_count(&counted, stage.scale.local)
    } else {
        let show = |series: &Series| format!("{} µs per token", series.spread(each).show(2));
        Goal::ratio(
            format!("default script, {} tokens, CPU time", count(tokens)),
            Bound::AtMost(CHEAP, "the same calls in Rust"),
            [show(default), show(rust)],
            default.ratio(rust, each),
        )
    };
    let pairs = looping.samples.iter().zip(&default.samples);
    let look = Spread::of(pairs.map(|(looping, default)| each(looping) - each(default)));
    let loops = Goal::figure(
        "a script that loops over each outcome, CPU time",
        "≤ 1 µs per token more",
        format!("{} µs more", look.show(2)),
        look.median <= LOOK,
    );
    Ok(Findings {
        goals: vec![against_rust, loops],
        tables,
        ..Findings::default()
    })
}

/// CPU time a token, in microseconds.
fn each(sample: &Sample) -> f64 {
    sample.cpu * 1e6 / sample.tokens as f64
}

fn times(all: &[Series; 3], tokens: u64) -> Table {
    let mut table = Table::new(
        "Scripting, CPU time",
        format!(
            "{} tokens into the demo's table in memory. The processes differ only in what makes the \
             calls. Loading, compiling and checking the script are included.",
            count(tokens)
        ),
        &["how", "µs per token", "to Rust"],
    );
    for series in all {
        let ratio = series.ratio(&all[0], each);
        let cells = [series.spread(each).show(2), ratio.show(3)];
        table.row(std::iter::once(series.name.clone()).chain(cells));
    }
    table
}

/// What callgrind counted of one way to join the pipeline.
#[derive(Clone, Copy)]
struct Counted {
    /// By a process as such, in millions.
    once: f64,
    /// By each token.
    each: f64,
}

impl Counted {
    /// By a run of so many tokens, in millions.
    fn total(self, tokens: u64) -> f64 {
        self.once + self.each * tokens as f64 / 1e6
    }
}

fn instructions(stage: &Stage, counted: &[Counted; 3]) -> Table {
    let [few, many] = stage.scale.instructions.map(count);
    let local = stage.scale.local;
    let together = format!("total for {} tokens, to Rust", count(local));
    let mut table = Table::new(
        "Scripting, instructions",
        format!(
            "The same processes under callgrind. A run of {few} tokens and one of {many} give the \
             instructions per process and per token."
        ),
        &[
            "how",
            "per process, millions",
            "per token",
            "to Rust",
            &together,
        ],
    );
    for (way, own) in Way::ALL.into_iter().zip(counted) {
        table.row([
            way.name().to_owned(),
            number(own.once, 1),
            number(own.each, 0),
            number(own.each / counted[0].each, 3),
            number(own.total(local) / counted[0].total(local), 3),
        ]);
    }
    table
}

/// Instructions decide where they were counted: CPU time is too coarse for two per cent.
fn by_count([rust, default, _]: &[Counted; 3], tokens: u64) -> Goal {
    let show = |counted: &Counted| format!("{} M instructions", number(counted.total(tokens), 0));
    let ratio = Spread::of([default.total(tokens) / rust.total(tokens)]);
    Goal {
        ratio: ratio.show(3),
        ..Goal::ratio(
            format!("default script, {} tokens", count(tokens)),
            Bound::AtMost(CHEAP, "the same calls in Rust"),
            [show(default), show(rust)],
            ratio,
        )
    }
}

fn task(stage: &Stage, way: Way, tokens: u64, program: Option<Task>) -> Result<Task> {
    let own = std::env::current_exe()?;
    let task = match program {
        Some(program) => program.arg(own),
        None => Task::new(own),
    };
    let args = [embedded::WORD, way.name(), &tokens.to_string()];
    Ok(task.args(args).arg(stage.stored.url()))
}

fn by_time(stage: &mut Stage, tokens: u64) -> Result<[Series; 3]> {
    let mut all = Way::ALL.map(|way| Series {
        name: way.name().to_owned(),
        samples: Vec::new(),
    });
    let rounds = stage.scale.rounds;
    for round in 1..=rounds {
        for (way, series) in Way::ALL.into_iter().zip(&mut all) {
            stage.clear()?;
            let usage = task(stage, way, tokens, None)?.run()?;
            let (name, cpu) = (way.name(), usage.cpu);
            stage.say(&format!(
                "script, round {round} of {rounds}: {name}: {cpu:.2} s of CPU time"
            ));
            series.samples.push(Sample::of(&usage, tokens));
        }
    }
    Ok(all)
}

fn by_instructions(stage: &mut Stage) -> Result<[Counted; 3]> {
    let [few, many] = stage.scale.instructions;
    let mut found = [Counted {
        once: 0.0,
        each: 0.0,
    }; 3];
    for (way, found) in Way::ALL.into_iter().zip(&mut found) {
        let fewer = count_instructions(stage, way, few)?;
        let more = count_instructions(stage, way, many)?;
        found.each = (more - fewer) / (many - few) as f64;
        found.once = (fewer - found.each * few as f64) / 1e6;
    }
    Ok(found)
}

fn count_instructions(stage: &mut Stage, way: Way, tokens: u64) -> Result<f64> {
    stage.clear()?;
    let out = stage.scratch.disk("callgrind");
    let valgrind = Task::new("valgrind").arg("--tool=callgrind");
    let valgrind = valgrind.arg(format!("--callgrind-out-file={}", out.display()));
    task(stage, way, tokens, Some(valgrind))?.run()?;
    let text = fs::read_to_string(&out)?;
    let total = text.lines().find_map(|line| line.strip_prefix("totals: "));
    let total: f64 = total.context("callgrind's total")?.trim().parse()?;
    let (name, tokens) = (way.name(), count(tokens));
    let millions = total / 1e6;
    stage.say(&format!(
        "script: {name}: {millions:.0} million instructions for {tokens} tokens"
    ));
    Ok(total)
}
