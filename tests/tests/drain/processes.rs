//! Workers that do not die, and a supervisor that is killed.

use super::*;

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
        .args(["--ignored", "--exact", "--nocapture", "processes::second_supervises_until_it_is_killed"])
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
