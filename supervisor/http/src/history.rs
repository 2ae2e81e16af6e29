//! The last five minutes, second by second: how many answers there were, and how long they took.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use cofferdam_protocol::verdict::Verdict;
use hdrhistogram::Histogram;
use serde::Serialize;

use super::answer::Answer;

/// Seconds that are kept.
const SECONDS: usize = 300;

/// The longest time that is told from longer ones, in microseconds: an hour.
const LONGEST_US: u64 = 3_600_000_000;

/// What one second was like.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Second {
    /// Answers a second.
    pub(super) rate: f64,
    pub(super) latency: Option<Latency>,
}

/// How long the answers of a second took, in microseconds: queue, guest and overhead.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Latency {
    pub(super) p50: u64,
    pub(super) p99: u64,
    pub(super) max: u64,
}

/// How many requests came to what, since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(super) struct Totals {
    pub(super) completed: u64,
    pub(super) guest_failed: u64,
    pub(super) host_failed: u64,
    /// Answered from memory, because the job is in quarantine.
    pub(super) quarantined: u64,
    pub(super) shed: u64,
}

/// Counts while a second goes on, and what the ones before it were like.
#[derive(Debug)]
pub(super) struct History {
    pub(super) totals: Totals,
    begun: Instant,
    current: Histogram<u64>,
    past: VecDeque<Second>,
}

/// The event that a status page begins with.
#[derive(Debug, Serialize)]
pub(super) struct Past {
    seconds: u32,
    rate: Vec<f64>,
    p50_us: Vec<Option<u64>>,
    p99_us: Vec<Option<u64>>,
}

impl Default for History {
    fn default() -> Self {
        // Its range is fixed: what is recorded saturates at the bound of the range, and so must not begin with a small one.
        let current = Histogram::new_with_bounds(1, LONGEST_US, 2)
            .unwrap_or_else(|_| unreachable!("the bounds and 2 digits are within hdrhistogram's"));
        Self { totals: Totals::default(), begun: Instant::now(), current, past: VecDeque::new() }
    }
}

impl History {
    pub(super) fn count(&mut self, answer: &Answer) {
        if answer.is_from_memory() {
            self.totals.quarantined += 1;
            return;
        }
        let counted = match answer.verdict {
            Verdict::COMPLETED => &mut self.totals.completed,
            Verdict::Guest(_) => &mut self.totals.guest_failed,
            Verdict::Host(_) => &mut self.totals.host_failed,
        };
        *counted += 1;
        self.record(answer.queued + answer.exec + answer.overhead);
    }

    fn record(&mut self, took: Duration) {
        self.current.saturating_record(u64::try_from(took.as_micros()).unwrap_or(u64::MAX));
    }

    pub(super) fn count_shed(&mut self) {
        self.totals.shed += 1;
    }

    /// Ends a second, if it is over.
    pub(super) fn tick(&mut self, now: Instant) {
        let took = now.saturating_duration_since(self.begun);
        if took < Duration::from_secs(1) {
            return;
        }
        let current = &self.current;
        let latency = (!current.is_empty()).then(|| Latency {
            p50: current.value_at_quantile(0.5),
            p99: current.value_at_quantile(0.99),
            max: current.max(),
        });
        let rate = current.len() as f64 / took.as_secs_f64();
        self.past.push_back(Second { rate, latency });
        while self.past.len() > SECONDS {
            self.past.pop_front();
        }
        self.current.reset();
        self.begun = now;
    }

    /// The last whole second.
    pub(super) fn last(&self) -> Second {
        self.past.back().copied().unwrap_or_default()
    }

    pub(super) fn past(&self) -> Past {
        let latency =
            |of: fn(Latency) -> u64| self.past.iter().map(|second| second.latency.map(of)).collect();
        Past {
            seconds: 1,
            rate: self.past.iter().map(|second| second.rate).collect(),
            p50_us: latency(|latency| latency.p50),
            p99_us: latency(|latency| latency.p99),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_has_the_times_that_its_answers_took() {
        let mut history = History::default();
        for millis in (0..200).map(|_| 1).chain([143, 900]) {
            history.record(Duration::from_millis(millis));
        }
        history.record(Duration::MAX);
        history.tick(history.begun + Duration::from_secs(1));
        let latency = history.last().latency.unwrap();
        // To two digits.
        let is_near = |value: u64, expected: u64| value.abs_diff(expected) <= expected / 100;
        assert!(is_near(latency.p50, 1000), "{latency:?}");
        assert!(is_near(latency.p99, 143_000), "{latency:?}");
        assert!(is_near(latency.max, LONGEST_US), "{latency:?}");
        history.record(Duration::from_micros(3));
        history.tick(history.begun + Duration::from_secs(1));
        assert_eq!(history.last().latency, Some(Latency { p50: 3, p99: 3, max: 3 }));
    }
}
