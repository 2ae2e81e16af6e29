//! The pipeline on real workers.

use super::*;

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
