//! The pipeline: blocks that run while the ones before them are being committed give the state and the digest of blocks that
//! are committed one by one, whatever happens to workers meanwhile, and are taken back to the byte.

use std::path::Path;
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use cofferdam::blocks::{BlockHash, Origin, SourceBlock};
use cofferdam::chain::{
    Batch, ChainError, Hashed, Observer, OnFullDisk, OnGuestFailure, Outcome, Pipeline, PipelineSettings,
    Pushed,
};
use cofferdam::fault::{Fault, FaultKind};
use cofferdam::pool::{Limits, Pool, SlotHealth, SlotState};
use cofferdam::profile::Hash;
use cofferdam::store::{Durability, Identity, Store, StoreCall, StoreFaults};
use cofferdam::verdict::{GuestVerdict, Verdict};
use cofferdam_tests::support::command::PATIENCE;
use cofferdam_tests::support::guests::{Act, LEDGER, SCRIPT, good_input, good_pair};
use cofferdam_tests::support::pool::{build, send, small, wait_until};
use cofferdam_tests::support::random::{Random, seed};
use cofferdam_tests::support::stand_in::{self, StandIn};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

cofferdam::enable_test_support!();

const BLOCKS: u32 = 300;

/// Nothing is committed before it is asked for, or too much is waiting.
const LAZY: Batch = Batch { blocks: usize::MAX, bytes: u64::MAX, age: Duration::from_secs(3600) };

/// The state and the digest that a chain came to.
type End = (Option<u32>, Option<Hash>, Hash);

fn end(store: &Store) -> End {
    let tip = store.tip().expect("the store can be read");
    let content = store.content_hash().expect("the store can be read");
    (tip.as_ref().map(|tip| tip.height), tip.map(|tip| tip.digest), content)
}

/// The block of a branch at a height: it names the one before it.
fn block(branch: u64, height: u32) -> Hashed {
    let mut random = Random::new(branch << 32 | u64::from(height));
    let bytes: Vec<u8> = (0..20).map(|_| random.below(256).to_le_bytes()[0]).collect();
    source(height, bytes)
}

fn source(height: u32, bytes: Vec<u8>) -> Hashed {
    use bitcoin::hashes::Hash as _;
    let hash = BlockHash::from_byte_array(Hash::of(&bytes).0);
    let origin = Origin { file: Arc::from(Path::new("noise")), offset: 0 };
    Hashed::from(SourceBlock { height, hash, previous: None, bytes, origin })
}

fn store(module: &str) -> (TempDir, Arc<Store>) {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let profile = small(module).profile().expect("the guest is a module").hash();
    let identity = Identity { profile, network: None };
    let store = Store::open(&directory.path().join("state"), &identity, Durability::None);
    (directory, Arc::new(store.expect("a new store").with_undo(100)))
}

fn settings(batch: Batch) -> PipelineSettings {
    PipelineSettings { batch, ..PipelineSettings::default() }
}

fn pipeline(pool: &Arc<Pool>, store: &Arc<Store>, settings: PipelineSettings) -> Pipeline {
    Pipeline::resume(Arc::clone(pool), Arc::clone(store), settings, Box::new(|_| {}))
        .expect("the store can be read")
}

fn push_all(pipeline: &mut Pipeline, blocks: impl Iterator<Item = Hashed>) {
    for block in blocks {
        let pushed = pipeline.push(block).expect("the chain goes on");
        assert!(matches!(pushed, Pushed::Taken(_)), "{pushed:?}");
    }
}

/// What the blocks come to when each is committed before the next one runs.
fn one_by_one(blocks: impl Iterator<Item = Hashed>) -> End {
    let (_directory, store) = store(LEDGER);
    let pool = build(small(LEDGER).state(store.path()));
    let resumed = Pipeline::resume(&pool, Arc::clone(&store), PipelineSettings::default(), Box::new(|_| {}));
    let mut chain = resumed.expect("an empty store");
    for block in blocks {
        let height = block.block.height;
        let outcome = chain.push_and_wait(block).expect("the chain goes on");
        assert!(outcome.committed && outcome.height == height, "{outcome:?}");
        let tip = store.tip().expect("the store can be read").expect("the block is committed");
        assert_eq!((tip.height, Some(tip.digest)), (height, outcome.digest));
    }
    end(&store)
}

#[test]
fn every_batch_gives_the_state_of_blocks_committed_one_by_one() {
    let blocks = || (0..BLOCKS).map(|height| block(0, height));
    let expected = one_by_one(blocks());
    let batches = [
        Batch::SINGLE,
        LAZY,
        Batch { blocks: 7, ..LAZY },
        Batch { bytes: 100, ..LAZY },
        Batch { age: Duration::ZERO, ..LAZY },
    ];
    // Some with room for every layer, some with none, some with room for two.
    for (batch, room) in batches.into_iter().zip([1 << 20, 1 << 20, 0, 300, 1 << 20]) {
        let (_directory, store) = store(LEDGER);
        let pool = Arc::new(build(small(LEDGER).state(store.path()).layer_bytes(room).workers(2)));
        let heard = Arc::new(Mutex::new(Vec::new()));
        let hearing = Arc::clone(&heard);
        let observer = Box::new(move |outcome: &Outcome| {
            assert!(outcome.committed && outcome.digest.is_some());
            hearing.lock().expect("nobody panics").push(outcome.height);
        });
        let resumed = Pipeline::resume(Arc::clone(&pool), Arc::clone(&store), settings(batch), observer);
        let mut pipeline = resumed.expect("an empty store");
        push_all(&mut pipeline, blocks());
        pipeline.flush().expect("the disk has room");
        assert_eq!(end(&store), expected, "{batch:?}");
        drop(pipeline);
        assert_eq!(*heard.lock().expect("nobody panics"), (0..BLOCKS).collect::<Vec<_>>());
        // What is gone on with is the same.
        let (_, digest, _) = expected;
        assert_eq!(store.tip().expect("it can be read").map(|tip| tip.digest), digest);
    }
}

#[test]
fn a_pipeline_that_is_dropped_has_committed_what_it_took() {
    let (_directory, store) = store(LEDGER);
    let pool = Arc::new(build(small(LEDGER).state(store.path()).layer_bytes(1 << 20)));
    let mut pipeline = pipeline(&pool, &store, settings(LAZY));
    push_all(&mut pipeline, (0..10).map(|height| block(0, height)));
    assert_eq!(store.tip().expect("it can be read"), None, "nothing is committed yet");
    drop(pipeline);
    assert_eq!(end(&store), one_by_one((0..10).map(|height| block(0, height))));
}

#[test]
fn workers_that_die_cost_nothing_of_what_is_not_committed() {
    let blocks = || (0..BLOCKS).map(|height| block(0, height));
    let (_directory, store) = store(LEDGER);
    let limits = Limits { retries: 100, ..Limits::default() };
    let builder = small(LEDGER).state(store.path()).layer_bytes(1 << 20).workers(2).spares(1).limits(limits);
    let restart = cofferdam::pool::restart::RestartPolicy {
        base: Duration::from_millis(1),
        cap: Duration::from_millis(5),
        intensity: u32::MAX,
        ..Default::default()
    };
    let pool = Arc::new(build(builder.restart(restart)));
    let mut pipeline = pipeline(&pool, &store, settings(LAZY));
    let mut random = Random::new(seed());
    for block in blocks() {
        if random.below(10) == 0 {
            let ready = |slot: &SlotHealth| matches!(slot.state, SlotState::Idle | SlotState::Busy);
            // One that is said to be ready may be dying of the last time.
            wait_until("a worker is killed", || {
                let pid = pool.health().slots.iter().find(|slot| ready(slot))?.pid?;
                kill(Pid::from_raw(pid.cast_signed()), Signal::SIGKILL).ok()
            });
        }
        assert!(matches!(pipeline.push(block).expect("the chain goes on"), Pushed::Taken(_)));
    }
    pipeline.flush().expect("the disk has room");
    assert!(pool.health().deaths() > 10, "{:?}", pool.health());
    assert_eq!(end(&store), one_by_one(blocks()));
}

#[test]
fn what_is_rolled_back_was_never_there() {
    let (_directory, store) = store(LEDGER);
    let pool = Arc::new(build(small(LEDGER).state(store.path()).layer_bytes(1 << 20)));
    let mut pipeline = pipeline(&pool, &store, settings(LAZY));
    push_all(&mut pipeline, (0..40).map(|height| block(1, height)));
    // Part of it is committed, part is not.
    pipeline.flush().expect("the disk has room");
    push_all(&mut pipeline, (40..50).map(|height| block(1, height)));
    assert_eq!(pipeline.roll_back(Some(29), 20).expect("it is there"), 20);
    assert_eq!(pipeline.tip(), Some(29));
    push_all(&mut pipeline, (30..60).map(|height| block(2, height)));
    pipeline.flush().expect("the disk has room");
    let branch = |height| block(if height < 30 { 1 } else { 2 }, height);
    assert_eq!(end(&store), one_by_one((0..60).map(branch)));

    // To before the first block, and on from another height.
    assert_eq!(pipeline.roll_back(None, 60).expect("it is there"), 60);
    assert_eq!((pipeline.tip(), end(&store).0), (None, None));
    push_all(&mut pipeline, (5..9).map(|height| block(3, height)));
    pipeline.flush().expect("the disk has room");
    assert_eq!(end(&store), one_by_one((5..9).map(|height| block(3, height))));
}

#[test]
fn a_guest_that_fails_stops_the_chain_before_its_block_or_is_skipped() {
    let blocks = || {
        (0..10u32).map(|height| match height {
            7 => source(7, Act::Unreachable.input()),
            _ => source(height, good_input(height)),
        })
    };
    let (_directory, stopped) = store(SCRIPT);
    let pool = Arc::new(build(small(SCRIPT).state(stopped.path()).layer_bytes(1 << 20)));
    let mut pipeline = pipeline(&pool, &stopped, settings(LAZY));
    push_all(&mut pipeline, blocks().take(7));
    let Pushed::Stopped(outcome) = pipeline.push(blocks().nth(7).expect("ten")).expect("a verdict") else {
        panic!("it was taken");
    };
    assert_eq!((outcome.height, outcome.result.verdict), (7, Verdict::Guest(GuestVerdict::Trap)));
    assert!(outcome.digest.is_some() && !outcome.committed);
    assert_eq!(end(&stopped).0, Some(6), "what came before is committed");
    drop(pipeline);
    drop(pool);

    let (_directory, skipped) = store(SCRIPT);
    let pool = Arc::new(build(small(SCRIPT).state(skipped.path()).layer_bytes(1 << 20)));
    let skip = PipelineSettings { policy: OnGuestFailure::Skip, ..settings(LAZY) };
    let resumed = Pipeline::resume(pool, Arc::clone(&skipped), skip, Box::new(|_| {}));
    let mut pipeline = resumed.expect("an empty store");
    push_all(&mut pipeline, blocks());
    drop(pipeline);
    let record = skipped.block(7).expect("it can be read").expect("it was skipped, not left out");
    assert_eq!(
        (record.verdict, record.writes, record.digest),
        (GuestVerdict::Trap, 0, outcome.digest.expect("above"))
    );
    let (key, value) = good_pair(9);
    assert_eq!(skipped.get(&key, 9).expect("it can be read"), Some(value));
}

#[test]
fn two_workers_that_disagree_commit_nothing() {
    let (_directory, store) = store(LEDGER);
    let lie = Fault { height: 5, attempts: 1, kind: FaultKind::Lie };
    let pool =
        Arc::new(build(small(LEDGER).state(store.path()).layer_bytes(1 << 20).workers(2).faults(vec![lie])));
    let redundant = PipelineSettings { redundant: true, ..settings(LAZY) };
    let mut pipeline = pipeline(&pool, &store, redundant);
    push_all(&mut pipeline, (0..5).map(|height| block(0, height)));
    let error = pipeline.push(block(0, 5)).expect_err("one of them lies");
    assert!(
        matches!(&error, ChainError::Disagreement { height: 5, workers, .. } if workers[0] != workers[1]),
        "{error}"
    );
    assert!(
        error.to_string().contains("completed with 0 pairs")
            && error.to_string().contains("completed with 2 pairs"),
        "{error}"
    );
    drop(pipeline);
    assert_eq!(end(&store), one_by_one((0..5).map(|height| block(0, height))));
}

#[test]
fn a_worker_does_not_agree_with_itself_while_the_other_is_being_replaced() {
    let (_directory, store) = store(LEDGER);
    let lie = Fault { height: 5, attempts: 1, kind: FaultKind::Lie };
    let builder = small(LEDGER).state(store.path()).layer_bytes(1 << 20).workers(2).faults(vec![lie]);
    let pool = Arc::new(build(builder));
    let redundant = PipelineSettings { redundant: true, ..settings(LAZY) };
    let mut pipeline = pipeline(&pool, &store, redundant);
    push_all(&mut pipeline, (0..5).map(|height| block(0, height)));
    // The one that lies is left.
    let honest = pool.health().slots[1].pid.expect("it is ready");
    send(honest, Signal::SIGKILL);
    wait_until("its death is seen", || (pool.health().deaths() == 1).then_some(()));
    let error = pipeline.push(block(0, 5)).expect_err("one of them lies");
    assert!(
        matches!(&error, ChainError::Disagreement { workers, .. } if workers[0] != workers[1]),
        "{error}"
    );
}

#[test]
fn a_block_that_does_not_follow_is_refused() {
    let (_directory, store) = store(LEDGER);
    let pool = Arc::new(build(small(LEDGER).state(store.path()).layer_bytes(1 << 20)));
    let mut pipeline = pipeline(&pool, &store, settings(LAZY));
    push_all(&mut pipeline, (0..3).map(|height| block(0, height)));
    for height in [2, 4] {
        let error = pipeline.push(block(0, height)).expect_err("it does not follow");
        assert!(matches!(error, ChainError::DoesNotFollow { tip: 2, .. }), "{error}");
    }
    let mut other = block(0, 3);
    other.block.previous = Some(block(1, 2).block.hash);
    assert!(matches!(pipeline.push(other), Err(ChainError::DoesNotFollow { .. })));
    push_all(&mut pipeline, (3..5).map(|height| block(0, height)));
}

/// A pipeline without workers, each block committed by itself, and what makes its store fail.
fn standing_in(undo: u32) -> (TempDir, Arc<Store>, Arc<StoreFaults>, Pipeline<StandIn>) {
    standing_in_with(undo, PipelineSettings::default(), Box::new(|_| {}))
}

/// As [`standing_in`], with these settings and this observer.
fn standing_in_with(
    undo: u32,
    settings: PipelineSettings,
    observer: Observer,
) -> (TempDir, Arc<Store>, Arc<StoreFaults>, Pipeline<StandIn>) {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let identity = Identity { profile: stand_in::profile().hash(), network: None };
    let faults = Arc::new(StoreFaults::default());
    let store = Store::open(directory.path(), &identity, Durability::None).expect("a new store");
    let store = Arc::new(store.with_undo(undo).with_faults(Arc::clone(&faults)));
    let workers = StandIn::new(&store, 1 << 20);
    let resumed = Pipeline::resume(workers, Arc::clone(&store), settings, observer);
    (directory, store, faults, resumed.expect("an empty store"))
}

#[test]
fn room_is_waited_for_by_every_writer_and_a_failing_disk_by_none() {
    const CALLS: [StoreCall; 3] = [StoreCall::Begin, StoreCall::Write, StoreCall::Commit];
    const ENOSPC: i32 = 28;
    const EIO: i32 = 5;
    for call in CALLS {
        let (_directory, store, faults, mut pipeline) = standing_in(10);
        faults.limit_rollback_step(1);
        for (height, errno) in (0..).zip([ENOSPC, 122, 27, ENOSPC]) {
            faults.fail(Some(call), 0, 3, errno);
            assert!(matches!(pipeline.push(block(0, height)), Ok(Pushed::Taken(_))));
            pipeline.flush().expect("there is room again");
        }
        faults.fail(Some(call), 1, 3, ENOSPC);
        assert_eq!(pipeline.roll_back(Some(0), 3).expect("there is room again"), 3);
        if call != StoreCall::Write {
            faults.fail(Some(call), 0, 3, ENOSPC);
            pipeline.write(|store| store.set_network("regtest")).expect("there is room again");
        }
        assert!(faults.injected() >= 15, "{call:?}: {}", faults.injected());
        assert_eq!(pipeline.watch().stalled(), None);

        assert!(matches!(pipeline.push(block(0, 1)), Ok(Pushed::Taken(_))));
        pipeline.flush().expect("there is room");
        let before = faults.injected();
        faults.fail(Some(call), 0, 100, EIO);
        let error = pipeline.roll_back(Some(0), 1).expect_err("the disk fails").to_string();
        assert!(error.contains("The disk fails") && !error.contains("Make room"), "{error}");
        assert_eq!(faults.injected(), before + 1, "it is not tried again");
        assert_eq!(store.tip().expect("it can be read").map(|tip| tip.height), Some(1));
    }
}

#[test]
fn a_rollback_of_the_chain_is_no_deeper_than_it_may_be() {
    let (_directory, store, _faults, mut pipeline) = standing_in(10);
    for height in 0..5 {
        assert!(matches!(pipeline.push(block(0, height)), Ok(Pushed::Taken(_))));
    }
    for to in [Some(1), None] {
        let error = pipeline.roll_back(to, 2).expect_err("it is too deep").to_string();
        assert!(error.contains("--max-reorg-depth"), "{error}");
        assert_eq!(end(&store).0, Some(4));
    }
    // It goes on as if nothing had been asked.
    assert!(matches!(pipeline.push(block(0, 5)), Ok(Pushed::Taken(_))));
    assert_eq!(pipeline.roll_back(Some(3), 2).expect("it is not too deep"), 2);
}

#[test]
fn a_flush_hears_of_a_commit_that_failed_before_it() {
    for _ in 0..50 {
        let (_directory, store, faults, mut pipeline) = standing_in(10);
        faults.fail(Some(StoreCall::Commit), 0, 1, 5);
        let pushed: Result<Vec<_>, _> = (0..4).map(|height| pipeline.push(block(0, height))).collect();
        let failed = pushed.map(drop).and_then(|()| pipeline.flush()).expect_err("the disk fails");
        assert!(failed.to_string().contains("block 0 was not written"), "{failed}");
        assert_eq!(store.tip().expect("it can be read"), None);
    }
}

#[test]
fn a_chain_that_does_not_wait_for_room_ends_with_what_to_do() {
    const ENOSPC: i32 = 28;
    let settings = PipelineSettings { on_full_disk: OnFullDisk::Fail, ..PipelineSettings::default() };
    let (_directory, store, faults, mut pipeline) = standing_in_with(10, settings, Box::new(|_| {}));
    assert!(pipeline.push_and_wait(block(0, 0)).expect("there is room").committed);
    faults.fail(Some(StoreCall::Commit), 0, 1, ENOSPC);
    let error = pipeline.push_and_wait(block(0, 1)).expect_err("there is no room").to_string();
    assert!(error.contains("block 1 was not written") && error.contains("Make room"), "{error}");
    assert_eq!(faults.injected(), 1, "it is not tried again");
    let committed = pipeline.committed();
    let tip = store.tip().expect("it can be read").expect("a block is committed");
    assert_eq!((committed.tip, committed.digest), (Some(0), tip.digest));
    assert_eq!(tip.height, 0);
}

#[test]
fn a_caller_without_a_further_block_has_the_blocks_so_far_committed() {
    let (committed, heights) = channel();
    let observer = Box::new(move |outcome: &Outcome| committed.send(outcome.height).expect("it is received"));
    let (_directory, _store, _faults, mut pipeline) = standing_in_with(10, settings(LAZY), observer);
    for round in 0..50 {
        // Blocks that are already waiting do not wait for each other.
        for height in 2 * round..2 * round + 2 {
            assert!(matches!(pipeline.push(block(0, height)), Ok(Pushed::Taken(_))));
            pipeline.commit_now().expect("there is room");
        }
        let received = [0, 1].map(|_| heights.recv_timeout(PATIENCE));
        assert_eq!(received, [Ok(2 * round), Ok(2 * round + 1)]);
        assert_eq!(pipeline.committed().tip, Some(2 * round + 1));
    }
}

#[test]
fn heights_of_a_chain_that_is_not_linked_only_have_to_rise() {
    const HEIGHTS: [u32; 6] = [3, 4, 7, 100, 101, 4_000_000];
    let run = |batch: Batch| {
        let settings = PipelineSettings { linked: false, batch, ..PipelineSettings::default() };
        let (directory, store, _faults, mut pipeline) = standing_in_with(0, settings, Box::new(|_| {}));
        for height in HEIGHTS {
            assert!(matches!(pipeline.push(block(0, height)), Ok(Pushed::Taken(_))));
            let error = pipeline.push(block(0, height)).expect_err("the height does not rise");
            assert!(matches!(error, ChainError::DoesNotFollow { tip, .. } if tip == height), "{error}");
            if batch == Batch::SINGLE {
                pipeline.flush().expect("there is room");
            }
        }
        pipeline.flush().expect("there is room");
        drop(directory);
        end(&store)
    };
    // With layers over the state, and without.
    assert_eq!(run(LAZY), run(Batch::SINGLE));
    assert_eq!(run(LAZY).0, Some(4_000_000));
}

#[test]
fn a_chain_knows_its_blocks_committed_or_not() {
    let settings = PipelineSettings { linked: false, ..settings(LAZY) };
    let (_directory, store, _faults, mut pipeline) = standing_in_with(0, settings, Box::new(|_| {}));
    assert!(!pipeline.has(&block(0, 0).block).expect("the store is empty"));
    for height in [2, 3, 5] {
        assert!(matches!(pipeline.push(block(0, height)), Ok(Pushed::Taken(_))));
    }
    assert_eq!(store.tip().expect("it can be read"), None, "nothing is committed yet");
    assert!(!pipeline.has(&block(0, 6).block).expect("it is above the newest block"));
    assert!(pipeline.has(&block(0, 3).block).expect("it is the same block"));
    let error = pipeline.has(&block(1, 3).block).expect_err("it is another block");
    assert!(matches!(error, ChainError::OtherChain { height: 3, .. }), "{error}");
    for height in [1, 4] {
        let error = pipeline.has(&block(0, height).block).expect_err("there is no block");
        assert!(matches!(error, ChainError::NotInStore { tip: 5, .. }), "{error}");
    }
}

#[test]
fn a_stop_request_ends_the_wait_for_a_second_worker() {
    let settings = PipelineSettings { redundant: true, ..PipelineSettings::default() };
    // What stands in for a pool has one worker.
    let (_directory, store, _faults, mut pipeline) = standing_in_with(0, settings, Box::new(|_| {}));
    let watch = pipeline.watch();
    let error = thread::scope(|scope| {
        let pushing = scope.spawn(|| pipeline.push(block(0, 0)));
        watch.give_up();
        pushing.join().expect("it does not panic").expect_err("there is no second worker")
    });
    assert!(matches!(error, ChainError::Interrupted { height: 0 }), "{error}");
    assert_eq!(store.tip().expect("it can be read"), None);
}

#[test]
fn a_panic_of_the_thread_that_commits_is_an_error() {
    let observer = Box::new(|outcome: &Outcome| assert_eq!(outcome.height, 0, "planted"));
    let settings = PipelineSettings::default();
    let (_directory, _store, _faults, mut pipeline) = standing_in_with(0, settings, observer);
    assert!(pipeline.push_and_wait(block(0, 0)).expect("it does not panic yet").committed);
    let error = pipeline.push_and_wait(block(0, 1)).expect_err("the observer panics");
    assert!(matches!(error, ChainError::Committer), "{error}");
    assert!(matches!(pipeline.flush(), Err(ChainError::Committer)));
}
