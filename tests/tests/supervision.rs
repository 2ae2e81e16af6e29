//! What happens when workers die, lie or hang: the job is run again on a fresh worker, a bounded number of times; the
//! worker is replaced; and whoever goes first, no process is left behind.

use std::fs::File;
use std::future::Future;
use std::os::unix::process::ExitStatusExt;
use std::pin::pin;
use std::process::Command;
use std::sync::{Arc, Mutex, Once};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};
use std::time::Duration;

use cofferdam::fault::Fault;
use cofferdam::host::cgroup::ChildCgroup;
use cofferdam::pool::restart::RestartPolicy;
use cofferdam::pool::{Death, Job, JobResult, Pool, PoolBuilder, PoolError, QuarantinePolicy, SlotState};
use cofferdam::status::Phase;
use cofferdam::verdict::{HostVerdict, Verdict};
use cofferdam_test_skips::skip;
use cofferdam_tests::support::guests::{Act, SCRIPT, START_SPINS, good_block, good_pair};
use cofferdam_tests::support::pool::{
    PATIENCE, assert_good_block, assert_lost, assert_retried, build, call, is_running, limits, pairs,
    process_state, send, small, wait_for_state, wait_until, workers,
};
use nix::sys::signal::Signal;

cofferdam::enable_test_support!();

/// Long enough for a worker that is alive to answer, on any machine; short enough to wait for one that is not.
const DEADLINE: Duration = Duration::from_secs(3);

/// A small pool with a fault planted, such as `5x1:kill`.
fn planted(fault: &str) -> PoolBuilder {
    small(SCRIPT).faults(vec![fault.parse().expect("a fault plan")])
}

/// Checks that a fault at the first attempt is survived, and that one at every attempt poisons the block and no other.
fn assert_survived(kind: &str, verdict: HostVerdict, evidence: &str) {
    let pool = build(planted(&format!("5x1:{kind}")).limits(limits(DEADLINE, 2)));
    assert_good_block(&pool, 4);
    let result = call(&pool, &good_block(5));
    assert_retried(&result, 1, verdict);
    assert_eq!(pairs(&result), [good_pair(5)]);
    assert!(result.failed_attempts[0].detail.contains(evidence), "{evidence:?}: {result:?}");
    let failed = result.failed_attempts[0].worker.pid;
    wait_until("the worker that failed is gone", || (!is_running(failed)).then_some(()));
    assert_eq!(assert_good_block(&pool, 6).worker, result.worker);
    assert_eq!(pool.health().deaths(), 1);

    let pool = build(planted(&format!("5x9:{kind}")).limits(limits(DEADLINE, 1)));
    let result = call(&pool, &good_block(5));
    assert_eq!((result.verdict, result.attempts()), (Verdict::Host(verdict), 2), "{result:?}");
    assert_lost(&result, 2, verdict);
    assert!(result.detail.contains(evidence) && result.writes().count() == 0, "{result:?}");
    assert_good_block(&pool, 6);
    assert_eq!(pool.health().deaths(), 2);
}

#[test]
fn a_worker_that_is_killed_is_survived() {
    assert_survived("kill", HostVerdict::Killed, "SIGKILL");
}

#[test]
fn a_worker_that_lies_about_its_end_is_survived() {
    assert_survived("forge", HostVerdict::Killed, "SIGKILL");
    assert_survived("half", HostVerdict::Exited, "exit code 1");
}

#[test]
fn a_segmentation_fault_is_survived() {
    assert_survived("segv", HostVerdict::Crashed, "SIGSEGV");
}

#[test]
fn an_abort_of_the_process_is_survived() {
    assert_survived("abort", HostVerdict::Crashed, "SIGABRT");
}

#[test]
fn an_exit_that_nobody_asked_for_is_survived() {
    assert_survived("exit=9", HostVerdict::Exited, "exit code 9");
    // Not even "told to stop" and "memory not committed" mean what they say here.
    assert_survived("exit=0", HostVerdict::Exited, "exit code 0");
    assert_survived("exit=137", HostVerdict::Exited, "exit code 137");
}

#[test]
fn a_frame_that_does_not_decode_is_survived() {
    assert_survived("garbage", HostVerdict::ProtocolViolation, "");
}

#[test]
fn a_frame_over_the_cap_is_survived() {
    assert_survived("long-frame", HostVerdict::ProtocolViolation, "");
}

#[test]
fn a_span_outside_the_arena_is_survived() {
    assert_survived("wrong-span", HostVerdict::ProtocolViolation, "outside the arena");
}

#[test]
fn an_answer_to_another_job_is_survived() {
    assert_survived("wrong-job", HostVerdict::ProtocolViolation, "the worker answered job");
}

#[test]
fn output_that_is_no_pairs_is_survived() {
    assert_survived("wrong-pairs", HostVerdict::ProtocolViolation, "reaches beyond the end");
}

#[test]
fn a_worker_that_does_not_answer_is_survived() {
    assert_survived("hang", HostVerdict::Deadline, "no answer within 3s");
}

#[test]
fn every_retry_is_used_before_a_block_is_given_up() {
    for (fault, retries, lost) in [("5x2:kill", 2, 2), ("5x3:kill", 3, 3), ("5x1:exit=1", 1, 1)] {
        let pool = build(planted(fault).limits(limits(PATIENCE, retries)));
        let verdict = if fault.ends_with("kill") { HostVerdict::Killed } else { HostVerdict::Exited };
        assert_retried(&call(&pool, &good_block(5)), lost, verdict);
    }
    let pool = build(planted("5x1:kill").limits(limits(PATIENCE, 0)));
    let result = call(&pool, &good_block(5));
    assert_eq!((result.verdict, result.attempts()), (Verdict::Host(HostVerdict::Killed), 1), "{result:?}");
}

#[test]
fn a_view_is_retried_like_a_block() {
    let pool = build(planted("5x1:kill"));
    let result = call(&pool, &Job::view("echo", 5, b"input".to_vec()));
    assert_retried(&result, 1, HostVerdict::Killed);
    assert_eq!(result.view_result(), b"input");
}

#[test]
fn a_spare_takes_over() {
    let pool = build(planted("5x1:kill").spares(1));
    let result = call(&pool, &good_block(5));
    assert_retried(&result, 1, HostVerdict::Killed);
    assert_ne!(result.worker.slot, result.failed_attempts[0].worker.slot, "the spare was ready");
    wait_until("the spare's place is filled", || (pool.health().ready() == 2).then_some(()));
    assert_good_block(&pool, 6);
}

#[test]
fn an_endless_loop_runs_into_the_deadline_and_is_reported() {
    let pool = build(small(SCRIPT).limits(limits(PATIENCE, 1)));
    let result = call(&pool, &Act::Spin(0).block(5).deadline(Duration::from_millis(200)));
    assert_eq!(result.verdict, Verdict::Host(HostVerdict::Deadline), "{result:?}");
    assert_lost(&result, 2, HostVerdict::Deadline);
    assert!(result.detail.contains("200ms"), "{}", result.detail);
    assert_good_block(&pool, 6);
}

#[test]
fn an_endless_start_section_runs_into_the_deadline() {
    let pool = build(small(START_SPINS).limits(limits(Duration::from_millis(200), 0)));
    for height in 0..2 {
        let result = call(&pool, &Job::block(height, Vec::new()));
        assert_eq!(result.verdict, Verdict::Host(HostVerdict::Deadline), "{result:?}");
    }
    let left = workers(&pool);
    drop(pool);
    assert!(!left.iter().any(|pid| is_running(*pid)), "not even one that never listens is left");
}

/// Runs block 5, which hangs at its first attempt, and has `strike` do something to its worker meanwhile.
fn strike_while_busy(pool: &Pool, strike: impl FnOnce(u32)) -> JobResult {
    thread::scope(|scope| {
        let job = scope.spawn(|| call(pool, &good_block(5)));
        strike(wait_for_state(pool, 0, SlotState::Busy));
        job.join().expect("the caller's thread")
    })
}

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

#[test]
fn a_job_that_ends_its_workers_is_answered_from_memory_until_that_is_lifted() {
    let pool = build(planted("5x99:segv").limits(limits(PATIENCE, 2)));
    let first = call(&pool, &good_block(5));
    assert_lost(&first, 3, HostVerdict::Crashed);
    assert!(!first.is_from_memory() && first.quarantine.is_some(), "{first:?}");
    assert_eq!((pool.health().deaths(), pool.health().quarantined), (3, 1));
    // In each of the ways to ask, and while no worker is idle.
    wait_for_state(&pool, 0, SlotState::Idle);
    let busy = pool.submit(Act::Spin(0).block(1)).unwrap();
    wait_for_state(&pool, 0, SlotState::Busy);
    let again = pool.submit(good_block(5)).unwrap();
    assert!(again.is_done(), "it takes no worker");
    let again = again.wait().unwrap();
    let mut killed = 0;
    for _ in 0..3 {
        killed = wait_until("another worker is at it", || {
            let pid = wait_for_state(&pool, 0, SlotState::Busy);
            (pid != killed).then_some(pid)
        });
        send(killed, Signal::SIGKILL);
    }
    assert_lost(&busy.wait().unwrap(), 3, HostVerdict::Killed);
    let submitted = pool.submit(good_block(5)).unwrap().wait().unwrap();
    for again in [again, submitted, call(&pool, &good_block(5))] {
        assert_eq!((again.verdict, again.attempts()), (Verdict::Host(HostVerdict::Crashed), 0));
        assert!(again.is_from_memory());
        for part in ["in quarantine since 2", " until 2", "its last 3 attempts", "crashed (SIGSEGV)"] {
            assert!(again.detail.contains(part), "{part:?}: {}", again.detail);
        }
    }
    assert_eq!(pool.health().deaths(), 6, "only the other job's were added");
    // What resembles it is another job.
    assert_good_block(&pool, 6);
    let view = call(&pool, &Job::view("echo", 5, good_block(5).input().parts().collect::<Vec<_>>().concat()));
    assert_lost(&view, 3, HostVerdict::Crashed);
    // And whoever stops by itself at such a job has it run.
    assert_lost(&call(&pool, &good_block(5).despite_quarantine()), 3, HostVerdict::Crashed);
    let ids: Vec<u64> =
        pool.quarantine().iter().filter(|entry| entry.height == 5).map(|entry| entry.id).collect();
    assert_eq!(ids.len(), 2);
    assert!(ids.iter().all(|id| pool.lift_quarantine(*id)));
    let before = pool.health().deaths();
    assert_lost(&call(&pool, &good_block(5)), 3, HostVerdict::Crashed);
    assert_eq!(pool.health().deaths(), before + 3);
}

#[test]
fn one_worker_that_is_killed_by_hand_puts_no_job_into_quarantine() {
    let pool = build(planted("5x1:hang").limits(limits(PATIENCE, 0)));
    let result = strike_while_busy(&pool, |pid| send(pid, Signal::SIGKILL));
    assert_lost(&result, 1, HostVerdict::Killed);
    assert!(result.quarantine.is_none() && pool.quarantine().is_empty(), "{result:?}");
}

#[test]
fn a_pool_can_do_without_a_quarantine() {
    let pool = build(planted("5x9:kill").limits(limits(PATIENCE, 1)).quarantine(QuarantinePolicy::OFF));
    for _ in 0..2 {
        assert_lost(&call(&pool, &good_block(5)), 2, HostVerdict::Killed);
    }
}

#[test]
fn a_kill_by_hand_is_not_blamed_on_the_kernel_though_it_has_just_killed_a_neighbour() {
    // So much that the neighbour is larger than the worker with its arenas when the kernel chooses.
    let cgroup = match ChildCgroup::limited_to(1 << 30) {
        Ok(cgroup) => cgroup,
        Err(error) => return skip(format_args!("no memory cgroup can be made here: {error}")),
    };
    if File::open("/dev/kmsg").is_err() {
        return skip("the kernel's log cannot be read here, and a count does not say who was killed");
    }
    let planted = planted("5x1:hang").limits(limits(PATIENCE, 0)).admission(false);
    let pool = build(planted.cgroup(cgroup.cgroup().clone()));
    let result = strike_while_busy(&pool, |pid| {
        // dd reads into one buffer of its block size.
        let script = "echo 0 > \"$0/cgroup.procs\" && exec dd if=/dev/zero of=/dev/null bs=2G count=1";
        let adjusted = format!("echo 1000 > /proc/self/oom_score_adj && {script}");
        let status = Command::new("sh").args(["-c", &adjusted]).arg(cgroup.cgroup().dir()).status().unwrap();
        assert_eq!((status.signal(), cgroup.cgroup().oom_kills()), (Some(9), Some(1)), "{status}");
        send(pid, Signal::SIGKILL);
    });
    assert_eq!(result.verdict, Verdict::Host(HostVerdict::Killed), "{result:?}");
}

#[test]
fn deaths_during_jobs_do_not_count_against_the_slot() {
    let policy = RestartPolicy { intensity: 0, ..RestartPolicy::default() };
    let pool = build(planted("5x9:kill").restart(policy).limits(limits(PATIENCE, 4)));
    let result = call(&pool, &good_block(5));
    assert_lost(&result, 5, HostVerdict::Killed);
    assert_good_block(&pool, 6);
}

#[test]
fn callers_on_many_threads_get_their_own_answers() {
    let pool = build(small(SCRIPT).workers(2).spares(1));
    thread::scope(|scope| {
        for thread in 0..8 {
            let pool = &pool;
            scope.spawn(move || (0..25).for_each(|n| drop(assert_good_block(pool, thread * 100 + n))));
        }
    });
    assert_eq!(pool.health().deaths(), 0);
}

#[test]
fn callers_on_many_threads_survive_workers_that_die_all_the_time() {
    let faults: Vec<Fault> =
        (0..200).step_by(10).map(|height| format!("{height}:kill").parse().unwrap()).collect();
    let pool = build(small(SCRIPT).workers(2).faults(faults));
    thread::scope(|scope| {
        for thread in 0..4 {
            let pool = &pool;
            scope.spawn(move || {
                for height in thread * 50..thread * 50 + 50 {
                    let result = call(pool, &good_block(height));
                    assert_eq!(pairs(&result), [good_pair(height)], "{result:?}");
                    assert_eq!(result.attempts(), if height % 10 == 0 { 2 } else { 1 }, "{result:?}");
                }
            });
        }
    });
    assert_eq!(pool.health().deaths(), 20);
}

#[test]
fn tickets_bring_each_its_own_result() {
    let pool = build(small(SCRIPT).workers(2));
    let tickets: Vec<_> = (0..60).map(|height| (height, pool.submit(good_block(height)).unwrap())).collect();
    // Waited for out of order.
    for (height, ticket) in tickets.into_iter().rev() {
        let result = ticket.wait().unwrap();
        assert_eq!(pairs(&result), [good_pair(height)]);
    }
    assert_eq!(pool.health().queued, 0);
}

/// The smallest executor: polls in this thread, which sleeps until it is woken.
fn block_on<F: Future>(future: F) -> F::Output {
    block_on_and(future, || {})
}

/// The same; calls `pending` each time before it sleeps.
fn block_on_and<F: Future>(future: F, pending: impl Fn()) -> F::Output {
    struct Unpark(Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut future = pin!(future);
    loop {
        match future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(output) => return output,
            Poll::Pending => {
                pending();
                thread::park();
            }
        }
    }
}

#[test]
fn tickets_can_be_awaited() {
    let pool = build(planted("1x1:hang"));
    // Pending for certain: its worker hangs until it is killed.
    let ticket = pool.submit(good_block(1)).unwrap();
    let pid = wait_for_state(&pool, 0, SlotState::Busy);
    let killed = Once::new();
    let result = block_on_and(ticket, || killed.call_once(|| send(pid, Signal::SIGKILL))).unwrap();
    assert!(killed.is_completed(), "it was pending");
    assert_retried(&result, 1, HostVerdict::Killed);
    let both = async {
        let (first, second) = (pool.submit(good_block(2)).unwrap(), pool.submit(good_block(3)).unwrap());
        (second.await.unwrap(), first.await.unwrap())
    };
    let (third, second) = block_on(both);
    assert_eq!((pairs(&second), pairs(&third)), (vec![good_pair(2)], vec![good_pair(3)]));
}

#[test]
fn a_full_queue_says_that_it_is_saturated() {
    let pool = build(planted("1x1:hang").queue(2));
    let running = pool.submit(good_block(1)).unwrap();
    let pid = wait_for_state(&pool, 0, SlotState::Busy);
    let waiting = [2, 3].map(|height| (height, pool.submit(good_block(height)).unwrap()));
    assert_eq!(pool.health().queued, 2);
    assert!(matches!(pool.submit(good_block(4)), Err(PoolError::Saturated { waiting: 2, limit: 2 })));
    assert!(!running.is_done());
    send(pid, Signal::SIGKILL);
    assert_retried(&running.wait().unwrap(), 1, HostVerdict::Killed);
    for (height, ticket) in waiting {
        assert_eq!(pairs(&ticket.wait().unwrap()), [good_pair(height)]);
    }
    assert_eq!(pairs(&pool.submit(good_block(5)).unwrap().wait().unwrap()), [good_pair(5)]);
}
