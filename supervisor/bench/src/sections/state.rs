//! The state section: a guest reads the length and then the bytes of a value, as every indexer does.

use std::sync::Arc;

use cofferdam_protocol::profile::Hash;
use cofferdam_protocol::state::BlockRecord;
use cofferdam_protocol::verdict::GuestVerdict;
use cofferdam_protocol::writes::{Writes, put_field};

use crate::context::{Bench, completed, nanos, nanos_of};
use crate::error::BenchError;
use crate::figure::Figure;
use crate::guests;
use cofferdam_pool::Job;
use cofferdam_store::{Durability, Identity, Store};

/// Keys in the store.
const KEYS: u32 = 1_000_000;
/// Keys that one block writes.
const KEYS_A_BLOCK: u32 = 100_000;
/// Values that one job reads. There are so many that the time of the start and the end of the job is negligible.
const READS: u32 = 200;
const JOBS_A_ROUND: u32 = 500;
/// The distance between two keys that are read. It is large, so that reads cover the whole store.
const STRIDE: u32 = 7919;
const WARM_UP: u32 = 2_000;

pub(super) fn measure(bench: &Bench<'_>) -> Result<Vec<Figure>, BenchError> {
    bench.doing("filling a store with a million keys");
    let directory = tempfile::Builder::new().prefix("cofferdam-bench-").tempdir();
    let directory = directory.map_err(BenchError::io("a directory for a store"))?;
    let profile = bench.builder(guests::READS).profile()?.hash();
    let identity = Identity { profile, network: None };
    let store = Arc::new(Store::open(&directory.path().join("state"), &identity, Durability::None)?);
    fill(&store)?;
    let pool = bench.builder(guests::READS).state(store.path()).build()?;
    bench.doing("reading them");
    let height = KEYS / KEYS_A_BLOCK;
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    let job = |start: u32| {
        Job::block(height, [READS.to_le_bytes(), start.to_le_bytes(), STRIDE.to_le_bytes()].concat())
    };
    for start in 0..WARM_UP {
        completed(&pool, &job(start * READS))?;
    }
    for round in 0..bench.args.rounds {
        for number in 0..JOBS_A_ROUND {
            let start = (round * JOBS_A_ROUND + number).wrapping_mul(READS * 13);
            let result = completed(&pool, &job(start))?;
            ours.push(nanos(result.exec) / u64::from(READS));
            let direct = nanos_of(|| read_here(&store, start, height));
            theirs.push(direct / u64::from(READS));
        }
    }
    let case = format!("length and bytes of a value, {KEYS} keys");
    let figure = Figure::new("state", case, &ours).beside("LMDB in one process, with a copy", &theirs);
    Ok(vec![figure])
}

/// The same reads in the supervisor's process.
fn read_here(store: &Store, start: u32, height: u32) -> usize {
    (0..READS)
        .map(|read| {
            let number = start.wrapping_add(read.wrapping_mul(STRIDE)) % KEYS;
            store.get(&key(number), height - 1).ok().flatten().map_or(0, |value| value.len())
        })
        .sum()
}

/// A key, made in the same way as in the guest. It has a common length, and is far from every other key.
fn key(number: u32) -> [u8; 32] {
    let mut key = *b"......../a path as indexers have";
    key[..8].copy_from_slice(&u64::from(number).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes());
    key
}

fn fill(store: &Store) -> Result<(), BenchError> {
    for height in 0..KEYS / KEYS_A_BLOCK {
        let mut bytes = Vec::new();
        for number in height * KEYS_A_BLOCK..(height + 1) * KEYS_A_BLOCK {
            let value = [number.to_le_bytes(); 8];
            for field in [&key(number), value.as_flattened()] {
                let at = bytes.len();
                bytes.resize(at + 4 + field.len(), 0);
                // The buffer has exactly the capacity that the pairs need.
                let _ = put_field(&mut bytes[at..], field);
            }
        }
        let writes = Writes::parse(bytes).map_err(|error| BenchError::Usage(error.to_string()))?;
        let record = BlockRecord {
            height,
            hash: [0; 32],
            digest: Hash([0; 32]),
            verdict: GuestVerdict::Completed,
            writes: writes.count(),
            writes_sha256: Hash([0; 32]),
        };
        store.commit(&record, &writes)?;
    }
    Ok(())
}
