//! The overhead section: the time from submitting a block to receiving its result, minus the time that the guest ran.

use crate::context::{Bench, completed, nanos, try_nanos_of};
use crate::error::BenchError;
use crate::figure::Figure;
use crate::guests;
use cofferdam_pool::{Job, Pool, Runner};

/// Blocks that run before the first measured block. They warm the arenas and the caches.
const WARM_UP: u32 = 200;
const BLOCKS_A_ROUND: u32 = 1000;

const SIZES: [(&str, usize); 3] = [("100 B", 100), ("1 MB", 1_000_000), ("4 MB", 4_000_000)];

pub(super) fn measure(bench: &Bench<'_>) -> Result<Vec<Figure>, BenchError> {
    let zeroing = bench.zeroing_nanos()?;
    let mut processes = Vec::new();
    for (name, bytes) in SIZES {
        bench.doing(format!("a committed process for each block of {name}"));
        let job = Job::block(1, vec![7; bytes]);
        let each = (0..bench.args.rounds).map(|_| process_nanos(bench, &job));
        processes.push(each.collect::<Result<Vec<_>, _>>()?);
    }
    let pool = bench.builder(guests::EMPTY).build()?;
    let uncommitted = bench.uncommitted(guests::EMPTY)?;
    let mut figures = Vec::new();
    for ((name, bytes), process) in SIZES.into_iter().zip(processes) {
        bench.doing(format!("overhead of a block of {name}"));
        let job = Job::block(1, vec![7; bytes]);
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        overhead_nanos(&pool, &job, WARM_UP)?;
        overhead_nanos(&uncommitted, &job, WARM_UP)?;
        for _ in 0..bench.args.rounds {
            ours.extend(overhead_nanos(&pool, &job, BLOCKS_A_ROUND)?);
            theirs.extend(overhead_nanos(&uncommitted, &job, BLOCKS_A_ROUND)?);
        }
        let case = format!("{name} block, {} committed", bench.args.memory);
        let figure = Figure::new("overhead", case, &ours)
            .beside("zeroing all memory", &zeroing)
            .beside("a committed process a block", &process)
            .beside("fresh instance, one process", &theirs);
        figures.push(figure);
    }
    Ok(figures)
}

fn overhead_nanos(runner: &impl Runner, job: &Job, blocks: u32) -> Result<Vec<u64>, BenchError> {
    (0..blocks).map(|_| Ok(nanos(completed(runner, job)?.overhead))).collect()
}

/// Starts a worker for one block and ends it afterwards. The module is compiled already.
fn process_nanos(bench: &Bench<'_>, job: &Job) -> Result<u64, BenchError> {
    let builder = bench.builder(guests::EMPTY);
    builder.compile()?;
    let mut exec = 0;
    let total = try_nanos_of(|| {
        let pool: Pool = builder.build()?;
        exec = nanos(completed(&pool, job)?.exec);
        // The end of the worker is part of the time.
        drop(pool);
        Ok(())
    })?;
    Ok(total.saturating_sub(exec))
}
