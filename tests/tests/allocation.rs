//! An allocation that fails in a worker, each in turn: the block has the verdict that it has with all memory there, or one of
//! the host, and never another one of the guest; and nothing hangs.
#![allow(unsafe_code, reason = "an allocator that fails when it is told to")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use cofferdam::harness::{HostImport, Value};
use cofferdam::pool::restart::RestartPolicy;
use cofferdam::pool::{Job, JobResult, Limits};
use cofferdam::verdict::{GuestVerdict, HostVerdict, Verdict};
use cofferdam_tests::support::pool::{build, call, small};

// Workers are this binary started again, so they have this allocator too.
cofferdam::enable_test_support!(imports: [HostImport::new("test", "fail", fail)]);

#[global_allocator]
static ALLOCATOR: Failing = Failing { left: AtomicU64::new(u64::MAX) };

/// The system's allocator, which refuses one allocation.
struct Failing {
    /// How many allocations are granted before the one that is refused.
    left: AtomicU64,
}

impl Failing {
    fn refuses(&self) -> bool {
        self.left.fetch_sub(1, Ordering::Relaxed) == 0
    }
}

// SAFETY: every call is the system's allocator's; in between, one is refused, as any may be.
unsafe impl GlobalAlloc for Failing {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as the caller says.
        if self.refuses() { std::ptr::null_mut() } else { unsafe { System.alloc(layout) } }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as the caller says.
        if self.refuses() { std::ptr::null_mut() } else { unsafe { System.alloc_zeroed(layout) } }
    }

    unsafe fn realloc(&self, place: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: as the caller says.
        if self.refuses() { std::ptr::null_mut() } else { unsafe { System.realloc(place, layout, size) } }
    }

    unsafe fn dealloc(&self, place: *mut u8, layout: Layout) {
        // SAFETY: as the caller says.
        unsafe { System.dealloc(place, layout) }
    }
}

/// Has the allocation of this number, counted from now, refused; of 0, none.
fn fail(_memory: &mut [u8], arguments: &[Value]) -> Result<Vec<Value>, String> {
    let [Value::I32(number)] = *arguments else { return Err(format!("{arguments:?}")) };
    let left = u64::from(number.cast_unsigned()).checked_sub(1).unwrap_or(u64::MAX);
    ALLOCATOR.left.store(left, Ordering::Relaxed);
    Ok(Vec::new())
}

/// Has the allocation refused whose number is the block's first byte, and then does what the second says.
const GUEST: &str = r#"(module
  (import "test" "fail" (func $fail (param i32)))
  (import "env" "__load_input" (func $load_input (param i32)))
  (import "env" "__get_len" (func $get_len (param i32) (result i32)))
  (import "env" "__flush" (func $flush (param i32)))
  (import "env" "__log" (func $log (param i32)))
  (import "env" "abort" (func $abort (param i32 i32 i32 i32)))
  (import "elsewhere" "absent" (func $absent))
  (memory (export "memory") 2)
  (table $table 1 funcref)
  (data (i32.const 16) "\08\00\00\00\0a\01k\0a\03val\04\00\00\00text")
  (data (i32.const 60) "\0c\00\00\00n\00o\00 \00f\00u\00n\00")
  (type $act (func))
  (table $acts 6 funcref)
  (elem (table $acts) (i32.const 0) func $completes $traps $aborts $absents $badly $exhausts)
  (func $completes
    (drop (memory.grow (i32.const 3)))
    (drop (table.grow $table (ref.null func) (i32.const 10000)))
    (drop (call $get_len (i32.const 32)))
    (call $log (i32.const 32))
    (call $flush (i32.const 20)))
  (func $traps unreachable)
  (func $aborts (call $abort (i32.const 64) (i32.const 64) (i32.const 1) (i32.const 2)))
  (func $absents (call $absent))
  (func $badly (call $flush (i32.const 32)))
  (func $exhausts (loop $more (br_if $more (i32.ne (memory.grow (i32.const 16)) (i32.const -1)))) unreachable)
  (func (export "_start")
    (call $load_input (i32.const 4096))
    (call $fail (i32.load8_u (i32.const 4100)))
    (call_indirect $acts (type $act) (i32.load8_u (i32.const 4101)))))"#;

const ACTS: [GuestVerdict; 6] = [
    GuestVerdict::Completed,
    GuestVerdict::Trap,
    GuestVerdict::Abort,
    GuestVerdict::Trap,
    GuestVerdict::BadOutput,
    GuestVerdict::MemoryExhausted,
];

/// Allocations that are refused, one for each run of each act: more than any of the acts makes before its answer.
const ALLOCATIONS: u8 = 24;

#[test]
fn an_allocation_that_fails_is_never_the_guests_fault_and_nothing_hangs() {
    let limits = Limits {
        retries: 0,
        deadline: Duration::from_secs(30),
        input_bytes: 1 << 20,
        output_bytes: 1 << 20,
        ..Limits::default()
    };
    let restart = RestartPolicy {
        base: Duration::from_millis(1),
        cap: Duration::from_millis(1),
        intensity: 10_000,
        ..RestartPolicy::default()
    };
    let pool = build(small(GUEST).memory(4 << 20).limits(limits).restart(restart));
    let run = |act: u8, number: u8| call(&pool, &Job::block(1, vec![number, act]));
    // Where a trap was is told by a backtrace, and without memory for one the detail does not say.
    let words =
        |result: &JobResult| result.detail.split(" in function ").next().unwrap_or_default().to_owned();
    let outcome = |result: &JobResult| (result.verdict, words(result), result.writes().hash());
    let mut lost = 0;
    for (act, verdict) in (0..).zip(ACTS) {
        let expected = outcome(&run(act, 0));
        assert_eq!(expected.0, Verdict::Guest(verdict), "{expected:?}");
        for number in 1..=ALLOCATIONS {
            let result = run(act, number);
            match result.verdict {
                Verdict::Guest(_) => assert_eq!(outcome(&result), expected, "act {act}, allocation {number}"),
                Verdict::Host(HostVerdict::Deadline) => panic!("act {act}, allocation {number}: it hangs"),
                Verdict::Host(_) => lost += 1,
            }
        }
        assert_eq!(outcome(&run(act, 0)), expected, "afterwards all is as before");
    }
    assert!(lost > ACTS.len(), "{lost} runs were lost: the allocator does refuse");
    eprintln!("{lost} of {} runs were lost to the host", ACTS.len() * usize::from(ALLOCATIONS));
}
