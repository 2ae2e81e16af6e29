//! Memory cgroups: the one that this process or a worker lives in, and children with a limit of their own.
//!
//! The pool asks two questions. Before a worker is started: how much memory is left before the kernel kills a process? After a
//! SIGKILL: did the kernel's OOM killer send the signal, or did somebody else? In a container, the files of the cgroup answer
//! both questions. `MemAvailable` does not take cgroups into account.
//!
//! cgroup v1 and v2 both occur, and on a hybrid host both at once: the memory controller is then where /proc/self/cgroup says that
//! it is attached (cgroups(7)). The kernel documents the files in admin-guide/cgroup-v1/memory.rst and admin-guide/cgroup-v2.rst.

mod child;
mod file;
mod hierarchy;
mod locate;
mod oom;

pub use child::{ChildCgroup, ChildError};
pub use hierarchy::{Cgroup, CgroupBudget, CgroupError, Limit, NotDelegated};
pub use locate::Version;
pub use oom::{Evidence, OomCounts};
