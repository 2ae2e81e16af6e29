//! Chaos: thousands of blocks, by the driver that the node uses, while workers are killed, stopped, starved of memory by a
//! neighbour, and made to lie; at the end the digest and the store are those of a quiet run, in which each block was committed
//! before the next one ran.
//!
//! In a file of its own, with one test, because it moves the whole process into a cgroup and counts what it has.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use cofferdam::blocks::{BlockHash, Origin, SourceBlock};
use cofferdam::chain::{Batch, Hashed, Outcome, Pipeline, PipelineSettings, Pushed};
use cofferdam::fault::{Fault, FaultKind};
use cofferdam::host::cgroup::Cgroup;
use cofferdam::pool::restart::RestartPolicy;
use cofferdam::pool::{Limits, Pool, PoolBuilder, SlotState};
use cofferdam::profile::Hash;
use cofferdam::store::{Durability, Identity, Store};
use cofferdam_tests::support::cgroup::ChildCgroup;
use cofferdam_tests::support::guests::LEDGER;
use cofferdam_tests::support::pool::{build, children, descriptors, small, wait_until};
use cofferdam_tests::support::random::{Random, seed};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

cofferdam::enable_test_support!();

const BLOCKS: u32 = 5_000;
const SEEDS: u64 = 3;

/// Bytes of blocks that are not committed yet, for those that run meanwhile.
const LAYER_BYTES: u64 = 1 << 20;

/// Blocks that a planted fault strikes: one in so many.
const FAULT_EVERY: u64 = 24;

/// What the neighbour shares with this process and its workers, and what it takes of it, in bytes: too much.
const CGROUP_BYTES: u64 = 448 << 20;
const NEIGHBOUR_BYTES: u64 = 480 << 20;

/// What one chain came to.
#[derive(Debug, PartialEq, Eq)]
struct End {
    tip: Option<u32>,
    digest: Hash,
    content: Hash,
    /// Blocks that were committed, in the order in which they were.
    heights: Vec<u32>,
}

/// Deaths by verdict.
type Deaths = Arc<Mutex<BTreeMap<&'static str, u32>>>;

#[test]
fn chaos_does_not_show() {
    let quiet = quiet_run();
    assert_eq!(quiet.heights, (0..BLOCKS).collect::<Vec<_>>());
    let first = seed();
    let mut descriptors_after = Vec::new();
    for number in 0..SEEDS {
        let seed = first.wrapping_add(number);
        eprintln!("chaos, seed {seed}: COFFERDAM_TEST_SEED={seed} begins with it");
        let (end, deaths, starved) = chaotic_run(seed);
        eprintln!("chaos, seed {seed}: deaths {deaths:?}");
        assert!(
            end == quiet,
            "seed {seed}: {:?} {} {} instead of {quiet:?}",
            end.tip,
            end.digest,
            end.content
        );
        assert!(deaths.values().sum::<u32>() >= 200, "seed {seed}: {deaths:?}");
        assert!(deaths.len() >= 5, "seed {seed}: {deaths:?}");
        assert!(
            !starved || deaths.contains_key("oom-killed") || deaths.contains_key("commit-failed"),
            "{deaths:?}"
        );
        assert_eq!(children(), Vec::<u32>::new(), "no process, reaped or not");
        descriptors_after.push(descriptors(std::process::id()));
    }
    assert!(descriptors_after.windows(2).all(|pair| pair[0] == pair[1]), "{descriptors_after:?}");
}

/// The block at a height: up to 300 bytes of noise.
fn block(height: u32) -> SourceBlock {
    let mut random = Random::new(u64::from(height));
    let length = 1 + random.below(300);
    let bytes: Vec<u8> = (0..length).map(|_| random.below(256).to_le_bytes()[0]).collect();
    use bitcoin::hashes::Hash as _;
    let hash = BlockHash::from_byte_array(Hash::of(&bytes).0);
    let origin = Origin { file: Arc::from(Path::new("noise")), offset: 0 };
    SourceBlock { height, hash, previous: None, bytes, origin }
}

/// What a job may use: little, because each of the hundreds of workers commits that much beside its memory, and because
/// they share a small cgroup.
fn bounds() -> Limits {
    Limits { input_bytes: 64 << 10, output_bytes: 1 << 20, ..Limits::default() }
}

/// Pools of this test, which differ in what happens to them.
fn ledger() -> PoolBuilder {
    small(LEDGER).limits(bounds())
}

/// A store for the chain of this guest.
fn store() -> (TempDir, Arc<Store>) {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let profile = ledger().profile().expect("the guest is a module").hash();
    let identity = Identity { profile, network: None };
    let store = Store::open(&directory.path().join("state"), &identity, Durability::None);
    (directory, Arc::new(store.expect("a new store")))
}

/// What the chain in `store` came to, whose blocks were committed in this order.
fn end(store: &Store, heights: Vec<u32>) -> End {
    let tip = store.tip().expect("the store can be read").expect("it has blocks");
    let content = store.content_hash().expect("the store can be read");
    End { tip: Some(tip.height), digest: tip.digest, content, heights }
}

/// Indexes every block, each after the one before it is committed.
fn index_one_by_one(pool: &Pool, store: &Arc<Store>) -> End {
    let settings = PipelineSettings::default();
    let resumed = Pipeline::resume(pool, Arc::clone(store), settings, Box::new(|_| {}));
    let mut pipeline = resumed.expect("an empty store");
    let mut heights = Vec::new();
    for height in 0..BLOCKS {
        let outcome = pipeline.push_and_wait(Hashed::from(block(height))).expect("the chain goes on");
        assert!(outcome.committed, "block {height}: {outcome:?}");
        heights.push(outcome.height);
    }
    let tip = store.tip().expect("it can be read");
    assert_eq!(Some(pipeline.committed().digest), tip.map(|tip| tip.digest));
    end(store, heights)
}

/// Indexes every block as the node does: a block runs while the ones before it are being committed.
fn index(pool: &Arc<Pool>, store: &Arc<Store>, mut after: impl FnMut(u32)) -> End {
    let heights = Arc::new(Mutex::new(Vec::new()));
    let hearing = Arc::clone(&heights);
    let observer = Box::new(move |outcome: &Outcome| {
        assert!(outcome.committed && outcome.digest.is_some(), "block {}: {outcome:?}", outcome.height);
        hearing.lock().expect("nobody panics").push(outcome.height);
    });
    let settings = PipelineSettings { batch: Batch::CATCHING_UP, ..PipelineSettings::default() };
    let resumed = Pipeline::resume(Arc::clone(pool), Arc::clone(store), settings, observer);
    let mut pipeline = resumed.expect("an empty store");
    for height in 0..BLOCKS {
        let pushed = pipeline.push(Hashed::from(block(height))).expect("the chain goes on");
        assert!(matches!(pushed, Pushed::Taken(_)), "block {height}: {pushed:?}");
        after(height);
    }
    pipeline.flush().expect("the disk has room");
    assert_eq!(pipeline.tip(), Some(BLOCKS - 1));
    drop(pipeline);
    let heights = std::mem::take(&mut *heights.lock().expect("nobody panics"));
    end(store, heights)
}

fn quiet_run() -> End {
    let (_directory, store) = store();
    let pool = build(ledger().state(store.path()));
    index_one_by_one(&pool, &store)
}

fn chaotic_run(seed: u64) -> (End, BTreeMap<&'static str, u32>, bool) {
    let mut random = Random::new(seed);
    let (_directory, store) = store();
    let deaths = Deaths::default();
    let shared = Shared::enter();
    let (counted, readers) = (Arc::clone(&deaths), Arc::clone(&store));
    let builder = ledger()
        .workers(1)
        .spares(2)
        .state(store.path())
        .layer_bytes(LAYER_BYTES)
        .faults(faults(&mut random))
        .limits(Limits { deadline: Duration::from_millis(100), retries: 1000, ..bounds() })
        .restart(patient())
        .admission(false)
        .on_death(move |death| {
            *counted.lock().expect("nobody panics").entry(death.verdict.name()).or_default() += 1;
            readers.clear_stale_readers().expect("the store is there");
        });
    let pool = Arc::new(build(builder));
    let over = AtomicBool::new(false);
    let (end, flat) = thread::scope(|scope| {
        scope.spawn(|| torment(&pool, &mut random, &over));
        let _over = Over(&over);
        let mut memory = Vec::new();
        let end = index(&pool, &store, |height| {
            if shared.is_some() && height % (BLOCKS / 3) == BLOCKS / 6 {
                neighbour();
            }
            if height % 500 == 499 {
                memory.push(resident());
            }
        });
        (end, memory)
    });
    // What the allocator keeps settles in the first blocks; five thousand more and hundreds of deaths add nothing.
    let (settled, last) = (flat[1], flat[flat.len() - 1]);
    assert!(last <= settled + (8 << 20), "the supervisor grew: {flat:?}");
    drop(pool);
    let deaths = deaths.lock().expect("nobody panics").clone();
    (end, deaths, shared.is_some())
}

/// Planted faults: deaths and lies in the middle of a job. Hangs cost a deadline each, so there are few.
fn faults(random: &mut Random) -> Vec<Fault> {
    const KINDS: [FaultKind; 9] = [
        FaultKind::Kill,
        FaultKind::Segv,
        FaultKind::Abort,
        FaultKind::Exit(9),
        FaultKind::Garbage,
        FaultKind::LongFrame,
        FaultKind::WrongSpan,
        FaultKind::WrongJob,
        FaultKind::WrongPairs,
    ];
    let mut faults = Vec::new();
    for height in 0..BLOCKS {
        if random.below(FAULT_EVERY) == 0 {
            let kind = match random.below(40) {
                0 => FaultKind::Hang,
                number => KINDS[usize::try_from(number).expect("small") % KINDS.len()],
            };
            faults.push(Fault { height, attempts: 1 + u32::from(random.below(8) == 0), kind });
        }
    }
    faults
}

/// Never gives a slot up, and lets no backoff make the test long.
fn patient() -> RestartPolicy {
    let short = Duration::from_millis(2);
    RestartPolicy {
        base: short,
        cap: short * 10,
        intensity: u32::MAX,
        window: Duration::from_secs(1),
        failed_starts: u32::MAX,
    }
}

/// Ends the torment, also when the test fails.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Kills and stops workers from outside, at random moments, until it is over.
fn torment(pool: &Pool, random: &mut Random, over: &AtomicBool) {
    while !over.load(Ordering::Relaxed) {
        thread::sleep(Duration::from_millis(20 + random.below(60)));
        let ready: Vec<u32> = pool
            .health()
            .slots
            .iter()
            .filter(|slot| matches!(slot.state, SlotState::Idle | SlotState::Busy))
            .filter_map(|slot| slot.pid)
            .collect();
        if ready.is_empty() {
            continue;
        }
        let victim = ready[usize::try_from(random.below(ready.len() as u64)).expect("small")];
        let signal = match random.below(16) {
            0 => Signal::SIGSTOP,
            1..=3 => Signal::SIGSEGV,
            4..=5 => Signal::SIGTERM,
            _ => Signal::SIGKILL,
        };
        // It may be gone by now.
        let _ = kill(Pid::from_raw(i32::try_from(victim).expect("a process id")), signal);
    }
}

/// Takes more memory than there is, for a moment, in this process's cgroup: the kernel kills workers first, for they
/// offer themselves, and then the neighbour.
fn neighbour() {
    let script = format!("head -c {NEIGHBOUR_BYTES} /dev/zero | tail -c {NEIGHBOUR_BYTES} | wc -c");
    let hog = Command::new("sh").args(["-c", &script]).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
    reap_later(hog.expect("a shell"));
}

fn reap_later(mut child: Child) {
    thread::spawn(move || child.wait().expect("a child of ours"));
}

/// Bytes of this process that are resident, without the pages that it shares with its workers.
fn resident() -> u64 {
    let status = fs::read_to_string("/proc/self/status").expect("/proc is there");
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).expect("the kernel tells");
    line.trim().trim_end_matches(" kB").trim().parse::<u64>().expect("a number of kilobytes") * 1024
}

/// This process, and so its workers, in a cgroup with a limit; outside again at the end.
struct Shared {
    _cgroup: ChildCgroup,
    home: PathBuf,
}

impl Shared {
    fn enter() -> Option<Self> {
        let home = Cgroup::discover().ok()?.dir().join("cgroup.procs");
        let cgroup = ChildCgroup::limited_to(CGROUP_BYTES)?;
        move_to(&cgroup.procs());
        Some(Self { _cgroup: cgroup, home })
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        wait_until("the neighbour is gone", || children().is_empty().then_some(()));
        move_to(&self.home);
    }
}

fn move_to(procs: &Path) {
    fs::write(procs, std::process::id().to_string()).expect("a process may move itself");
}
