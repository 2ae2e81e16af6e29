//! The chain section: the time of a block in the pipeline, including the commits to disk, beside the guest's own time.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::context::{Bench, nanos};
use crate::error::BenchError;
use crate::figure::Figure;
use cofferdam_base::size::Bytes;
use cofferdam_chain::blocks::{self, Origin, SourceBlock};
use cofferdam_chain::sample;
use cofferdam_chain::{Batch, Hashed, Pipeline, PipelineSettings, Pushed};
use cofferdam_pool::{Pool, PoolError};
use cofferdam_store::{Durability, Identity, Store};

/// Number of large blocks. There are so many that the last commit hardly counts. Only the last commit does not overlap with a
/// block.
const LARGE_BLOCKS: u32 = 192;

/// The largest number of blocks that are committed one by one.
const STEPS: usize = 32;

pub(super) fn measure(bench: &Bench<'_>) -> Result<Vec<Figure>, BenchError> {
    let bundled: Vec<SourceBlock> = blocks::bundled()?.collect::<Result<_, _>>()?;
    let (small, large) = bundled.split_at(bundled.len() - 1);
    let small: Vec<Hashed> = small.iter().cloned().map(Hashed::from).collect();
    let large: Vec<Hashed> = (0..LARGE_BLOCKS).filter_map(|height| again(large.first()?, height)).collect();
    let mut figures = Vec::new();
    for (name, blocks) in [("439 early blocks, a block", small), ("192 blocks of 1.4 MB, a block", large)] {
        bench.doing(format!("a chain of {name}"));
        let (mut ours, mut guest, mut steps) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..bench.args.rounds {
            let (wall, own) = in_pipeline(bench, &blocks)?;
            ours.push(each(wall, &blocks));
            guest.push(each(own, &blocks));
            let few = &blocks[..blocks.len().min(STEPS)];
            steps.push(each(step_by_step(bench, few)?, few));
        }
        let figure = Figure::new("chain", name, &ours)
            .beside("the guest's own time", &guest)
            .beside("committed one by one", &steps);
        figures.push(figure);
    }
    Ok(figures)
}

/// The same block at another height. Its bytes stay the same, because the pipeline does not parse them.
fn again(block: &SourceBlock, height: u32) -> Option<Hashed> {
    let origin = Origin { file: Arc::from(Path::new("bundled")), offset: 0 };
    Some(SourceBlock::opaque(height, block.bytes.clone(), origin).into())
}

fn each(time: Duration, blocks: &[Hashed]) -> u64 {
    nanos(time) / (blocks.len() as u64).max(1)
}

/// A store on disk, and a pool that reads it: two workers, so that one is reset while the other runs.
fn ground(bench: &Bench<'_>) -> Result<(tempfile::TempDir, Arc<Store>, Arc<Pool>), BenchError> {
    let directory = tempfile::Builder::new().prefix("cofferdam-bench-").tempdir();
    let directory = directory.map_err(BenchError::io("a directory for a store"))?;
    let builder = bench.builder(sample::MODULE).workers(1).spares(1).layer_bytes(Bytes::mib(256).0);
    let identity = Identity { profile: builder.profile()?.hash(), network: None };
    let store = Store::open(&directory.path().join("state"), &identity, Durability::Block)?;
    let store = Arc::new(store.with_undo(100));
    let pool = Arc::new(builder.state(store.path()).build()?);
    Ok((directory, store, pool))
}

/// Wall-clock time from the first block to the last commit, and the guest's own time in it.
fn in_pipeline(bench: &Bench<'_>, blocks: &[Hashed]) -> Result<(Duration, Duration), BenchError> {
    let (_directory, store, pool) = ground(bench)?;
    let settings = PipelineSettings { batch: Batch::CATCHING_UP, ..PipelineSettings::default() };
    let mut pipeline = Pipeline::resume(pool, store, settings, Box::new(|_| {}))?;
    // The copies are made before the clock starts: the blocks of a real chain are not copies of each other.
    let blocks = blocks.to_vec();
    let started = Instant::now();
    for block in blocks {
        if let Pushed::Stopped(outcome) = pipeline.push(block)? {
            return Err(failed(&outcome.result.detail));
        }
    }
    let waited = pipeline.times().commits;
    pipeline.flush()?;
    let all = started.elapsed();
    tracing::debug!("{all:?}, {waited:?} of it for commits before the last: {:?}", pipeline.times());
    Ok((all, pipeline.times().guest))
}

/// Wall-clock time when each block is committed before the next one runs.
fn step_by_step(bench: &Bench<'_>, blocks: &[Hashed]) -> Result<Duration, BenchError> {
    let (_directory, store, pool) = ground(bench)?;
    let mut pipeline = Pipeline::resume(pool, store, PipelineSettings::default(), Box::new(|_| {}))?;
    let started = Instant::now();
    for block in blocks {
        let outcome = pipeline.push_and_wait(block.clone())?;
        if !outcome.committed {
            return Err(failed(&outcome.result.detail));
        }
    }
    Ok(started.elapsed())
}

fn failed(detail: &str) -> BenchError {
    PoolError::Setting(format!("the sample indexer failed: {detail}; is --memory too small?")).into()
}
