//! Waiting for room: a write to the store that fails because the disk is full is tried again until somebody makes room. What
//! does not pass by itself is not tried again ([`Trouble`]).

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use cofferdam_base::sync::lock;
use cofferdam_store::{StoreError, Trouble};

/// How long the first pause between two tries is, and the longest: somebody may be waiting for this to end.
const FIRST_PAUSE: Duration = Duration::from_millis(5);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// How often the log says that there is still no room.
const TOLD_EVERY: Duration = Duration::from_mins(1);

/// The patience of all who write to one store for one chain.
#[derive(Debug, Default)]
pub(super) struct Patience {
    /// Why a write is being tried again and again, while one is.
    stalled: Mutex<Option<String>>,
    /// Whether a write that fails is not to be tried again.
    given_up: AtomicBool,
}

impl Patience {
    /// Why a write is being tried again and again, if one is.
    pub(super) fn stalled(&self) -> Option<String> {
        lock(&self.stalled).clone()
    }

    /// Has no write be tried again from now on.
    pub(super) fn give_up(&self) {
        self.given_up.store(true, Ordering::Release);
    }

    /// Makes an attempt to write, again and again while there is no room.
    pub(super) fn insist<T>(
        &self,
        mut attempt: impl FnMut() -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        attempt().or_else(|error| self.insist_after(error, attempt))
    }

    /// Makes an attempt again, which has failed with `error`.
    pub(super) fn insist_after<T>(
        &self,
        mut error: StoreError,
        mut attempt: impl FnMut() -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let (mut pause, mut told) = (FIRST_PAUSE, None);
        let outcome = loop {
            if error.trouble() != Trouble::NoRoom || self.given_up.load(Ordering::Acquire) {
                break Err(error);
            }
            self.stall(&error, &mut told);
            thread::sleep(pause);
            pause = (pause * 2).min(LONGEST_PAUSE);
            match attempt() {
                Ok(done) => break Ok(done),
                Err(again) => error = again,
            }
        };
        if told.is_some() {
            *lock(&self.stalled) = None;
        }
        if told.is_some() && outcome.is_ok() {
            tracing::info!("there is room on the disk again");
        }
        outcome
    }

    fn stall(&self, error: &StoreError, told: &mut Option<Instant>) {
        *lock(&self.stalled) = Some(error.to_string());
        if told.is_none_or(|told| told.elapsed() >= TOLD_EVERY) {
            tracing::error!("{error}; trying again until there is room");
            *told = Some(Instant::now());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    fn failure(errno: i32) -> StoreError {
        let source = heed::Error::Io(io::Error::from_raw_os_error(errno));
        StoreError::Lmdb { path: "/s".into(), doing: "writing", source }
    }

    #[test]
    fn want_of_room_is_waited_for_and_a_failing_disk_is_not() {
        let patience = Patience::default();
        let mut left = 3;
        let done = patience.insist(|| {
            left -= 1;
            if left == 1 {
                assert!(patience.stalled().unwrap().contains("Make room"));
            }
            if left > 0 { Err(failure(28)) } else { Ok("done") }
        });
        assert_eq!((done.unwrap(), left, patience.stalled()), ("done", 0, None));
        let mut tries = 0;
        let failed = patience.insist(|| {
            tries += 1;
            Err::<(), _>(failure(5))
        });
        assert!(failed.unwrap_err().to_string().contains("The disk fails"));
        assert_eq!((tries, patience.stalled()), (1, None));
    }

    #[test]
    fn who_gives_up_hears_why() {
        let patience = Patience::default();
        patience.give_up();
        assert!(patience.insist(|| Err::<(), _>(failure(28))).is_err());
    }
}
