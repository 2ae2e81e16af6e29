//! The reset section: the time to restore memory after a guest wrote to it. It includes the time of the page faults that the
//! tracking of writes causes in the guest.

use std::time::Duration;

use cofferdam_worker::memory::Scratch;

use crate::context::{Bench, completed, nanos, nanos_of, scratch};
use crate::error::BenchError;
use crate::figure::Figure;
use crate::guests;
use cofferdam_base::size::Bytes;
use cofferdam_pool::{Job, Pool, ResetStrategy};

const PAGE: u64 = 64 << 10;
const HOST_PAGE: u64 = 4096;

/// What a block writes.
struct Case {
    name: &'static str,
    /// Bytes of memory after the first page. None for all memory of the worker.
    memory: Option<u64>,
    runs: u32,
    run_bytes: u32,
}

const CASES: [Case; 9] = [
    Case { name: "nothing", memory: Some(1 << 20), runs: 0, run_bytes: 0 },
    Case { name: "nothing", memory: Some(64 << 20), runs: 0, run_bytes: 0 },
    Case { name: "nothing", memory: None, runs: 0, run_bytes: 0 },
    Case { name: "1 page", memory: None, runs: 1, run_bytes: 4096 },
    Case { name: "1,000 scattered pages", memory: None, runs: 1000, run_bytes: 4096 },
    Case { name: "100,000 scattered pages", memory: None, runs: 100_000, run_bytes: 4096 },
    Case { name: "1 MiB", memory: Some(1 << 20), runs: 1, run_bytes: 1 << 20 },
    Case { name: "64 MiB", memory: Some(64 << 20), runs: 1, run_bytes: 64 << 20 },
    Case { name: "1 GiB", memory: Some(1 << 30), runs: 1, run_bytes: 1 << 30 },
];

/// Blocks that run before the first measured block. By then the worker knows what the guest writes.
const WARM_UP: u32 = 20;
const BLOCKS_A_ROUND: u32 = 5;

pub(super) fn measure(bench: &Bench<'_>) -> Result<Vec<Figure>, BenchError> {
    let mut figures = Vec::new();
    let all = bench.zeroing_nanos()?;
    for case in &CASES {
        let memory = case.memory.unwrap_or(bench.args.memory.0.saturating_sub(PAGE));
        // The large cases do not fit into a small --memory.
        if memory + PAGE > bench.args.memory.0 || case.written() > memory {
            tracing::warn!(
                "the reset of {} is not measured: it needs more than --memory {}",
                case.name,
                bench.args.memory
            );
            continue;
        }
        figures.push(figure(bench, case, memory, &all)?);
    }
    Ok(figures)
}

fn figure(bench: &Bench<'_>, case: &Case, memory: u64, all: &[u64]) -> Result<Figure, BenchError> {
    let name = format!("{} of {}", case.name, Bytes(memory + PAGE));
    bench.doing(format!("reset: {name}"));
    let module = guests::with_pages(guests::WRITER, memory / PAGE + 1);
    let pool = |reset| bench.builder(module.as_str()).reset(reset).build();
    let (adaptive, zeroing) = (pool(ResetStrategy::Adaptive)?, pool(ResetStrategy::Zero)?);
    let job = Job::block(1, case.block(memory));
    let mut floor = Floor::new(case, memory)?;
    let (mut ours, mut theirs) = (Samples::default(), Samples::default());
    for round in 0..=bench.args.rounds {
        // The first round is the warm-up.
        let blocks = if round == 0 { WARM_UP } else { BLOCKS_A_ROUND };
        for (pool, samples) in [(&adaptive, &mut ours), (&zeroing, &mut theirs)] {
            samples.take(pool, &job, blocks, round > 0)?;
        }
        floor.take(case, round > 0);
    }
    // Tracking also costs time in the guest: the difference to the time of a block without tracking. It is added to the reset.
    let untracked = median(&theirs.exec);
    let blocks = ours.exec.iter().zip(&ours.reset);
    let cost: Vec<u64> = blocks.map(|(exec, reset)| (exec + reset).saturating_sub(untracked)).collect();
    let figure = Figure::new("reset", name, &cost).each("page", case.runs);
    let figure = match case.written() {
        0 => figure,
        _ => figure.beside("memset of what was written", &floor.nanos),
    };
    Ok(figure.beside("zeroing memory.size", &theirs.reset).beside("zeroing all memory", all))
}

/// The lower bound: a memset of exactly what the guest wrote, in resident memory.
struct Floor {
    scratch: Scratch,
    stride: usize,
    nanos: Vec<u64>,
}

impl Floor {
    fn new(case: &Case, memory: u64) -> Result<Self, BenchError> {
        let stride = usize::try_from(case.stride(memory)).unwrap_or(usize::MAX);
        Ok(Self { scratch: scratch(memory)?, stride, nanos: Vec::new() })
    }

    fn take(&mut self, case: &Case, count: bool) {
        let bytes = case.run_bytes as usize;
        for _ in 0..BLOCKS_A_ROUND {
            let nanos = nanos_of(|| {
                for run in 0..case.runs as usize {
                    self.scratch.zero(run * self.stride..run * self.stride + bytes);
                }
            });
            self.nanos.extend(count.then_some(nanos));
        }
    }
}

/// Nanoseconds of each block: in the guest, and in the reset.
#[derive(Default)]
struct Samples {
    exec: Vec<u64>,
    reset: Vec<u64>,
}

impl Samples {
    fn take(&mut self, pool: &Pool, job: &Job, blocks: u32, count: bool) -> Result<(), BenchError> {
        const TIMEOUT: Duration = Duration::from_secs(10);
        for _ in 0..blocks {
            let result = completed(pool, job)?;
            if let Some(report) = result.reset.wait(TIMEOUT).filter(|_| count) {
                self.exec.push(nanos(result.exec));
                self.reset.push(report.nanoseconds);
            }
        }
        Ok(())
    }
}

impl Case {
    fn written(&self) -> u64 {
        u64::from(self.runs) * u64::from(self.run_bytes)
    }

    /// Bytes from the start of one run to the start of the next run.
    fn stride(&self, memory: u64) -> u64 {
        memory / u64::from(self.runs.max(1)) / HOST_PAGE * HOST_PAGE
    }

    /// The block for the guest: the number of runs, the distance between their starts in bytes, and the bytes of each run.
    fn block(&self, memory: u64) -> Vec<u8> {
        let stride = u32::try_from(self.stride(memory)).unwrap_or(u32::MAX);
        [self.runs, stride, self.run_bytes].iter().flat_map(|number| number.to_le_bytes()).collect()
    }
}

fn median(samples: &[u64]) -> u64 {
    let mut sorted = samples.to_vec();
    sorted.sort_unstable();
    sorted.get(sorted.len() / 2).copied().unwrap_or(0)
}
