//! Committing: each strategy, beside a memset of as much memory that is resident already, and the seed's two phases.

use std::mem::MaybeUninit;

use cofferdam_protocol::message::CommitStrategy;

use super::{Bench, BenchError, Figure, nanos_of};

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
    // In a virtual machine the first to touch memory waits for the host to find it: one round more, which does not count.
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

/// What a worker says its commit took, proof included.
fn commit_nanos(bench: &Bench<'_>, strategy: CommitStrategy, huge: bool) -> Result<u64, BenchError> {
    let pool = bench.builder("(module)").commit(strategy).huge_pages(huge).build()?;
    let micros = pool.health().slots.first().and_then(|slot| slot.commit_us).unwrap_or(0);
    Ok(micros * 1000)
}

/// Nanoseconds to make `bytes` of fresh memory resident by hand: a word of its own into every page, then zeros over all.
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
        // The first phase must not be seen to be overwritten.
        std::hint::black_box(&mut *words);
        words.fill(MaybeUninit::new(0));
        std::hint::black_box(&mut *words);
    }))
}
