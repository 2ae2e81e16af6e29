//! An attempt at a job that was lost together with its worker, and the evidence that is kept of it.

use cofferdam_protocol::verdict::HostVerdict;

/// A worker process, by its numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WorkerInfo {
    /// Process id.
    pub pid: u32,
    /// The worker's slot in the pool.
    pub slot: usize,
}

/// An attempt that ended in a host verdict, with the evidence.
#[derive(Clone, Debug)]
pub struct FailedAttempt {
    /// The worker that was lost.
    pub worker: WorkerInfo,
    /// What happened to the worker.
    pub verdict: HostVerdict,
    /// The evidence in words.
    pub detail: String,
    /// Whether the worker ended because of what the supervisor sent, for example a state that is behind the one that the job
    /// demands ([`ProtocolViolated`](cofferdam_protocol::exit::WorkerExit::ProtocolViolated)). The job is not to blame then.
    pub supervisors_fault: bool,
}
