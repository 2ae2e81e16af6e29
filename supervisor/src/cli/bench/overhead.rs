//! What the pool adds to a block: everything between handing it over and having its result but the guest's own time.

use std::time::Duration;

use indicatif::ProgressBar;

use super::{BenchArgs, CliError, Figure, memset_nanos};
use crate::host::size::Bytes;
use crate::pool::{Job, Pool};

/// A guest that does nothing but flush nothing.
const EMPTY_GUEST: &str = r#"(module
  (import "env" "__flush" (func $flush (param i32)))
  (memory (export "memory") 1)
  (func (export "_start") (call $flush (i32.const 8))))"#;

/// Blocks before the first that counts: arenas and caches are warm then, as they are in service.
const WARM_UP: u32 = 200;
const BLOCKS_A_ROUND: u32 = 1000;

pub(super) fn measure(args: &BenchArgs, bar: &ProgressBar) -> Result<Vec<Figure>, CliError> {
    bar.set_message(format!("memset of {}", args.memory));
    let zeroing = memset_nanos(args.memory.0, args.rounds)?;
    let pool = Pool::builder(EMPTY_GUEST).spares(0).cache(None).memory(args.memory.0).build()?;
    let mut figures = Vec::new();
    for (name, bytes) in [("100 B", 100), ("1 MB", 1_000_000), ("4 MB", 4_000_000)] {
        bar.set_message(format!("overhead of a block of {name}"));
        let ours = overhead_nanos(&pool, bytes, args.rounds)?;
        let case = format!("{name} block, {} committed", Bytes(args.memory.0));
        figures.push(Figure::new("overhead", case, &ours, "zeroing all memory", &zeroing));
    }
    Ok(figures)
}

fn overhead_nanos(pool: &Pool, bytes: usize, rounds: u32) -> Result<Vec<u64>, CliError> {
    let job = Job::block(1, vec![7; bytes]);
    let mut nanos = Vec::new();
    for index in 0..WARM_UP + rounds * BLOCKS_A_ROUND {
        let overhead: Duration = pool.call(&job)?.overhead;
        if index >= WARM_UP {
            nanos.push(u64::try_from(overhead.as_nanos()).unwrap_or(u64::MAX));
        }
    }
    Ok(nanos)
}
