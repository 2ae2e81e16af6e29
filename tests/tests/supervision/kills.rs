//! Signals to workers, deaths of idle workers, hooks, and slots that are given up.

use super::*;

#[test]
fn a_signal_to_a_busy_worker_is_survived() {
    for (signal, verdict) in [
        (Signal::SIGKILL, HostVerdict::Killed),
        (Signal::SIGTERM, HostVerdict::Killed),
        (Signal::SIGINT, HostVerdict::Killed),
        (Signal::SIGBUS, HostVerdict::Crashed),
    ] {
        let pool = build(planted("5x1:hang"));
        let result = strike_while_busy(&pool, |pid| send(pid, signal));
        assert_retried(&result, 1, verdict);
        assert!(result.failed_attempts[0].detail.contains(signal.as_str()), "{result:?}");
        assert_good_block(&pool, 6);
    }
}

#[test]
fn a_kill_in_the_middle_of_compiled_code_is_survived() {
    let pool = build(small(SCRIPT).limits(limits(PATIENCE, 0)));
    let result = thread::scope(|scope| {
        let job = scope.spawn(|| call(&pool, &Act::Spin(0).block(5)));
        send(wait_for_state(&pool, 0, SlotState::Busy), Signal::SIGKILL);
        job.join().unwrap()
    });
    assert_eq!(result.verdict, Verdict::Host(HostVerdict::Killed), "{result:?}");
    assert_good_block(&pool, 6);
}

#[test]
fn a_busy_worker_that_is_stopped_runs_into_the_deadline() {
    let pool = build(planted("5x1:hang").limits(limits(DEADLINE, 1)));
    let result = strike_while_busy(&pool, |pid| {
        send(pid, Signal::SIGSTOP);
        wait_until("it stops", || (process_state(pid) == Some('T')).then_some(()));
    });
    assert_retried(&result, 1, HostVerdict::Deadline);
    assert!(!is_running(result.failed_attempts[0].worker.pid), "a stopped process can be killed");
}

#[test]
fn an_idle_worker_that_is_stopped_runs_into_the_deadline_of_the_next_job() {
    let pool = build(small(SCRIPT).limits(limits(DEADLINE, 1)));
    let pid = wait_for_state(&pool, 0, SlotState::Idle);
    send(pid, Signal::SIGSTOP);
    let result = call(&pool, &good_block(5));
    assert_retried(&result, 1, HostVerdict::Deadline);
    assert_eq!(result.failed_attempts[0].worker.pid, pid);
}

#[test]
fn the_death_of_an_idle_worker_is_noticed_and_made_good_without_any_job() {
    let deaths = Arc::new(Mutex::new(Vec::<Death>::new()));
    let seen = Arc::clone(&deaths);
    let pool = build(small(SCRIPT).on_death(move |death| seen.lock().unwrap().push(death.clone())));
    for (count, signal) in [(1, Signal::SIGKILL), (2, Signal::SIGTERM)] {
        let pid = wait_for_state(&pool, 0, SlotState::Idle);
        send(pid, signal);
        wait_until("a new worker", || {
            let slot = pool.health().slots.swap_remove(0);
            (slot.state == SlotState::Idle && slot.pid != Some(pid)).then_some(())
        });
        let slot = pool.health().slots.swap_remove(0);
        assert_eq!(slot.deaths.total(), count);
        assert!(slot.last_death.unwrap().contains(signal.as_str()));
        let death = wait_until("the hook is told", || {
            let deaths = deaths.lock().unwrap();
            deaths.last().filter(|_| deaths.len() as u64 == count).cloned()
        });
        assert_eq!((death.pid, death.verdict, death.exit), (pid, HostVerdict::Killed, None), "{death:?}");
        assert_good_block(&pool, 3);
    }
}

#[test]
fn a_death_is_told_with_the_last_requests() {
    let deaths = Arc::new(Mutex::new(Vec::<Death>::new()));
    let seen = Arc::clone(&deaths);
    let pool = build(planted("20x1:exit=9").on_death(move |death| seen.lock().unwrap().push(death.clone())));
    for height in 8..=20 {
        call(&pool, &good_block(height));
    }
    wait_until("the hook is told", || (!deaths.lock().unwrap().is_empty()).then_some(()));
    let deaths = deaths.lock().unwrap();
    let [death] = deaths.as_slice() else { panic!("one death: {deaths:?}") };
    assert_eq!(
        (death.verdict, death.exit, death.phase),
        (HostVerdict::Exited, Some(9), Some(Phase::Running))
    );
    let told: Vec<String> = death.requests.iter().map(ToString::to_string).collect();
    let size = |height| good_block(height).input().len();
    let expected = |height| format!("block {height} ({} bytes): completed", size(height));
    assert_eq!(told[..7], (13..20).map(expected).collect::<Vec<_>>());
    assert_eq!(told[7..], [format!("block 20 ({} bytes): no answer", size(20))]);
}

#[test]
fn a_hook_that_panics_does_no_harm() {
    let pool = build(planted("5x1:kill").on_death(|_| panic!("a hook's own defect, on purpose")));
    assert_retried(&call(&pool, &good_block(5)), 1, HostVerdict::Killed);
    assert_good_block(&pool, 6);
}

#[test]
fn a_slot_whose_workers_keep_dying_is_given_up_and_with_the_last_one_the_pool() {
    let policy = RestartPolicy {
        base: Duration::from_millis(1),
        cap: Duration::from_millis(5),
        intensity: 2,
        window: Duration::from_secs(3600),
        ..RestartPolicy::default()
    };
    let pool = build(small(SCRIPT).workers(2).restart(policy));
    for slot in 0..2 {
        for _ in 0..3 {
            send(wait_for_state(&pool, slot, SlotState::Idle), Signal::SIGKILL);
            wait_until("the death is noticed", || {
                (pool.health().slots[slot].state != SlotState::Idle).then_some(())
            });
        }
        wait_for_state(&pool, slot, SlotState::Failed);
        assert_eq!(pool.health().slots[slot].deaths.total(), 3);
        if slot == 0 {
            assert_eq!(pool.health().ready(), 1);
            assert_eq!(assert_good_block(&pool, 1).worker.slot, 1, "the other one carries on");
        }
    }
    assert!(matches!(pool.call(&good_block(2)), Err(PoolError::NoWorker)));
    let ticket = pool.submit(good_block(3)).unwrap();
    assert!(matches!(ticket.wait(), Err(PoolError::NoWorker)));
    assert_eq!(pool.health().ready(), 0);
}
