//! Whether there is enough memory for the workers, checked before any of them is started.
//!
//! A worker that does not get its memory exits with code 137 after seconds of committing, and the kernel may kill another process
//! meanwhile. The numbers are known before the start. So they are compared before the start, and the error states them. This is a
//! check and not a reservation: another process can take the memory before the workers do, and then the commit fails.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use super::cgroup::{Cgroup, CgroupBudget};
use super::proc_file;
use cofferdam_base::size::Bytes;

/// Memory divided by page tables: 8 bytes for each 4 KiB page. Huge pages need next to none, but the kernel does not promise them,
/// and a write-protected huge page may be split at any time.
const PAGE_TABLE_SHARE: u64 = 512;

/// The memory of a worker besides its linear memory and arenas: the runtime, the loaded artifact, stacks, the allocator. Stacks and
/// 24 MiB of the allocator's memory are committed at the start, as the arenas are. Page tables and the rest are allocated when they
/// are needed.
const RUNTIME: Bytes = Bytes::mib(48);

/// The memory of the supervisor: heap, queues, recent requests, and blocks in flight. Allocated when it is needed.
const SUPERVISOR: Bytes = Bytes::mib(64);

/// The memory that a pool needs, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Need {
    /// The number of workers.
    pub workers: u32,
    /// The linear memory that each worker commits.
    pub memory_bytes: u64,
    /// The other memory of each worker.
    pub overhead_bytes: u64,
    /// The memory of the supervisor.
    pub supervisor_bytes: u64,
}

impl Need {
    /// The need of `workers` workers that commit `memory_bytes` each and have `arena_bytes` of arenas (input and
    /// output together) each.
    ///
    /// The overhead is 1/512 of the memory for page tables, plus the arenas, plus 48 MiB for the runtime and the artifact. The
    /// supervisor gets 64 MiB. The estimate is large on purpose: refusing a worker costs less than losing one in the middle of a
    /// block.
    #[must_use]
    pub fn of(workers: u32, memory_bytes: u64, arena_bytes: u64) -> Self {
        let page_tables = memory_bytes / PAGE_TABLE_SHARE;
        let overhead_bytes = page_tables.saturating_add(RUNTIME.0).saturating_add(arena_bytes);
        Self { workers, memory_bytes, overhead_bytes, supervisor_bytes: SUPERVISOR.0 }
    }

    /// The sum in bytes; saturates at the largest number.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.each().saturating_mul(self.workers.into()).saturating_add(self.supervisor_bytes)
    }

    fn each(&self) -> u64 {
        self.memory_bytes.saturating_add(self.overhead_bytes)
    }

    /// What the operator can do to need less.
    fn less(&self) -> &'static str {
        if self.workers > 1 { "use fewer workers or a smaller --memory" } else { "use a smaller --memory" }
    }
}

impl fmt::Display for Need {
    /// The start of a sentence: "2 workers need 8.31 GiB (4 GiB committed + 128 MiB overhead each, ...)".
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (verb, each) = if self.workers == 1 { ("worker needs", "") } else { ("workers need", " each") };
        write!(f, "{} {verb} {} (", self.workers, Bytes(self.total()))?;
        write!(f, "{} committed + {} overhead", Bytes(self.memory_bytes), Bytes(self.overhead_bytes))?;
        write!(f, "{each}, {} for the supervisor)", Bytes(self.supervisor_bytes))
    }
}

/// The memory that is left on this machine. Swap is never counted, because committed memory must be resident.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Budget {
    /// `MemAvailable` of /proc/meminfo, in bytes (proc_meminfo(5)): free memory, and memory that can be reclaimed without swapping.
    /// `None` if it cannot be read.
    pub host_available: Option<u64>,
    /// The cgroup level with the least memory left. `None` if no level has a limit.
    pub cgroup: Option<CgroupBudget>,
}

/// There is not enough memory, so the workers are not started.
#[derive(Clone, PartialEq, Eq, thiserror::Error)]
pub enum AdmissionError {
    /// The cgroup, for example a container's, has too little memory left.
    #[error(
        "{need}, but memory cgroup {path} allows {limit}, of which {headroom} are free (swap is not counted): \
         give the cgroup more memory, or {less}",
        less = need.less()
    )]
    Cgroup {
        /// The need.
        need: Need,
        /// The directory of the tightest cgroup.
        path: PathBuf,
        /// The cgroup's limit.
        limit: Bytes,
        /// The memory that the cgroup has left.
        headroom: Bytes,
    },
    /// The host has too little memory left.
    #[error(
        "{need}, but the host has {available} available (MemAvailable; swap is not counted): \
         free memory on the host, or {less}",
        less = need.less()
    )]
    Host {
        /// The need.
        need: Need,
        /// The memory that the host has left.
        available: Bytes,
    },
}

cofferdam_protocol::debug_as_display!(AdmissionError);

impl Budget {
    /// Reads /proc/meminfo and `cgroup`, by default the cgroup of this process. A figure that cannot be read does not limit the
    /// pool: the pool must not refuse to start on a host that hides its figures, and the commit proves the memory in any case.
    #[must_use]
    pub fn read(cgroup: Option<&Cgroup>) -> Self {
        let cgroup = cgroup.cloned().or_else(|| Cgroup::discover().ok());
        let cgroup = cgroup.and_then(|cgroup| cgroup.headroom());
        Self { host_available: meminfo("MemAvailable"), cgroup }
    }

    /// The memory that is left on the host or in the cgroup, whichever is less, in bytes. `u64::MAX` if neither is known.
    #[must_use]
    pub fn available(&self) -> u64 {
        let cgroup = self.cgroup.as_ref().map(|cgroup| cgroup.headroom);
        self.host_available.into_iter().chain(cgroup).min().unwrap_or(u64::MAX)
    }

    /// Checks that there is enough memory for `need` now.
    ///
    /// # Errors
    /// If there is not enough memory. The error says whether the host or the cgroup has less left, and states the numbers.
    pub fn fits(&self, need: &Need) -> Result<(), AdmissionError> {
        let available = self.available();
        if need.total() <= available {
            return Ok(());
        }
        match &self.cgroup {
            Some(CgroupBudget { path, limit, headroom }) if *headroom == available => {
                let (limit, headroom) = (Bytes(*limit), Bytes(*headroom));
                Err(AdmissionError::Cgroup { need: *need, path: path.clone(), limit, headroom })
            }
            _ => Err(AdmissionError::Host { need: *need, available: Bytes(available) }),
        }
    }

    /// The number of workers like those of `need` that could be started now, with one supervisor. Ignores `need.workers`.
    #[must_use]
    pub fn workers_that_fit(&self, need: &Need) -> u32 {
        let left = self.available().saturating_sub(need.supervisor_bytes);
        let workers = left.checked_div(need.each()).unwrap_or(u64::MAX);
        u32::try_from(workers).unwrap_or(u32::MAX)
    }
}

/// A field of /proc/meminfo, in bytes.
pub(crate) fn meminfo(field: &str) -> Option<u64> {
    meminfo_in(Path::new("/proc/meminfo"), field)
}

fn meminfo_in(path: &Path, field: &str) -> Option<u64> {
    proc_file::bytes(&fs::read_to_string(path).ok()?, field)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MIB: u64 = 1 << 20;
    const GIB: u64 = 1 << 30;

    fn need(workers: u32) -> Need {
        Need::of(workers, 4 * GIB, 72 * MIB)
    }

    fn cgroup_of(limit: u64) -> Budget {
        let cgroup = CgroupBudget { path: "/x".into(), limit, headroom: limit - 20 * MIB };
        Budget { host_available: Some(64 * GIB), cgroup: Some(cgroup) }
    }

    #[test]
    fn eight_gib_hold_one_worker_of_four_and_not_two() {
        assert_eq!(cgroup_of(8 * GIB).fits(&need(1)), Ok(()));
        assert!(cgroup_of(8 * GIB).fits(&need(2)).is_err());
        assert_eq!(cgroup_of(8 * GIB).workers_that_fit(&need(7)), 1);
    }

    #[test]
    fn four_and_a_half_gib_hold_one_worker_and_four_hold_none() {
        assert_eq!(cgroup_of(4 * GIB + GIB / 2).fits(&need(1)), Ok(()));
        assert!(cgroup_of(4 * GIB).fits(&need(1)).is_err());
        assert_eq!(cgroup_of(4 * GIB).workers_that_fit(&need(1)), 0);
    }

    #[test]
    fn a_refusal_names_the_limit_and_the_need_in_numbers() {
        let message = cgroup_of(512 * MIB).fits(&need(2)).unwrap_err().to_string();
        assert_eq!(
            message,
            "2 workers need 8.31 GiB (4 GiB committed + 128 MiB overhead each, 64 MiB for the supervisor), but \
             memory cgroup /x allows 512 MiB, of which 492 MiB are free (swap is not counted): give the cgroup \
             more memory, or use fewer workers or a smaller --memory"
        );
        let host = Budget { host_available: Some(3 * GIB), ..cgroup_of(8 * GIB) };
        assert_eq!(
            host.fits(&need(1)).unwrap_err().to_string(),
            "1 worker needs 4.19 GiB (4 GiB committed + 128 MiB overhead, 64 MiB for the supervisor), but the \
             host has 3 GiB available (MemAvailable; swap is not counted): free memory on the host, or use a \
             smaller --memory"
        );
    }

    #[test]
    fn what_is_unknown_does_not_limit() {
        let unknown = Budget::default();
        assert_eq!((unknown.available(), unknown.fits(&need(100))), (u64::MAX, Ok(())));
    }

    #[test]
    fn meminfo_is_read_by_whole_names() {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), "MemAvailableX: 1 kB\nMemAvailable:    2048 kB\nHugePages_Total: 3\n")
            .unwrap();
        assert_eq!(meminfo_in(file.path(), "MemAvailable"), Some(2 * MIB));
        assert_eq!(meminfo_in(file.path(), "HugePages_Total"), None);
        assert_eq!(meminfo_in(Path::new("/nonexistent"), "MemAvailable"), None);
        assert!(Budget::read(None).host_available.is_some());
    }

    proptest! {
        #[test]
        fn as_many_workers_are_said_to_fit_as_do_fit(available: u64, memory: u64, arenas in 0..1_u64 << 40) {
            let budget = Budget { host_available: Some(available), cgroup: None };
            let one = Need::of(1, memory, arenas);
            let fit = budget.workers_that_fit(&one);
            let (all, more) = (Need { workers: fit, ..one }, Need { workers: fit.saturating_add(1), ..one });
            prop_assert!(fit == 0 || budget.fits(&all).is_ok());
            prop_assert!(budget.fits(&more).is_err() || more.total() == u64::MAX || fit == u32::MAX);
        }
    }
}
