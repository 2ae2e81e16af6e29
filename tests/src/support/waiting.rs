//! Waiting for what a test expects, and not for time.

use std::thread;
use std::time::{Duration, Instant};

/// How long anything may take before a test gives up on it: a machine that commits 4 GiB for the first time may need
/// half a minute for that alone.
pub const PATIENCE: Duration = Duration::from_mins(5);

/// How often something that is waited for is looked at.
pub(super) const STEP: Duration = Duration::from_millis(3);

/// Waits until `look` finds something. `what` is said if it never does.
pub fn wait_until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "waited in vain until {what}");
        thread::sleep(STEP);
    }
}
