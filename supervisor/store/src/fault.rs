//! Planted failures of the store: a way for a test to make a chosen read, write or commit fail as a disk does.
//!
//! A store has none unless somebody gave it some by name; what a call costs then is a look at an option.

use std::io;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use super::Store;
use cofferdam_base::sync::lock;

/// A call that can be made to fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoreCall {
    /// Something is read.
    Read,
    /// A transaction of a writer begins.
    Begin,
    /// Something is written into it.
    Write,
    /// It is committed.
    Commit,
}

/// Failures to come. Shared between a store and the test that plants them.
#[derive(Debug, Default)]
pub struct StoreFaults {
    calls: AtomicU64,
    struck: AtomicU64,
    /// How many blocks a step of a rollback takes back, at most; 0 for as many as it does without a test.
    step_blocks: AtomicUsize,
    plan: Mutex<Vec<Planted>>,
}

#[derive(Clone, Copy, Debug)]
struct Planted {
    /// Of which calls; none for all.
    call: Option<StoreCall>,
    /// How many of them succeed before.
    after: u64,
    /// How many fail then.
    times: u64,
    errno: i32,
}

impl StoreFaults {
    /// Has `times` calls fail with the error `errno` of the kernel, after `after` more of them succeeded. Of which kind is said by
    /// `call`; none stands for all kinds.
    pub fn fail(&self, call: Option<StoreCall>, after: u64, times: u64, errno: i32) {
        lock(&self.plan).push(Planted { call, after, times, errno });
    }

    /// Forgets what was planted and has not come.
    pub fn clear(&self) {
        lock(&self.plan).clear();
    }

    /// Has rollbacks be done in steps of at most so many blocks, so that a few blocks are many steps.
    pub fn step(&self, blocks: usize) {
        self.step_blocks.store(blocks, Ordering::Relaxed);
    }

    /// How many calls there were.
    pub fn calls(&self) -> u64 {
        self.calls.load(Ordering::Relaxed)
    }

    /// How many calls were made to fail.
    pub fn struck(&self) -> u64 {
        self.struck.load(Ordering::Relaxed)
    }

    fn strike(&self, call: StoreCall) -> heed::Result<()> {
        self.calls.fetch_add(1, Ordering::Relaxed);
        let mut plan = lock(&self.plan);
        let mut errno = None;
        for planted in plan.iter_mut().filter(|planted| planted.call.is_none_or(|of| of == call)) {
            if planted.after > 0 {
                planted.after -= 1;
            } else if errno.is_none() {
                planted.times = planted.times.saturating_sub(1);
                errno = Some(planted.errno);
            }
        }
        plan.retain(|planted| planted.times > 0);
        let Some(errno) = errno else { return Ok(()) };
        self.struck.fetch_add(1, Ordering::Relaxed);
        Err(heed::Error::Io(io::Error::from_raw_os_error(errno)))
    }
}

impl Store {
    /// Has calls of this store fail as `faults` says: for tests.
    #[doc(hidden)]
    #[must_use]
    pub fn with_faults(mut self, faults: Arc<StoreFaults>) -> Self {
        self.faults = Some(faults);
        self
    }

    /// How many blocks a step of a rollback takes back, at most.
    pub(super) fn step_blocks(&self, ordinary: usize) -> usize {
        let planted = self.faults.as_ref().map(|faults| faults.step_blocks.load(Ordering::Relaxed));
        planted.filter(|blocks| *blocks > 0).unwrap_or(ordinary)
    }

    /// Fails if this call was chosen to.
    pub(super) fn strike(&self, call: StoreCall) -> heed::Result<()> {
        self.faults.as_ref().map_or(Ok(()), |faults| faults.strike(call))
    }
}
