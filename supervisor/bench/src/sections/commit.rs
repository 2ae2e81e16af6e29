//! The commit section: each commit strategy, beside a memset of the same amount of resident memory, and beside writing every
//! page and then zeroing all of it.

use std::mem::MaybeUninit;

use cofferdam_protocol::message::CommitStrategy;

use crate::context::{Bench, nanos_of};
use crate::error::BenchError;
use crate::figure::Figure;

const CASES: [(&str, CommitStrategy, bool); 4] = [
    ("populate, huge pages", CommitStrategy::Populate, true),
    ("populate, 4 KiB pages", CommitStrategy::Populate, false),
    ("touch, huge pages", CommitStrategy::Touch, true),
    ("touch, 4 KiB pages", CommitStrategy::Touch, false),
];

pub(super) fn measure(bench: &Bench<'_>) -> Result<Vec<Figure>, BenchError> {
    let memory = bench.args.memory;
    let (mut floor, mut phases) = (Vec::new(), Vec::new());
    let mut ours = vec![Vec::new(); CASES.len()];
    // In a virtual machine, the first process that touches memory waits until the host provides the memory. So the first round
    // does not count.
    for round in 0..=bench.args.rounds {
        let floor_nanos = bench.zeroing_nanos()?;
        bench.doing(format!("two phases over {memory}"));
        let phases_nanos = two_phases_nanos(memory.0)?;
        if round > 0 {
            floor.extend(floor_nanos);
            phases.push(phases_nanos);
        }
        for ((name, strategy, huge), ours) in CASES.into_iter().zip(&mut ours) {
            bench.doing(format!("commit of {memory}: {name}"));
            let nanos = commit_nanos(bench, strategy, huge)?;
            ours.extend((round > 0).then_some(nanos));
        }
    }
    let figure = |((name, ..), ours): (&(&str, CommitStrategy, bool), &Vec<u64>)| {
        Figure::new("commit", format!("{memory} {name}"), ours)
            .beside("memset of it, resident", &floor)
            .beside("write each page, then zero all, one process", &phases)
    };
    Ok(CASES.iter().zip(&ours).map(figure).collect())
}

/// The commit time that a worker reports, with the proof of residency.
fn commit_nanos(bench: &Bench<'_>, strategy: CommitStrategy, huge: bool) -> Result<u64, BenchError> {
    let pool = bench.builder("(module)").commit(strategy).huge_pages(huge).build()?;
    let micros = pool.health().slots.first().and_then(|slot| slot.commit_us).unwrap_or(0);
    Ok(micros * 1000)
}

/// Nanoseconds to make `bytes` of fresh memory resident by hand: write a different word into every page, then zero everything.
fn two_phases_nanos(bytes: u64) -> Result<u64, BenchError> {
    const PAGE_BYTES: usize = 4096;
    let usage = |error: &dyn std::fmt::Display| BenchError::Usage(format!("--memory: {error}"));
    let length = usize::try_from(bytes).map_err(|error| usage(&error))?;
    let mut memory: Vec<u64> = Vec::new();
    memory.try_reserve_exact(length / size_of::<u64>()).map_err(|error| usage(&error))?;
    let words = memory.spare_capacity_mut();
    Ok(nanos_of(|| {
        for (number, page) in (1u64..).zip(words.chunks_mut(PAGE_BYTES / size_of::<u64>())) {
            page[0].write(number);
        }
        // The optimiser must not see that the second phase overwrites the first.
        std::hint::black_box(&mut *words);
        words.fill(MaybeUninit::new(0));
        std::hint::black_box(&mut *words);
    }))
}
