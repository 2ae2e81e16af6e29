//! Measurements.

use std::time::Instant;

use cofferdam_protocol::profile::Hash;

use crate::identity::Durability;
use crate::store::Store;
use crate::test_support::{Pairs, identity, record, writes};

#[test]
#[ignore = "a measurement for a release build"]
fn measure_commits_and_reads() {
    const PAIRS: u32 = 40_000;
    for durability in [Durability::None, Durability::Block] {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path(), &identity(), durability).unwrap();
        let key = |number: u32| [Hash::of(&number.to_le_bytes()).0.as_slice(), &[0; 30], &[7; 28]].concat();
        for height in 1..=20 {
            let pairs: Pairs = (0..PAIRS).map(|n| (key(n * height), vec![1; 60])).collect();
            let writes = writes(&pairs);
            let record = record(height, &writes);
            let start = Instant::now();
            store.commit(&record, &writes).unwrap();
            if height % 5 == 0 {
                println!(
                    "{durability:?}: block {height}, {PAIRS} pairs: {:.1} ms",
                    start.elapsed().as_secs_f64() * 1e3
                );
            }
        }
        let keys: Vec<_> = (0..PAIRS).map(key).collect();
        let start = Instant::now();
        keys.iter().for_each(|key| assert!(store.get(key, 20).unwrap().is_some()));
        println!("get: {:.2} µs", start.elapsed().as_secs_f64() * 1e6 / f64::from(PAIRS));
    }
}
