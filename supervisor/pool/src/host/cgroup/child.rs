//! A memory cgroup with a limit of its own: what a small host is, without the host.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::unistd::{AccessFlags, eaccess};

use super::{Cgroup, CgroupError, NotDelegated, Version};

/// Why a cgroup could not be made, or nothing moved into it.
#[derive(thiserror::Error)]
pub enum ChildError {
    /// There is none to make it in.
    #[error(transparent)]
    NoCgroup(#[from] CgroupError),
    /// This process may make none.
    #[error(transparent)]
    NotDelegated(#[from] NotDelegated),
    /// v2: a cgroup whose processes are not ours alone must not be emptied for the sake of children.
    #[error(
        "{path} holds other processes than this one, so it can pass the memory controller on to no child: run this in \
         a cgroup of its own (`systemd-run --scope -p Delegate=yes …`)"
    )]
    Shared {
        /// The directory of the cgroup.
        path: PathBuf,
    },
    /// A file or directory of the cgroup file system.
    #[error("{path}: {source}")]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
}

cofferdam_protocol::debug_as_display!(ChildError);

/// A memory cgroup that was made for a purpose, with a limit and without swap. Removed when dropped; whatever runs in it
/// has to have ended by then.
#[derive(Debug)]
pub struct ChildCgroup(Cgroup);

impl ChildCgroup {
    /// Makes one below this process's own, or beside it, that allows so many bytes.
    ///
    /// On v2 a cgroup that has processes passes no controller on. A process that is alone in a delegated cgroup is
    /// therefore moved into a child of it, `cofferdam-supervisor`, and stays there; the cgroup passes memory on from then.
    ///
    /// # Errors
    /// [`ChildError`]: it takes root or a delegated cgroup.
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

    /// The cgroup, to be looked at.
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
        // The last process may have been reaped and still be on its way out of the cgroup.
        const PATIENCE: Duration = Duration::from_secs(10);
        let deadline = Instant::now() + PATIENCE;
        loop {
            match fs::remove_dir(&self.0.dir) {
                Err(error) if error.kind() == io::ErrorKind::ResourceBusy && Instant::now() < deadline => {
                    thread::sleep(Duration::from_millis(10));
                }
                Err(error) => return tracing::warn!("{} remains: {error}", self.0.dir.display()),
                Ok(()) => return,
            }
        }
    }
}

impl Cgroup {
    /// The file that takes the ids of processes which move in.
    #[must_use]
    pub fn procs(&self) -> PathBuf {
        self.dir.join("cgroup.procs")
    }

    /// Moves a process in. What it has allocated until then stays charged to where it was.
    ///
    /// # Errors
    /// [`ChildError::Io`].
    pub fn admit(&self, pid: u32) -> Result<(), ChildError> {
        let procs = self.procs();
        fs::write(&procs, pid.to_string()).map_err(at(&procs))
    }
}

/// Where a child with a memory limit can be made. On v2 a cgroup that has processes passes no controller on to its
/// children ("no internal process constraint", admin-guide/cgroup-v2.rst): there the child becomes a sibling, or this
/// process moves into a child first.
fn parent(own: &Cgroup) -> Result<PathBuf, ChildError> {
    if own.version == Version::V1 {
        return Ok(own.dir.clone());
    }
    if passes_memory_on(&own.dir) {
        return Ok(own.dir.clone());
    }
    match make_room(own) {
        Ok(()) => Ok(own.dir.clone()),
        // Beside it, then: below a parent that is not its own, and whose limit does not bind it.
        Err(error) => match own.dir.parent() {
            Some(parent) if passes_memory_on(parent) && eaccess(parent, AccessFlags::W_OK).is_ok() => {
                Ok(parent.to_owned())
            }
            _ => Err(error),
        },
    }
}

/// Moves this process, which must be alone there, from its cgroup into a child of it, so that the cgroup can pass the
/// memory controller on.
fn make_room(own: &Cgroup) -> Result<(), ChildError> {
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

fn passes_memory_on(dir: &Path) -> bool {
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
    fn on_v2_a_child_goes_where_the_memory_controller_is_passed_on() {
        let (_root, own) = v2(&[("own/cgroup.subtree_control", "cpu memory")]);
        assert_eq!(parent(&own).unwrap(), own.dir);
        let (_root, own) =
            v2(&[("own/cgroup.subtree_control", ""), ("cgroup.subtree_control", "memory pids")]);
        assert_eq!(parent(&own).unwrap(), own.dir.parent().unwrap());
    }

    #[test]
    fn on_v2_this_process_makes_room_for_children_if_it_is_alone() {
        let this = std::process::id();
        let files = [
            ("own/cgroup.controllers", "memory"),
            ("own/cgroup.subtree_control", ""),
            ("own/cgroup.procs", &format!("{this}\n")),
        ];
        // Beside it would be a place, too, but the limits of its own cgroup would not hold there.
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
