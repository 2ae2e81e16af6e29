//! The settings of a pool, which are fixed when it is built.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use cofferdam_protocol::fault::{Fault, FaultKind};
use cofferdam_protocol::message::{CommitStrategy, MemoryPlan, ResetStrategy};
use cofferdam_protocol::{BUILD, PROTOCOL_VERSION, message};

use super::death::Death;
use super::layers::LayerArena;
use super::quarantine::QuarantinePolicy;
use super::restart::RestartPolicy;
use crate::host::cgroup::Cgroup;
use cofferdam_base::size::Bytes;

/// What one job may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Fuel per job. None, the default, means that fuel is not metered.
    pub fuel: Option<u64>,
    /// Wall-clock time of one attempt. Default 60 s.
    pub deadline: Duration,
    /// How many times a job is retried after a host verdict. Default 2.
    pub retries: u32,
    /// The largest input of a job, in bytes. Default 32 MiB.
    pub input_bytes: u64,
    /// The largest output of a job, flushed or returned, in bytes. Default 128 MiB.
    pub output_bytes: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            fuel: None,
            deadline: Duration::from_secs(60),
            retries: 2,
            input_bytes: Bytes::mib(32).0,
            output_bytes: Bytes::mib(128).0,
        }
    }
}

/// A function that is called with each [`Death`].
pub(super) type DeathHook = Arc<dyn Fn(&Death) + Send + Sync>;

/// Everything that slots and callers need to know of their pool.
pub(super) struct Settings {
    pub(super) memory: MemoryPlan,
    pub(super) workers: usize,
    pub(super) spares: usize,
    pub(super) limits: Limits,
    pub(super) state: Option<PathBuf>,
    /// Bytes that layers may take in all.
    pub(super) layer_bytes: u64,
    pub(super) restart: RestartPolicy,
    pub(super) start_timeout: Duration,
    /// How long the pool waits for the end of a worker after SIGKILL.
    pub(super) kill_timeout: Duration,
    pub(super) quarantine: QuarantinePolicy,
    pub(super) executable: PathBuf,
    pub(super) faults: Vec<Fault>,
    pub(super) on_death: Option<DeathHook>,
    /// The cgroup of the workers. None: the workers stay in the supervisor's cgroup.
    pub(super) cgroup: Option<Cgroup>,
}

impl Default for Settings {
    /// One worker of 4 GiB, without a spare, a store or layers.
    fn default() -> Self {
        Self {
            memory: MemoryPlan {
                bytes: Bytes::gib(4).0,
                strategy: CommitStrategy::default(),
                huge_pages: true,
                lock: false,
                reset: ResetStrategy::default(),
            },
            workers: 1,
            spares: 0,
            limits: Limits::default(),
            state: None,
            layer_bytes: 0,
            restart: RestartPolicy::default(),
            start_timeout: Duration::from_secs(120),
            kill_timeout: Duration::from_secs(10),
            quarantine: QuarantinePolicy::default(),
            executable: PathBuf::from("/proc/self/exe"),
            faults: Vec::new(),
            on_death: None,
            cgroup: None,
        }
    }
}

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { memory, workers, spares, limits, .. } = self;
        f.debug_struct("Settings")
            .field("memory", memory)
            .field("workers", workers)
            .field("spares", spares)
            .field("limits", limits)
            .finish_non_exhaustive()
    }
}

impl Settings {
    /// The first frame to the worker of `slot`. Its layers are in `layers`.
    pub(super) fn configure(&self, slot: usize, layers: &LayerArena) -> message::Configure {
        let is_its_own = |fault: &&Fault| slot == 0 || fault.kind != FaultKind::Lie;
        message::Configure {
            version: PROTOCOL_VERSION,
            build: BUILD.to_owned(),
            supervisor: std::process::id(),
            memory: self.memory,
            fuel: self.limits.fuel,
            input_bytes: self.limits.input_bytes,
            output_bytes: self.limits.output_bytes,
            state: self.state.as_deref().map(Into::into),
            layer_bytes: layers.capacity(),
            layer_seed: layers.seed(),
            faults: self.faults.iter().filter(is_its_own).copied().collect(),
        }
    }
}
