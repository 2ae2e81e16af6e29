//! Memory cgroups: what a container's limit is made of, without the container.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use cofferdam::pool::cgroup::{Cgroup, Version};

/// A child of this process's own memory cgroup, with a limit. Removed at the end.
#[derive(Debug)]
pub struct ChildCgroup {
    directory: PathBuf,
    version: Version,
}

impl ChildCgroup {
    /// Makes one that allows so many bytes and no swap; says loudly why if that is not possible here.
    pub fn limited_to(bytes: u64) -> Option<Self> {
        match Self::make(bytes) {
            Ok(cgroup) => Some(cgroup),
            Err(reason) => {
                eprintln!("SKIPPED: no memory cgroup can be made here: {reason}");
                None
            }
        }
    }

    fn make(bytes: u64) -> Result<Self, String> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let own = Cgroup::discover().map_err(|error| error.to_string())?;
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("cofferdam-tests-{}-{number}", std::process::id());
        let parent = parent(&own)?;
        let directory = parent.join(name);
        fs::create_dir(&directory).map_err(|error| format!("{}: {error}", directory.display()))?;
        let child = Self { directory, version: own.version() };
        child.write(child.limit_file(), &bytes.to_string())?;
        for swap in ["memory.swap.max", "memory.swappiness"] {
            if child.directory.join(swap).exists() {
                child.write(swap, "0")?;
            }
        }
        Ok(child)
    }

    fn limit_file(&self) -> &'static str {
        match self.version {
            Version::V1 => "memory.limit_in_bytes",
            Version::V2 => "memory.max",
        }
    }

    fn write(&self, file: &str, text: &str) -> Result<(), String> {
        let path = self.directory.join(file);
        fs::write(&path, text).map_err(|error| format!("{}: {error}", path.display()))
    }

    /// Its directory.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The file that takes the process ids of those who move in.
    pub fn procs(&self) -> PathBuf {
        self.directory.join("cgroup.procs")
    }

    /// How many processes the kernel has killed in it for want of memory.
    pub fn oom_kills(&self) -> u64 {
        let file = match self.version {
            Version::V1 => "memory.oom_control",
            Version::V2 => "memory.events",
        };
        let text = fs::read_to_string(self.directory.join(file)).expect("the cgroup is there");
        let count = text.lines().find_map(|line| line.strip_prefix("oom_kill ")?.parse().ok());
        count.expect("the kernel counts its kills")
    }
}

/// Where a child with a memory limit can be made. On v2 a cgroup that has processes passes no controller on to its
/// children ("no internal processes"), so there the child becomes a sibling.
fn parent(own: &Cgroup) -> Result<PathBuf, String> {
    if own.version() == Version::V1 {
        return Ok(own.dir().to_owned());
    }
    let candidates = [Some(own.dir()), own.dir().parent()];
    let passes_on = |dir: &&Path| {
        let controllers = fs::read_to_string(dir.join("cgroup.subtree_control")).unwrap_or_default();
        controllers.split_whitespace().any(|controller| controller == "memory")
    };
    let found = candidates.into_iter().flatten().find(passes_on);
    found.map(Path::to_owned).ok_or_else(|| "no cgroup passes the memory controller on".to_owned())
}

impl Drop for ChildCgroup {
    fn drop(&mut self) {
        // The last process may have been reaped and still be on its way out of the cgroup.
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            match fs::remove_dir(&self.directory) {
                Err(error) if error.kind() == io::ErrorKind::ResourceBusy && Instant::now() < deadline => {
                    std::thread::sleep(Duration::from_millis(10));
                }
                Err(error) => return eprintln!("{} remains: {error}", self.directory.display()),
                Ok(()) => return,
            }
        }
    }
}
