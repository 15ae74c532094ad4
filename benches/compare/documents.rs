//! The generated regions of README.md and of the pages that repeat figures of docs/performance.md.

use std::collections::BTreeMap;

/// A figure that a document repeats. The texts are formatted as in docs/performance.md.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Figure {
    /// Tokens per second of the server's own limit.
    ServerLimit,
    /// The server's own limit by number of sessions, as a list.
    ServerLimits,
    /// Tokens per second of pgbench on the local server.
    Pgbench,
    /// Tokens per second of token_service on the local server.
    Local,
    /// Processor time of the server for token_service, in microseconds per token.
    ServerCpu,
    /// Processor time of token_service, in microseconds per token.
    ClientCpu,
    /// Tokens per second of token_service with 20 ms round trip, 8 connections and 5,000 tokens.
    Remote,
    /// Tokens per second of pgbench with 20 ms round trip and 8 clients.
    RemotePgbench,
    /// Tokens per second with 20 ms round trip and connections chosen while running.
    SweepChosen,
    /// Tokens per second with 20 ms round trip and 8 connections, in a longer run.
    SweepEight,
    /// Tokens per second with a source that takes 200 ms per answer.
    SlowSource,
    /// The same with one request at a time.
    SlowSourceOneRequest,
    /// The same with four shards.
    SlowSourceShards,
    /// Peak memory by number of tokens, as a list.
    Peaks,
    /// The largest number of tokens of a run, and its peak memory in MiB.
    LargestRun,
    /// The smallest and largest processor time per token of long runs, in microseconds.
    LongRunCpu,
    /// The duration of a sync, with its unit.
    Sync,
}

/// The measured figures.
pub type Figures = BTreeMap<Figure, String>;

/// A document with a generated region.
pub struct Document {
    /// The path below the root of the repository.
    pub path: &'static str,
    /// Renders the region, or returns `None` if a figure is missing.
    pub text: fn(&Figures) -> Option<String>,
}

/// All documents.
pub const DOCUMENTS: [Document; 3] = [
    Document {
        path: "README.md",
        text: readme,
    },
    Document {
        path: "docs/deploying.md",
        text: deploying,
    },
    Document {
        path: "docs/scale.md",
        text: scale,
    },
];

fn readme(figures: &Figures) -> Option<String> {
    Some(format!(
        "- 100,000 tokens into a local server: {} tokens/s. pgbench at its best reached {}, and a \
         procedure\n  inside the server, without any client, {}.\n\
         - 5,000 tokens over a 20 ms round trip, 8 connections: {} tokens/s; pgbench with 8 clients \
         reached {}.\n\
         - Peak memory for {} MiB.",
        figures.get(&Figure::Local)?,
        figures.get(&Figure::Pgbench)?,
        figures.get(&Figure::ServerLimit)?,
        figures.get(&Figure::Remote)?,
        figures.get(&Figure::RemotePgbench)?,
        figures.get(&Figure::LargestRun)?,
    ))
}

fn deploying(figures: &Figures) -> Option<String> {
    Some(format!(
        "- Peak resident memory: {}.\n\
         - Processor time per token: {} µs.\n\
         - Tokens per second: {}.",
        figures.get(&Figure::Peaks)?,
        figures.get(&Figure::LongRunCpu)?,
        figures.get(&Figure::Local)?,
    ))
}

fn scale(figures: &Figures) -> Option<String> {
    Some(format!(
        "- Source that takes 200 ms per answer, pages of 2,000: {} tokens/s. One request at a time: {}. \
         Four shards: {}.\n\
         - Processor time per token: {} µs in the server, {} µs in token_service.\n\
         - The server's own limit, without any client: {} tokens/s at its best. Each number of sessions, \
         tried once:\n  {}.\n\
         - Round trip of 20 ms: {} tokens/s with connections chosen while running, {} with 8 \
         connections.\n\
         - Sync of 8 KiB: {}.",
        figures.get(&Figure::SlowSource)?,
        figures.get(&Figure::SlowSourceOneRequest)?,
        figures.get(&Figure::SlowSourceShards)?,
        figures.get(&Figure::ServerCpu)?,
        figures.get(&Figure::ClientCpu)?,
        figures.get(&Figure::ServerLimit)?,
        figures.get(&Figure::ServerLimits)?,
        figures.get(&Figure::SweepChosen)?,
        figures.get(&Figure::SweepEight)?,
        figures.get(&Figure::Sync)?,
    ))
}
