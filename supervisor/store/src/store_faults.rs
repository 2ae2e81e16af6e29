//! Fault injection: a test can make a chosen read, write or commit of a store fail as a disk would.
//!
//! A store has no faults unless a test gives it some ([`crate::Store::with_faults`]). Without faults each call costs one check
//! of an option.

use std::io;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use cofferdam_base::sync::lock;

/// A kind of call that can be made to fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoreCall {
    /// Something is read.
    Read,
    /// A write transaction begins.
    Begin,
    /// Something is written in a write transaction.
    Write,
    /// A write transaction is committed.
    Commit,
}

/// The failures that a test has planned. The store and the test share this value.
#[derive(Debug, Default)]
pub struct StoreFaults {
    calls: AtomicU64,
    injected: AtomicU64,
    /// How many blocks one step of a rollback removes at most; 0 for the ordinary number.
    rollback_step_blocks: AtomicUsize,
    plan: Mutex<Vec<Fault>>,
}

#[derive(Clone, Copy, Debug)]
struct Fault {
    /// The kind of calls; none for all kinds.
    call: Option<StoreCall>,
    /// How many of these calls succeed before the first one fails.
    after: u64,
    /// How many of these calls fail after that.
    times: u64,
    errno: i32,
}

impl StoreFaults {
    /// Makes `times` calls fail with the operating system's error `errno`, after `after` more of them have succeeded. `call`
    /// chooses the kind of calls; none stands for all kinds.
    pub fn fail(&self, call: Option<StoreCall>, after: u64, times: u64, errno: i32) {
        lock(&self.plan).push(Fault { call, after, times, errno });
    }

    /// Forgets the failures that have not happened yet.
    pub fn clear(&self) {
        lock(&self.plan).clear();
    }

    /// Limits each step of a rollback to `blocks` blocks, so that a rollback of a few blocks takes many steps.
    pub fn limit_rollback_step(&self, blocks: usize) {
        self.rollback_step_blocks.store(blocks, Ordering::Relaxed);
    }

    /// How many calls there were.
    pub fn calls(&self) -> u64 {
        self.calls.load(Ordering::Relaxed)
    }

    /// How many calls were made to fail.
    pub fn injected(&self) -> u64 {
        self.injected.load(Ordering::Relaxed)
    }

    /// How many blocks one step of a rollback removes at most; none for the ordinary number.
    pub(crate) fn rollback_step_blocks(&self) -> Option<usize> {
        Some(self.rollback_step_blocks.load(Ordering::Relaxed)).filter(|blocks| *blocks > 0)
    }

    /// Counts a call, and fails if the call was chosen to fail.
    pub(crate) fn inject(&self, call: StoreCall) -> heed::Result<()> {
        self.calls.fetch_add(1, Ordering::Relaxed);
        let mut plan = lock(&self.plan);
        let mut errno = None;
        for fault in plan.iter_mut().filter(|fault| fault.call.is_none_or(|of| of == call)) {
            if fault.after > 0 {
                fault.after -= 1;
            } else if errno.is_none() {
                fault.times = fault.times.saturating_sub(1);
                errno = Some(fault.errno);
            }
        }
        plan.retain(|fault| fault.times > 0);
        let Some(errno) = errno else { return Ok(()) };
        self.injected.fetch_add(1, Ordering::Relaxed);
        Err(heed::Error::Io(io::Error::from_raw_os_error(errno)))
    }
}
