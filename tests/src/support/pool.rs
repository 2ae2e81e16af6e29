//! Small pools of real workers, checks that every test of them makes, and what the kernel knows of a process.

use std::fs;
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use cofferdam::pool::{JobResult, Limits, Pool, PoolBuilder, SlotState};
use cofferdam::status::Phase;
use cofferdam::verdict::{GuestVerdict, HostVerdict, Verdict};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, geteuid};

use super::guests::{Act, good_block, good_pair};

/// Memory of a small pool's workers, in bytes.
pub const MEMORY: u64 = 16 << 20;

/// How long anything may take before a test gives up on it. Nothing here is about speed.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// One worker with [`MEMORY`] and no spare. Compiled modules are shared between all tests and runs.
pub fn small(module: impl Into<Vec<u8>>) -> PoolBuilder {
    Pool::builder(module).memory(MEMORY).workers(1).spares(0).cache(Some(cache()))
}

/// The cache that tests share. Its entries are named by what they are of, and checked.
fn cache() -> PathBuf {
    let directory = std::env::temp_dir().join(format!("cofferdam-tests-{}", geteuid()));
    let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(&directory);
    made.expect("the temporary directory can be written to");
    directory
}

/// Builds a pool that is to build.
pub fn build(builder: PoolBuilder) -> Pool {
    builder.build().expect("a small pool starts")
}

/// The default limits with a deadline and a number of retries.
pub fn limits(deadline: Duration, retries: u32) -> Limits {
    Limits { deadline, retries, ..Limits::default() }
}

/// Runs a job that the pool is to take.
pub fn call(pool: &Pool, job: &cofferdam::pool::Job) -> JobResult {
    pool.call(job).expect("the pool takes a job")
}

/// The pairs that a block flushed.
pub fn pairs(result: &JobResult) -> Vec<(Vec<u8>, Vec<u8>)> {
    result.writes().iter().map(|(key, value)| (key.to_vec(), value.to_vec())).collect()
}

/// Checks that the pool, running [`super::guests::SCRIPT`], does the block at `height` rightly at the first attempt.
pub fn assert_good_block(pool: &Pool, height: u32) -> JobResult {
    let result = call(pool, &good_block(height));
    assert_eq!((result.verdict, result.attempts()), (Verdict::COMPLETED, 1), "{result:?}");
    assert_eq!(pairs(&result), [good_pair(height)], "the block after");
    result
}

/// Runs `act` as a block, checks its verdict, and that the next block is right and done by the same worker.
pub fn assert_verdict(pool: &Pool, act: Act<'_>, verdict: GuestVerdict) -> JobResult {
    let result = call(pool, &act.block(7));
    assert_eq!(result.verdict, Verdict::Guest(verdict), "{act:?}: {result:?}");
    assert_eq!(result.attempts(), 1, "a guest verdict is never retried: {result:?}");
    if verdict != GuestVerdict::Completed {
        assert!(pairs(&result).is_empty(), "{result:?}");
        assert!(!result.detail.is_empty(), "a failure says why: {result:?}");
    }
    let next = assert_good_block(pool, 8);
    assert_eq!(next.worker, result.worker, "the worker stays in service");
    assert_eq!(pool.health().deaths(), 0);
    result
}

/// Checks that `result` was lost `times` times to `verdict`, and done in the attempt after.
pub fn assert_retried(result: &JobResult, times: usize, verdict: HostVerdict) {
    assert_eq!(result.verdict, Verdict::COMPLETED, "{result:?}");
    assert_lost(result, times, verdict);
    assert_eq!(result.attempts(), times + 1);
}

/// Checks that `result` was lost `times` times to `verdict`, each time with another worker.
pub fn assert_lost(result: &JobResult, times: usize, verdict: HostVerdict) {
    let verdicts: Vec<_> = result.failed_attempts.iter().map(|attempt| attempt.verdict).collect();
    assert_eq!(verdicts, vec![verdict; times], "{result:?}");
    let mut workers: Vec<_> = result.failed_attempts.iter().map(|attempt| attempt.worker.pid).collect();
    workers.push(if result.verdict.is_completed() { result.worker.pid } else { 0 });
    workers.sort_unstable();
    workers.dedup();
    assert_eq!(workers.len(), times + 1, "each attempt has a fresh worker: {result:?}");
}

/// Waits until `look` finds something. `what` is said if it never does.
pub fn wait_until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    const STEP: Duration = Duration::from_millis(2);
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "waited in vain: {what}");
        thread::sleep(STEP);
    }
}

/// Waits until a slot is in `state`, and gives the process id of its worker, or 0 if that state has none. A busy worker
/// is waited for until it has begun: one that dies before that has not had the job.
pub fn wait_for_state(pool: &Pool, slot: usize, state: SlotState) -> u32 {
    wait_until(state.name(), || {
        let slot = pool.health().slots.swap_remove(slot);
        let begun = state != SlotState::Busy || slot.phase == Some(Phase::Running);
        (slot.state == state && begun).then(|| slot.pid.unwrap_or(0))
    })
}

/// Process ids of a pool's workers.
pub fn workers(pool: &Pool) -> Vec<u32> {
    pool.health().slots.iter().filter_map(|slot| slot.pid).collect()
}

/// Sends a signal to a process of ours.
pub fn send(pid: u32, signal: Signal) {
    let pid = Pid::from_raw(i32::try_from(pid).expect("a process id"));
    kill(pid, signal).expect("the process is there");
}

/// The state of a process: a letter as of proc_pid_stat(5); none if it is gone.
pub fn process_state(pid: u32) -> Option<char> {
    stat(pid)?.first()?.chars().next()
}

/// Whether a process runs; one that has ended and waits to be reaped does not.
pub fn is_running(pid: u32) -> bool {
    process_state(pid).is_some_and(|state| !matches!(state, 'Z' | 'X'))
}

/// The fields of `/proc/PID/stat` behind the name.
fn stat(pid: u32) -> Option<Vec<String>> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, fields) = text.rsplit_once(") ")?;
    Some(fields.split_whitespace().map(str::to_owned).collect())
}

/// Every child process of this one, reaped or not.
pub fn children() -> Vec<u32> {
    let own = std::process::id().to_string();
    let listed = fs::read_dir("/proc").expect("/proc is there");
    let processes = listed.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    processes
        .filter(|pid| stat(*pid).and_then(|fields| fields.into_iter().nth(1)) == Some(own.clone()))
        .collect()
}

/// The process group of a process.
pub fn process_group(pid: u32) -> Option<u32> {
    stat(pid)?.get(2)?.parse().ok()
}

/// Processor time that a process has spent, in clock ticks; 0 if it is gone.
pub fn processor_ticks(pid: u32) -> u64 {
    stat(pid).and_then(|fields| fields.get(11)?.parse().ok()).unwrap_or(0)
}

/// The descriptors of a process, with what they are.
pub fn descriptors(pid: u32) -> Vec<(u32, String)> {
    let listed = fs::read_dir(format!("/proc/{pid}/fd")).expect("a process of ours can be looked at");
    let mut descriptors: Vec<_> = listed
        .filter_map(|entry| {
            let entry = entry.ok()?;
            let number = entry.file_name().to_str()?.parse().ok()?;
            Some((number, fs::read_link(entry.path()).ok()?.to_string_lossy().into_owned()))
        })
        .collect();
    descriptors.sort_unstable();
    descriptors
}

/// Whether a descriptor of the worker `pid` is one of those by which it asks the kernel what a block wrote: they are of
/// its own memory only, and there where the host grants them.
pub fn tracks_writes(pid: u32, target: &str) -> bool {
    target == "anon_inode:[userfaultfd]" || target == format!("/proc/{pid}/pagemap")
}

/// A field of a file of `/proc/PID`, such as `NoNewPrivs` of `status`: what follows the name.
pub fn proc_field(pid: u32, file: &str, name: &str) -> String {
    let text = fs::read_to_string(format!("/proc/{pid}/{file}")).expect("a process of ours can be looked at");
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    line.unwrap_or_else(|| panic!("no {name} in {file}")).trim_start_matches(':').trim().to_owned()
}

/// Bytes of a process's own memory that are resident, by the kernel's count.
pub fn resident_bytes(pid: u32) -> u64 {
    let text = proc_field(pid, "smaps_rollup", "Anonymous:");
    text.trim_end_matches(" kB").trim().parse::<u64>().expect("a number of kilobytes") * 1024
}
