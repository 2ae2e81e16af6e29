//! A program that embeds the pool: it runs each argument as a block and prints what the module writes.
//!
//! ```sh
//! cargo run -- "a block" "another block"
//! ```

use std::time::Duration;

use cofferdam_pool::{Job, Pool};

/// Counts the bytes of a block.
const MODULE: &str = include_str!("../module.wat");

fn main() -> Result<(), Box<dyn std::error::Error>> {
    // This must be the first line, before any thread starts. A worker is this same executable, started again; `init`
    // turns that process into a worker and does not return in it.
    cofferdam_pool::init();

    let pool = Pool::builder(MODULE).memory(1 << 20).workers(1).spares(0).build()?;
    for (height, block) in (0..).zip(std::env::args().skip(1)) {
        let result = pool.call(&Job::block(height, block.into_bytes()))?;
        println!("block {height}: {}", result.verdict);
        for (key, value) in result.writes().iter() {
            println!("  {} = {value:?}", String::from_utf8_lossy(key));
        }
    }

    // Accepts no more jobs, waits up to five seconds for the running ones, and ends every worker.
    pool.drain(Duration::from_secs(5));
    Ok(())
}
