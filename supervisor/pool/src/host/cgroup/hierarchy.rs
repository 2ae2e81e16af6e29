//! The memory cgroup of a process: its limits, what is left of them, and how many processes the kernel has killed in it.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use nix::unistd::{AccessFlags, eaccess};

use super::file::{keyed, number};
use super::locate::{self, Version};

/// v1 has no word for "no limit": it shows the largest page-aligned `long`, which depends on the page size. No number from this one
/// on is a limit.
const V1_UNLIMITED: u64 = 1 << 62;

/// Why no memory cgroup can be read. This is not a fault in itself: without a cgroup, only the host's memory limits the workers.
#[derive(thiserror::Error)]
pub enum CgroupError {
    /// A file of /proc could not be read.
    #[error("cannot read {path}: {source}: mount /proc, or let this user read it")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The error of the system call.
        source: io::Error,
    },
    /// The process is in no cgroup with a memory controller.
    #[error("{path} names no memory cgroup: the kernel has none (CONFIG_MEMCG), or it is disabled at boot")]
    NoController {
        /// The `cgroup` file of the process.
        path: PathBuf,
    },
    /// The hierarchy exists, but this process cannot see it.
    #[error("the memory cgroup {name} is not mounted here: mount it (read-only is enough) to see its limit")]
    NotMounted {
        /// The cgroup, as the kernel names it.
        name: String,
    },
}

cofferdam_protocol::debug_as_display!(CgroupError);

/// Why no child cgroup with a limit of its own can be created.
#[derive(thiserror::Error)]
pub enum NotDelegated {
    /// A directory or file cannot be written, and it would have to be.
    #[error("{path} cannot be written: {reason}")]
    ReadOnly {
        /// What cannot be written.
        path: PathBuf,
        /// The error of faccessat(2).
        reason: nix::errno::Errno,
    },
    /// v2: the cgroup has no memory controller to delegate to children.
    #[error("the memory controller is not enabled in {path}")]
    NoMemoryController {
        /// The `cgroup.controllers` file.
        path: PathBuf,
    },
}

cofferdam_protocol::debug_as_display!(NotDelegated);

/// A limit, and the directory of the cgroup that sets it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limit {
    /// The directory of the cgroup.
    pub path: PathBuf,
    /// The limit in bytes.
    pub bytes: u64,
}

/// The memory that is left at the tightest level of a cgroup hierarchy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CgroupBudget {
    /// The directory of the tightest cgroup.
    pub path: PathBuf,
    /// Its limit, in bytes.
    pub limit: u64,
    /// Limit − usage + inactive page cache, in bytes: the memory that can be committed before the kernel kills a process.
    pub headroom: u64,
}

/// A memory cgroup that is visible in the file system. This holds only paths: every method reads the files again.
#[derive(Clone, Debug)]
pub struct Cgroup {
    pub(super) version: Version,
    pub(super) mount: PathBuf,
    pub(super) dir: PathBuf,
}

impl Cgroup {
    /// This process's memory cgroup.
    ///
    /// # Errors
    /// When this process has none, or cannot see it.
    pub fn discover() -> Result<Self, CgroupError> {
        Self::discover_in(Path::new("/"), "self")
    }

    /// The memory cgroup of another process, which may be a zombie.
    ///
    /// # Errors
    /// As [`Cgroup::discover`].
    pub fn of_process(pid: u32) -> Result<Self, CgroupError> {
        Self::discover_in(Path::new("/"), &pid.to_string())
    }

    /// The memory cgroup of a process. /proc and all mount points are looked up below `root`, which is "/" or a test's copy.
    /// `process` is a directory of /proc: "self" or a number.
    ///
    /// # Errors
    /// As [`Cgroup::discover`].
    pub fn discover_in(root: &Path, process: &str) -> Result<Self, CgroupError> {
        let memberships = root.join("proc").join(process).join("cgroup");
        let (version, name) = locate::membership(&read(&memberships)?)
            .ok_or(CgroupError::NoController { path: memberships })?;
        // The mounts of this process, not of the other one: this process opens the directory.
        let mountinfo = read(&root.join("proc/self/mountinfo"))?;
        let (mount, below) = locate::visible(&mountinfo, version, &name)
            .ok_or_else(|| CgroupError::NotMounted { name: name.clone() })?;
        let mount = root.join(mount.strip_prefix("/").unwrap_or(&mount));
        // A path from outside the container may not exist inside. The limit of the nearest ancestor that exists applies then.
        let full = mount.join(below);
        let dir = full.ancestors().find(|dir| dir.is_dir() && dir.starts_with(&mount));
        let dir = dir.map(Path::to_path_buf).ok_or(CgroupError::NotMounted { name })?;
        Ok(Self { version, mount, dir })
    }

    /// The version of the cgroup.
    #[must_use]
    pub fn version(&self) -> Version {
        self.version
    }

    /// The cgroup's directory. A limit may be set in this directory or in any directory above it.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The tightest limit of this cgroup and its visible ancestors. `None`: there is no limit.
    #[must_use]
    pub fn limit_bytes(&self) -> Option<Limit> {
        self.tightest(self.name("memory.limit_in_bytes", "memory.max"))
    }

    /// v2: the tightest limit on swap. A limit of zero means that memory is never swapped out. `None`: there is no limit, or this
    /// is v1, which can limit only memory and swap together.
    #[must_use]
    pub fn swap_limit(&self) -> Option<Limit> {
        (self.version == Version::V2).then(|| self.tightest("memory.swap.max")).flatten()
    }

    /// The level with the least memory left. `None`: no level has a limit.
    #[must_use]
    pub fn headroom(&self) -> Option<CgroupBudget> {
        self.levels().filter_map(|dir| self.headroom_at(dir)).min_by_key(|budget| budget.headroom)
    }

    /// The number of processes of this cgroup that the kernel's OOM killer has killed.
    ///
    /// v2 (`memory.events`, Linux 4.13) also counts processes of descendants. v1 (`memory.oom_control`, Linux 4.13) does not, so ask
    /// the worker's own cgroup there. `None`: the file is missing, as in the root of v2.
    #[must_use]
    pub fn oom_kills(&self) -> Option<u64> {
        keyed(&self.dir.join(self.name("memory.oom_control", "memory.events")), "oom_kill")
    }

    /// The highest level at which one OOM kill kills every process (v2 `memory.oom.group`, Linux 4.19).
    #[must_use]
    pub fn oom_group(&self) -> Option<&Path> {
        self.levels().filter(|dir| number(&dir.join("memory.oom.group")) == Some(1)).last()
    }

    /// Checks whether children with a memory limit can be created here, without creating one.
    ///
    /// On v2, the processes of this cgroup have to be moved into a child as well: a cgroup that delegates controllers to children
    /// cannot have processes itself ("no internal process constraint").
    ///
    /// # Errors
    /// The obstacle.
    pub fn delegation(&self) -> Result<(), NotDelegated> {
        let mut needed = vec![self.dir.clone(), self.dir.join("cgroup.procs")];
        if self.version == Version::V2 {
            let path = self.dir.join("cgroup.controllers");
            let controllers = fs::read_to_string(&path).unwrap_or_default();
            if !controllers.split_whitespace().any(|name| name == "memory") {
                return Err(NotDelegated::NoMemoryController { path });
            }
            needed.push(self.dir.join("cgroup.subtree_control"));
        }
        for path in needed {
            if let Err(reason) = eaccess(&path, AccessFlags::W_OK) {
                return Err(NotDelegated::ReadOnly { path, reason });
            }
        }
        Ok(())
    }

    /// This cgroup's directory and its ancestors, up to the mount point of the hierarchy.
    fn levels(&self) -> impl Iterator<Item = &Path> {
        self.dir.ancestors().take_while(|dir| dir.starts_with(&self.mount))
    }

    pub(super) fn name(&self, v1: &'static str, v2: &'static str) -> &'static str {
        match self.version {
            Version::V1 => v1,
            Version::V2 => v2,
        }
    }

    fn tightest(&self, file: &str) -> Option<Limit> {
        let limits = self.levels().filter_map(|dir| {
            // "max" is not a number, and so not a limit.
            let bytes = number(&dir.join(file)).filter(|&bytes| bytes < V1_UNLIMITED)?;
            Some(Limit { path: dir.to_path_buf(), bytes })
        });
        limits.min_by_key(|limit| limit.bytes)
    }

    fn headroom_at(&self, dir: &Path) -> Option<CgroupBudget> {
        let limit = number(&dir.join(self.name("memory.limit_in_bytes", "memory.max")))
            .filter(|&bytes| bytes < V1_UNLIMITED)?;
        let usage = number(&dir.join(self.name("memory.usage_in_bytes", "memory.current")))?;
        // The page cache is charged too, and is reclaimed under pressure. Only the inactive list counts: the active one is a working
        // set, and reclaiming a working set is thrashing.
        let stat = self.name("total_inactive_file", "inactive_file");
        let reclaimable = keyed(&dir.join("memory.stat"), stat).unwrap_or(0).min(usage);
        let headroom = limit.saturating_sub(usage - reclaimable);
        Some(CgroupBudget { path: dir.to_path_buf(), limit, headroom })
    }
}

fn read(path: &Path) -> Result<String, CgroupError> {
    fs::read_to_string(path).map_err(|source| CgroupError::Unreadable { path: path.into(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;
    const V1_NONE: &str = "9223372036854771712";
    const V1_MOUNT: &str = "35 31 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory";
    const V2_MOUNT: &str = "41 31 0:38 / /sys/fs/cgroup rw shared:9 - cgroup2 cgroup2 rw,nsdelegate";

    /// A copy of the few files that are read, in a directory of its own.
    fn tree(memberships: &str, mounts: &str, files: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        let proc = [("proc/self/cgroup", memberships), ("proc/self/mountinfo", mounts)];
        for (path, text) in proc.iter().chain(files) {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        root
    }

    fn discover(root: &tempfile::TempDir) -> Cgroup {
        Cgroup::discover_in(root.path(), "self").unwrap()
    }

    #[test]
    fn v1_takes_the_tightest_ancestor_and_subtracts_what_is_used() {
        let root = tree(
            "4:memory:/a/b\n1:cpu:/x\n0::/\n",
            V1_MOUNT,
            &[
                ("sys/fs/cgroup/memory/memory.limit_in_bytes", V1_NONE),
                ("sys/fs/cgroup/memory/a/memory.limit_in_bytes", "8589934592\n"),
                ("sys/fs/cgroup/memory/a/memory.usage_in_bytes", "3221225472\n"),
                ("sys/fs/cgroup/memory/a/memory.stat", "inactive_file 7\ntotal_inactive_file 1073741824\n"),
                ("sys/fs/cgroup/memory/a/b/memory.limit_in_bytes", V1_NONE),
                ("sys/fs/cgroup/memory/a/b/memory.oom_control", "under_oom 0\noom_kill 3\n"),
            ],
        );
        let cgroup = discover(&root);
        let a = root.path().join("sys/fs/cgroup/memory/a");
        assert_eq!((cgroup.version(), cgroup.dir()), (Version::V1, a.join("b").as_path()));
        assert_eq!(cgroup.limit_bytes(), Some(Limit { path: a.clone(), bytes: 8 * GIB }));
        assert_eq!(cgroup.headroom(), Some(CgroupBudget { path: a, limit: 8 * GIB, headroom: 6 * GIB }));
        assert_eq!((cgroup.oom_kills(), cgroup.oom_group(), cgroup.swap_limit()), (Some(3), None, None));
    }

    #[test]
    fn v2_reads_max_as_no_limit_and_finds_the_level_with_least_left() {
        let root = tree(
            "0::/pod/app\n",
            V2_MOUNT,
            &[
                ("sys/fs/cgroup/pod/memory.max", "8589934592"),
                ("sys/fs/cgroup/pod/memory.current", "8053063680"),
                ("sys/fs/cgroup/pod/memory.oom.group", "1"),
                ("sys/fs/cgroup/pod/memory.swap.max", "0"),
                ("sys/fs/cgroup/pod/app/memory.max", "4294967296"),
                ("sys/fs/cgroup/pod/app/memory.current", "0"),
                ("sys/fs/cgroup/pod/app/memory.swap.max", "max"),
                ("sys/fs/cgroup/pod/app/memory.events", "oom 9\noom_kill 2\noom_group_kill 1\n"),
            ],
        );
        let cgroup = discover(&root);
        let pod = root.path().join("sys/fs/cgroup/pod");
        assert_eq!(cgroup.limit_bytes(), Some(Limit { path: pod.join("app"), bytes: 4 * GIB }));
        let headroom = GIB / 2;
        assert_eq!(cgroup.headroom(), Some(CgroupBudget { path: pod.clone(), limit: 8 * GIB, headroom }));
        assert_eq!((cgroup.oom_kills(), cgroup.oom_group()), (Some(2), Some(pod.as_path())));
        assert_eq!(cgroup.swap_limit(), Some(Limit { path: pod, bytes: 0 }));
        let refused = cgroup.delegation().unwrap_err().to_string();
        assert!(refused.ends_with("pod/app/cgroup.controllers"), "{refused}");
    }

    #[test]
    fn on_a_hybrid_host_the_memory_controller_is_where_it_is_mounted() {
        let mounts = format!("{}\n{V1_MOUNT}", V2_MOUNT.replace("/sys/fs/cgroup", "/sys/fs/cgroup/unified"));
        let limit = ("sys/fs/cgroup/memory/a/memory.limit_in_bytes", "1073741824");
        let cgroup = tree("0::/a\n4:cpu,memory:/a\n", &mounts, &[limit]);
        assert_eq!(discover(&cgroup).limit_bytes().unwrap().bytes, GIB);
    }

    #[test]
    fn in_a_container_the_mount_is_the_cgroup() {
        // Without a cgroup namespace the path is the host's, and so is the root of the mount.
        let v1 = V1_MOUNT.replace("0:32 /", "0:32 /docker/abc");
        let limit = ("sys/fs/cgroup/memory/memory.limit_in_bytes", "1073741824");
        let root = tree("4:memory:/docker/abc\n", &v1, &[limit]);
        assert_eq!(discover(&root).limit_bytes().unwrap().bytes, GIB);
        // With one, both are "/", or the mount is of an ancestor that has no name in here.
        for point in ["0:38 /", "0:38 /.."] {
            let root =
                tree("0::/\n", &V2_MOUNT.replace("0:38 /", point), &[("sys/fs/cgroup/memory.max", "9")]);
            assert_eq!(discover(&root).limit_bytes().unwrap().bytes, 9);
        }
        // A path from outside that does not exist in here leads to the nearest ancestor that does.
        let root = tree("0::/outside/x\n", V2_MOUNT, &[("sys/fs/cgroup/memory.max", "9")]);
        assert_eq!(discover(&root).dir(), root.path().join("sys/fs/cgroup"));
    }

    #[test]
    fn without_a_cgroup_the_error_says_why() {
        let error = |memberships, mounts| {
            let root = tree(memberships, mounts, &[]);
            Cgroup::discover_in(root.path(), "self").unwrap_err().to_string()
        };
        assert!(error("1:cpu:/\n", V1_MOUNT).contains("names no memory cgroup"));
        assert!(error("4:memory:/x\n", V2_MOUNT).contains("memory cgroup /x is not mounted"));
        let empty = tempfile::tempdir().unwrap();
        let error = Cgroup::discover_in(empty.path(), "12").unwrap_err().to_string();
        assert!(error.contains("proc/12/cgroup"), "{error}");
    }

    #[test]
    fn this_process_is_found_on_a_real_host() {
        match Cgroup::discover() {
            Ok(cgroup) => assert!(cgroup.dir().is_dir(), "{cgroup:?}"),
            Err(error) => cofferdam_test_skips::skip(error),
        }
    }
}
