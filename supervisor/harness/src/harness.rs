//! The description of a case: a module and its limits.

use std::path::Path;
use std::time::Duration;

use cofferdam_base::size::Bytes;
use cofferdam_chain::OnGuestFailure;
use cofferdam_pool::Limits;
use cofferdam_protocol::fault::Fault;

use super::error::HarnessError;

/// A case: a module and its limits. A test can start any number of sessions from it.
#[derive(Clone, Debug)]
#[must_use = "a harness does nothing until it is started"]
pub struct Harness {
    pub(super) module: Vec<u8>,
    pub(super) memory_bytes: u64,
    pub(super) host_bytes: Option<u64>,
    pub(super) limits: Limits,
    pub(super) faults: Vec<Fault>,
    pub(super) policy: OnGuestFailure,
}

impl Harness {
    /// A case for `module`, in binary or text form.
    pub fn new(module: impl Into<Vec<u8>>) -> Self {
        Self {
            module: module.into(),
            memory_bytes: Bytes::mib(64).0,
            host_bytes: None,
            // If the pool ran the block again, the test would not see the death of the worker.
            limits: Limits { retries: 0, ..Limits::default() },
            faults: Vec::new(),
            policy: OnGuestFailure::Stop,
        }
    }

    /// A case for the module in a file, in binary form (`.wasm`) or text form (`.wat`). Cargo and nextest run tests in the directory
    /// of their package.
    ///
    /// # Errors
    /// [`HarnessError::Unreadable`].
    pub fn load(path: impl AsRef<Path>) -> Result<Self, HarnessError> {
        let path = path.as_ref();
        let unreadable = |source| HarnessError::Unreadable { path: path.to_owned(), source };
        std::fs::read(path).map(Self::new).map_err(unreadable)
    }

    /// The most bytes of linear memory that a guest can have: a multiple of 64 KiB, at most 4 GiB. Default: 64 MiB. A worker
    /// commits all of them before the first block.
    pub fn memory(mut self, bytes: u64) -> Self {
        self.memory_bytes = bytes;
        self
    }

    /// Limits the memory of the host to `bytes`: all workers of a session run in one memory cgroup with this limit and without
    /// swap. By default, workers run without a limit other than those of the test's own host.
    ///
    /// The pool does not check beforehand whether the workers fit into the limit. The kernel alone decides that. A worker needs
    /// its linear memory and some MiB more. This needs root or a delegated cgroup; see [`HarnessError::NoHostLimit`]. With
    /// cgroups of version 2, this process may be moved to a child cgroup; see
    /// [`ChildCgroup::limited_to`](cofferdam_pool::host::cgroup::ChildCgroup::limited_to).
    pub fn host_memory(mut self, bytes: u64) -> Self {
        self.host_bytes = Some(bytes);
        self
    }

    /// The fuel for each block and view. By default, fuel is not metered.
    pub fn fuel(mut self, fuel: u64) -> Self {
        self.limits.fuel = Some(fuel);
        self
    }

    /// The wall-clock time for each attempt at a block or a view. Default: 60 s.
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.limits.deadline = deadline;
        self
    }

    /// How often a block or a view is run again after a host verdict. Default: 0, so that the test sees host verdicts.
    pub fn retries(mut self, retries: u32) -> Self {
        self.limits.retries = retries;
        self
    }

    /// The most bytes that a block may flush, or a view return. Default: 128 MiB.
    pub fn output_limit(mut self, bytes: u64) -> Self {
        self.limits.output_bytes = bytes;
        self
    }

    /// The most bytes of a block, or of the input of a view. Default: 32 MiB.
    pub fn input_limit(mut self, bytes: u64) -> Self {
        self.limits.input_bytes = bytes;
        self
    }

    /// What happens to a block with a guest verdict other than `completed`. Default: [`OnGuestFailure::Stop`]. The block is then not
    /// committed, and the next block gets its height.
    pub fn on_guest_failure(mut self, policy: OnGuestFailure) -> Self {
        self.policy = policy;
        self
    }

    /// Faults that workers have at chosen heights: they die, or send wrong answers.
    pub fn faults(mut self, faults: impl Into<Vec<Fault>>) -> Self {
        self.faults = faults.into();
        self
    }
}
