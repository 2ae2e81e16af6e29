//! What a pool says of itself: the state of every slot at one moment.

use std::fs;

use cofferdam_protocol::status::Phase;
use cofferdam_protocol::verdict::HostVerdict;

use super::slot::{Slot, Slots};
use cofferdam_base::sync::lock;

/// What one slot is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SlotState {
    /// A worker is committing and loading.
    Starting,
    /// A worker waits for a job.
    Idle,
    /// A worker runs a job.
    Busy,
    /// A worker has died, and the next one waits for its turn.
    Restarting,
    /// Given up: failed more often than the restart policy allows.
    Failed,
}

impl SlotState {
    /// Every state.
    pub const ALL: [Self; 5] = [Self::Starting, Self::Idle, Self::Busy, Self::Restarting, Self::Failed];

    /// The state's name in reports.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Idle => "idle",
            Self::Busy => "busy",
            Self::Restarting => "restarting",
            Self::Failed => "failed",
        }
    }
}

/// One slot at one moment.
#[derive(Clone, Debug)]
pub struct SlotHealth {
    /// Which slot.
    pub slot: usize,
    /// What it is doing.
    pub state: SlotState,
    /// Process id of its worker.
    pub pid: Option<u32>,
    /// What its worker is doing, by the worker's own word.
    pub phase: Option<Phase>,
    /// Microseconds that its worker's commit took.
    pub commit_us: Option<u64>,
    /// Bytes of its worker's memory that were proven resident after the commit.
    pub resident_bytes: Option<u64>,
    /// Bytes of those in huge pages.
    pub huge_bytes: Option<u64>,
    /// How its worker's memory was committed.
    pub commit: Option<String>,
    /// How its worker's memory is reset after a job, with the reason if not as asked.
    pub reset: Option<String>,
    /// Deaths that nobody asked for.
    pub deaths: DeathCounts,
    /// The last of them, in words.
    pub last_death: Option<String>,
}

impl SlotHealth {
    /// Bytes of its worker that are resident now, of all its private memory, by the kernel's own figures
    /// (`/proc/PID/smaps_rollup`); none if there is no worker or the kernel does not tell.
    pub fn resident_now(&self) -> Option<u64> {
        let text = fs::read_to_string(format!("/proc/{}/smaps_rollup", self.pid?)).ok()?;
        let line = text.lines().find_map(|line| line.strip_prefix("Anonymous:"))?;
        Some(line.trim().trim_end_matches(" kB").parse::<u64>().ok()? * 1024)
    }
}

/// How often workers ended in which way.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeathCounts(Vec<(HostVerdict, u64)>);

impl DeathCounts {
    /// Counts one more.
    pub fn count(&mut self, verdict: HostVerdict) {
        self.add(verdict, 1);
    }

    /// Adds all of `other`.
    pub fn merge(&mut self, other: &Self) {
        other.iter().for_each(|(verdict, count)| self.add(verdict, count));
    }

    /// Each verdict that occurred, and how often.
    pub fn iter(&self) -> impl Iterator<Item = (HostVerdict, u64)> {
        self.0.iter().copied()
    }

    /// All of them.
    pub fn total(&self) -> u64 {
        self.iter().map(|(_, count)| count).sum()
    }

    fn add(&mut self, verdict: HostVerdict, count: u64) {
        match self.0.iter_mut().find(|(known, _)| *known == verdict) {
            Some((_, known)) => *known += count,
            None => self.0.push((verdict, count)),
        }
    }
}

/// A pool at one moment.
#[derive(Clone, Debug, Default)]
pub struct Health {
    /// Every slot.
    pub slots: Vec<SlotHealth>,
    /// Deaths in slots that the pool has given up on purpose since.
    pub past_deaths: DeathCounts,
    /// Submitted jobs that wait.
    pub queued: usize,
    /// Jobs in quarantine: see [`QuarantinePolicy`](super::QuarantinePolicy).
    pub quarantined: usize,
}

impl Health {
    pub(super) fn of(slots: &Slots, queued: usize, quarantined: usize) -> Self {
        let (slots, past_deaths) = slots.all_and_past();
        Self { slots: slots.iter().map(|slot| slot_health(slot)).collect(), past_deaths, queued, quarantined }
    }

    /// Workers that are committed and ready, busy or not.
    pub fn ready(&self) -> usize {
        let ready = |slot: &&SlotHealth| matches!(slot.state, SlotState::Idle | SlotState::Busy);
        self.slots.iter().filter(ready).count()
    }

    /// Deaths that nobody asked for, since the pool was built.
    pub fn deaths(&self) -> u64 {
        self.deaths_by_verdict().total()
    }

    /// The same by what they were.
    pub fn deaths_by_verdict(&self) -> DeathCounts {
        let mut deaths = self.past_deaths.clone();
        self.slots.iter().for_each(|slot| deaths.merge(&slot.deaths));
        deaths
    }
}

fn slot_health(slot: &Slot) -> SlotHealth {
    let view = lock(&slot.view);
    let state = match (&view.worker, &view.hello) {
        (None, _) if view.failed => SlotState::Failed,
        (None, _) => SlotState::Restarting,
        (Some(_), None) => SlotState::Starting,
        (Some(worker), Some(_)) if worker.is_busy() => SlotState::Busy,
        (Some(_), Some(_)) => SlotState::Idle,
    };
    let hello = view.hello.as_ref();
    SlotHealth {
        slot: slot.index,
        state,
        pid: view.worker.as_ref().map(|worker| worker.info().pid),
        phase: view.worker.as_ref().and_then(|worker| worker.status.phase()),
        commit_us: hello.map(|hello| hello.commit_us),
        resident_bytes: hello.map(|hello| hello.resident_bytes),
        huge_bytes: hello.map(|hello| hello.huge_bytes),
        commit: hello.map(|hello| hello.commit.clone()),
        reset: hello.map(|hello| hello.reset.clone()),
        deaths: view.deaths.clone(),
        last_death: view.last_death.clone(),
    }
}
