//! Jobs that kill their workers.

use super::*;

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
