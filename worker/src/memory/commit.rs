//! Committing: making every page of the slab resident and private before the first job, or failing at that point.

use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError, mpsc};
use std::thread;
use std::time::Instant;

use cofferdam_protocol::WASM_PAGE;
use cofferdam_protocol::message::{CommitStrategy, MemoryPlan};
use nix::errno::Errno;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use thiserror::Error;

use super::address_space;
use super::open_memory::OpenMemory;
use super::page::page_bytes;
use super::reservation::{Advice, RESERVATION_BYTES, Reservation};
use super::residency::{self, ResidencyUnknown};

/// Bytes committed between two reports of progress. A multiple of the size of a huge page.
const STEP_BYTES: usize = 64 << 20;

/// Why the memory could not be committed.
#[derive(Error)]
pub enum CommitError {
    /// The limit is not a size that a guest's memory can have.
    #[error("a memory limit of {bytes} bytes is not possible: it must be a multiple of 64 KiB, up to 4 GiB")]
    BadLimit {
        /// The limit in bytes.
        bytes: u64,
    },
    /// The kernel refused the addresses.
    #[error("the kernel refused to reserve {RESERVATION_BYTES} bytes of addresses for the memory: {0}{hint}", hint = address_space::hint())]
    Reserve(#[from] io::Error),
    /// The kernel does not report what is resident.
    #[error("the commit could not be verified: {0}")]
    Unproven(#[from] ResidencyUnknown),
    /// The kernel refused the pages.
    #[error("the kernel refused to commit {bytes} bytes: {errno} after {committed} bytes")]
    Refused {
        /// Bytes to commit.
        bytes: u64,
        /// Bytes that were committed before.
        committed: u64,
        /// The kernel's error.
        errno: Errno,
    },
    /// The pages could not be locked.
    #[error(
        "{bytes} bytes are committed but could not be locked ({errno}): raise RLIMIT_MEMLOCK or leave --mlock away"
    )]
    NotLocked {
        /// Bytes to commit.
        bytes: u64,
        /// The kernel's error.
        errno: Errno,
    },
    /// The kernel granted the pages, and afterwards not all of them were resident.
    #[error("only {resident} of {bytes} bytes are resident after the commit: is the host swapping?")]
    NotResident {
        /// Bytes that were committed.
        bytes: u64,
        /// Bytes that are resident.
        resident: u64,
    },
}

cofferdam_protocol::debug_as_display!(CommitError);

/// The result of a commit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommitReport {
    /// Bytes that the kernel reports as resident after the commit, which are all bytes.
    pub resident_bytes: u64,
    /// Resident bytes in huge pages; 0 where the kernel does not report them.
    pub huge_bytes: u64,
    /// Bytes in one page of the host.
    pub page_bytes: u64,
    /// Duration in microseconds, including the count of resident pages.
    pub micros: u64,
    /// How the memory was committed, with the reason if that differs from the request.
    pub how: String,
    /// How the memory is reset after a job, with the reason if that differs from the request.
    pub reset: String,
}

/// Commits `[0, plan.bytes)` of the reservation, and counts the resident pages afterwards.
pub(super) fn commit(
    reservation: &mut Reservation,
    plan: &MemoryPlan,
    progress: &mut dyn FnMut(u64),
) -> Result<CommitReport, CommitError> {
    let started = Instant::now();
    let range = checked_range(plan.bytes)?;
    let memory = OpenMemory::open(reservation, range.clone());
    let memory = memory.map_err(|error| refused(plan, 0, errno_of(&error)))?;
    let mut how = plan.strategy.name().to_owned();
    if let Err(errno) = advise_pages(&memory, plan.huge_pages) {
        how.push_str(&format!(", page size not advised ({errno})"));
    }
    if let Some(note) = make_resident(memory, plan, progress)? {
        how.push_str(&note);
    }
    if plan.lock {
        lock(reservation, &range).map_err(|errno| CommitError::NotLocked { bytes: plan.bytes, errno })?;
        how.push_str(", locked");
    }
    let resident_bytes = residency::resident_bytes(reservation, range.clone())?;
    if resident_bytes < plan.bytes {
        return Err(CommitError::NotResident { bytes: plan.bytes, resident: resident_bytes });
    }
    Ok(CommitReport {
        resident_bytes,
        // This number is only reported. Where /proc is missing it is 0.
        huge_bytes: residency::huge_bytes(reservation, &range).unwrap_or(0),
        page_bytes: page_bytes() as u64,
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

/// Asks for huge pages, or for small ones, so that the host's default does not decide.
fn advise_pages(memory: &OpenMemory<'_>, huge: bool) -> Result<(), Errno> {
    let size = memory.advise(if huge { Advice::HugePages } else { Advice::SmallPages });
    // Merging equal pages would make committed pages shared again (kernel documentation, ksm.rst).
    let merging = match memory.advise(Advice::Unmergeable) {
        // The kernel is built without merging.
        Err(Errno::EINVAL) => Ok(()),
        result => result,
    };
    size.and(merging)
}

/// Makes the memory resident. Returns a note if that was not done by the requested strategy.
///
/// There are as many threads as processors: most of a commit is the kernel writing zeros, and one processor does that at a
/// fraction of the memory's speed. The threads end here. A worker that serves has one thread.
fn make_resident(
    memory: OpenMemory<'_>,
    plan: &MemoryPlan,
    progress: &mut dyn FnMut(u64),
) -> Result<Option<String>, CommitError> {
    let steps = memory.split(STEP_BYTES);
    let threads = thread::available_parallelism().map_or(1, usize::from).min(steps.len());
    let work = Work {
        steps: Mutex::new(steps.into_iter()),
        touch: AtomicBool::new(plan.strategy == CommitStrategy::Touch),
        unpopulated: OnceLock::new(),
        refused: OnceLock::new(),
    };
    let mut committed = 0;
    thread::scope(|scope| {
        let (sender, steps) = mpsc::channel();
        let mut started = 0;
        for _ in 0..threads {
            let (work, sender) = (&work, sender.clone());
            let thread = thread::Builder::new().spawn_scoped(scope, move || work.run(&sender));
            started += usize::from(thread.is_ok());
        }
        // If no thread could be started, this thread does the work.
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
    /// The parts that no thread has taken yet.
    steps: Mutex<std::vec::IntoIter<OpenMemory<'a>>>,
    /// Whether pages are touched: because the plan says so, or because populating is not available.
    touch: AtomicBool,
    /// The kernel's error if populating is not available.
    unpopulated: OnceLock<Errno>,
    refused: OnceLock<Errno>,
}

impl Work<'_> {
    /// Commits step after step until none is left, or the kernel refuses one. Sends the number of bytes of each.
    fn run(&self, done: &mpsc::Sender<u64>) {
        while self.refused.get().is_none() {
            let step = self.steps.lock().unwrap_or_else(PoisonError::into_inner).next();
            let Some(mut step) = step else { return };
            match self.commit(&mut step) {
                // The receiver waits for the last step, so it still exists.
                Ok(()) => drop(done.send(step.len() as u64)),
                Err(errno) => drop(self.refused.set(errno)),
            }
        }
    }

    fn commit(&self, step: &mut OpenMemory<'_>) -> Result<(), Errno> {
        if !self.touch.load(Ordering::Relaxed) {
            match populate(step) {
                Err(errno) if is_no_populate(errno) => {
                    let _ = self.unpopulated.set(errno);
                    self.touch.store(true, Ordering::Relaxed);
                }
                result => return result,
            }
        }
        step.touch();
        Ok(())
    }
}

/// Whether the error means that populating is not available here, which says nothing about the memory. A kernel before 5.14
/// returns EINVAL (madvise(2)). A seccomp profile or a sandbox that does not know the advice returns ENOSYS or EPERM.
fn is_no_populate(errno: Errno) -> bool {
    matches!(errno, Errno::EINVAL | Errno::ENOSYS | Errno::EPERM)
}

/// The note on memory that was touched although it was to be populated, for reports.
fn not_populated(errno: Errno) -> String {
    match errno {
        Errno::EINVAL => " is not known to this kernel: touched instead".to_owned(),
        errno => format!(" is refused ({errno}): touched instead"),
    }
}

fn populate(step: &OpenMemory<'_>) -> Result<(), Errno> {
    loop {
        match step.advise(Advice::Populate) {
            Err(Errno::EINTR | Errno::EAGAIN) => {}
            result => return result,
        }
    }
}

fn lock(reservation: &Reservation, range: &Range<usize>) -> Result<(), Errno> {
    // Raises the limit to the most that an unprivileged process may have. If that is too little, mlock fails.
    let (_, hard) = getrlimit(Resource::RLIMIT_MEMLOCK)?;
    setrlimit(Resource::RLIMIT_MEMLOCK, hard, hard)?;
    reservation.lock(range.clone())
}

fn refused(plan: &MemoryPlan, committed: u64, errno: Errno) -> CommitError {
    CommitError::Refused { bytes: plan.bytes, committed, errno }
}

fn errno_of(error: &io::Error) -> Errno {
    error.raw_os_error().map_or(Errno::UnknownErrno, Errno::from_raw)
}
