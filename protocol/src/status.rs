//! The status page: one shared page on which a worker reports what it is doing, without a message.
//!
//! The page shows progress (how much memory is committed so far), evidence (what a worker that died was doing), and what
//! happens after a reply was sent (how long the reset took). The numbers are a worker's own claims. The supervisor shows
//! them, and uses them where a lie harms only the worker's own job or start: growing commit progress extends the start timeout, and the
//! phase tells an idle worker from a busy one. No result, and no verdict about another worker, depends on the page.
//!
//! The page also holds the *liveness lock*: a robust mutex (pthread_mutexattr_setrobust(3)) that the worker's main thread
//! locks at its start and never unlocks. When that thread ends, for whatever reason, the kernel marks the mutex and wakes its
//! waiters. The kernel does this before it frees the process's memory. It closes the process's pipes only after it has freed the
//! memory, which takes a tenth of a second or more for 4 GiB. The supervisor never locks the mutex. It waits on the mutex's first
//! word, and accesses no other byte of the mutex.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use crate::mapping::{Access, Mapping};
use crate::sealing::FixedSizeMemfd;

const PAGE_BYTES: u64 = 4096;

/// What a worker is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub enum Phase {
    /// The worker has started and has not begun to commit.
    Starting = 0,
    /// Committing memory.
    Committing = 1,
    /// Loading the artifact.
    Loading = 2,
    /// Waiting for a job. The next instance is prepared.
    Idle = 3,
    /// Running a job.
    Running = 4,
    /// Zeroing the memory that the last instance wrote, and preparing the next instance.
    Resetting = 5,
}

impl Phase {
    fn from_number(number: u64) -> Option<Self> {
        [Self::Starting, Self::Committing, Self::Loading, Self::Idle, Self::Running, Self::Resetting]
            .into_iter()
            .find(|phase| *phase as u64 == number)
    }

    /// The phase's name in reports, which follows the word "while".
    pub const fn name(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Committing => "committing memory",
            Self::Loading => "loading",
            Self::Idle => "idle",
            Self::Running => "running a job",
            Self::Resetting => "resetting",
        }
    }
}

/// The cost of the reset after one job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ResetReport {
    /// Nanoseconds from dropping the instance to having the next one.
    pub nanoseconds: u64,
    /// Bytes that had to be zeroed.
    pub dirty_bytes: u64,
}

/// Offset of the liveness lock on the page, in bytes. The lock shares no cache line with the fields.
const LOCK_OFFSET: usize = 128;

#[derive(Clone, Copy)]
enum Field {
    Phase = 0,
    CommittedBytes = 1,
    ResetJob = 2,
    ResetNanoseconds = 3,
    ResetBytes = 4,
}

/// The status page, as either side maps it.
#[derive(Debug)]
pub struct StatusPage {
    /// The supervisor's descriptor of the page; none on a worker's side.
    file: Option<FixedSizeMemfd>,
    mapping: Mapping,
}

impl StatusPage {
    /// Makes a page of zeros, which stand for [`Phase::Starting`].
    ///
    /// # Errors
    /// The kernel's error.
    pub fn create() -> io::Result<Self> {
        let file = FixedSizeMemfd::create("cofferdam-status", PAGE_BYTES)?;
        file.seal_seals()?;
        let mapping = Mapping::new(&file, Access::ReadWrite)?;
        Ok(Self { file: Some(file), mapping })
    }

    /// Maps the page that another process made.
    ///
    /// # Errors
    /// The kernel's error, or `InvalidData` if `file` is not a memfd of one page with a fixed size.
    pub fn open(file: OwnedFd) -> io::Result<Self> {
        let file = FixedSizeMemfd::check(file, PAGE_BYTES).map_err(|reason| {
            let reason = format!("the descriptor is not the status page that was announced: {reason}");
            io::Error::new(io::ErrorKind::InvalidData, reason)
        })?;
        Ok(Self { mapping: Mapping::new(&file, Access::ReadWrite)?, file: None })
    }

    /// The descriptor to give to the worker; none on a worker's side.
    pub fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        self.file.as_ref().map(AsFd::as_fd)
    }

    /// Sets the worker's phase.
    pub fn set_phase(&self, phase: Phase) {
        self.field(Field::Phase).store(phase as u64, Ordering::Release);
    }

    /// The worker's phase; none if the worker wrote a number that stands for no phase.
    pub fn phase(&self) -> Option<Phase> {
        Phase::from_number(self.field(Field::Phase).load(Ordering::Acquire))
    }

    /// Sets the number of bytes committed so far.
    pub fn set_committed(&self, bytes: u64) {
        self.field(Field::CommittedBytes).store(bytes, Ordering::Release);
    }

    /// Bytes committed so far.
    pub fn committed(&self) -> u64 {
        self.field(Field::CommittedBytes).load(Ordering::Acquire)
    }

    /// Reports that the reset after `job` is done.
    pub fn set_reset(&self, job: u64, report: ResetReport) {
        self.field(Field::ResetNanoseconds).store(report.nanoseconds, Ordering::Relaxed);
        self.field(Field::ResetBytes).store(report.dirty_bytes, Ordering::Relaxed);
        self.field(Field::ResetJob).store(job, Ordering::Release);
    }

    /// The report on the reset after `job`; none before that reset is done, and none once a later reset has replaced it.
    pub fn reset(&self, job: u64) -> Option<ResetReport> {
        let done = || self.field(Field::ResetJob).load(Ordering::Acquire) == job;
        if !done() {
            return None;
        }
        let report = ResetReport {
            nanoseconds: self.field(Field::ResetNanoseconds).load(Ordering::Acquire),
            dirty_bytes: self.field(Field::ResetBytes).load(Ordering::Acquire),
        };
        // If a later reset began to write in between, the two numbers may be of different jobs.
        done().then_some(report)
    }

    /// Address of the liveness lock, for the worker. The memory there is zeroed, aligned to 128 bytes, larger than any
    /// mutex, and mapped as long as `self` lives.
    #[allow(unsafe_code, reason = "an address in shared memory")]
    pub fn liveness_lock(&self) -> NonNull<u8> {
        // SAFETY: the offset is inside the page, which is mapped as long as `self` lives.
        unsafe { self.mapping.base().byte_add(LOCK_OFFSET).cast() }
    }

    /// The first word of the liveness lock, which holds the thread id of the lock's owner (futex(2), "robust futexes").
    #[allow(unsafe_code, reason = "atomics in shared memory")]
    pub fn liveness_word(&self) -> &AtomicU32 {
        // SAFETY: the word is inside the page and aligned, and the mapping lives as long as `self`. Both processes and the
        // kernel access these bytes through atomics only, and every bit pattern is a u32.
        unsafe { self.liveness_lock().cast::<AtomicU32>().as_ref() }
    }

    #[allow(unsafe_code, reason = "atomics in shared memory")]
    fn field(&self, field: Field) -> &AtomicU64 {
        let offset = field as usize * size_of::<AtomicU64>();
        // SAFETY: the largest offset is 32, so the field is inside the page. It is 8-byte aligned, because mappings are
        // page-aligned. The mapping lives as long as `self`. Both processes access these bytes through atomics only, and
        // every bit pattern is a u64.
        unsafe { self.mapping.base().byte_add(offset).cast::<AtomicU64>().as_ref() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_sides_see_one_page() {
        let ours = StatusPage::create().unwrap();
        let theirs = StatusPage::open(ours.descriptor().unwrap().try_clone_to_owned().unwrap()).unwrap();
        assert_eq!(ours.phase(), Some(Phase::Starting));
        theirs.set_phase(Phase::Resetting);
        theirs.set_committed(4096);
        theirs.set_reset(7, ResetReport { nanoseconds: 5, dirty_bytes: 6 });
        assert_eq!(ours.phase(), Some(Phase::Resetting));
        assert_eq!(ours.committed(), 4096);
        assert_eq!(ours.reset(7), Some(ResetReport { nanoseconds: 5, dirty_bytes: 6 }));
        assert_eq!(ours.reset(8), None);
    }

    #[test]
    fn a_number_that_stands_for_no_phase_is_none() {
        let page = StatusPage::create().unwrap();
        page.field(Field::Phase).store(99, Ordering::Relaxed);
        assert_eq!(page.phase(), None);
    }

    #[test]
    fn a_file_whose_size_can_change_is_refused() {
        let path = std::env::temp_dir().join(format!("cofferdam-status-{}", std::process::id()));
        std::fs::write(&path, [0; 4096]).unwrap();
        let file = std::fs::File::options().read(true).write(true).open(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        let error = StatusPage::open(file.into()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{error}");
    }
}
