//! A memory cgroup with a limit of its own, which gives a process the memory of a small host.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::unistd::{AccessFlags, eaccess};

use super::hierarchy::{Cgroup, CgroupError, NotDelegated};
use super::locate::Version;

/// Why a cgroup could not be created, or a process could not be moved into it.
#[derive(thiserror::Error)]
pub enum ChildError {
    /// This process has no memory cgroup to create a child in.
    #[error(transparent)]
    NoCgroup(#[from] CgroupError),
    /// This process may not create a child.
    #[error(transparent)]
    NotDelegated(#[from] NotDelegated),
    /// v2: the cgroup holds processes of others, which must not be moved.
    #[error(
        "{path} holds other processes than this one, so it cannot delegate the memory controller to a child: run this in \
         a cgroup of its own (`systemd-run --scope -p Delegate=yes …`)"
    )]
    Shared {
        /// The directory of the cgroup.
        path: PathBuf,
    },
    /// A system call on a file or directory of the cgroup failed.
    #[error("{path}: {source}")]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// The error of the system call.
        source: io::Error,
    },
}

cofferdam_protocol::debug_as_display!(ChildError);

/// A memory cgroup with a limit and without swap. Removed when this is dropped; every process in it must have ended by then.
#[derive(Debug)]
pub struct ChildCgroup(Cgroup);

impl ChildCgroup {
    /// Creates a cgroup with a limit of `bytes`, below the cgroup of this process or beside it.
    ///
    /// On v2, a cgroup that has processes cannot delegate controllers. So a process that is alone in a delegated cgroup is moved into
    /// a child, `cofferdam-supervisor`, and stays there; the cgroup delegates the memory controller from then on.
    ///
    /// # Errors
    /// [`ChildError`]. Creating a cgroup needs root or a delegated cgroup.
    pub fn limited_to(bytes: u64) -> Result<Self, ChildError> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let own = Cgroup::discover()?;
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let dir = parent(&own)?.join(format!("cofferdam-{}-{number}", std::process::id()));
        fs::create_dir(&dir).map_err(at(&dir))?;
        let child = Self(Cgroup { dir, ..own });
        child.write(child.0.name("memory.limit_in_bytes", "memory.max"), &bytes.to_string())?;
        for swap in ["memory.swap.max", "memory.swappiness"] {
            if child.0.dir.join(swap).exists() {
                child.write(swap, "0")?;
            }
        }
        Ok(child)
    }

    /// The cgroup, to be read.
    pub fn cgroup(&self) -> &Cgroup {
        &self.0
    }

    fn write(&self, file: &str, text: &str) -> Result<(), ChildError> {
        let path = self.0.dir.join(file);
        fs::write(&path, text).map_err(at(&path))
    }
}

impl Drop for ChildCgroup {
    fn drop(&mut self) {
        // The last process may have been reaped and not have left the cgroup yet. There is no event to wait for: `cgroup.events` of
        // v2 tells when the last process has gone, not when the directory can be removed, and v1 tells neither.
        const REMOVAL_TIMEOUT: Duration = Duration::from_secs(10);
        const RETRY_INTERVAL: Duration = Duration::from_millis(10);
        let deadline = Instant::now() + REMOVAL_TIMEOUT;
        loop {
            match fs::remove_dir(&self.0.dir) {
                Err(error) if error.kind() == io::ErrorKind::ResourceBusy && Instant::now() < deadline => {
                    thread::sleep(RETRY_INTERVAL);
                }
                Err(error) => {
                    return tracing::warn!("the cgroup {} cannot be removed: {error}", self.0.dir.display());
                }
                Ok(()) => return,
            }
        }
    }
}

impl Cgroup {
    /// The file to which the ids of processes are written to move them into the cgroup.
    #[must_use]
    pub fn procs(&self) -> PathBuf {
        self.dir.join("cgroup.procs")
    }

    /// Moves a process into the cgroup. Memory that the process has allocated before stays charged to its old cgroup.
    ///
    /// # Errors
    /// [`ChildError::Io`].
    pub fn admit(&self, pid: u32) -> Result<(), ChildError> {
        let procs = self.procs();
        fs::write(&procs, pid.to_string()).map_err(at(&procs))
    }
}

/// The directory in which a child with a memory limit can be created. On v2, a cgroup that has processes cannot delegate controllers
/// to children ("no internal process constraint", admin-guide/cgroup-v2.rst). There this process moves into a child first, or the
/// child becomes a sibling.
fn parent(own: &Cgroup) -> Result<PathBuf, ChildError> {
    if own.version == Version::V1 {
        return Ok(own.dir.clone());
    }
    if delegates_memory(&own.dir) {
        return Ok(own.dir.clone());
    }
    match move_into_child(own) {
        Ok(()) => Ok(own.dir.clone()),
        // The child becomes a sibling of this process's cgroup, so the limit of that cgroup does not apply to the child.
        Err(error) => match own.dir.parent() {
            Some(parent) if delegates_memory(parent) && eaccess(parent, AccessFlags::W_OK).is_ok() => {
                Ok(parent.to_owned())
            }
            _ => Err(error),
        },
    }
}

/// Moves this process, which must be alone in its cgroup, into a child, so that the cgroup can delegate the memory controller.
fn move_into_child(own: &Cgroup) -> Result<(), ChildError> {
    own.delegation()?;
    let inside = fs::read_to_string(own.procs()).map_err(at(&own.procs()))?;
    let this = std::process::id().to_string();
    if inside.lines().any(|pid| pid != this) {
        return Err(ChildError::Shared { path: own.dir.clone() });
    }
    let leaf = Cgroup { dir: own.dir.join("cofferdam-supervisor"), ..own.clone() };
    match fs::create_dir(&leaf.dir) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        result => result.map_err(at(&leaf.dir))?,
    }
    leaf.admit(std::process::id())?;
    let control = own.dir.join("cgroup.subtree_control");
    fs::write(&control, "+memory").map_err(at(&control))
}

fn delegates_memory(dir: &Path) -> bool {
    let controllers = fs::read_to_string(dir.join("cgroup.subtree_control")).unwrap_or_default();
    controllers.split_whitespace().any(|controller| controller == "memory")
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> ChildError {
    let path = path.to_owned();
    move |source| ChildError::Io { path, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A cgroup of v2 as files in a directory.
    fn v2(files: &[(&str, &str)]) -> (tempfile::TempDir, Cgroup) {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("slice/own");
        fs::create_dir_all(&dir).unwrap();
        for (path, text) in files {
            fs::write(root.path().join("slice").join(path), text).unwrap();
        }
        let cgroup = Cgroup { version: Version::V2, mount: root.path().to_owned(), dir };
        (root, cgroup)
    }

    #[test]
    fn on_v2_a_child_is_created_where_the_memory_controller_is_delegated() {
        let (_root, own) = v2(&[("own/cgroup.subtree_control", "cpu memory")]);
        assert_eq!(parent(&own).unwrap(), own.dir);
        let (_root, own) =
            v2(&[("own/cgroup.subtree_control", ""), ("cgroup.subtree_control", "memory pids")]);
        assert_eq!(parent(&own).unwrap(), own.dir.parent().unwrap());
    }

    #[test]
    fn on_v2_this_process_moves_into_a_child_if_it_is_alone() {
        let this = std::process::id();
        let files = [
            ("own/cgroup.controllers", "memory"),
            ("own/cgroup.subtree_control", ""),
            ("own/cgroup.procs", &format!("{this}\n")),
        ];
        // A sibling is possible too, but the limits of this process's own cgroup would not apply to it.
        let files: Vec<_> = files.into_iter().chain([("cgroup.subtree_control", "memory")]).collect();
        let (_root, own) = v2(&files);
        fs::create_dir(own.dir.join("cofferdam-supervisor")).unwrap();
        assert_eq!(parent(&own).unwrap(), own.dir);
        let moved = fs::read_to_string(own.dir.join("cofferdam-supervisor/cgroup.procs")).unwrap();
        assert_eq!(moved, this.to_string());
        assert_eq!(fs::read_to_string(own.dir.join("cgroup.subtree_control")).unwrap(), "+memory");
    }

    #[test]
    fn on_v2_a_cgroup_of_others_stays_as_it_is() {
        let (_root, own) = v2(&[
            ("own/cgroup.controllers", "memory"),
            ("own/cgroup.subtree_control", ""),
            ("own/cgroup.procs", "1\n"),
        ]);
        let error = parent(&own).unwrap_err();
        assert!(error.to_string().contains("holds other processes"), "{error}");
        let (_root, own) = v2(&[("own/cgroup.controllers", "cpu")]);
        assert!(matches!(parent(&own), Err(ChildError::NotDelegated(_))));
    }
}
