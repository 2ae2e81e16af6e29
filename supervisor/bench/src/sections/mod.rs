//! The sections of the bench. Each section has a file, which measures the figures of the section.

mod chain;
mod commit;
mod failover;
mod guest;
mod http;
mod overhead;
mod reset;
mod state;
mod throughput;

use crate::args::Section;
use crate::context::Bench;
use crate::error::BenchError;
use crate::figure::Figure;

/// Measures one section.
type Measure = fn(&Bench<'_>) -> Result<Vec<Figure>, BenchError>;

/// All sections, in the order in which they run.
pub(crate) const ALL: [(Section, Measure); 9] = [
    (Section::Commit, commit::measure),
    (Section::Reset, reset::measure),
    (Section::Overhead, overhead::measure),
    (Section::Guest, guest::measure),
    (Section::Throughput, throughput::measure),
    (Section::Failover, failover::measure),
    (Section::State, state::measure),
    (Section::Chain, chain::measure),
    (Section::Http, http::measure),
];
