//! The `rate-limit` section: a source that refuses requests above a rate with 429 and Retry-After.

use std::sync::Arc;

use anyhow::{Context as _, Result};

use super::memory::peak_goal;
use crate::chart::{Chart, Curve, LegendPlace, YScale};
use crate::contender::Contender;
use crate::contender::token_service::TokenService;
use crate::environment::BenchEnvironment;
use crate::format::format_count;
use crate::results::{BenchResults, Goal};
use crate::statistics::{ContenderSamples, MedianRange};
use crate::table::Table;
use crate::token_source::{ReceivedRequest, SourceBehavior, TokenKind, TokenSource};

/// The requests per second that the source accepts.
const RATE_LIMIT: u32 = 10;
/// The options of the contenders. The first one finds the rate while running.
const SETTINGS: [&[&str]; 2] = [&[], &["--rate", "10/s"]];
/// The tokens of a page.
const PAGE_SIZE: u64 = 200;
/// The maximum number of rounds.
const MAX_ROUNDS: usize = 3;
/// The time after the first request from which a run counts as settled, in seconds.
const SETTLED_AFTER: usize = 2;
/// The largest share of refused requests of a settled run, in percent.
const MAX_REFUSED: f64 = 5.0;

/// What the source counted in one run.
struct RequestCounts {
    /// The accepted and refused requests in each second after the first request.
    seconds: Vec<[u32; 2]>,
    /// The time from the first request to the last one, in seconds.
    duration: f64,
}

impl RequestCounts {
    fn of(requests: &[ReceivedRequest]) -> Result<Self> {
        let first = requests.first().context("the source received no request")?;
        let mut counts = Self {
            seconds: Vec::new(),
            duration: 0.0,
        };
        for request in requests {
            counts.duration = (request.arrived - first.arrived) as f64 / 1e9;
            let second = counts.duration as usize;
            counts.seconds.resize(second + 1, [0; 2]);
            counts.seconds[second][usize::from(!request.is_accepted)] += 1;
        }
        Ok(counts)
    }

    /// Returns the accepted and refused requests from that second on.
    fn since(&self, second: usize) -> [u32; 2] {
        let seconds = self.seconds.iter().skip(second);
        seconds.fold([0; 2], |sum, count| [sum[0] + count[0], sum[1] + count[1]])
    }

    /// Returns the share of refused requests from that second on.
    fn refused_share(&self, second: usize) -> f64 {
        let [accepted, refused] = self.since(second).map(f64::from);
        refused / (accepted + refused)
    }
}

/// The runs of one contender.
struct LimitedRuns {
    results: ContenderSamples,
    counts: Vec<RequestCounts>,
}

impl LimitedRuns {
    fn range(&self, figure: impl Fn(&RequestCounts) -> f64) -> MedianRange {
        MedianRange::of(self.counts.iter().map(figure))
    }

    fn refused_percent(&self, second: usize) -> MedianRange {
        self.range(|counts| counts.refused_share(second))
            .scaled(100.0)
    }
}

/// Measures the section.
pub fn measure(env: &mut BenchEnvironment) -> Result<BenchResults> {
    let tokens = env.scale.limited_requests * PAGE_SIZE;
    let behavior = SourceBehavior {
        rate_limit: Some(RATE_LIMIT),
        ..SourceBehavior::default()
    };
    let source = Arc::new(TokenSource::start(TokenKind::AllStored, behavior)?);
    let contenders = SETTINGS.map(|options| TokenService {
        source: Some(Arc::clone(&source)),
        page_size: Some(PAGE_SIZE),
        options,
        ..TokenService::default()
    });
    let mut runs = contenders.each_ref().map(|contender| LimitedRuns {
        results: ContenderSamples {
            name: contender.name(),
            samples: Vec::new(),
        },
        counts: Vec::new(),
    });
    let rounds = env.scale.rounds.min(MAX_ROUNDS);
    for round in 1..=rounds {
        for (contender, runs) in contenders.iter().zip(&mut runs) {
            let sample = Contender::TokenService(contender.clone()).run(env, tokens)?;
            let counts = RequestCounts::of(&source.requests())?;
            let [accepted, refused] = counts.since(0);
            env.print_progress(&format!(
                "rate limit, round {round} of {rounds}: {}: {accepted} requests accepted, {refused} \
                 refused in {:.1} s",
                runs.results.name, sample.seconds
            ));
            runs.results.samples.push(sample);
            runs.counts.push(counts);
        }
    }
    let mut table = table(&runs, tokens);
    let [defaults, _] = &runs;
    table.chart = Some(chart(defaults)?);
    let refused = defaults.refused_percent(SETTLED_AFTER);
    let goal = Goal::figure(
        format!(
            "source that refuses above {RATE_LIMIT} requests/s, {} tokens",
            format_count(tokens)
        ),
        &format!("≤ {MAX_REFUSED} % of requests refused after {SETTLED_AFTER} s, SIZE reached"),
        format!("{} % refused", refused.format(1)),
        refused.median <= MAX_REFUSED,
    );
    Ok(BenchResults {
        goals: vec![
            goal,
            peak_goal("source with a rate limit", [&defaults.results]),
        ],
        tables: vec![table],
        ..BenchResults::default()
    })
}

fn table(runs: &[LimitedRuns], tokens: u64) -> Table {
    let mut table = Table::new(
        "Source with a rate limit",
        format!(
            "{} tokens in pages of {}. The source accepts {RATE_LIMIT} requests per second on average \
             and {RATE_LIMIT} at once (a token bucket). It answers the others with 429 and \
             `Retry-After: 1`. It counts the requests itself. A run counts as settled {SETTLED_AFTER} \
             seconds after its first request. Each run received all tokens.",
            format_count(tokens),
            format_count(PAGE_SIZE)
        ),
        &[
            "contender",
            "requests accepted",
            "refused, whole run",
            "refused, settled",
            "accepted per second",
        ],
    );
    for runs in runs {
        table.add_row([
            runs.results.name.clone(),
            runs.range(|counts| counts.since(0)[0].into()).to_string(),
            format!("{} %", runs.refused_percent(0).format(1)),
            format!("{} %", runs.refused_percent(SETTLED_AFTER).format(1)),
            runs.range(|counts| f64::from(counts.since(0)[0]) / counts.duration)
                .format(1),
        ]);
    }
    table
}

/// Shows the run whose number of refused requests is the median, without its last incomplete second.
fn chart(runs: &LimitedRuns) -> Result<Chart> {
    let mut counts: Vec<&RequestCounts> = runs.counts.iter().collect();
    counts.sort_by_key(|counts| counts.since(0)[1]);
    let counts = counts.get(counts.len() / 2).context("there is no run")?;
    let (_, seconds) = counts.seconds.split_last().context("the run is empty")?;
    let curve = |name: &str, index: usize| Curve {
        values: seconds.iter().map(|count| count[index].into()).collect(),
        ..Curve::new(name)
    };
    Ok(Chart {
        file: "rate-limit.svg",
        title: "Requests to a source that accepts 10 per second",
        unit: "requests in each second of the run",
        x_axis: "second of the run",
        labels: (1..=seconds.len())
            .map(|second| second.to_string())
            .collect(),
        scale: YScale::Linear,
        legend: LegendPlace::UpperRight,
        curves: vec![curve("accepted", 0), curve("refused", 1)],
    })
}
