//! Memory cgroups: what a container's limit is made of, without the container.

use std::path::{Path, PathBuf};

use cofferdam::host::cgroup;
use cofferdam_test_skips::skip;

/// A memory cgroup with a limit, made for one test. Removed at the end.
#[derive(Debug)]
pub struct ChildCgroup(cgroup::ChildCgroup);

impl ChildCgroup {
    /// Makes one that allows so many bytes and no swap; says loudly why if that is not possible here.
    pub fn limited_to(bytes: u64) -> Option<Self> {
        match cgroup::ChildCgroup::limited_to(bytes) {
            Ok(cgroup) => Some(Self(cgroup)),
            Err(error) => {
                skip(format_args!("no memory cgroup can be made here: {error}"));
                None
            }
        }
    }

    /// Its directory.
    pub fn directory(&self) -> &Path {
        self.0.cgroup().dir()
    }

    /// The file that takes the process ids of those who move in.
    pub fn procs(&self) -> PathBuf {
        self.0.cgroup().procs()
    }

    /// How many processes the kernel has killed in it for want of memory.
    pub fn oom_kills(&self) -> u64 {
        self.0.cgroup().oom_kills().expect("the kernel counts its kills")
    }
}
