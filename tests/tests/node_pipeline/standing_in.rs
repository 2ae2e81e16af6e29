//! The pipeline on a stand-in for workers, with failures of the store.

use super::*;

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
