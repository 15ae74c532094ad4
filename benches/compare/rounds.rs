//! The rounds of a comparison: A B A B …, so that what slows the machine down for a while slows all
//! contenders down.

use anyhow::{Context as _, Result};

use super::contender::Contender;
use super::series::{Series, count};
use super::stage::Stage;

/// Lets every contender store so many tokens, in turn, so many times.
pub fn alternate(
    stage: &mut Stage,
    title: &str,
    rounds: usize,
    contenders: &[(Contender, u64)],
) -> Result<Vec<Series>> {
    let mut all: Vec<Series> = contenders
        .iter()
        .map(|(contender, _)| Series {
            name: contender.name(),
            samples: Vec::with_capacity(rounds),
        })
        .collect();
    for round in 1..=rounds {
        for ((contender, tokens), series) in contenders.iter().zip(&mut all) {
            let sample = contender.run(stage, *tokens);
            let sample = sample.with_context(|| title.to_owned())?;
            stage.say(&format!(
                "{title}, round {round} of {rounds}: {}: {} tokens in {:.3} s, {} tokens/s",
                series.name,
                count(sample.tokens),
                sample.seconds,
                count(sample.rate() as u64),
            ));
            series.samples.push(sample);
        }
    }
    Ok(all)
}
