//! The throughput section: independent blocks by one worker and by several, beside one process on demand-paged memory.

use std::thread;
use std::time::Instant;

use super::guest;
use crate::context::{Bench, completed, nanos};
use crate::error::BenchError;
use crate::figure::Figure;
use cofferdam_chain::sample;
use cofferdam_pool::host::admission::Budget;
use cofferdam_pool::{Job, Limits, Runner, need_of};

/// Blocks that each worker runs in a round.
const BLOCKS_A_ROUND: u32 = 20;

pub(super) fn measure(bench: &Bench<'_>) -> Result<Vec<Figure>, BenchError> {
    let block = guest::newest_bundled()?;
    let height = block.height;
    let job = Job::block(height, block.bytes);
    let uncommitted = bench.uncommitted(sample::MODULE)?;
    let mut figures = Vec::new();
    for workers in 1..=most_workers(bench) {
        bench.doing(format!("throughput of {workers} workers"));
        let pool = bench.builder(sample::MODULE).workers(workers).build()?;
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        for round in 0..=bench.args.rounds {
            let (a, b) = (block_nanos(&pool, &job, workers)?, block_nanos(&uncommitted, &job, 1)?);
            // The first round is the warm-up.
            if round > 0 {
                ours.push(a);
                theirs.push(b);
            }
        }
        let noun = if workers == 1 { "worker" } else { "workers" };
        let case = format!("time a block, block {height}, {workers} {noun}");
        figures.push(Figure::new("throughput", case, &ours).beside("one process, demand-paged", &theirs));
    }
    Ok(figures)
}

/// The largest number of workers for which there are processors and memory.
pub(super) fn most_workers(bench: &Bench<'_>) -> usize {
    let processors = thread::available_parallelism().map_or(1, usize::from);
    let fit = Budget::read(None).workers_that_fit(&need_of(1, bench.args.memory.0, &Limits::default()));
    processors.min(usize::try_from(fit).unwrap_or(usize::MAX)).max(1)
}

/// Wall-clock nanoseconds of a round, divided by its blocks.
fn block_nanos(runner: &(impl Runner + Sync), job: &Job, threads: usize) -> Result<u64, BenchError> {
    let blocks = BLOCKS_A_ROUND * u32::try_from(threads).unwrap_or(1);
    let call = || (0..BLOCKS_A_ROUND).try_for_each(|_| completed(runner, job).map(drop));
    let started = Instant::now();
    thread::scope(|scope| {
        let callers: Vec<_> = (0..threads).map(|_| scope.spawn(call)).collect();
        // If a caller panicked, the panic has been printed already.
        callers.into_iter().try_for_each(|caller| caller.join().unwrap_or(Ok(())))
    })?;
    Ok(nanos(started.elapsed() / blocks))
}
