//! Measures the cost of the tree: time and bytes per pair, with a million keys in the tree.

use std::time::Instant;

use super::*;

const KEYS: u32 = 1_000_000;

fn bytes(fixture: &Fixture) -> u64 {
    let stat = fixture.tree.nodes.0.stat(&fixture.env.read_txn().unwrap()).unwrap();
    let pages = stat.branch_pages + stat.leaf_pages + stat.overflow_pages;
    pages as u64 * u64::from(stat.page_size)
}

/// Keys that are spread over the whole state, in a scattered order.
fn block(first: u32, count: u32) -> Pairs {
    let numbers = (first..first + count).map(|number| number.wrapping_mul(2_654_435_761) % KEYS);
    numbers.map(|number| (number.to_be_bytes().to_vec(), first.to_le_bytes().repeat(8))).collect()
}

fn report(fixture: &Fixture, what: &str, heights: std::ops::Range<u32>, make: impl Fn(u32) -> Pairs) {
    let blocks: Vec<_> = heights.map(|height| (height, make(height))).collect();
    let pairs: usize = blocks.iter().map(|(_, pairs)| pairs.len()).sum();
    let (start, before) = (Instant::now(), bytes(fixture));
    for (height, pairs) in &blocks {
        fixture.apply(*height, pairs).unwrap();
    }
    let micros = start.elapsed().as_secs_f64() * 1e6 / pairs as f64;
    let grown = (bytes(fixture) - before) as f64 / pairs as f64;
    println!("{what}: {micros:.1} µs and {grown:.0} bytes per pair");
}

#[test]
#[ignore = "a measurement for a release build"]
fn measure() {
    const BLOCK: u32 = 5000;
    let fixture = Fixture::new();
    report(&fixture, "a million new keys, 5000 a block", 0..KEYS / BLOCK, |height| {
        (height * BLOCK..(height + 1) * BLOCK).map(|key| (key.to_be_bytes().to_vec(), vec![1; 32])).collect()
    });
    let kinds = [(300, 10, 50_000), (400, 20, 5000), (500, 100, 500), (700, 1000, 10)];
    for (first, count, pairs) in kinds {
        let what = format!("overwriting among a million keys, {pairs} a block");
        report(&fixture, &what, first..first + count, |height| block(height * pairs, pairs));
    }
    report(&fixture, "one new key a block", 2000..3000, |height| {
        vec![(height.to_le_bytes().repeat(9), vec![])]
    });

    let txn = fixture.env.read_txn().unwrap();
    let keys: Vec<_> = block(0, 10_000).into_iter().map(|(key, _)| key).collect();
    let start = Instant::now();
    let proofs: Vec<_> = keys.iter().map(|key| fixture.tree.prove(&txn, key, 3000).unwrap()).collect();
    let micros = start.elapsed().as_secs_f64() * 1e6 / keys.len() as f64;
    let siblings: usize = proofs.iter().map(|proof| proof.siblings.len()).sum();
    let json: usize = proofs.iter().map(|proof| serde_json::to_vec(proof).unwrap().len()).sum();
    println!(
        "a proof: {micros:.1} µs, {:.1} siblings, {} bytes of JSON",
        siblings as f64 / keys.len() as f64,
        json / keys.len()
    );
    println!("nodes in all: {}", fixture.tree.nodes.0.len(&txn).unwrap());
}
