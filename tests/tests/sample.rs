//! The sample indexer is right about real blocks: every key of its state and every answer of its views is what an
//! independent reading of the same blocks gives, on whatever worker, and nothing beyond that is in its state.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bitcoin::OutPoint;
use bitcoin::consensus::deserialize;
use cofferdam::pool::{Job, Pool};
use cofferdam::store::{Durability, Identity, Store};
use cofferdam_tests::oracle::{Oracle, ScriptHash, Stats, Unspent, outpoint_bytes};
use cofferdam_tests::support::command::{
    Cofferdam, EARLY_RECORDS, Files, Output, cut_records, number, shared_blocks, text,
};
use cofferdam_tests::support::pool::{build, call};
use sha2::{Digest, Sha256};

cofferdam::enable_test_support!();

/// Enough for the largest of the real blocks.
const MEMORY: u64 = 128 << 20;

/// Blocks with their heights.
type Blocks = Vec<(u32, Vec<u8>)>;

/// The state by key, without what is empty: an empty value means that the key is absent.
type State = BTreeMap<Vec<u8>, Vec<u8>>;

/// Indexes by the command line what `blocks` are too, and compares everything.
fn check(blocks: &Blocks, inputs: &[String]) -> Oracle {
    let files = Files::new();
    let db = files.at("db");
    let memory = MEMORY.to_string();
    let mut run = Cofferdam::new(["run", "--json", "--workers", "2", "--spares", "0", "--memory", &memory]);
    if !inputs.is_empty() {
        run = inputs.iter().fold(run.with("--allow-gaps --blocks"), Cofferdam::arg);
    }
    let output = run.path("--db-path", &db).output().expect_code(0);
    assert_eq!(output.heights(), blocks.iter().map(|(height, _)| u64::from(*height)).collect::<Vec<_>>());

    let mut oracle = Oracle::new();
    for (height, bytes) in blocks {
        oracle.index(*height, bytes);
    }
    let (pool, store) = open(&db);
    let state = replay(&pool, blocks, &output);
    check_state(&state, &oracle);
    check_store(&store, &state, &oracle);
    check_views(&pool, &oracle);
    oracle
}

/// A pool that reads the store of a run that has ended.
fn open(db: &Path) -> (Pool, Arc<Store>) {
    let builder = Pool::builder(cofferdam::sample::MODULE).memory(MEMORY).workers(1).spares(0).cache(None);
    let profile = builder.profile().expect("the sample is a module").hash();
    let identity = Identity { profile, network: None };
    let store = Store::open(db, &identity, Durability::None).expect("the run has closed it");
    (build(builder.state(store.path())), Arc::new(store))
}

/// Runs every block again on the state that was stored before it: what it writes is what it was reported to write, and
/// all of it together is the whole state.
fn replay(pool: &Pool, blocks: &Blocks, output: &Output) -> State {
    let mut state = State::new();
    for ((height, bytes), line) in blocks.iter().zip(output.blocks()) {
        let result = call(pool, &Job::block(*height, bytes.clone()));
        assert!(result.verdict.is_completed(), "{height}: {result:?}");
        assert_eq!(result.writes().hash().to_string(), text(&line, "writes_sha256"), "at height {height}");
        assert_eq!(result.writes().count(), number(&line, "writes"), "at height {height}");
        let mut keys = std::collections::BTreeSet::new();
        for (key, value) in result.writes().iter() {
            assert!(keys.insert(key), "a key is written once: {} at height {height}", hex::encode(key));
            if value.is_empty() {
                state.remove(key);
            } else {
                state.insert(key.to_vec(), value.to_vec());
            }
        }
    }
    state
}

fn key(kind: &str, parts: &[&[u8]]) -> Vec<u8> {
    [kind.as_bytes(), &parts.concat()].concat()
}

/// Compares the whole state: nothing is missing, nothing is wrong, and nothing else is there.
fn check_state(state: &State, oracle: &Oracle) {
    let mut expected = State::new();
    expected.insert(b"stats".to_vec(), oracle.stats().encode());
    for (height, header) in oracle.headers() {
        expected.insert(key("h/", &[&height.to_le_bytes()]), header.clone());
    }
    for (script, outputs) in oracle.by_script() {
        if outputs.is_empty() {
            continue;
        }
        expected.insert(key("s/", &[&script]), balance(&outputs));
        let slots = slots(state, &script, &outputs);
        for (slot, (outpoint, output)) in (0_u32..).zip(slots) {
            let slot = slot.to_le_bytes();
            let height = output.height.to_le_bytes();
            let value = [output.value.to_le_bytes().as_slice(), &script, &height, &slot].concat();
            expected.insert(key("u/", &[&script, &slot]), outpoint_bytes(&outpoint));
            expected.insert(key("o/", &[&outpoint_bytes(&outpoint)]), value);
        }
    }
    let shown = |state: &State, other: &State| -> Vec<String> {
        let differs = |(key, value): &(&Vec<u8>, &Vec<u8>)| other.get(*key) != Some(*value);
        let show =
            |(key, value): (&Vec<u8>, &Vec<u8>)| format!("{} = {}", hex::encode(key), hex::encode(value));
        state.iter().filter(differs).take(5).map(show).collect()
    };
    assert!(
        *state == expected,
        "it has {:#?}\nand should have {:#?}",
        shown(state, &expected),
        shown(&expected, state)
    );
}

fn balance(outputs: &BTreeMap<OutPoint, Unspent>) -> Vec<u8> {
    let value = outputs.values().fold(0_u64, |sum, output| sum.wrapping_add(output.value));
    [value.to_le_bytes(), (outputs.len() as u64).to_le_bytes()].concat()
}

/// A script's outputs in the order of their slots. The order means nothing, so it is taken from the state; that they are
/// these outputs, each once, is not.
fn slots(
    state: &State,
    script: &ScriptHash,
    outputs: &BTreeMap<OutPoint, Unspent>,
) -> Vec<(OutPoint, Unspent)> {
    let mut left = outputs.clone();
    let count = u32::try_from(outputs.len()).expect("fewer than 2^32 outputs");
    let slot = |slot: u32| {
        let found = state.get(&key("u/", &[script, &slot.to_le_bytes()]));
        let found = found.unwrap_or_else(|| panic!("slot {slot} of {} is empty", hex::encode(script)));
        let outpoint: OutPoint = deserialize(found).expect("an outpoint");
        let output = left.remove(&outpoint);
        (outpoint, output.unwrap_or_else(|| panic!("{outpoint} is not, or no more, its")))
    };
    (0..count).map(slot).collect()
}

/// Compares what is read through the store with the state.
fn check_store(store: &Store, state: &State, oracle: &Oracle) {
    let get = |key: &[u8]| store.get(key, u32::MAX).expect("it can be read").unwrap_or_default();
    for (key, value) in state {
        assert_eq!(get(key), *value, "{}", hex::encode(key));
    }
    for outpoint in oracle.gone() {
        assert_eq!(get(&key("o/", &[&outpoint_bytes(outpoint)])), b"", "{outpoint}");
    }
    for (script, outputs) in oracle.by_script() {
        let next = u32::try_from(outputs.len()).expect("fewer than 2^32 outputs").to_le_bytes();
        assert_eq!(
            get(&key("u/", &[&script, &next])),
            b"",
            "the slot behind the last of {}",
            hex::encode(script)
        );
    }
    let tip = store.tip().expect("it can be read").expect("there is one");
    assert_eq!(u64::from(tip.height), oracle.stats().last);
}

fn view(pool: &Pool, name: &str, height: u32, input: &[u8]) -> Vec<u8> {
    let result = call(pool, &Job::view(name, height, input.to_vec()));
    assert!(result.verdict.is_completed(), "{name} of {}: {result:?}", hex::encode(input));
    result.view_result().to_vec()
}

fn check_views(pool: &Pool, oracle: &Oracle) {
    let last = u32::try_from(oracle.stats().last).expect("a height");
    assert_eq!(view(pool, "stats", last, b""), oracle.stats().encode());
    for (height, header) in oracle.headers() {
        assert_eq!(view(pool, "header", last, &height.to_le_bytes()), *header, "{height}");
    }
    assert_eq!(view(pool, "header", last, &(last + 1).to_le_bytes()), b"", "not indexed");
    let stranger: ScriptHash = Sha256::digest(b"nobody's").into();
    assert_eq!(view(pool, "balance", last, &stranger), [0; 16]);
    assert_eq!(view(pool, "utxos", last, &stranger), [0; 4]);
    for (number, (script, outputs)) in oracle.by_script().into_iter().enumerate() {
        assert_eq!(view(pool, "balance", last, &script), balance(&outputs), "{}", hex::encode(script));
        // All of the small ones, and of the many scripts of a large block some.
        if number < 1000 || outputs.len() > 3 {
            check_utxos(pool, last, &script, &outputs);
        }
    }
}

fn check_utxos(pool: &Pool, last: u32, script: &ScriptHash, outputs: &BTreeMap<OutPoint, Unspent>) {
    let all = entries(&view(pool, "utxos", last, script));
    let expected: Vec<Vec<u8>> = {
        let entry = |(outpoint, output): (&OutPoint, &Unspent)| {
            let (value, height) = (output.value.to_le_bytes(), output.height.to_le_bytes());
            [outpoint_bytes(outpoint).as_slice(), &value, &height].concat()
        };
        outputs.iter().map(entry).collect()
    };
    let sorted = |mut entries: Vec<Vec<u8>>| {
        entries.sort_unstable();
        entries
    };
    assert_eq!(sorted(all.clone()), sorted(expected), "{}", hex::encode(script));
    // In pages of two it is the same list.
    if all.len() > 2 {
        let count = u32::try_from(all.len()).expect("fewer than 2^32 outputs");
        let page = |offset: u32| {
            let input = [script.as_slice(), &offset.to_le_bytes(), &2_u32.to_le_bytes()].concat();
            entries(&view(pool, "utxos", last, &input))
        };
        // Enough to know: a script with thousands of outputs would take as many calls.
        let paged: Vec<_> = (0..count.min(20)).step_by(2).flat_map(page).collect();
        assert_eq!(paged, all[..paged.len()]);
        assert!(page(count).is_empty(), "behind the end");
    }
}

fn entries(answer: &[u8]) -> Vec<Vec<u8>> {
    let (count, entries) = answer.split_first_chunk::<4>().expect("a count");
    let entries: Vec<_> = entries.chunks(48).map(<[u8]>::to_vec).collect();
    assert_eq!(entries.len(), u32::from_le_bytes(*count) as usize);
    assert!(entries.iter().all(|entry| entry.len() == 48));
    entries
}

fn early() -> Blocks {
    (0..).zip(cut_records(EARLY_RECORDS)).collect()
}

#[test]
fn the_bundled_blocks_give_the_known_answers() {
    let mut blocks = early();
    let late = cofferdam::blocks::bundled().expect("the bundled blocks are there").last();
    let late = late.expect("there is a last one").expect("it is intact");
    let mut first = Oracle::new();
    for (height, bytes) in &blocks {
        first.index(*height, bytes);
    }
    // The figures of supervisor/chain/sample/README.md.
    let known = Stats {
        blocks: 439,
        transactions: 446,
        created: 451,
        spent: 7,
        unspent: 444,
        value: 2_195_000_000_000,
        last: 438,
        ..Stats::default()
    };
    assert_eq!(first.stats(), known);
    blocks.push((late.height, late.bytes));
    let known = Stats {
        blocks: 440,
        transactions: 2946,
        created: 6443,
        spent: 334,
        replaced: 0,
        op_return: 23,
        unknown: 6190,
        unspent: 6109,
        value: 5_054_388_799_661,
        last: 702_861,
    };
    assert_eq!(check(&blocks, &[]).stats(), known);
}

#[test]
fn a_view_sees_the_state_at_its_height() {
    let files = Files::new();
    let db = files.at("db");
    let memory = MEMORY.to_string();
    let blocks = early();
    let input = files.add("early.blk", EARLY_RECORDS);
    let run =
        Cofferdam::new(["run", "--json", "--spares", "0", "--memory", &memory]).path("--blocks", &input);
    run.path("--db-path", &db).output().expect_code(0);
    let (pool, _store) = open(&db);
    let mut oracle = Oracle::new();
    for (height, bytes) in &blocks {
        oracle.index(*height, bytes);
        assert_eq!(view(&pool, "stats", *height, b""), oracle.stats().encode(), "at height {height}");
        if height % 40 == 0 {
            for (script, outputs) in oracle.by_script() {
                assert_eq!(view(&pool, "balance", *height, &script), balance(&outputs), "at height {height}");
            }
        }
    }
}

#[test]
fn chains_of_every_network_are_indexed_rightly() {
    for name in ["mainnet-chain.blk", "testnet3-chain.blk", "regtest-branch-a.blk", "regtest-branch-b.blk"] {
        let Some(path) = shared_blocks(name) else { return };
        let records = std::fs::read(&path).expect("it can be read");
        let blocks: Blocks = (0..).zip(in_chain_order(cut_records(&records))).collect();
        let oracle = check(&blocks, &[path.display().to_string()]);
        assert_eq!(oracle.stats().unknown, 0, "{name}: a whole chain spends what it has made");
    }
}

/// The blocks of one chain without branches, each behind the one that it names.
fn in_chain_order(blocks: Vec<Vec<u8>>) -> Vec<Vec<u8>> {
    let previous = |bytes: &Vec<u8>| bytes[4..36].to_vec();
    let hash = |bytes: &Vec<u8>| Sha256::digest(Sha256::digest(&bytes[..80])).to_vec();
    let mut after: BTreeMap<_, _> = blocks.into_iter().map(|bytes| (previous(&bytes), bytes)).collect();
    let mut ordered: Vec<Vec<u8>> = after.remove(&vec![0; 32]).into_iter().collect();
    while let Some(next) = ordered.last().and_then(|last| after.remove(&hash(last))) {
        ordered.push(next);
    }
    assert!(after.is_empty(), "{} blocks are of no chain", after.len());
    ordered
}

#[test]
fn large_blocks_of_today_are_indexed_rightly() {
    let heights = [83_636, 413_567, 840_243, 892_614];
    let paths: Option<Vec<PathBuf>> =
        heights.iter().map(|height| shared_blocks(&format!("mainnet-{height}.bin"))).collect();
    let Some(paths) = paths else { return };
    let read = |path: &PathBuf| std::fs::read(path).expect("it can be read");
    let blocks: Blocks = heights.into_iter().zip(paths.iter().map(read)).collect();
    let named = |(height, path): (&u32, &PathBuf)| format!("{height}={}", path.display());
    let inputs: Vec<_> = heights.iter().zip(&paths).map(named).collect();
    let stats = check(&blocks, &inputs).stats();
    assert!(stats.op_return > 0 && stats.unknown > 1000 && stats.created > 5000, "{stats:?}");
}
