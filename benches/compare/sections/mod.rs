//! The sections of the comparison. Each measures its contenders and checks its goals.

use anyhow::Result;

use crate::environment::BenchEnvironment;
use crate::options::BenchSection;
use crate::results::BenchResults;

mod comparison;
mod growth;
mod local;
mod memory;
mod one;
mod rate_limit;
mod remote;
mod script;
mod serve;
mod size;
mod slow_source;
mod small;
mod start;
mod sweep;

/// Measures a section.
type MeasureFn = fn(&mut BenchEnvironment) -> Result<BenchResults>;

/// All sections in the order of the report.
pub const ALL: [(BenchSection, MeasureFn); 13] = [
    (BenchSection::Local, local::measure),
    (BenchSection::Small, small::measure),
    (BenchSection::One, one::measure),
    (BenchSection::Remote, remote::measure),
    (BenchSection::Sweep, sweep::measure),
    (BenchSection::SlowSource, slow_source::measure),
    (BenchSection::RateLimit, rate_limit::measure),
    (BenchSection::Serve, serve::measure),
    (BenchSection::Growth, growth::measure),
    (BenchSection::Memory, memory::measure),
    (BenchSection::Script, script::measure),
    (BenchSection::Start, start::measure),
    (BenchSection::Size, size::measure),
];
