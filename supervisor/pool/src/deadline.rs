//! Deadlines from durations that callers choose, however long these are.

use std::time::{Duration, Instant};

/// The moment `duration` from now. A duration that the clock cannot represent gives a moment a century from now.
pub(super) fn after(duration: Duration) -> Instant {
    const NEVER: Duration = Duration::from_secs(100 * 365 * 24 * 3600);
    let now = Instant::now();
    now.checked_add(duration).or_else(|| now.checked_add(NEVER)).unwrap_or(now)
}
