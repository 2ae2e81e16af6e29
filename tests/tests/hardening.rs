//! What a worker has and what it has given up, asked of the kernel while it lives.

use std::collections::HashSet;
use std::fs;

use cofferdam::pool::{CommitStrategy, Pool, PoolBuilder};
use cofferdam_tests::support::guests::{Act, GROWS, SCRIPT, key_value_flush};
use cofferdam_tests::support::pool::{
    assert_good_block, build, call, descriptors, proc_field, process_group, resident_bytes, small,
    tracks_writes, workers,
};
use nix::sys::signal::Signal;

cofferdam::enable_test_support!();

/// The highest descriptor that a worker is given.
const LAST_GIVEN: u32 = 8;

/// A pool whose one worker has done a job, so that everything of its start is behind it.
fn busy_once(builder: PoolBuilder) -> (Pool, u32) {
    let pool = build(builder);
    let pid = assert_good_block(&pool, 1).worker.pid;
    (pool, pid)
}

#[test]
fn the_environment_is_empty() {
    assert!(std::env::vars_os().count() > 0, "the tests themselves have one");
    let (_pool, pid) = busy_once(small(SCRIPT));
    assert_eq!(fs::read(format!("/proc/{pid}/environ")).unwrap(), b"");
}

#[test]
fn it_has_only_the_descriptors_that_it_was_given() {
    // One of the tests' own, that a careless start would hand on: it has no close-on-exec.
    let mine = fs::File::open("/proc/self/status").unwrap();
    nix::fcntl::fcntl(&mine, nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::empty())).unwrap();
    let (_pool, pid) = busy_once(small(SCRIPT).workers(2).spares(1));
    for (number, target) in descriptors(pid) {
        if tracks_writes(pid, &target) {
            continue;
        }
        assert!(number <= LAST_GIVEN, "{number} → {target}");
        let expected = match number {
            0 | 1 => target == "/dev/null",
            2 => true,
            _ => target.starts_with("pipe:") || target.starts_with("/memfd:cofferdam-"),
        };
        assert!(expected, "{number} → {target}");
    }
}

#[test]
fn privileges_dumps_and_protection_are_given_up() {
    let (_pool, pid) = busy_once(small(SCRIPT));
    assert_eq!(proc_field(pid, "status", "NoNewPrivs"), "1");
    assert_eq!(fs::read_to_string(format!("/proc/{pid}/oom_score_adj")).unwrap().trim(), "1000");
    let limit =
        |name| proc_field(pid, "limits", name).split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(limit("Max core file size")[..2], ["0", "0"]);
    let files = limit("Max open files");
    assert!(files[0].parse::<u32>().unwrap() <= 64 && files[0] == files[1], "{files:?}");
}

#[test]
fn it_leads_a_process_group_of_its_own() {
    let (pool, _) = busy_once(small(SCRIPT).workers(2));
    for pid in workers(&pool) {
        assert_eq!(process_group(pid), Some(pid));
    }
}

#[test]
fn signals_are_as_a_new_process_has_them() {
    let (_pool, pid) = busy_once(small(SCRIPT));
    // The 31 standard signals: the next ones are the C library's own.
    let mask = |name| u64::from_str_radix(&proc_field(pid, "status", name), 16).unwrap() & 0x7fff_ffff;
    assert_eq!(mask("SigBlk"), 0);
    // The standard library ignores SIGPIPE, and wants to.
    let broken_pipe = 1 << (Signal::SIGPIPE as u64 - 1);
    assert_eq!(mask("SigIgn") & !broken_pipe, 0);
}

#[test]
fn it_is_called_what_it_is() {
    let (_pool, pid) = busy_once(small(SCRIPT));
    let command = fs::read(format!("/proc/{pid}/cmdline")).unwrap();
    assert!(command.starts_with(b"cofferdam-worker\0"), "{}", String::from_utf8_lossy(&command));
}

#[test]
fn memory_is_committed_before_the_first_job_and_after_the_last() {
    const BYTES: u64 = 64 << 20;
    for (name, builder) in [
        ("populate", small(SCRIPT)),
        ("touch", small(SCRIPT).commit(CommitStrategy::Touch)),
        ("ordinary pages", small(SCRIPT).huge_pages(false)),
    ] {
        let pool = build(builder.memory(BYTES));
        let pid = workers(&pool)[0];
        let health = &pool.health().slots[0];
        assert_eq!((health.resident_bytes, health.commit.is_some()), (Some(BYTES), true), "{name}");
        assert!(resident_bytes(pid) >= BYTES, "{name}: before");
        assert_good_block(&pool, 0);
        assert!(resident_bytes(pid) >= BYTES, "{name}: after the first");
        let message = key_value_flush(&[b"k", b"v"]);
        for height in 1..20 {
            // Takes all of it, and leaves by every door.
            for act in [Act::ExhaustThenFlush(&message), Act::ExhaustThenTrap, Act::GrowThenStoreBehind(300)]
            {
                assert_eq!(call(&pool, &act.block(height)).worker.pid, pid);
            }
        }
        let last = call(&pool, &Act::ExhaustThenFlush(&message).block(20));
        assert_eq!((last.memory_bytes, last.worker.pid), (BYTES, pid));
        assert!(last.reset.wait(cofferdam_tests::support::pool::PATIENCE).is_some());
        assert!(resident_bytes(pid) >= BYTES, "{name}: after the last");
        assert!(health.resident_now().is_some_and(|now| now >= BYTES), "{name}: by the pool's own word");
    }
}

#[test]
fn without_huge_pages_there_are_none() {
    let pool = build(small(SCRIPT).memory(64 << 20).huge_pages(false));
    assert_eq!(pool.health().slots[0].huge_bytes, Some(0));
}

#[test]
fn two_pools_in_one_process_share_no_descriptor() {
    let (one, other) = (build(small(SCRIPT).workers(2)), build(small(GROWS).workers(2)));
    let own = |pid| -> HashSet<String> {
        let all = descriptors(pid).into_iter().filter(|(_, target)| target.starts_with("pipe:"));
        // Standard error is everybody's.
        all.filter(|(number, _)| *number != 2).map(|(_, target)| target).collect()
    };
    let pids = [workers(&one), workers(&other)].concat();
    let sets: Vec<_> = pids.iter().map(|pid| own(*pid)).collect();
    assert_eq!(sets.len(), 4);
    for (index, set) in sets.iter().enumerate() {
        assert_eq!(set.len(), 2, "requests and replies: {set:?}");
        assert!(sets[index + 1..].iter().all(|other| other.is_disjoint(set)), "{sets:?}");
    }
}
