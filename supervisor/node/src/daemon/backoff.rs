//! The growing delays between the attempts of one thread.

use std::time::Duration;

/// Delays that double with each failed attempt, from 100 ms to 2 s.
#[derive(Debug, Default)]
pub(super) struct Backoff {
    failures: u32,
}

impl Backoff {
    const FIRST: Duration = Duration::from_millis(100);
    /// Short enough that a node which has come back is followed again within seconds.
    const LONGEST: Duration = Duration::from_secs(2);

    /// Counts a failed attempt, and returns the delay before the next one.
    pub(super) fn next_delay(&mut self) -> Duration {
        let delay = Self::FIRST.saturating_mul(1 << self.failures.min(10));
        self.failures = self.failures.saturating_add(1);
        delay.min(Self::LONGEST)
    }

    /// How many attempts have failed in a row.
    pub(super) fn failures(&self) -> u32 {
        self.failures
    }

    /// Records that an attempt succeeded. The next delay is the first one again.
    pub(super) fn reset(&mut self) {
        self.failures = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_grow_to_a_limit_and_begin_anew() {
        let mut backoff = Backoff::default();
        let delays: Vec<_> = (0..7).map(|_| backoff.next_delay().as_millis()).collect();
        assert_eq!(delays, [100, 200, 400, 800, 1600, 2000, 2000]);
        assert_eq!(backoff.failures(), 7);
        for _ in 0..100 {
            assert_eq!(backoff.next_delay(), Backoff::LONGEST);
        }
        backoff.reset();
        assert_eq!(backoff.next_delay(), Backoff::FIRST);
    }
}
