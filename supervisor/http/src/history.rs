//! The last five minutes, second by second: the number of answers and their latencies.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use cofferdam_protocol::verdict::Verdict;
use hdrhistogram::Histogram;
use serde::Serialize;

use crate::answer::Answer;

/// How many seconds are kept.
const KEPT_SECONDS: usize = 300;

/// The longest latency that is recorded, in microseconds: one hour. Longer ones count as one hour.
const MAX_LATENCY_US: u64 = 3_600_000_000;

/// The figures of one second.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Second {
    /// Answers per second.
    pub(crate) rate: f64,
    pub(crate) latency: Option<Latency>,
}

/// Latencies of the answers of one second, in microseconds: waiting, the guest's run, and overhead together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Latency {
    pub(crate) p50: u64,
    pub(crate) p99: u64,
    pub(crate) max: u64,
}

/// How many requests ended in which way, since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Totals {
    pub(crate) completed: u64,
    pub(crate) guest_failed: u64,
    pub(crate) host_failed: u64,
    /// Answered from memory, because the job was in quarantine.
    pub(crate) quarantined: u64,
    /// Refused because of the state of this process: a full queue, for example.
    pub(crate) shed: u64,
}

/// Counts the current second and keeps the figures of the seconds before it.
#[derive(Debug)]
pub(crate) struct History {
    pub(crate) totals: Totals,
    begun: Instant,
    current: Histogram<u64>,
    past: VecDeque<Second>,
}

/// The figures of all kept seconds, oldest first: the first event of the status page.
#[derive(Debug, Serialize)]
pub(crate) struct PastSeconds {
    /// How many seconds one figure stands for.
    seconds: u32,
    rate: Vec<f64>,
    p50_us: Vec<Option<u64>>,
    p99_us: Vec<Option<u64>>,
}

impl Default for History {
    fn default() -> Self {
        // The range is fixed from the start. `saturating_record` would cut values off at the bound of a range that still grows.
        let current = Histogram::new_with_bounds(1, MAX_LATENCY_US, 2)
            .unwrap_or_else(|_| unreachable!("hdrhistogram accepts these bounds and 2 digits"));
        Self { totals: Totals::default(), begun: Instant::now(), current, past: VecDeque::new() }
    }
}

impl History {
    pub(crate) fn count(&mut self, answer: &Answer) {
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

    pub(crate) fn count_shed(&mut self) {
        self.totals.shed += 1;
    }

    /// Ends the current second if it has passed at `now`.
    pub(crate) fn tick(&mut self, now: Instant) {
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
        while self.past.len() > KEPT_SECONDS {
            self.past.pop_front();
        }
        self.current.reset();
        self.begun = now;
    }

    /// The last complete second.
    pub(crate) fn last(&self) -> Second {
        self.past.back().copied().unwrap_or_default()
    }

    pub(crate) fn past(&self) -> PastSeconds {
        let latency =
            |of: fn(Latency) -> u64| self.past.iter().map(|second| second.latency.map(of)).collect();
        PastSeconds {
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
    fn a_second_has_the_latencies_of_its_answers() {
        let mut history = History::default();
        for millis in (0..200).map(|_| 1).chain([143, 900]) {
            history.record(Duration::from_millis(millis));
        }
        history.record(Duration::MAX);
        history.tick(history.begun + Duration::from_secs(1));
        let latency = history.last().latency.unwrap();
        // The histogram keeps two digits.
        let is_near = |value: u64, expected: u64| value.abs_diff(expected) <= expected / 100;
        assert!(is_near(latency.p50, 1000), "{latency:?}");
        assert!(is_near(latency.p99, 143_000), "{latency:?}");
        assert!(is_near(latency.max, MAX_LATENCY_US), "{latency:?}");
        history.record(Duration::from_micros(3));
        history.tick(history.begun + Duration::from_secs(1));
        assert_eq!(history.last().latency, Some(Latency { p50: 3, p99: 3, max: 3 }));
    }
}
