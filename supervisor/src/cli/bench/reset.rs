//! Writing memory and resetting it, the page faults of tracking counted in: adaptive, beside zeroing all memory that the
//! guest has.

use std::time::Duration;

use indicatif::ProgressBar;

use super::{BenchArgs, CliError, Figure};
use crate::host::size::Bytes;
use crate::pool::{Job, Pool, ResetStrategy};

const PAGE: u64 = 64 << 10;

/// Fills as many runs of memory as its block says, from its second page on, so far apart and so long as the block says.
const WRITER: &str = r#"(module
  (import "env" "__load_input" (func $load_input (param i32)))
  (import "env" "__flush" (func $flush (param i32)))
  (memory (export "memory") PAGES)
  (func (export "_start") (local $at i32) (local $left i32)
    (call $load_input (i32.const 16))
    (local.set $at (i32.const 65536))
    (local.set $left (i32.load (i32.const 20)))
    (block $done (loop $next
      (br_if $done (i32.eqz (local.get $left)))
      (memory.fill (local.get $at) (i32.const 7) (i32.load (i32.const 28)))
      (local.set $at (i32.add (local.get $at) (i32.load (i32.const 24))))
      (local.set $left (i32.sub (local.get $left) (i32.const 1)))
      (br $next)))
    (call $flush (i32.const 8))))"#;

/// What a block writes.
struct Case {
    name: &'static str,
    /// Bytes of memory beside the first page; none for all that a worker has.
    memory: Option<u64>,
    runs: u32,
    run_bytes: u32,
}

const CASES: [Case; 8] = [
    Case { name: "nothing", memory: Some(64 << 20), runs: 0, run_bytes: 0 },
    Case { name: "nothing", memory: None, runs: 0, run_bytes: 0 },
    Case { name: "1 page", memory: None, runs: 1, run_bytes: 4096 },
    Case { name: "1,000 scattered pages", memory: None, runs: 1000, run_bytes: 4096 },
    Case { name: "100,000 scattered pages", memory: None, runs: 100_000, run_bytes: 4096 },
    Case { name: "1 MiB", memory: Some(1 << 20), runs: 1, run_bytes: 1 << 20 },
    Case { name: "64 MiB", memory: Some(64 << 20), runs: 1, run_bytes: 64 << 20 },
    Case { name: "1 GiB", memory: Some(1 << 30), runs: 1, run_bytes: 1 << 30 },
];

/// Blocks before the first that counts: by then it is known what the guest writes.
const WARM_UP: u32 = 20;
const BLOCKS_A_ROUND: u32 = 5;

pub(super) fn measure(args: &BenchArgs, bar: &ProgressBar) -> Result<Vec<Figure>, CliError> {
    let mut figures = Vec::new();
    for case in CASES {
        let memory = case.memory.unwrap_or(args.memory.0.saturating_sub(PAGE));
        let written = u64::from(case.runs) * u64::from(case.run_bytes);
        // A small --memory has no room for the large cases.
        if memory + PAGE > args.memory.0 || written > memory {
            tracing::warn!("reset of {} is left out: it takes more than --memory {}", case.name, args.memory);
            continue;
        }
        let name = format!("{} of {}", case.name, Bytes(memory + PAGE));
        bar.set_message(format!("reset: {name}"));
        let ours = nanos(args, &case, memory, ResetStrategy::Adaptive)?;
        let zeroing = nanos(args, &case, memory, ResetStrategy::Zero)?;
        figures.push(Figure::new("write and reset", name, &ours, "zeroing memory.size", &zeroing));
    }
    Ok(figures)
}

fn nanos(args: &BenchArgs, case: &Case, memory: u64, reset: ResetStrategy) -> Result<Vec<u64>, CliError> {
    const PATIENCE: Duration = Duration::from_secs(10);
    let module = WRITER.replace("PAGES", &(memory / PAGE + 1).to_string());
    let builder = Pool::builder(module).spares(0).cache(None).memory(args.memory.0).reset(reset);
    let pool = builder.build()?;
    let job = Job::block(1, block(case, memory));
    let mut nanos = Vec::new();
    for index in 0..WARM_UP + args.rounds * BLOCKS_A_ROUND {
        let result = pool.call(&job)?;
        let Some(report) = result.reset.wait(PATIENCE) else { continue };
        if index >= WARM_UP {
            let exec = u64::try_from(result.exec.as_nanos()).unwrap_or(u64::MAX);
            nanos.push(exec.saturating_add(report.nanoseconds));
        }
    }
    Ok(nanos)
}

/// The block that tells the guest: runs, bytes from one to the next (whole pages), bytes of each.
fn block(case: &Case, memory: u64) -> Vec<u8> {
    let stride = memory / u64::from(case.runs.max(1)) / 4096 * 4096;
    let stride = u32::try_from(stride).unwrap_or(u32::MAX);
    [case.runs, stride, case.run_bytes].iter().flat_map(|number| number.to_le_bytes()).collect()
}
