//! How many requests a node takes in one batch. Bitcoin Core takes any number; other nodes, and proxies before them, may
//! take a few or none, and say so in many ways.

use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

use super::error::DaemonError;
use super::trouble::{Failure, Trouble};

/// The largest batch that a node is asked, which is as many hashes as are asked for at a time.
const LARGEST: usize = 101;

/// How often in a row a node may be too busy for a batch before the batch counts as the reason.
const BUSY: u32 = 3;

/// What was learnt of one node. It is kept for as long as the node is followed.
#[derive(Debug)]
pub(super) struct Batches {
    size: AtomicUsize,
    /// How often in a row the node was too busy.
    busy: AtomicU32,
}

impl Default for Batches {
    fn default() -> Self {
        Self { size: AtomicUsize::new(LARGEST), busy: AtomicU32::new(0) }
    }
}

impl Batches {
    /// How many requests one batch may have; 1 means that the node takes no batch.
    pub(super) fn size(&self) -> usize {
        self.size.load(Ordering::Relaxed)
    }

    /// A batch was answered.
    pub(super) fn worked(&self) {
        self.busy.store(0, Ordering::Relaxed);
    }

    /// Whether `failure` may come from asking so much at once. Whether it does shows when one request is asked alone.
    pub(super) fn may_be_why(&self, failure: &Failure) -> bool {
        match failure {
            Failure::Passing(Trouble::Garbled(_) | Trouble::Refused { .. }) => true,
            // Mostly it is just that: busy.
            Failure::Passing(Trouble::Busy { .. }) => self.busy.fetch_add(1, Ordering::Relaxed) + 1 >= BUSY,
            Failure::Final(error) => matches!(
                **error,
                DaemonError::NoRpc { .. }
                    | DaemonError::Method { .. }
                    | DaemonError::Forbidden { .. }
                    | DaemonError::NotWhitelisted { .. }
            ),
            Failure::Passing(_) | Failure::Moved => false,
        }
    }

    /// A batch of `size` was not answered, and one request was. Returns how many are asked from now on.
    pub(super) fn refused(&self, size: usize) -> usize {
        let was_busy = self.busy.swap(0, Ordering::Relaxed) >= BUSY;
        // To be told "busy" for every half would take too long.
        let smaller = if was_busy { 1 } else { (size / 2).max(1) };
        self.size.fetch_min(smaller, Ordering::Relaxed);
        smaller
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn busy() -> Failure {
        Failure::Passing(Trouble::Busy { status: 503, body: String::new() })
    }

    #[test]
    fn a_batch_that_is_refused_is_halved_down_to_single_requests() {
        let batches = Batches::default();
        let sizes: Vec<_> = (0..8).map(|_| batches.refused(batches.size())).collect();
        assert_eq!(sizes, [50, 25, 12, 6, 3, 1, 1, 1]);
        assert_eq!(batches.size(), 1);
    }

    #[test]
    fn a_node_is_busy_a_few_times_before_the_batch_is_the_reason() {
        let batches = Batches::default();
        assert!(!batches.may_be_why(&busy()) && !batches.may_be_why(&busy()));
        batches.worked();
        assert!(!batches.may_be_why(&busy()) && !batches.may_be_why(&busy()));
        assert!(batches.may_be_why(&busy()));
        assert_eq!(batches.refused(LARGEST), 1);
        let silent = Failure::Passing(Trouble::Silent(std::time::Duration::ZERO));
        assert!(!batches.may_be_why(&silent) && !batches.may_be_why(&Failure::Moved));
    }
}
