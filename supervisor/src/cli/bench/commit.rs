//! Committing: each strategy, beside a memset of as much memory that is resident already.

use cofferdam_protocol::message::CommitStrategy;
use indicatif::ProgressBar;

use super::{BenchArgs, CliError, Figure, memset_nanos};
use crate::host::size::Bytes;
use crate::pool::Pool;

const CASES: [(&str, CommitStrategy, bool); 4] = [
    ("populate, huge pages", CommitStrategy::Populate, true),
    ("populate, 4 KiB pages", CommitStrategy::Populate, false),
    ("touch, huge pages", CommitStrategy::Touch, true),
    ("touch, 4 KiB pages", CommitStrategy::Touch, false),
];

pub(super) fn measure(args: &BenchArgs, bar: &ProgressBar) -> Result<Vec<Figure>, CliError> {
    bar.set_message(format!("memset of {}", args.memory));
    let floor = memset_nanos(args.memory.0, args.rounds)?;
    let mut figures = Vec::new();
    for (name, strategy, huge) in CASES {
        bar.set_message(format!("commit of {}: {name}", args.memory));
        // In a virtual machine the first to touch memory waits for the host to find it: that one does not count.
        commit_nanos(args.memory, strategy, huge)?;
        let ours = (0..args.rounds)
            .map(|_| commit_nanos(args.memory, strategy, huge))
            .collect::<Result<Vec<_>, _>>()?;
        let case = format!("{} {name}", args.memory);
        figures.push(Figure::new("commit", case, &ours, "memset of it, resident", &floor));
    }
    Ok(figures)
}

/// What a worker says its commit took, proof included.
fn commit_nanos(memory: Bytes, strategy: CommitStrategy, huge: bool) -> Result<u64, CliError> {
    let pool = Pool::builder("(module)")
        .spares(0)
        .cache(None)
        .memory(memory.0)
        .commit(strategy)
        .huge_pages(huge)
        .build()?;
    let micros = pool.health().slots.first().and_then(|slot| slot.commit_us).unwrap_or(0);
    Ok(micros * 1000)
}
