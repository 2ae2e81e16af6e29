//! Committing: making every page of the slab resident and private before the first job, or failing right there.

use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{OnceLock, mpsc};
use std::thread;
use std::time::Instant;

use cofferdam_protocol::WASM_PAGE;
use cofferdam_protocol::message::{CommitStrategy, MemoryPlan};
use nix::errno::Errno;
use nix::sys::mman::MmapAdvise;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use thiserror::Error;

use super::addresses;
use super::reservation::{RESERVATION_BYTES, Reservation};
use super::residency;

/// Bytes committed between two reports of progress. A multiple of every huge page size.
const STEP_BYTES: usize = 64 << 20;

/// Why the memory is not committed.
#[derive(Error)]
pub enum CommitError {
    /// The limit is no size that a guest's memory can have.
    #[error("a memory limit of {bytes} bytes is not possible: it must be a multiple of 64 KiB, up to 4 GiB")]
    BadLimit {
        /// The limit asked for.
        bytes: u64,
    },
    /// Not even addresses could be had.
    #[error("the kernel refused to reserve {RESERVATION_BYTES} bytes of addresses for the memory: {0}{hint}", hint = addresses::hint())]
    Reserve(#[from] io::Error),
    /// Nobody tells what is resident.
    #[error(
        "whether the memory is resident cannot be told: mincore: {mincore}; /proc/self/pagemap: {pagemap}"
    )]
    Unproven {
        /// What the kernel said to mincore(2).
        mincore: io::Error,
        /// What it said to reading the page map.
        pagemap: io::Error,
    },
    /// The kernel refused the pages.
    #[error("the kernel refused to commit {bytes} bytes: {errno} after {committed} bytes")]
    Refused {
        /// Bytes asked for.
        bytes: u64,
        /// Bytes that had been committed.
        committed: u64,
        /// What the kernel said.
        errno: Errno,
    },
    /// The pages could not be locked.
    #[error(
        "{bytes} bytes are committed but could not be locked ({errno}): raise RLIMIT_MEMLOCK or leave --mlock away"
    )]
    NotLocked {
        /// Bytes asked for.
        bytes: u64,
        /// What the kernel said.
        errno: Errno,
    },
    /// The kernel granted the pages, and then did not have them all.
    #[error("only {resident} of {bytes} bytes are resident after the commit: is the host swapping?")]
    NotResident {
        /// Bytes that should be.
        bytes: u64,
        /// Bytes that are.
        resident: u64,
    },
}

cofferdam_protocol::debug_as_display!(CommitError);

/// How the commit went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommitReport {
    /// Bytes that the kernel reported as resident afterwards: all of them.
    pub resident_bytes: u64,
    /// Bytes of those in huge pages; 0 where the kernel does not tell.
    pub huge_bytes: u64,
    /// Bytes in one page of the host.
    pub page_bytes: u64,
    /// Microseconds, proof included.
    pub micros: u64,
    /// How it was done, with the reason if not as asked.
    pub how: String,
    /// How the memory is reset after a job, with the reason if not as asked.
    pub reset: String,
}

/// Commits `[0, plan.bytes)` of the reservation and proves it.
pub(super) fn commit(
    reservation: &Reservation,
    plan: &MemoryPlan,
    progress: &mut dyn FnMut(u64),
) -> Result<CommitReport, CommitError> {
    let started = Instant::now();
    let range = checked_range(plan.bytes)?;
    let page_bytes = page_bytes();
    reservation.open(range.clone()).map_err(|error| refused(plan, 0, errno_of(&error)))?;
    let mut how = plan.strategy.name().to_owned();
    if let Err(errno) = advise_pages(reservation, &range, plan.huge_pages) {
        how.push_str(&format!(", page size not advised ({errno})"));
    }
    if let Some(note) = make_resident(reservation, plan, &range, page_bytes, progress)? {
        how.push_str(&note);
    }
    if plan.lock {
        lock(reservation, &range).map_err(|errno| CommitError::NotLocked { bytes: plan.bytes, errno })?;
        how.push_str(", locked");
    }
    let resident_bytes = residency::resident_bytes(reservation, range.clone(), page_bytes)?;
    if resident_bytes < plan.bytes {
        return Err(CommitError::NotResident { bytes: plan.bytes, resident: resident_bytes });
    }
    Ok(CommitReport {
        resident_bytes,
        // Only reported, never relied on: where /proc is missing, 0 is said.
        huge_bytes: residency::huge_bytes(reservation, &range).unwrap_or(0),
        page_bytes: page_bytes as u64,
        micros: u64::try_from(started.elapsed().as_micros()).unwrap_or(u64::MAX),
        how,
        reset: String::new(),
    })
}

fn checked_range(bytes: u64) -> Result<Range<usize>, CommitError> {
    match usize::try_from(bytes) {
        Ok(end) if end <= RESERVATION_BYTES && bytes.is_multiple_of(WASM_PAGE) && end > 0 => Ok(0..end),
        _ => Err(CommitError::BadLimit { bytes }),
    }
}

/// Asks for huge pages, or for none: the host's default must not decide.
fn advise_pages(reservation: &Reservation, range: &Range<usize>, huge: bool) -> Result<(), Errno> {
    let advice = if huge { MmapAdvise::MADV_HUGEPAGE } else { MmapAdvise::MADV_NOHUGEPAGE };
    let size = reservation.advise(range.clone(), advice);
    // Merging equal pages would make committed pages shared again (kernel documentation, ksm.rst).
    let merging = match reservation.advise(range.clone(), MmapAdvise::MADV_UNMERGEABLE) {
        // A kernel that is built without merging.
        Err(Errno::EINVAL) => Ok(()),
        result => result,
    };
    size.and(merging)
}

/// Makes the range resident; a note if not by the strategy that was asked for.
///
/// By as many threads as there are processors: most of a commit is the kernel writing zeros, which one processor does
/// at a fraction of the memory's speed. The threads end here; a worker that serves has one.
fn make_resident(
    reservation: &Reservation,
    plan: &MemoryPlan,
    range: &Range<usize>,
    page_bytes: usize,
    progress: &mut dyn FnMut(u64),
) -> Result<Option<String>, CommitError> {
    let work = Work {
        reservation,
        page_bytes,
        range: range.clone(),
        next: AtomicUsize::new(range.start),
        touch: AtomicBool::new(plan.strategy == CommitStrategy::Touch),
        unpopulated: OnceLock::new(),
        refused: OnceLock::new(),
    };
    let threads = thread::available_parallelism().map_or(1, usize::from);
    let mut committed = 0;
    thread::scope(|scope| {
        let (sender, steps) = mpsc::channel();
        let mut started = 0;
        for _ in 0..threads.min(range.len().div_ceil(STEP_BYTES)) {
            let (work, sender) = (&work, sender.clone());
            let thread = thread::Builder::new().spawn_scoped(scope, move || work.run(&sender));
            started += usize::from(thread.is_ok());
        }
        // Where no thread may be had at all, this one does it.
        if started == 0 {
            work.run(&sender);
        }
        drop(sender);
        for bytes in steps {
            committed += bytes;
            progress(committed);
        }
    });
    match work.refused.into_inner() {
        Some(errno) => Err(refused(plan, committed, errno)),
        None => Ok(work.unpopulated.into_inner().map(not_populated)),
    }
}

/// What the threads of a commit share.
struct Work<'a> {
    reservation: &'a Reservation,
    page_bytes: usize,
    range: Range<usize>,
    /// Where the next step begins.
    next: AtomicUsize,
    /// Whether pages are touched: asked for, or because populating is not to be had.
    touch: AtomicBool,
    /// What the kernel said when populating was not to be had.
    unpopulated: OnceLock<Errno>,
    refused: OnceLock<Errno>,
}

impl Work<'_> {
    /// Commits step after step until none is left, or one is refused, and sends the bytes of each.
    fn run(&self, done: &mpsc::Sender<u64>) {
        while self.refused.get().is_none() {
            let start = self.next.fetch_add(STEP_BYTES, Ordering::Relaxed);
            if start >= self.range.end {
                return;
            }
            let step = start..self.range.end.min(start + STEP_BYTES);
            let bytes = step.len() as u64;
            match self.commit(step) {
                // Whoever receives waits for the last step, so it is there.
                Ok(()) => drop(done.send(bytes)),
                Err(errno) => drop(self.refused.set(errno)),
            }
        }
    }

    fn commit(&self, step: Range<usize>) -> Result<(), Errno> {
        if !self.touch.load(Ordering::Relaxed) {
            match populate(self.reservation, step.clone()) {
                Err(errno) if is_no_populate(errno) => {
                    let _ = self.unpopulated.set(errno);
                    self.touch.store(true, Ordering::Relaxed);
                }
                result => return result,
            }
        }
        self.reservation.touch(step, self.page_bytes);
        Ok(())
    }
}

/// Whether the error says that populating is not to be had here, and nothing of the memory: EINVAL of a kernel before 5.14
/// (madvise(2)), ENOSYS and EPERM of a seccomp profile or a sandbox that does not know the advice.
pub(super) fn is_no_populate(errno: Errno) -> bool {
    matches!(errno, Errno::EINVAL | Errno::ENOSYS | Errno::EPERM)
}

/// A note on memory that was to be populated, for reports.
fn not_populated(errno: Errno) -> String {
    match errno {
        Errno::EINVAL => " is not known to this kernel: touched instead".to_owned(),
        errno => format!(" is refused ({errno}): touched instead"),
    }
}

fn populate(reservation: &Reservation, step: Range<usize>) -> Result<(), Errno> {
    loop {
        match reservation.advise(step.clone(), MmapAdvise::MADV_POPULATE_WRITE) {
            Err(Errno::EINTR | Errno::EAGAIN) => {}
            result => return result,
        }
    }
}

fn lock(reservation: &Reservation, range: &Range<usize>) -> Result<(), Errno> {
    // As much as this process may have without being privileged; whether that is enough, mlock says.
    let (_, hard) = getrlimit(Resource::RLIMIT_MEMLOCK)?;
    setrlimit(Resource::RLIMIT_MEMLOCK, hard, hard)?;
    reservation.lock(range.clone())
}

pub(super) fn page_bytes() -> usize {
    let answer = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE);
    answer.ok().flatten().and_then(|bytes| usize::try_from(bytes).ok()).unwrap_or(4096)
}

fn refused(plan: &MemoryPlan, committed: u64, errno: Errno) -> CommitError {
    CommitError::Refused { bytes: plan.bytes, committed, errno }
}

fn errno_of(error: &io::Error) -> Errno {
    error.raw_os_error().map_or(Errno::UnknownErrno, Errno::from_raw)
}
