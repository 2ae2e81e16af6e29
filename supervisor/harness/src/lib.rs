//! Tests of modules and runtimes: what a module does at its memory limit, on a small host, without fuel, and whether it
//! does the same every time.
//!
//! For people who write a module or a runtime, in a `#[test]` of their own. It drives the pool, the store and the chain
//! that nodes run; nothing is imitated. Workers are the test binary itself, started again, so all that a test needs is
//! one macro, under `cargo test` and under nextest alike.
//!
//! ```no_run
//! use cofferdam_harness::Harness;
//! use cofferdam_harness::verdict::GuestVerdict;
//!
//! cofferdam_harness::enable_test_support!();
//!
//! #[test]
//! fn it_counts_blocks_and_says_when_memory_is_short() -> Result<(), cofferdam_harness::HarnessError> {
//!     let harness = Harness::load("guests/counter.wat")?.memory(16 << 20).fuel(1_000_000);
//!     let mut session = harness.start()?;
//!     session.block(b"a block").assert_completed().assert_writes(&[(b"blocks", b"\x01\0\0\0")]);
//!     session.view("blocks", b"").assert_result(b"\x01\0\0\0");
//!     session.block(vec![0; 32 << 20]).assert_verdict(GuestVerdict::MemoryExhausted);
//!     harness.assert_deterministic(5, &["one", "two", "three"]);
//!     Ok(())
//! }
//! ```
//!
//! - [`Harness`] describes the case, [`Session`] runs it, [`Outcome`] is what came of a block or a view, with assertions
//!   that fail in words;
//! - [`Harness::compare_runs`] and [`Harness::assert_deterministic`] repeat blocks on pools that differ in everything
//!   that must not matter;
//! - [`HostImport`] is a function of the test's own that guests may import: see [`crate::enable_test_support!`].
//!
//! An assertion that fails panics with the caller's place. Whatever else goes wrong is a [`HarnessError`], so that a test
//! can tell a module's fault from a machine that has no cgroups to give: [`HarnessError::is_no_host_limit`].

mod compare;
mod difference;
mod error;
mod outcome;
mod session;
mod settings;
mod support;
mod words;

use std::path::Path;
use std::time::Duration;

pub use cofferdam_worker::imports::{HostFunction, HostImport, ImportError, Value};

pub use cofferdam_chain::OnGuestFailure;
pub use compare::Agreement;
pub use difference::{Difference, Run, What, WritesDifference};
pub use error::HarnessError;
pub use outcome::Outcome;
pub use session::Session;
pub use settings::RunSettings;

pub use cofferdam_pool::{exit, fault, profile, verdict, writes};

#[doc(hidden)]
pub use ctor as __ctor;
#[doc(hidden)]
pub use support::__init_test;

use cofferdam_base::size::Bytes;
use cofferdam_pool::Limits;
use cofferdam_protocol::fault::Fault;

/// A case: a module, and what it may use. Starts as many sessions as a test wants.
#[derive(Clone, Debug)]
#[must_use = "a harness does nothing until it is started"]
pub struct Harness {
    module: Vec<u8>,
    memory_bytes: u64,
    host_bytes: Option<u64>,
    limits: Limits,
    faults: Vec<Fault>,
    policy: OnGuestFailure,
}

impl Harness {
    /// A case for `module`, in binary or text form.
    pub fn new(module: impl Into<Vec<u8>>) -> Self {
        Self {
            module: module.into(),
            memory_bytes: Bytes::mib(64).0,
            host_bytes: None,
            // What a host does to a worker is to be seen, not made good.
            limits: Limits { retries: 0, ..Limits::default() },
            faults: Vec::new(),
            policy: OnGuestFailure::Stop,
        }
    }

    /// A case for the module in a file, binary (`.wasm`) or text (`.wat`). Cargo and nextest start tests in the
    /// directory of their package.
    ///
    /// # Errors
    /// [`HarnessError::Unreadable`].
    pub fn load(path: impl AsRef<Path>) -> Result<Self, HarnessError> {
        let path = path.as_ref();
        let unreadable = |source| HarnessError::Unreadable { path: path.to_owned(), source };
        std::fs::read(path).map(Self::new).map_err(unreadable)
    }

    /// Bytes of linear memory that a guest may grow to, all committed before it starts: a multiple of 64 KiB, up to
    /// 4 GiB. Default 64 MiB.
    pub fn memory(mut self, bytes: u64) -> Self {
        self.memory_bytes = bytes;
        self
    }

    /// Bytes that the host has: every worker lives in a memory cgroup with this limit, and without swap. By default the
    /// host is the one that the test runs on.
    ///
    /// The kernel alone decides what does not fit; the pool does not reckon it out beforehand. A worker needs its memory
    /// and some MiB for itself. It takes root, or a delegated cgroup: [`HarnessError::NoHostLimit`]. In one of version 2
    /// this process may be moved into a child of its own: see [`ChildCgroup::limited_to`](cofferdam_pool::host::cgroup::ChildCgroup::limited_to).
    pub fn host_memory(mut self, bytes: u64) -> Self {
        self.host_bytes = Some(bytes);
        self
    }

    /// Fuel for each block and view. By default it is not metered.
    pub fn fuel(mut self, fuel: u64) -> Self {
        self.limits.fuel = Some(fuel);
        self
    }

    /// Wall-clock time for each attempt at a block or a view. Default 60 s.
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.limits.deadline = deadline;
        self
    }

    /// How often a block or a view is run again after a host verdict. Default 0, so that host verdicts are seen.
    pub fn retries(mut self, retries: u32) -> Self {
        self.limits.retries = retries;
        self
    }

    /// Bytes that one block may flush, or a view return. Default 128 MiB.
    pub fn output_limit(mut self, bytes: u64) -> Self {
        self.limits.output_bytes = bytes;
        self
    }

    /// Bytes that a block or a view's input may have. Default 32 MiB.
    pub fn input_limit(mut self, bytes: u64) -> Self {
        self.limits.input_bytes = bytes;
        self
    }

    /// What becomes of a block that fails for a reason of its own. Default [`OnGuestFailure::Stop`]: it is not
    /// committed, and the next block takes its height.
    pub fn on_guest_failure(mut self, policy: OnGuestFailure) -> Self {
        self.policy = policy;
        self
    }

    /// Makes workers die or lie at chosen heights.
    pub fn faults(mut self, faults: impl Into<Vec<Fault>>) -> Self {
        self.faults = faults.into();
        self
    }

    /// Starts a worker and an empty state: returns once all memory is committed.
    ///
    /// # Errors
    /// [`HarnessError::NotCommitted`] if the memory is not there, [`HarnessError::NoHostLimit`] if there can be no
    /// [`Harness::host_memory`] here, [`HarnessError::NotEnabled`] without [`crate::enable_test_support!`],
    /// [`HarnessError::Pool`] for a module or a setting that cannot run, [`HarnessError::Directory`] and
    /// [`HarnessError::Store`] if the state finds no room.
    pub fn start(&self) -> Result<Session, HarnessError> {
        Session::start(self, RunSettings::default())
    }
}
