//! The sections of the comparison. Each measures its contenders and checks its goals.

use anyhow::Result;

use crate::environment::BenchEnvironment;
use crate::options::BenchSection;
use crate::results::BenchResults;

mod comparison;
mod growth;
mod latency;
mod local;
mod memory;
mod one;
mod remote;
mod script;
mod size;
mod small;
mod start;

/// Measures a section.
type MeasureFn = fn(&mut BenchEnvironment) -> Result<BenchResults>;

/// All sections in the order of the report.
pub const ALL: [(BenchSection, MeasureFn); 10] = [
    (BenchSection::Local, local::measure),
    (BenchSection::Small, small::measure),
    (BenchSection::One, one::measure),
    (BenchSection::Remote, remote::measure),
    (BenchSection::Latency, latency::measure),
    (BenchSection::Growth, growth::measure),
    (BenchSection::Memory, memory::measure),
    (BenchSection::Script, script::measure),
    (BenchSection::Start, start::measure),
    (BenchSection::Size, size::measure),
];
