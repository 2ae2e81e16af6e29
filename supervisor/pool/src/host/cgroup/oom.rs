//! Evidence that the kernel killed a process because memory ran out. SIGKILL does not say who sent it, but the OOM killer counts
//! its kills.

use std::fmt;
use std::path::{Path, PathBuf};

use super::file::keyed;
use super::hierarchy::Cgroup;

/// The numbers of processes that the OOM killer has killed so far. The pool reads them once a second and when a worker has died;
/// see [`OomCounts::rose_since`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OomCounts {
    /// The directory of the cgroup.
    pub path: Option<PathBuf>,
    /// The kills in that cgroup.
    pub cgroup: Option<u64>,
    /// The kills on the whole host, other containers included (/proc/vmstat `oom_kill`, Linux 4.13).
    pub host: Option<u64>,
}

impl OomCounts {
    /// Reads the counts. `cgroup` is the cgroup of the workers.
    #[must_use]
    pub fn read(cgroup: Option<&Cgroup>) -> Self {
        Self {
            path: cgroup.map(|cgroup| cgroup.dir.clone()),
            cgroup: cgroup.and_then(Cgroup::oom_kills),
            host: keyed(Path::new("/proc/vmstat"), "oom_kill"),
        }
    }

    /// Evidence that a process of the cgroup was killed after `earlier` because memory ran out.
    ///
    /// The kernel counts a kill before it sends the signal (`__oom_kill_process` in mm/oom_kill.c), so the counts are complete once
    /// the death was waited for. The kernel counts in the victim's cgroup even when the whole host has run out of memory. So the
    /// host's count is used only where the cgroup's is not known: a rise of the host's count alone is the kill of another cgroup.
    #[must_use]
    pub fn rose_since(&self, earlier: &Self) -> Option<Evidence> {
        let (place, from, to) = match (&self.path, earlier.cgroup, self.cgroup) {
            (Some(path), Some(from), Some(to)) if self.path == earlier.path => (Some(path.clone()), from, to),
            _ => (None, earlier.host?, self.host?),
        };
        (to > from).then_some(Evidence { place, from, to })
    }
}

/// A counted OOM kill. Displayed as a clause: "the oom_kill count of … rose from 3 to 4".
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Evidence {
    /// The cgroup's directory, or `None` for the host.
    pub place: Option<PathBuf>,
    /// The count before.
    pub from: u64,
    /// The count after.
    pub to: u64,
}

impl fmt::Display for Evidence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.place {
            Some(path) => write!(f, "the oom_kill count of memory cgroup {}", path.display())?,
            None => f.write_str("the oom_kill count of the host")?,
        }
        write!(f, " rose from {} to {}", self.from, self.to)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;
    use std::process::Command;

    use cofferdam_test_skips::skip;

    use super::super::child::ChildCgroup;
    use super::*;

    fn counts(path: Option<&str>, cgroup: Option<u64>, host: Option<u64>) -> OomCounts {
        OomCounts { path: path.map(PathBuf::from), cgroup, host }
    }

    #[test]
    fn a_rise_in_the_cgroup_is_evidence_and_is_told() {
        let evidence = counts(Some("/x"), Some(4), Some(9)).rose_since(&counts(Some("/x"), Some(3), Some(8)));
        let told = evidence.unwrap().to_string();
        assert_eq!(told, "the oom_kill count of memory cgroup /x rose from 3 to 4");
    }

    #[test]
    fn a_rise_of_the_host_alone_is_evidence_only_where_the_cgroup_has_no_count() {
        assert_eq!(
            counts(Some("/x"), Some(3), Some(9)).rose_since(&counts(Some("/x"), Some(3), Some(8))),
            None
        );
        let told = counts(Some("/x"), None, Some(9)).rose_since(&counts(Some("/x"), None, Some(8)));
        assert_eq!(told.unwrap().to_string(), "the oom_kill count of the host rose from 8 to 9");
        assert_eq!(counts(None, None, None).rose_since(&counts(None, None, Some(8))), None);
    }

    #[test]
    fn a_real_kill_by_the_kernel_is_seen() {
        let child = match ChildCgroup::limited_to(32 << 20) {
            Ok(child) => child,
            Err(reason) => return skip(format_args!("no OOM kill was tried, because {reason}")),
        };
        assert_eq!(child.cgroup().limit_bytes().unwrap().bytes, 32 << 20);
        assert!(child.cgroup().headroom().unwrap().headroom <= 32 << 20);
        let before = OomCounts::read(Some(child.cgroup()));
        // dd reads into one buffer of its block size, so it touches exactly 256 MiB.
        let script = "echo 0 > \"$0/cgroup.procs\" && exec dd if=/dev/zero of=/dev/null bs=256M count=1";
        let status = Command::new("sh").args(["-c", script]).arg(child.cgroup().dir()).status().unwrap();
        assert_eq!(status.signal(), Some(libc::SIGKILL), "{status}");
        let evidence = OomCounts::read(Some(child.cgroup())).rose_since(&before).unwrap();
        assert_eq!((evidence.from, evidence.to), (0, 1));
        assert_eq!(evidence.place.as_deref(), Some(child.cgroup().dir()));
    }
}
