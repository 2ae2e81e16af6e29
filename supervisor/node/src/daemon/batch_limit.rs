//! How many requests one batch may have. Bitcoin Core accepts any number. Other nodes, and proxies in front of them, may
//! accept a few or none, and refuse a batch in many ways. The follower therefore learns the limit.

use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

use super::error::DaemonError;
use super::transient::{RequestFailure, TransientError};

/// The largest batch. It is as long as the longest list of hashes that is requested at a time.
const LARGEST: usize = 101;

/// How many times in a row a node may answer a batch with "busy" before the size of the batch counts as the reason.
const BUSY_ANSWERS: u32 = 3;

/// The largest batch that one node accepts, as far as the follower has learned it. The limit is kept for as long as the node is
/// followed.
#[derive(Debug)]
pub(super) struct BatchLimit {
    size: AtomicUsize,
    /// How many times in a row the node answered a batch with "busy".
    busy: AtomicU32,
}

impl Default for BatchLimit {
    fn default() -> Self {
        Self { size: AtomicUsize::new(LARGEST), busy: AtomicU32::new(0) }
    }
}

impl BatchLimit {
    /// How many requests one batch may have. At 1, requests are sent one by one, without a batch.
    pub(super) fn size(&self) -> usize {
        self.size.load(Ordering::Relaxed)
    }

    /// Records that the node answered a batch.
    pub(super) fn accepted(&self) {
        self.busy.store(0, Ordering::Relaxed);
    }

    /// Whether the size of the batch may be the reason for `failure`. To find out, the caller sends one request alone.
    pub(super) fn may_explain(&self, failure: &RequestFailure) -> bool {
        match failure {
            RequestFailure::Transient(TransientError::Malformed(_) | TransientError::Refused { .. }) => true,
            // Usually the node really is busy, whatever the size of the batch.
            RequestFailure::Transient(TransientError::Busy { .. }) => {
                self.busy.fetch_add(1, Ordering::Relaxed) + 1 >= BUSY_ANSWERS
            }
            RequestFailure::Fatal(error) => matches!(
                **error,
                DaemonError::NoRpc { .. }
                    | DaemonError::Method { .. }
                    | DaemonError::Forbidden { .. }
                    | DaemonError::NotWhitelisted { .. }
            ),
            RequestFailure::Transient(_) | RequestFailure::ChainMoved => false,
        }
    }

    /// Records that the node refused a batch of `size`, but answered one request alone. Returns the size of batches from now on.
    pub(super) fn lower(&self, size: usize) -> usize {
        let was_busy = self.busy.swap(0, Ordering::Relaxed) >= BUSY_ANSWERS;
        // A node that answers "busy" would do so for every half, which would take too long.
        let smaller = if was_busy { 1 } else { (size / 2).max(1) };
        self.size.fetch_min(smaller, Ordering::Relaxed);
        smaller
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn busy() -> RequestFailure {
        RequestFailure::Transient(TransientError::Busy { status: 503, body: String::new() })
    }

    #[test]
    fn a_batch_that_is_refused_is_halved_down_to_single_requests() {
        let batches = BatchLimit::default();
        let sizes: Vec<_> = (0..8).map(|_| batches.lower(batches.size())).collect();
        assert_eq!(sizes, [50, 25, 12, 6, 3, 1, 1, 1]);
        assert_eq!(batches.size(), 1);
    }

    #[test]
    fn a_node_may_be_busy_twice_before_the_batch_is_the_reason() {
        let batches = BatchLimit::default();
        assert!(!batches.may_explain(&busy()) && !batches.may_explain(&busy()));
        batches.accepted();
        assert!(!batches.may_explain(&busy()) && !batches.may_explain(&busy()));
        assert!(batches.may_explain(&busy()));
        assert_eq!(batches.lower(LARGEST), 1);
        let silent = RequestFailure::Transient(TransientError::Silent(std::time::Duration::ZERO));
        assert!(!batches.may_explain(&silent) && !batches.may_explain(&RequestFailure::ChainMoved));
    }
}
