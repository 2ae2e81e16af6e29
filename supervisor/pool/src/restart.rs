//! When a dead worker is replaced, and when its slot is given up.
//!
//! A worker that cannot live (no memory, a broken artifact) must not be started in a tight loop: each attempt commits gigabytes.
//! There are two rules, as in Erlang's supervisors. Each restart waits longer than the last (exponential backoff). A slot whose
//! workers die too often within a window of time fails, so that readiness can say so. A third rule is needed because a start may
//! take so long that the window never fills: a slot also fails when too many starts in a row have failed. The rules are a pure
//! state machine: the caller passes the time, so that tests need not wait.
//!
//! Crate `backon` adds its jitter on top of the longest wait. Here the longest wait includes the jitter.

use std::collections::VecDeque;
use std::fmt;
use std::time::{Duration, Instant};

/// How often and how fast one slot's workers are replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RestartPolicy {
    /// The wait before the second restart in a row. Doubled for each further restart. The first restart is immediate.
    pub base: Duration,
    /// The longest wait, jitter included.
    pub cap: Duration,
    /// The number of counted deaths within `window` that are tolerated. One more fails the slot.
    pub intensity: u32,
    /// The time over which deaths are counted.
    pub window: Duration,
    /// The number of failed starts in a row that fails the slot, however long the starts took. With 0, as with 1, the first failed
    /// start fails the slot.
    pub failed_starts: u32,
}

impl Default for RestartPolicy {
    /// Waits of 100 ms, doubling to 1 s. The slot fails at the 21st death within a minute, or at the 30th failed start in a row.
    fn default() -> Self {
        Self {
            base: Duration::from_millis(100),
            cap: Duration::from_secs(1),
            intensity: 20,
            window: Duration::from_mins(1),
            failed_starts: 30,
        }
    }
}

/// What a worker was doing when it died.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeathKind {
    /// It was starting: memory or the artifact was refused, for example.
    Starting,
    /// It was waiting for a job: something outside killed it, or the reset after a job failed.
    Idle,
    /// It was running a job.
    Busy,
}

/// What follows for a slot whose worker died.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Start the next worker after this time, which may be zero.
    RestartAfter(Duration),
    /// Start no more workers: the slot is out of service, by this rule.
    Failed(Rule),
}

/// The rule by which a slot failed. Displayed as what happened, for example "21 deaths within 1m".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// More deaths within the window than the intensity.
    Intensity {
        /// Counted deaths within the window, this one included. Never more than the intensity + 1.
        deaths: u32,
        /// The policy's window.
        window: Duration,
    },
    /// This many starts in a row failed.
    FailedStarts(u32),
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Intensity { deaths, window } => {
                write!(f, "{deaths} deaths within {}", humantime::format_duration(*window))
            }
            Self::FailedStarts(starts) => write!(f, "{starts} failed starts in a row"),
        }
    }
}

/// The restart history of one slot.
#[derive(Clone, Debug)]
pub struct Restarts {
    policy: RestartPolicy,
    /// Counted deaths within the window, oldest first. Never more than `intensity + 1`.
    deaths: VecDeque<Instant>,
    /// Counted deaths since a job was last completed.
    consecutive: u32,
    /// Failed starts since a worker last got ready.
    failed_starts: u32,
    jitter: fastrand::Rng,
}

impl Restarts {
    /// An empty history. Give each slot a different `seed`, for example its number mixed with the process id: workers that died
    /// together, as they do when memory runs out, must not be restarted together.
    #[must_use]
    pub fn new(policy: RestartPolicy, seed: u64) -> Self {
        let jitter = fastrand::Rng::with_seed(seed);
        Self { policy, deaths: VecDeque::new(), consecutive: 0, failed_starts: 0, jitter }
    }

    /// Records a death at `now` and decides what follows. An exit that the supervisor asked for does not count as a death.
    ///
    /// `now` should not decrease between calls. If it does, deaths after `now` still count.
    pub fn on_death(&mut self, now: Instant, kind: DeathKind) -> Decision {
        self.failed_starts = match kind {
            DeathKind::Starting => self.failed_starts.saturating_add(1),
            DeathKind::Idle | DeathKind::Busy => 0,
        };
        // A poisonous job kills every worker that it is given to, and the job's retry limit bounds how many. If these deaths
        // counted here, one caller could take slots out of service for all callers.
        if kind == DeathKind::Busy {
            return Decision::RestartAfter(Duration::ZERO);
        }
        self.consecutive = self.consecutive.saturating_add(1);
        let deaths = self.count_death(now);
        if deaths > self.policy.intensity {
            return Decision::Failed(Rule::Intensity { deaths, window: self.policy.window });
        }
        if kind == DeathKind::Starting && self.failed_starts >= self.policy.failed_starts {
            return Decision::Failed(Rule::FailedStarts(self.failed_starts));
        }
        Decision::RestartAfter(self.next_delay())
    }

    /// Records that a job was completed: workers can live in this slot, so the next death is treated as a first one.
    ///
    /// Only the backoff and the failed starts are reset. The deaths within the window still count: a slot whose workers do little
    /// work and die often is not healthy.
    pub fn on_completed_job(&mut self) {
        self.consecutive = 0;
        self.failed_starts = 0;
    }

    fn count_death(&mut self, now: Instant) -> u32 {
        let window = self.policy.window;
        self.deaths.retain(|&death| now.saturating_duration_since(death) < window);
        self.deaths.push_back(now);
        let deaths = u32::try_from(self.deaths.len()).unwrap_or(u32::MAX);
        // A caller that continues after `Failed` must not make this grow without bound.
        if deaths > self.policy.intensity.saturating_add(1) {
            self.deaths.pop_front();
            return deaths - 1;
        }
        deaths
    }

    fn next_delay(&mut self) -> Duration {
        let Some(doublings) = self.consecutive.checked_sub(2) else { return Duration::ZERO };
        // The centre is at most 4/5 of the cap, and the jitter adds at most a quarter of the centre. So the delay is never above
        // the cap, the jitter is never cut off, and slots at the longest wait still restart at different times.
        let ceiling = self.policy.cap - self.policy.cap / 5;
        let factor = 1_u32.checked_shl(doublings).unwrap_or(u32::MAX);
        let centre = self.policy.base.saturating_mul(factor).min(ceiling);
        // 3/4 of the centre plus 0 to 1023 steps of 1/2048 of it. With whole numbers, the result cannot exceed the cap.
        centre - centre / 4 + centre / 2048 * self.jitter.u32(0..1024)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn wait(decision: Decision) -> Duration {
        match decision {
            Decision::RestartAfter(delay) => delay,
            Decision::Failed(_) => panic!("{decision:?}"),
        }
    }

    #[test]
    fn the_first_restart_is_immediate_and_the_next_ones_double_to_the_cap() {
        let mut restarts = Restarts::new(RestartPolicy::default(), 7);
        let now = Instant::now();
        assert_eq!(wait(restarts.on_death(now, DeathKind::Starting)), Duration::ZERO);
        for centre in [100, 200, 400, 800, 800, 800] {
            let delay = wait(restarts.on_death(now, DeathKind::Idle));
            assert!(delay >= MS * centre * 3 / 4 && delay <= MS * centre * 5 / 4, "{centre}: {delay:?}");
        }
    }

    #[test]
    fn a_completed_job_resets_the_backoff_but_not_the_count() {
        let policy = RestartPolicy { intensity: 3, ..RestartPolicy::default() };
        let mut restarts = Restarts::new(policy, 7);
        let now = Instant::now();
        for _ in 0..3 {
            assert_eq!(wait(restarts.on_death(now, DeathKind::Idle)), Duration::ZERO);
            restarts.on_completed_job();
        }
        let rule = Rule::Intensity { deaths: 4, window: policy.window };
        assert_eq!(restarts.on_death(now, DeathKind::Idle), Decision::Failed(rule));
        assert_eq!(rule.to_string(), "4 deaths within 1m");
    }

    #[test]
    fn starts_that_fail_too_slowly_for_the_window_are_given_up_all_the_same() {
        let policy = RestartPolicy::default();
        let mut restarts = Restarts::new(policy, 7);
        let start = Instant::now();
        let last = policy.failed_starts;
        for n in 1..last {
            wait(restarts.on_death(start + policy.window * n, DeathKind::Starting));
        }
        let decision = restarts.on_death(start + policy.window * last, DeathKind::Starting);
        assert_eq!(decision, Decision::Failed(Rule::FailedStarts(last)));
        assert_eq!(Rule::FailedStarts(8).to_string(), "8 failed starts in a row");
    }

    #[test]
    fn a_worker_that_got_ready_makes_the_next_failed_start_the_first_again() {
        let policy = RestartPolicy { failed_starts: 3, intensity: 100, ..RestartPolicy::default() };
        let now = Instant::now();
        for death in [Some(DeathKind::Idle), Some(DeathKind::Busy), None] {
            let mut restarts = Restarts::new(policy, 7);
            for _ in 0..5 {
                wait(restarts.on_death(now, DeathKind::Starting));
                wait(restarts.on_death(now, DeathKind::Starting));
                match death {
                    Some(kind) => assert!(wait(restarts.on_death(now, kind)) <= policy.cap),
                    None => restarts.on_completed_job(),
                }
            }
            wait(restarts.on_death(now, DeathKind::Starting));
            wait(restarts.on_death(now, DeathKind::Starting));
            let decision = restarts.on_death(now, DeathKind::Starting);
            assert_eq!(decision, Decision::Failed(Rule::FailedStarts(3)));
        }
    }

    #[test]
    fn deaths_during_jobs_neither_wait_nor_count() {
        let mut restarts = Restarts::new(RestartPolicy::default(), 7);
        let now = Instant::now();
        for _ in 0..1000 {
            assert_eq!(wait(restarts.on_death(now, DeathKind::Busy)), Duration::ZERO);
        }
        assert_eq!(wait(restarts.on_death(now, DeathKind::Idle)), Duration::ZERO);
    }

    #[test]
    fn deaths_older_than_the_window_are_forgotten() {
        let policy = RestartPolicy { intensity: 1, ..RestartPolicy::default() };
        let mut restarts = Restarts::new(policy, 7);
        let start = Instant::now();
        for n in 0..100 {
            wait(restarts.on_death(start + policy.window * n, DeathKind::Idle));
        }
        let late = start + policy.window * 99 + policy.window - MS;
        let rule = Rule::Intensity { deaths: 2, window: policy.window };
        assert_eq!(restarts.on_death(late, DeathKind::Idle), Decision::Failed(rule));
    }

    #[test]
    fn slots_with_different_seeds_wait_differently_and_equal_seeds_alike() {
        let delays = |seed| {
            let mut restarts = Restarts::new(RestartPolicy::default(), seed);
            let now = Instant::now();
            (0..10).map(|_| wait(restarts.on_death(now, DeathKind::Idle))).collect::<Vec<_>>()
        };
        assert_eq!(delays(1), delays(1));
        assert_ne!(delays(1), delays(2));
    }

    fn kinds() -> impl Strategy<Value = DeathKind> {
        prop_oneof![Just(DeathKind::Starting), Just(DeathKind::Idle), Just(DeathKind::Busy)]
    }

    proptest! {
        #[test]
        fn every_delay_is_within_a_quarter_of_its_centre_and_never_above_the_cap(
            seed: u64, base in 1..5_000_u32, cap in 1..5_000_u32, deaths in 1..80_u32,
        ) {
            let (intensity, failed_starts) = (100, 100);
            let policy =
                RestartPolicy { base: MS * base, cap: MS * cap, intensity, window: MS, failed_starts };
            let mut restarts = Restarts::new(policy, seed);
            let now = Instant::now();
            for n in 0..deaths {
                let delay = wait(restarts.on_death(now, DeathKind::Starting)).as_secs_f64();
                let doubled = f64::from(base) / 1000.0 * f64::from(n).exp2() / 2.0;
                let centre = if n == 0 { 0.0 } else { doubled.min(f64::from(cap) / 1250.0) };
                prop_assert!(delay <= f64::from(cap) / 1000.0);
                prop_assert!(delay >= centre * 0.75 - 1e-6 && delay <= centre * 1.25 + 1e-6);
            }
        }

        #[test]
        fn a_slot_fails_exactly_by_too_many_deaths_within_the_window_or_failed_starts_in_a_row(
            intensity in 0..6_u32, window in 1..2_000_u32, failed_starts in 0..6_u32,
            steps in prop::collection::vec((0..400_u32, kinds(), any::<bool>()), 1..60),
        ) {
            let policy =
                RestartPolicy { intensity, window: MS * window, failed_starts, ..RestartPolicy::default() };
            let mut restarts = Restarts::new(policy, 1);
            let (mut now, mut counted, mut row) = (Instant::now(), Vec::new(), 0);
            for (pause, kind, completed) in steps {
                now += MS * pause;
                if completed {
                    restarts.on_completed_job();
                    row = 0;
                }
                row = if kind == DeathKind::Starting { row + 1 } else { 0 };
                let decision = restarts.on_death(now, kind);
                if kind == DeathKind::Busy {
                    prop_assert_eq!(decision, Decision::RestartAfter(Duration::ZERO));
                    continue;
                }
                counted.push(now);
                let recent = counted.iter().filter(|&&death| now - death < policy.window).count();
                let too_many = recent > usize::try_from(intensity).unwrap();
                let too_many_in_a_row = kind == DeathKind::Starting && row >= failed_starts;
                match decision {
                    Decision::RestartAfter(_) => prop_assert!(!too_many && !too_many_in_a_row),
                    Decision::Failed(Rule::Intensity { .. }) => prop_assert!(too_many),
                    Decision::Failed(Rule::FailedStarts(told)) => {
                        prop_assert!(too_many_in_a_row && !too_many);
                        prop_assert_eq!(told, row);
                    }
                }
            }
        }
    }
}
