//! The health of a pool: the state of every slot at one moment.

use std::fs;

use cofferdam_protocol::status::Phase;

use super::death::DeathCounts;
use super::slot::Slot;
use super::slots::Slots;
use crate::host::proc_file;
use cofferdam_base::sync::lock;

/// The state of a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SlotState {
    /// A worker is committing its memory and loading the module.
    Starting,
    /// A worker is waiting for a job.
    Idle,
    /// A worker is running a job.
    Busy,
    /// A worker has died, and the next one is not started yet.
    Restarting,
    /// The slot is given up: its workers failed more often than the restart policy allows.
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
    /// The slot's number.
    pub slot: usize,
    /// The slot's state.
    pub state: SlotState,
    /// The process id of the worker.
    pub pid: Option<u32>,
    /// What the worker is doing, by its own report.
    pub phase: Option<Phase>,
    /// The time that the worker's commit took, in microseconds.
    pub commit_us: Option<u64>,
    /// The bytes of the worker's memory that were proven resident after the commit.
    pub resident_bytes: Option<u64>,
    /// The part of these bytes that was in huge pages.
    pub huge_bytes: Option<u64>,
    /// How the worker's memory was committed.
    pub commit: Option<String>,
    /// How the worker's memory is reset after a job, with the reason if that is not as configured.
    pub reset: Option<String>,
    /// The deaths of the slot's workers: see [`Death`](super::Death).
    pub deaths: DeathCounts,
    /// The last of these deaths, in words.
    pub last_death: Option<String>,
}

impl SlotHealth {
    /// The bytes of the worker's private memory that are resident now, by the kernel's figures (`/proc/PID/smaps_rollup`). None if
    /// there is no worker, or if the kernel does not tell.
    pub fn resident_now(&self) -> Option<u64> {
        let text = fs::read_to_string(format!("/proc/{}/smaps_rollup", self.pid?)).ok()?;
        proc_file::bytes(&text, "Anonymous")
    }
}

/// The health of a pool at one moment.
#[derive(Clone, Debug, Default)]
pub struct Health {
    /// Every slot.
    pub slots: Vec<SlotHealth>,
    /// Deaths in slots that [`Pool::shrink`](super::Pool::shrink) has removed.
    pub past_deaths: DeathCounts,
    /// The number of submitted jobs that wait for a worker.
    pub queued: usize,
    /// The number of jobs in quarantine: see [`QuarantinePolicy`](super::QuarantinePolicy).
    pub quarantined: usize,
}

impl Health {
    pub(super) fn of(slots: &Slots, queued: usize, quarantined: usize) -> Self {
        let (slots, past_deaths) = slots.all_and_past();
        Self { slots: slots.iter().map(|slot| slot_health(slot)).collect(), past_deaths, queued, quarantined }
    }

    /// The number of workers that have committed their memory and are ready, busy or not.
    pub fn ready(&self) -> usize {
        let ready = |slot: &&SlotHealth| matches!(slot.state, SlotState::Idle | SlotState::Busy);
        self.slots.iter().filter(ready).count()
    }

    /// The number of deaths (see [`Death`](super::Death)) since the pool was built.
    pub fn deaths(&self) -> u64 {
        self.deaths_by_verdict().total()
    }

    /// These deaths, by verdict.
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
