//! Embedding a pool in a program of your own: blocks in, pairs out, a view beside them.
//!
//! `cargo run --release --example embed`

use cofferdam::blocks;
use cofferdam::pool::{Job, Pool};
use cofferdam::sample;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    // Workers are this executable, started again: the first line turns those into workers.
    cofferdam::init();

    let pool = Pool::builder(sample::MODULE).workers(2).spares(0).memory(64 << 20).build()?;
    println!("profile {}, {} workers ready", pool.profile().hash().short(), pool.health().ready());

    // Jobs of their own, without a state before them: `submit` returns at once, `wait` or `.await` the ticket.
    let tickets: Vec<_> = blocks::bundled()?
        .take(8)
        .map(|block| {
            let block = block?;
            Ok((block.height, pool.submit(Job::block(block.height, block.bytes))?))
        })
        .collect::<Result<_, Box<dyn std::error::Error>>>()?;
    for (height, ticket) in tickets {
        let result = ticket.wait()?;
        println!("block {height}: {} with {} pairs", result.verdict, result.writes().count());
    }

    // A view reads the state at a height; this pool has none, so every total is zero.
    let stats = pool.call(&Job::view("stats", 8, Vec::new()))?;
    println!("view stats: {}, {} bytes", stats.verdict, stats.view_result().len());

    // Takes no more jobs, finishes what runs, leaves no process behind.
    pool.drain(std::time::Duration::from_secs(5));
    Ok(())
}
