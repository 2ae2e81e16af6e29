//! What a guest pays for a value of the state: its length and then its bytes, as every indexer asks.

use std::sync::Arc;

use cofferdam_protocol::profile::Hash;
use cofferdam_protocol::state::BlockRecord;
use cofferdam_protocol::verdict::GuestVerdict;
use cofferdam_protocol::writes::{Writes, put_field};

use super::{Bench, BenchError, Figure, completed, guests, nanos, nanos_of};
use cofferdam_pool::Job;
use cofferdam_store::{Durability, Identity, Store};

/// Keys in the store.
const KEYS: u32 = 1_000_000;
/// Keys that one block puts there.
const KEYS_A_BLOCK: u32 = 100_000;
/// Values that one job reads: so many that beginning and ending it do not count.
const READS: u32 = 200;
const JOBS_A_ROUND: u32 = 500;
/// From one key that is read to the next: far, and through all of them.
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

/// The same reads by the supervisor itself.
fn read_here(store: &Store, start: u32, height: u32) -> usize {
    (0..READS)
        .map(|read| {
            let number = start.wrapping_add(read.wrapping_mul(STRIDE)) % KEYS;
            store.get(&key(number), height - 1).ok().flatten().map_or(0, |value| value.len())
        })
        .sum()
}

/// A key as the guest makes it: as long as many are, and near no other.
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
                // There is exactly the room that it takes.
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
