//! A request to stop, which ends every wait of a chain at once.

use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

use cofferdam_base::sync::lock;

/// Whether the chain was asked to stop. The request is never taken back.
#[derive(Debug, Default)]
pub(super) struct StopRequest {
    made: Mutex<bool>,
    changed: Condvar,
}

impl StopRequest {
    /// Makes the request, and wakes every thread that waits.
    pub(super) fn make(&self) {
        *lock(&self.made) = true;
        self.changed.notify_all();
    }

    /// Whether the request was made.
    pub(super) fn is_made(&self) -> bool {
        *lock(&self.made)
    }

    /// Waits until the request is made, and for at most `timeout`. Returns whether the request was made.
    pub(super) fn wait(&self, timeout: Duration) -> bool {
        let waited = self.changed.wait_timeout_while(lock(&self.made), timeout, |made| !*made);
        *waited.unwrap_or_else(PoisonError::into_inner).0
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    #[test]
    fn a_request_ends_a_wait() {
        let stop = StopRequest::default();
        assert!(!stop.wait(Duration::ZERO) && !stop.is_made());
        thread::scope(|scope| {
            let waiting = scope.spawn(|| stop.wait(Duration::from_secs(3600)));
            stop.make();
            assert!(waiting.join().unwrap());
        });
        assert!(stop.wait(Duration::from_secs(3600)) && stop.is_made());
    }
}
