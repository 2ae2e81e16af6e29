//! The guest section: guests on committed memory, beside the same guests on demand-paged memory. It measures the guest's own
//! time. It also measures whole blocks, with their resets, one after the other on one worker.

use std::time::Instant;

use crate::context::{Bench, completed, nanos};
use crate::error::BenchError;
use crate::figure::Figure;
use crate::guests;
use cofferdam_chain::blocks::{self, SourceBlock};
use cofferdam_chain::sample;
use cofferdam_pool::{Job, Runner};

/// Blocks in a round. The time of a block is the mean over the round. The time of a round includes the reset after the last
/// block of the previous round, and not the reset after its own last block.
const BLOCKS_A_ROUND: u32 = 10;

/// Pages of memory that the memory-bound guest walks over.
const SCATTERED_PAGES: u64 = 4096;
/// Steps that the memory-bound guest makes.
const SCATTERED_STEPS: u32 = 2_000_000;

struct Case {
    name: String,
    module: Vec<u8>,
    job: Job,
}

pub(super) fn measure(bench: &Bench<'_>) -> Result<Vec<Figure>, BenchError> {
    let (mut figures, mut whole) = (Vec::new(), Vec::new());
    for case in cases(bench)? {
        bench.doing(format!("guests: {}", case.name));
        let pool = bench.builder(case.module.as_slice()).build()?;
        let uncommitted = bench.uncommitted(case.module.as_slice())?;
        let (mut ours, mut theirs) = (Samples::default(), Samples::default());
        for round in 0..=bench.args.rounds {
            // The first round is the warm-up.
            ours.take(&pool, &case.job, round > 0)?;
            theirs.take(&uncommitted, &case.job, round > 0)?;
        }
        let beside = "the same, demand-paged";
        figures.push(Figure::new("guest", case.name.clone(), &ours.exec).beside(beside, &theirs.exec));
        let beside = "fresh instance, one process";
        whole.push(Figure::new("whole block", case.name, &ours.whole).beside(beside, &theirs.whole));
    }
    figures.extend(whole);
    Ok(figures)
}

fn cases(bench: &Bench<'_>) -> Result<Vec<Case>, BenchError> {
    // The largest power of two that fits into the memory.
    let fits = (bench.args.memory.0 >> 16).max(1).ilog2();
    let pages = SCATTERED_PAGES.min(1 << fits);
    let real = newest_bundled()?;
    Ok(vec![
        Case {
            name: "a block of 1 MB, read and copied".to_owned(),
            module: guests::READER.into(),
            job: Job::block(1, vec![7; 1_000_000]),
        },
        Case {
            name: format!("sample indexer, block {}", real.height),
            module: sample::MODULE.to_vec(),
            job: Job::block(real.height, real.bytes),
        },
        Case {
            name: format!("scattered words of {}", cofferdam_base::size::Bytes(pages << 16)),
            module: guests::with_pages(guests::SCATTERED, pages).into(),
            job: Job::block(1, SCATTERED_STEPS.to_le_bytes().to_vec()),
        },
    ])
}

/// The newest bundled block: 1.4 MB of mainnet.
pub(super) fn newest_bundled() -> Result<SourceBlock, BenchError> {
    let mut newest = None;
    for block in blocks::bundled()? {
        newest = Some(block?);
    }
    newest.ok_or(BenchError::NoBlocks)
}

/// Nanoseconds: of the guest in each block, and of a whole block in each round.
#[derive(Default)]
struct Samples {
    exec: Vec<u64>,
    whole: Vec<u64>,
}

impl Samples {
    fn take(&mut self, runner: &impl Runner, job: &Job, count: bool) -> Result<(), BenchError> {
        let started = Instant::now();
        let mut exec = Vec::new();
        for _ in 0..BLOCKS_A_ROUND {
            exec.push(nanos(completed(runner, job)?.exec));
        }
        if count {
            self.whole.push(nanos(started.elapsed() / BLOCKS_A_ROUND));
            self.exec.extend(exec);
        }
        Ok(())
    }
}
