//! Waits for room on a full disk. A write to the store that fails because the disk is full is tried again until it succeeds.
//! Other failures are not tried again ([`FailureKind`] tells them apart).

use std::sync::Mutex;
use std::time::{Duration, Instant};

use super::settings::OnFullDisk;
use super::stop::StopRequest;
use cofferdam_base::sync::lock;
use cofferdam_store::{FailureKind, StoreError};

/// The first wait between two tries. Each wait is twice as long as the one before it.
const FIRST_WAIT: Duration = Duration::from_millis(5);
/// The longest wait between two tries.
const LONGEST_WAIT: Duration = Duration::from_secs(1);
/// The time between two log lines about the same full disk.
const LOG_INTERVAL: Duration = Duration::from_mins(1);

/// Tries writes again while the disk is full. All threads that write to the store of one chain share one value of this type.
#[derive(Debug)]
pub(super) struct FullDisk {
    policy: OnFullDisk,
    /// Why a write is being tried again; none while no write is being tried again.
    stalled: Mutex<Option<String>>,
}

impl FullDisk {
    pub(super) fn new(policy: OnFullDisk) -> Self {
        Self { policy, stalled: Mutex::default() }
    }

    /// Why a write is being tried again; none while no write is being tried again.
    pub(super) fn stalled(&self) -> Option<String> {
        lock(&self.stalled).clone()
    }

    /// Calls `write` again while `write` fails because the disk is full, until `stop` is requested.
    pub(super) fn retry<T>(
        &self,
        stop: &StopRequest,
        mut write: impl FnMut() -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        write().or_else(|error| self.retry_after(error, stop, write))
    }

    /// As [`FullDisk::retry`], for a write that has already failed with `error`.
    pub(super) fn retry_after<T>(
        &self,
        mut error: StoreError,
        stop: &StopRequest,
        mut write: impl FnMut() -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let (mut wait, mut logged) = (FIRST_WAIT, None);
        let outcome = loop {
            if self.policy == OnFullDisk::Fail || error.kind() != FailureKind::NoSpace || stop.is_made() {
                break Err(error);
            }
            self.note(&error, &mut logged);
            if stop.wait(wait) {
                break Err(error);
            }
            wait = (wait * 2).min(LONGEST_WAIT);
            match write() {
                Ok(done) => break Ok(done),
                Err(again) => error = again,
            }
        };
        if logged.is_some() {
            *lock(&self.stalled) = None;
        }
        if logged.is_some() && outcome.is_ok() {
            tracing::info!("the disk has room again: the write succeeded");
        }
        outcome
    }

    /// Stores the reason of the wait for [`FullDisk::stalled`], and logs the reason once in each [`LOG_INTERVAL`].
    fn note(&self, error: &StoreError, logged: &mut Option<Instant>) {
        *lock(&self.stalled) = Some(error.to_string());
        if logged.is_none_or(|logged| logged.elapsed() >= LOG_INTERVAL) {
            tracing::error!("{error}. The write is tried again until there is room");
            *logged = Some(Instant::now());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::mpsc;
    use std::thread;

    use super::*;

    fn failure(errno: i32) -> StoreError {
        let source = heed::Error::Io(io::Error::from_raw_os_error(errno));
        StoreError::Lmdb { path: "/s".into(), operation: "writing", source }
    }

    fn waiting() -> (FullDisk, StopRequest) {
        (FullDisk::new(OnFullDisk::Wait), StopRequest::default())
    }

    #[test]
    fn a_full_disk_is_waited_for_and_a_failing_disk_is_not() {
        let (disk, stop) = waiting();
        let mut left = 3;
        let done = disk.retry(&stop, || {
            left -= 1;
            if left == 1 {
                assert!(disk.stalled().unwrap().contains("Make room"));
            }
            if left > 0 { Err(failure(28)) } else { Ok("done") }
        });
        assert_eq!((done.unwrap(), left, disk.stalled()), ("done", 0, None));
        let mut tries = 0;
        let failed = disk.retry(&stop, || {
            tries += 1;
            Err::<(), _>(failure(5))
        });
        assert!(failed.unwrap_err().to_string().contains("The disk fails"));
        assert_eq!((tries, disk.stalled()), (1, None));
    }

    #[test]
    fn after_a_stop_request_a_write_is_tried_once() {
        let (disk, stop) = waiting();
        stop.make();
        let mut tries = 0;
        let failed = disk.retry(&stop, || {
            tries += 1;
            Err::<(), _>(failure(28))
        });
        assert!(failed.is_err() && tries == 1);
    }

    #[test]
    fn a_stop_request_ends_the_wait_for_room() {
        let (disk, stop) = waiting();
        let (tried, tries) = mpsc::channel();
        thread::scope(|scope| {
            let write = || {
                tried.send(()).unwrap();
                Err::<(), _>(failure(28))
            };
            let (disk, stop) = (&disk, &stop);
            let writer = scope.spawn(move || disk.retry(stop, write));
            // The second try shows that the first one was waited after.
            tries.iter().take(2).for_each(drop);
            stop.make();
            assert!(writer.join().unwrap().unwrap_err().to_string().contains("Make room"));
        });
        assert_eq!(disk.stalled(), None);
    }

    #[test]
    fn a_chain_that_does_not_wait_tries_a_write_once() {
        let disk = FullDisk::new(OnFullDisk::Fail);
        let mut tries = 0;
        let failed = disk.retry(&StopRequest::default(), || {
            tries += 1;
            Err::<(), _>(failure(28))
        });
        assert!(failed.unwrap_err().to_string().contains("Make room"));
        assert_eq!((tries, disk.stalled()), (1, None));
    }
}
