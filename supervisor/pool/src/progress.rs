//! How far the start of a pool is.

use std::ops::ControlFlow;

/// How much memory the workers of a pool have committed while the pool starts, in bytes over all workers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StartProgress {
    /// Bytes committed so far.
    pub committed_bytes: u64,
    /// Bytes to commit.
    pub total_bytes: u64,
}

/// Called with the progress of a start. Decides whether the start continues.
pub type Progress<'a> = dyn FnMut(StartProgress) -> ControlFlow<()> + 'a;
