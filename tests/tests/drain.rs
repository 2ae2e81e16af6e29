//! The end of a pool: a drain, a drop, a start that fails, a supervisor that is killed. No process is left behind.

use std::fs;
use std::future::Future;
use std::io::{BufRead, BufReader};
use std::ops::ControlFlow;
use std::panic::catch_unwind;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, Weak, mpsc};
use std::task::{Context, Wake, Waker};
use std::thread::{self};
use std::time::Duration;

use cofferdam::pool::{Death, Pool, PoolBuilder, PoolError, SlotState};
use cofferdam::verdict::Verdict;
use cofferdam_test_skips::skip;
use cofferdam_tests::support::guests::{Act, SCRIPT, good_block, good_pair};
use cofferdam_tests::support::pool::{
    PATIENCE, assert_good_block, build, children, is_running, limits, pairs, process_state, send, small,
    wait_for_state, wait_until, workers,
};
use nix::sys::signal::Signal;

cofferdam::enable_test_support!();

/// A small pool with a fault planted, such as `5x1:kill`.
fn planted(fault: &str) -> PoolBuilder {
    small(SCRIPT).faults(vec![fault.parse().expect("a fault plan")])
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("no test panics within a lock")
}

/// Checks that none of these processes is there, not even as one that was not reaped.
fn assert_gone(pids: &[u32]) {
    let children = children();
    assert!(!pids.is_empty());
    assert!(!pids.iter().any(|pid| children.contains(pid)), "{pids:?} are gone from {children:?}");
}

#[test]
fn a_drain_lets_a_running_job_finish_and_leaves_no_process() {
    let pool = build(small(SCRIPT).workers(2).spares(1));
    let pids = workers(&pool);
    let ticket = pool.submit(Act::Spin(50_000_000).block(1)).unwrap();
    wait_until("it runs", || {
        let busy = pool.health().slots.iter().any(|slot| slot.state == SlotState::Busy);
        (busy || ticket.is_done()).then_some(())
    });
    assert!(pool.drain(PATIENCE), "everything that ran has finished");
    assert_eq!(ticket.wait().unwrap().verdict, Verdict::COMPLETED);
    assert_eq!(pids.len(), 3);
    assert_gone(&pids);
    assert!(matches!(pool.submit(good_block(2)), Err(PoolError::Draining)));
    assert!(matches!(pool.call(&good_block(2)), Err(PoolError::Draining)));
    assert!(pool.drain(Duration::ZERO), "a second drain has nothing to do");
    assert_eq!(pool.health().deaths(), 0, "an end that was asked for is no death");
}

#[test]
fn a_drain_does_not_wait_for_longer_than_its_grace() {
    let pool = build(planted("1x9:hang").queue(5));
    let pids = workers(&pool);
    let running = pool.submit(good_block(1)).unwrap();
    wait_for_state(&pool, 0, SlotState::Busy);
    let queued = [2, 3].map(|height| pool.submit(good_block(height)).unwrap());
    assert!(!pool.drain(Duration::from_millis(100)), "one job did not finish");
    assert!(matches!(running.wait(), Err(PoolError::Draining)));
    for ticket in queued {
        assert!(matches!(ticket.wait(), Err(PoolError::Draining)));
    }
    assert_gone(&pids);
}

#[test]
fn callers_that_wait_for_a_worker_are_told_of_a_drain() {
    let pool = build(planted("1x9:hang"));
    thread::scope(|scope| {
        let running = scope.spawn(|| pool.call(&good_block(1)));
        wait_for_state(&pool, 0, SlotState::Busy);
        let waiting = [2, 3, 4].map(|height| {
            scope.spawn({
                let pool = &pool;
                move || pool.call(&good_block(height))
            })
        });
        let other = scope.spawn(|| pool.drain(Duration::ZERO));
        pool.drain(Duration::from_millis(100));
        other.join().unwrap();
        assert!(matches!(running.join().unwrap(), Err(PoolError::Draining)));
        for caller in waiting {
            assert!(matches!(caller.join().unwrap(), Err(PoolError::Draining)));
        }
    });
}

#[test]
fn a_job_that_a_drain_cuts_off_is_not_called_poisoned() {
    // Without retries: were the end of its worker taken for a failure, it would be the final one.
    let pool = build(planted("1x9:hang").limits(limits(PATIENCE, 0)));
    let ticket = pool.submit(good_block(1)).unwrap();
    wait_for_state(&pool, 0, SlotState::Busy);
    assert!(!pool.drain(Duration::ZERO));
    assert!(matches!(ticket.wait(), Err(PoolError::Draining)));
}

#[test]
fn a_job_submitted_just_before_a_drain_is_answered_one_way_or_the_other() {
    for _ in 0..20 {
        let pool = build(small(SCRIPT));
        let ticket = pool.submit(good_block(1)).unwrap();
        pool.drain(PATIENCE);
        match ticket.wait() {
            Ok(result) => assert_eq!(pairs(&result), [good_pair(1)]),
            Err(error) => assert!(matches!(error, PoolError::Draining), "{error:?}"),
        }
    }
}

#[test]
fn a_pool_that_is_dropped_leaves_no_process() {
    let pool = build(small(SCRIPT).workers(2));
    let pids = workers(&pool);
    assert_good_block(&pool, 1);
    drop(pool);
    assert_gone(&pids);
}

#[test]
fn a_pool_whose_start_fails_leaves_no_process() {
    let error = small(SCRIPT).workers(2).start_timeout(Duration::ZERO).build().unwrap_err();
    assert!(matches!(error, PoolError::StartTimeout(_)), "{error:?}");
}

/// Runs `work` in a thread, and gives what it gives; fails if that takes for ever.
fn in_time<T: Send + 'static>(what: &str, work: impl FnOnce() -> T + Send + 'static) -> T {
    let running = thread::spawn(work);
    wait_until(what, || running.is_finished().then_some(()));
    running.join().expect("it does not panic")
}

#[test]
fn a_pool_that_was_drained_neither_grows_nor_shrinks_and_says_so_at_once() {
    let pool = build(small(SCRIPT).workers(2).initially(1));
    assert!(pool.drain(PATIENCE));
    let (grown, shrunk) = in_time("both answer", move || (pool.grow(), pool.shrink(PATIENCE * 10)));
    assert!(matches!(grown, Err(PoolError::Draining)), "{grown:?}");
    assert!(!shrunk);
}

/// Has `pool` grow in a thread of its own, and stops the worker while it starts. Gives the thread and the process.
fn grow_and_stop(pool: &Arc<Pool>) -> (thread::JoinHandle<Result<bool, PoolError>>, u32) {
    loop {
        let slots = pool.health().slots.len();
        let grows = thread::spawn({
            let pool = Arc::clone(pool);
            move || pool.grow()
        });
        let pid = wait_until("the process is there", || {
            let slot = pool.health().slots.get(slots).cloned()?;
            slot.pid.filter(|_| slot.state == SlotState::Starting || grows.is_finished())
        });
        send(pid, Signal::SIGSTOP);
        wait_until("it stops, or is done", || (process_state(pid) == Some('T')).then_some(()));
        if pool.health().slots[slots].state == SlotState::Starting {
            return (grows, pid);
        }
        // It was ready already: once more.
        send(pid, Signal::SIGCONT);
        assert!(grows.join().expect("it does not panic").expect("it is ready"));
        wait_until("one is given up", || pool.shrink(PATIENCE).then_some(()));
    }
}

#[test]
fn a_drain_ends_a_worker_that_is_being_added() {
    let pool = Arc::new(build(small(SCRIPT).workers(2).initially(1)));
    let (grows, pid) = grow_and_stop(&pool);
    assert!(pool.drain(PATIENCE));
    let grown = in_time("the call returns", move || grows.join().unwrap());
    assert!(matches!(grown, Err(PoolError::Draining)), "{grown:?}");
    assert_gone(&[pid]);
}

#[test]
fn a_worker_that_cannot_be_added_leaves_no_slot_behind() {
    let pool = Arc::new(build(small(SCRIPT).workers(2).initially(1).start_timeout(Duration::from_secs(5))));
    let (grows, pid) = grow_and_stop(&pool);
    let grown = in_time("the call returns", move || grows.join().unwrap());
    assert!(matches!(grown, Err(PoolError::StartTimeout(_))), "{grown:?}");
    assert_gone(&[pid]);
    assert_eq!(pool.health().slots.len(), 1);
    assert!(pool.grow().unwrap(), "there is room for one more");
    assert_eq!((pool.health().ready(), pool.health().slots.len()), (2, 2));
    // As many as there are: with the last of them, callers are told that no worker will come.
    assert!(pool.shrink(PATIENCE) && pool.shrink(PATIENCE));
    let called = in_time("a caller is told", move || pool.call(&good_block(1)).map(drop));
    assert!(matches!(called, Err(PoolError::NoWorker)), "{called:?}");
}

#[test]
fn a_start_whose_progress_breaks_or_panics_leaves_no_process() {
    let children_before = children();
    let broken = small(SCRIPT).workers(2).build_with(&mut |_| ControlFlow::Break(()));
    // Where it is ready before it is asked, that is the last word, and no question.
    drop(broken);
    let panics =
        || small(SCRIPT).workers(2).build_with(&mut |_| panic!("a defect of the caller, on purpose"));
    assert!(catch_unwind(panics).is_err());
    wait_until("every worker is gone", || {
        children().iter().all(|pid| children_before.contains(pid)).then_some(())
    });
}

/// A pool that its own hook or waker can reach.
type Shared = Arc<Mutex<Option<Pool>>>;

#[test]
fn a_hook_may_drain_the_pool_and_drop_it() {
    for drops in [false, true] {
        let shared = Shared::default();
        let (tell, told) = mpsc::channel();
        let (tell, reached) = (Mutex::new(tell), Arc::clone(&shared));
        let hook = move |_: &Death| {
            // Taken out before it is used: the test looks at it meanwhile.
            let pool = lock(&reached).take();
            let Some(pool) = pool else { return };
            if !drops {
                assert!(pool.drain(Duration::ZERO), "nothing runs");
            }
            drop(pool);
            lock(&tell).send(()).unwrap();
        };
        let pool = build(small(SCRIPT).workers(2).on_death(hook));
        let pids = workers(&pool);
        *lock(&shared) = Some(pool);
        send(pids[0], Signal::SIGKILL);
        told.recv_timeout(PATIENCE).expect("the hook returns");
        assert_gone(&pids);
    }
}

/// A waker that drains the pool.
struct Drains {
    pool: Weak<Pool>,
    tell: Mutex<mpsc::Sender<bool>>,
}

impl Wake for Drains {
    fn wake(self: Arc<Self>) {
        let drained = self.pool.upgrade().is_none_or(|pool| pool.drain(Duration::ZERO));
        lock(&self.tell).send(drained).expect("the test waits for it");
    }
}

#[test]
fn the_waker_of_a_ticket_may_drain_the_pool() {
    let pool = Arc::new(build(small(SCRIPT).workers(2)));
    let pids = workers(&pool);
    let (tell, told) = mpsc::channel();
    let tickets: Vec<_> = (0..2)
        .map(|height| {
            let mut ticket = Box::pin(pool.submit(Act::Spin(50_000_000).block(height)).unwrap());
            let waker = Drains { pool: Arc::downgrade(&pool), tell: Mutex::new(tell.clone()) };
            let waker = Waker::from(Arc::new(waker));
            assert!(ticket.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
            ticket
        })
        .collect();
    // Two at once: one of them finds the other at it.
    for _ in 0..2 {
        told.recv_timeout(PATIENCE).expect("the waker returns");
    }
    assert_gone(&pids);
    in_time("a drain from elsewhere", move || pool.drain(PATIENCE));
    drop(tickets);
}

/// A freezer of cgroup v1: a process in it does not even end by SIGKILL before it is thawed, as one in uninterruptible sleep.
struct Freezer(PathBuf);

impl Freezer {
    fn make() -> Option<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("cofferdam-tests-{}-{number}", std::process::id());
        let directory = Path::new("/sys/fs/cgroup/freezer").join(name);
        match fs::create_dir(&directory) {
            Ok(()) => Some(Self(directory)),
            Err(error) => {
                skip(format_args!("no freezer of cgroup v1 can be made here: {error}"));
                None
            }
        }
    }

    fn set(&self, file: &str, text: &str) {
        fs::write(self.0.join(file), text).expect("a freezer of ours can be written");
    }

    fn freeze(&self, pid: u32) {
        self.set("cgroup.procs", &pid.to_string());
        self.set("freezer.state", "FROZEN");
        wait_until("it is frozen", || {
            let state = fs::read_to_string(self.0.join("freezer.state")).expect("a freezer has a state");
            (state.trim() == "FROZEN").then_some(())
        });
    }
}

impl Drop for Freezer {
    fn drop(&mut self) {
        self.set("freezer.state", "THAWED");
        wait_until("it is empty", || {
            let inside = fs::read_to_string(self.0.join("cgroup.procs")).unwrap_or_default();
            for pid in inside.lines() {
                // One that ends by itself meanwhile is no longer there to be moved.
                let _ = fs::write("/sys/fs/cgroup/freezer/cgroup.procs", pid);
            }
            fs::remove_dir(&self.0).ok()
        });
    }
}

#[test]
fn a_drain_does_not_wait_for_ever_for_a_worker_that_does_not_die() {
    let Some(freezer) = Freezer::make() else { return };
    let pool = build(small(SCRIPT).workers(2).kill_timeout(Duration::from_millis(200)));
    let pids = workers(&pool);
    freezer.freeze(pids[0]);
    let (clean, again, pool) =
        in_time("the drain returns", move || (pool.drain(Duration::ZERO), pool.drain(Duration::ZERO), pool));
    assert!(!clean && !again, "one process is still there");
    assert!(is_running(pids[0]));
    assert_gone(&pids[1..]);
    // Its thread waits for it still, and reaps it.
    drop(freezer);
    wait_until("it is reaped", || (!children().contains(&pids[0])).then_some(()));
    wait_until("the pool knows", || pool.drain(Duration::ZERO).then_some(()));
}

#[test]
fn a_worker_that_does_not_die_is_given_up_within_bounds() {
    let Some(freezer) = Freezer::make() else { return };
    let pool = build(small(SCRIPT).workers(2).kill_timeout(Duration::from_millis(200)));
    // The one that has been idle for longest is the one that is given up.
    freezer.freeze(workers(&pool)[0]);
    freezer.set("cgroup.procs", &workers(&pool)[1].to_string());
    let (shrunk, pool) = in_time("the call returns", move || (pool.shrink(PATIENCE), pool));
    assert!(!shrunk, "its memory is not free");
    assert_eq!(pool.health().slots.len(), 1);
    drop(freezer);
    assert_good_block(&pool, 1);
}

/// Set in the process that plays the supervisor.
const SUPERVISOR: &str = "COFFERDAM_TEST_SUPERVISOR";

#[test]
#[ignore = "the second process of another test"]
fn second_supervises_until_it_is_killed() {
    if std::env::var_os(SUPERVISOR).is_none() {
        return;
    }
    let pool = build(small(SCRIPT).workers(2).spares(1));
    // One that took the place of another, one that is busy in compiled code, one that waits.
    send(workers(&pool)[0], Signal::SIGKILL);
    wait_until("the death", || (pool.health().deaths() == 1).then_some(()));
    wait_for_state(&pool, 0, SlotState::Idle);
    let _busy = pool.submit(Act::Spin(0).block(1)).unwrap();
    wait_until("it runs", || {
        pool.health().slots.iter().any(|slot| slot.state == SlotState::Busy).then_some(())
    });
    println!("\nWORKERS {:?}", workers(&pool));
    loop {
        thread::park();
    }
}

/// Workers of a supervisor that is gone: should they outlive it, they must not outlive the test too.
struct Orphans(Vec<u32>);

impl Drop for Orphans {
    fn drop(&mut self) {
        self.0.iter().filter(|pid| is_running(**pid)).for_each(|pid| send(*pid, Signal::SIGKILL));
    }
}

#[test]
fn workers_end_with_a_supervisor_that_is_killed() {
    let mut supervisor = Command::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", "--nocapture", "second_supervises_until_it_is_killed"])
        .env(SUPERVISOR, "1")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(supervisor.stdout.take().unwrap()).lines().map(Result::unwrap);
    let line = lines.find(|line| line.starts_with("WORKERS ")).expect("it says its workers");
    let list = line.trim_start_matches("WORKERS ").trim_matches(['[', ']']);
    let orphans = Orphans(list.split(", ").map(|pid| pid.parse().unwrap()).collect());
    let pids = &orphans.0;
    assert_eq!(pids.len(), 3);
    assert!(pids.iter().all(|pid| is_running(*pid)), "{pids:?}");
    supervisor.kill().unwrap();
    supervisor.wait().unwrap();
    wait_until("every worker ends", || (!pids.iter().any(|pid| is_running(*pid))).then_some(()));
}
