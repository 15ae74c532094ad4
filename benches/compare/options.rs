//! The command-line options, and the sizes of the measurements that follow from them.

use clap::{Parser, ValueEnum};

/// The rounds of a comparison in a full run.
const FULL_ROUNDS: usize = 5;
/// The rounds of a comparison in a quick run.
const QUICK_ROUNDS: usize = 2;

/// Compares token_service with its alternatives on this machine.
///
/// Starts its own durable PostgreSQL server and token source, runs the contenders in turns, and prints
/// medians, ranges and ratios. A full run takes about 25 minutes on two cores. It writes the generated
/// regions of docs/performance.md, README.md and the pages that repeat figures, and the charts in docs/.
/// Other runs write these files below the target folder.
#[derive(Clone, Debug, Parser)]
#[command(name = "cargo bench --locked --", bin_name = "cargo bench --locked --")]
pub struct BenchOptions {
    /// Use small sizes and few rounds: takes a few minutes, the figures are inaccurate
    #[arg(long)]
    pub quick: bool,
    /// Measure only this section; can be repeated
    #[arg(long, value_enum, value_name = "NAME")]
    pub only: Vec<BenchSection>,
    /// Rounds of each comparison [default: 5, with --quick 2]
    #[arg(long, value_name = "N", value_parser = parse_rounds)]
    pub rounds: Option<usize>,
    /// Set by `cargo bench`.
    #[arg(long, hide = true)]
    pub bench: bool,
}

/// A section of the comparison. The variants are in the order of the report.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum BenchSection {
    /// Many tokens on the local server: the limit of the server, pgbench, rejected tokens, CPU time
    Local,
    /// 10,000 tokens: curl and psql, Python, an SQLite file
    Small,
    /// One token: the whole process, compared with curl and psql
    One,
    /// A server with a round-trip time of 20 ms
    #[value(alias = "far")]
    Remote,
    /// Connections chosen while running, compared with fixed ones at several round-trip times
    #[value(aliases = ["latency", "distance"])]
    Sweep,
    /// A source that takes up to 200 ms per answer: one request at a time, and shards
    SlowSource,
    /// A source that refuses requests above a rate
    RateLimit,
    /// The service: runs of one token, tokens streamed, waiting event streams
    Serve,
    /// Time per token for increasing numbers of tokens
    Growth,
    /// Peak memory with each report format
    Memory,
    /// Cost of the script, compared with the same calls in Rust
    Script,
    /// Time from start to the first request to the source
    Start,
    /// Size of the binary and of the image
    Size,
}

fn parse_rounds(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(rounds) if rounds > 0 => Ok(rounds),
        _ => Err("must be a whole number of at least 1".to_owned()),
    }
}

/// The sizes and rounds of the measurements.
#[derive(Clone, Debug)]
pub struct Scale {
    /// Rounds of each comparison.
    pub rounds: usize,
    /// Rounds of measurements that take milliseconds.
    pub short_rounds: usize,
    /// Tokens per tried setting of the alternatives.
    pub calibration: u64,
    /// Tokens of the `local` section.
    pub local: u64,
    /// Tokens of the `small` section.
    pub small: u64,
    /// Tokens of the `remote` section.
    pub remote: u64,
    /// Tokens of each run of token_service in the `sweep` section.
    pub sweep: u64,
    /// Intended duration of each run of pgbench in the `sweep` section, in seconds.
    pub pgbench_seconds: f64,
    /// Tokens of the `slow-source` section.
    pub slow_source: u64,
    /// Requests that the source of the `rate-limit` section must accept.
    pub limited_requests: u64,
    /// Tokens and rounds of each step of the `growth` section.
    pub growth: Vec<(u64, usize)>,
    /// The two numbers of tokens whose peak memory is compared.
    pub memory: [u64; 2],
    /// Tokens of the `script` section when it measures CPU time.
    pub script: u64,
    /// The two numbers of tokens of the `script` section when it counts instructions. Their
    /// difference gives the instructions per token.
    pub instructions: [u64; 2],
}

impl BenchOptions {
    /// Returns the sizes and rounds of the measurements.
    pub fn scale(&self) -> Scale {
        let default = if self.quick {
            QUICK_ROUNDS
        } else {
            FULL_ROUNDS
        };
        let rounds = self.rounds.unwrap_or(default);
        if self.quick {
            return Scale {
                rounds,
                short_rounds: rounds.max(5),
                calibration: 4_000,
                local: 20_000,
                small: 2_000,
                remote: 2_000,
                sweep: 8_000,
                pgbench_seconds: 0.5,
                slow_source: 20_000,
                limited_requests: 60,
                growth: vec![(1_000, 2), (10_000, 2), (100_000, 1)],
                memory: [10_000, 500_000],
                script: 50_000,
                instructions: [1_000, 5_000],
            };
        }
        Scale {
            rounds,
            short_rounds: (4 * rounds).max(20) + 1,
            calibration: 50_000,
            local: 100_000,
            small: 10_000,
            remote: 5_000,
            sweep: 50_000,
            pgbench_seconds: 2.0,
            slow_source: 100_000,
            limited_requests: 150,
            growth: vec![
                (1_000, rounds),
                (10_000, rounds),
                (100_000, 3),
                (1_000_000, 1),
                (5_000_000, 1),
            ],
            memory: [10_000, 5_000_000],
            script: 500_000,
            instructions: [4_000, 20_000],
        }
    }

    /// Returns true if the section is selected.
    pub fn includes(&self, section: BenchSection) -> bool {
        self.only.is_empty() || self.only.contains(&section)
    }

    /// Returns true if all sections are measured at full size.
    pub fn is_full(&self) -> bool {
        self.caveat().is_none()
    }

    /// Returns why the run is not a full run, or `None` if it is.
    pub fn caveat(&self) -> Option<&'static str> {
        if self.quick {
            Some("A quick run with small sizes. The figures are inaccurate.")
        } else if !self.only.is_empty() {
            Some("Only some sections were measured.")
        } else if self.rounds.is_some_and(|rounds| rounds < FULL_ROUNDS) {
            Some("Fewer rounds than in a full run.")
        } else {
            None
        }
    }
}
