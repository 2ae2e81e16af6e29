//! The status page: one shared page on which a worker says what it is doing, without a message.
//!
//! It serves progress (how much is committed so far), evidence (what a worker that died was doing), and what happens
//! after an answer was sent (how long the reset took). Its numbers are a worker's own words: they are shown, and
//! nothing is decided by them.
//!
//! It also carries the *life lock*: a robust mutex (pthread_mutexattr_setrobust(3)) that the worker's main thread locks at
//! its start and never unlocks. When that thread ends, for whatever reason, the kernel marks the lock and wakes who waits
//! for it before it frees the process's memory, and so long before it closes the process's pipes: freeing 4 GiB takes
//! a tenth of a second and more. The supervisor never locks it: it waits on the word, which is all that it looks at.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use memfd::{FileSeal, Memfd, MemfdOptions};

use crate::arena::into_io;
use crate::mapping::{Access, Mapping};
use crate::refused;

const PAGE_BYTES: usize = 4096;

/// What a worker is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub enum Phase {
    /// Started, nothing committed yet.
    Starting = 0,
    /// Committing memory.
    Committing = 1,
    /// Loading the artifact and hardening itself.
    Loading = 2,
    /// Waiting for a job, the next instance prepared.
    Idle = 3,
    /// Running a job.
    Running = 4,
    /// Giving the memory back its pristine content and preparing the next instance.
    Resetting = 5,
}

impl Phase {
    fn from_number(number: u64) -> Option<Self> {
        [Self::Starting, Self::Committing, Self::Loading, Self::Idle, Self::Running, Self::Resetting]
            .into_iter()
            .find(|phase| *phase as u64 == number)
    }

    /// The phase as it stands in reports: "while …".
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

/// What the reset after one job took.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ResetReport {
    /// Nanoseconds from dropping the instance to having the next one.
    pub nanoseconds: u64,
    /// Bytes that had to be written to make the memory pristine.
    pub dirty_bytes: u64,
}

/// Where on the page the life lock is, clear of the fields and of their cache lines.
const LIFE_OFFSET: usize = 128;

#[derive(Clone, Copy)]
enum Field {
    Phase = 0,
    CommittedBytes = 1,
    ResetJob = 2,
    ResetNanoseconds = 3,
    ResetBytes = 4,
}

/// The page, on either side.
#[derive(Debug)]
pub struct StatusPage {
    file: Option<Memfd>,
    mapping: Mapping,
}

impl StatusPage {
    /// Makes a page, all zeros: [`Phase::Starting`].
    ///
    /// # Errors
    /// What the kernel said.
    pub fn create() -> io::Result<Self> {
        let file = MemfdOptions::new()
            .allow_sealing(true)
            .close_on_exec(true)
            .create("cofferdam-status")
            .map_err(into_io)
            .map_err(refused("memfd_create"))?;
        file.as_file().set_len(PAGE_BYTES as u64)?;
        file.add_seals(&[FileSeal::SealShrink, FileSeal::SealGrow, FileSeal::SealSeal])
            .map_err(into_io)
            .map_err(refused("fcntl(F_ADD_SEALS)"))?;
        let mapping = Mapping::shared(file.as_file(), PAGE_BYTES, Access::ReadWrite)?;
        Ok(Self { file: Some(file), mapping })
    }

    /// Maps a page that was handed over.
    ///
    /// # Errors
    /// What the kernel said, or that the file is too short.
    pub fn open(file: OwnedFd) -> io::Result<Self> {
        let file = std::fs::File::from(file);
        if file.metadata()?.len() != PAGE_BYTES as u64 {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the status page has another size"));
        }
        Ok(Self { mapping: Mapping::shared(&file, PAGE_BYTES, Access::ReadWrite)?, file: None })
    }

    /// The descriptor to hand over; none on a worker's side.
    pub fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        self.file.as_ref().map(|file| file.as_file().as_fd())
    }

    /// Says what the worker is doing now.
    pub fn set_phase(&self, phase: Phase) {
        self.field(Field::Phase).store(phase as u64, Ordering::Release);
    }

    /// What the worker is doing; none if it wrote something that is no phase.
    pub fn phase(&self) -> Option<Phase> {
        Phase::from_number(self.field(Field::Phase).load(Ordering::Acquire))
    }

    /// Says how many bytes are committed so far.
    pub fn set_committed(&self, bytes: u64) {
        self.field(Field::CommittedBytes).store(bytes, Ordering::Release);
    }

    /// Bytes committed so far.
    pub fn committed(&self) -> u64 {
        self.field(Field::CommittedBytes).load(Ordering::Acquire)
    }

    /// Says that the reset after `job` is done.
    pub fn set_reset(&self, job: u64, report: ResetReport) {
        self.field(Field::ResetNanoseconds).store(report.nanoseconds, Ordering::Relaxed);
        self.field(Field::ResetBytes).store(report.dirty_bytes, Ordering::Relaxed);
        self.field(Field::ResetJob).store(job, Ordering::Release);
    }

    /// The report on the reset after `job`; none while it is not done, or once a later job's took its place.
    pub fn reset(&self, job: u64) -> Option<ResetReport> {
        let done = || self.field(Field::ResetJob).load(Ordering::Acquire) == job;
        if !done() {
            return None;
        }
        let report = ResetReport {
            nanoseconds: self.field(Field::ResetNanoseconds).load(Ordering::Acquire),
            dirty_bytes: self.field(Field::ResetBytes).load(Ordering::Acquire),
        };
        // A later reset may have begun to write in between; then the two numbers may be of different jobs.
        done().then_some(report)
    }

    /// The place of the life lock, for the worker: zeroed, aligned to 128 bytes, and more than any mutex takes.
    #[allow(unsafe_code, reason = "a place in shared memory")]
    pub fn life_lock(&self) -> NonNull<u8> {
        // SAFETY: inside the page, which is mapped as long as `self` lives.
        unsafe { self.mapping.base().byte_add(LIFE_OFFSET).cast() }
    }

    /// The first word of the life lock, which says who holds it (futex(2), "robust futexes").
    #[allow(unsafe_code, reason = "atomics in shared memory")]
    pub fn life_word(&self) -> &AtomicU32 {
        // SAFETY: inside the page and aligned; the mapping lives as long as `self`; both processes and the kernel touch
        // these bytes through atomics only, and every bit pattern is a u32.
        unsafe { self.life_lock().cast::<AtomicU32>().as_ref() }
    }

    #[allow(unsafe_code, reason = "atomics in shared memory")]
    fn field(&self, field: Field) -> &AtomicU64 {
        let offset = field as usize * size_of::<AtomicU64>();
        debug_assert!(offset + size_of::<AtomicU64>() <= self.mapping.len());
        // SAFETY: the offset is inside the page and 8-byte aligned (mappings are page-aligned); the mapping lives as
        // long as `self`; both processes touch these bytes through atomics only, and every bit pattern is a u64.
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
    fn a_number_that_is_no_phase_is_none() {
        let page = StatusPage::create().unwrap();
        page.field(Field::Phase).store(99, Ordering::Relaxed);
        assert_eq!(page.phase(), None);
    }
}
