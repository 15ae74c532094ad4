//! What was typed, and the sizes that follow from it: a full run measures, `--quick` only shows that
//! everything works.

use clap::{Parser, ValueEnum};

/// Rounds of a comparison in a full run.
const ROUNDS: usize = 5;
/// Rounds of a comparison in a quick one.
const QUICK_ROUNDS: usize = 2;

/// Compares token_service with its alternatives on this machine.
///
/// Starts a durable PostgreSQL and a token source of its own, alternates the contenders, and prints
/// medians, spreads and ratios. A full run takes about 20 minutes on two cores and writes
/// docs/throughput.svg and the generated regions of docs/performance.md; any other writes them below
/// the target folder.
#[derive(Clone, Debug, Parser)]
#[allow(clippy::struct_excessive_bools, reason = "they are independent")]
#[command(name = "cargo bench --locked --", bin_name = "cargo bench --locked --")]
pub struct Options {
    /// Small sizes and few rounds: takes minutes, measures little
    #[arg(long)]
    pub quick: bool,
    /// Only this section; repeatable
    #[arg(long, value_enum, value_name = "NAME")]
    pub only: Vec<Section>,
    /// Rounds of each comparison [default: 5, with --quick 2]
    #[arg(long, value_name = "N", value_parser = rounds)]
    pub rounds: Option<usize>,
    /// Measure throughput over connections, requests in flight and page sizes instead, near and far,
    /// to choose defaults
    #[arg(long, conflicts_with = "only")]
    pub sweep: bool,
    /// Write to docs/ although the run is not a full one
    #[arg(long)]
    pub write: bool,
    /// What cargo adds.
    #[arg(long, hide = true)]
    pub bench: bool,
}

/// What is measured, in the order of the report.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Section {
    /// Many tokens on the local server: the server's own limit, pgbench, rejected tokens, CPU
    Local,
    /// 10,000 tokens: one psql connection, Python, an SQLite file
    Small,
    /// One token: the whole process against curl and psql
    One,
    /// A round trip of 20 ms
    Far,
    /// Throughput against round-trip time, and its chart
    Distance,
    /// Time per token while the number of tokens grows
    Growth,
    /// Peak memory with each report format
    Memory,
    /// Cost of the script, compared with the same calls in Rust
    Script,
    /// Time until the first request arrives at the source
    Start,
    /// The binary and the image
    Size,
}

fn rounds(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(rounds) if rounds > 0 => Ok(rounds),
        _ => Err("must be a whole number of at least 1".to_owned()),
    }
}

/// How much is done.
#[derive(Clone, Debug)]
pub struct Scale {
    /// Rounds of each comparison.
    pub rounds: usize,
    /// Rounds of what takes milliseconds.
    pub short_rounds: usize,
    /// Tokens of a run that only chooses among settings.
    pub trial: u64,
    /// Tokens of the comparison on the local server.
    pub local: u64,
    /// Tokens of the comparison with those who use one connection.
    pub small: u64,
    /// Tokens with a round trip of 20 ms.
    pub far: u64,
    /// So many seconds each point of the chart should take.
    pub point: f64,
    /// The sizes of the growth section, each with its rounds.
    pub growth: Vec<(u64, usize)>,
    /// The two sizes whose peak memory is compared.
    pub memory: [u64; 2],
    /// Tokens that scripts are measured with by CPU time.
    pub script: u64,
    /// Tokens that scripts are measured with by instructions: what is spent once, and what is spent
    /// on each token, follow from the two.
    pub instructions: [u64; 2],
}

impl Options {
    /// The sizes.
    pub fn scale(&self) -> Scale {
        let default = if self.quick { QUICK_ROUNDS } else { ROUNDS };
        let rounds = self.rounds.unwrap_or(default);
        if self.quick {
            return Scale {
                rounds,
                short_rounds: rounds.max(5),
                trial: 4_000,
                local: 20_000,
                small: 2_000,
                far: 2_000,
                point: 0.6,
                growth: vec![(1_000, 2), (10_000, 2), (100_000, 1)],
                memory: [10_000, 500_000],
                script: 50_000,
                instructions: [1_000, 5_000],
            };
        }
        Scale {
            rounds,
            short_rounds: (4 * rounds).max(20) + 1,
            trial: 50_000,
            local: 100_000,
            small: 10_000,
            far: 5_000,
            point: 3.0,
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

    /// True where this section is to be measured.
    pub fn wants(&self, section: Section) -> bool {
        self.only.is_empty() || self.only.contains(&section)
    }

    /// True where everything is measured at full size.
    pub fn is_full(&self) -> bool {
        self.caveat().is_none()
    }

    /// Why it is no full measurement, where it is none.
    pub fn caveat(&self) -> Option<&'static str> {
        if self.quick {
            Some("A quick run: it shows that everything works and measures little.")
        } else if !self.only.is_empty() {
            Some("Some sections only.")
        } else if self.rounds.is_some_and(|rounds| rounds < ROUNDS) {
            Some("Fewer rounds than a measurement needs.")
        } else {
            None
        }
    }
}
