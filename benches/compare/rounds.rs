//! Runs the contenders in rounds, A B A B …, so that a disturbance affects all of them.

use anyhow::{Context as _, Result};

use crate::contender::Contender;
use crate::environment::BenchEnvironment;
use crate::format::format_count;
use crate::statistics::ContenderSamples;

/// Runs each contender once per round with its number of tokens.
///
/// # Errors
/// If a run fails.
pub fn run_rounds(
    env: &mut BenchEnvironment,
    title: &str,
    rounds: usize,
    contenders: &[(Contender, u64)],
) -> Result<Vec<ContenderSamples>> {
    let mut results: Vec<ContenderSamples> = contenders
        .iter()
        .map(|(contender, _)| ContenderSamples {
            name: contender.name(),
            samples: Vec::with_capacity(rounds),
        })
        .collect();
    for round in 1..=rounds {
        for ((contender, tokens), result) in contenders.iter().zip(&mut results) {
            let sample = contender.run(env, *tokens);
            let sample = sample.with_context(|| title.to_owned())?;
            env.print_progress(&format!(
                "{title}, round {round} of {rounds}: {}: {} tokens in {:.3} s, {} tokens/s",
                result.name,
                format_count(sample.tokens),
                sample.seconds,
                format_count(sample.tokens_per_second() as u64),
            ));
            result.samples.push(sample);
        }
    }
    Ok(results)
}
