//! The heart of the server: one pool at a time, the gate before it, and the way of a request from one to the other.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Instant, SystemTime};

use arc_swap::ArcSwapOption;
use cofferdam_protocol::profile::Hash;
use cofferdam_protocol::verdict::Verdict;
use cofferdam_worker::state::StateReader;
use tokio::sync::watch;

use super::answer::Answer;
use super::body::{Held, Room};
use super::extension::Extension;
use super::gate::Gate;
use super::history::History;
use super::idempotency::Answers;
use super::metrics::Metrics;
use super::problem::Problem;
use super::settings::Settings;
use super::snapshot::{Module, Recent, Swap};
use cofferdam_base::sync::lock;
use cofferdam_pool::{DeathCounts, Health, JobResult, Pool, ResetHandle, StartProgress};

/// How many of the last jobs the status shows.
const RECENT: usize = 50;

/// What the process is doing, as balancers need to know it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Workers are committing their memory. Requests wait for them.
    Starting,
    /// Requests are taken.
    Serving,
    /// Requests are still taken, but no more should be sent: readiness has fallen.
    Draining,
    /// No more connections are taken; what is under way on those that there are is finished.
    Closing,
}

/// A pool that serves requests: the state behind a [`router`](super::router). Cheap to clone.
#[derive(Clone, Debug)]
pub struct Service(pub(super) Arc<Inner>);

#[derive(Debug)]
pub(super) struct Inner {
    pub(super) settings: Settings,
    /// Bytes that a body may have, for as long as there is no pool to ask.
    first_body_bytes: u64,
    pub(super) gate: Gate,
    pub(super) room: Room,
    pub(super) answers: Arc<Answers>,
    pub(super) metrics: Metrics,
    pub(super) phase: watch::Sender<Phase>,
    pub(super) started: Instant,
    generation: ArcSwapOption<Generation>,
    /// How far the first commit is.
    pub(super) progress: Mutex<Option<StartProgress>>,
    past: Mutex<Past>,
    pub(super) swap: Mutex<Option<Swap>>,
    /// Whether nobody is let in, because the last worker of a pool is on its way out.
    paused: Mutex<bool>,
    pub(super) recent: Mutex<VecDeque<Recent>>,
    pub(super) history: Mutex<History>,
    /// Resets whose reports are still to come.
    resets: Mutex<Vec<ResetHandle>>,
    /// The application over this service, if there is one.
    pub(super) extension: OnceLock<Arc<dyn Extension>>,
    /// The store that guests read, if requests may name heights of it only.
    pub(super) state: OnceLock<StateReader>,
}

/// A pool with its module, until another takes its place.
#[derive(Debug)]
pub(super) struct Generation {
    pub(super) pool: Arc<Pool>,
    pub(super) module: Module,
    pub(super) profile: Hash,
    pub(super) profile_text: Arc<str>,
}

/// Pools that were replaced.
#[derive(Debug, Default)]
struct Past {
    /// Deaths in those that are gone.
    deaths: DeathCounts,
    /// The one that still finishes what it has begun.
    leaving: Option<Arc<Pool>>,
}

impl Past {
    fn leave(&mut self, pool: Option<Arc<Pool>>) {
        if let Some(gone) = std::mem::replace(&mut self.leaving, pool) {
            self.deaths.merge(&gone.health().deaths_by_verdict());
        }
    }
}

impl Service {
    /// A service without a pool yet: it is alive, and not ready. Requests wait for a pool, which takes bodies of
    /// `body_bytes`.
    pub fn starting(settings: Settings, body_bytes: u64) -> Self {
        let (phase, _) = watch::channel(Phase::Starting);
        Self(Arc::new(Inner {
            gate: Gate::new(settings.queue),
            room: Room::new(settings.buffered_bytes),
            answers: Arc::new(Answers::new(&settings)),
            settings,
            first_body_bytes: body_bytes,
            metrics: Metrics::new(),
            phase,
            started: Instant::now(),
            generation: ArcSwapOption::empty(),
            progress: Mutex::default(),
            past: Mutex::default(),
            swap: Mutex::default(),
            paused: Mutex::default(),
            recent: Mutex::default(),
            history: Mutex::default(),
            resets: Mutex::default(),
            extension: OnceLock::new(),
            state: OnceLock::new(),
        }))
    }

    /// A service over `pool`, ready at once. `name` is what the module is called in reports.
    pub fn new(pool: &Arc<Pool>, name: &str, settings: Settings) -> Self {
        let service = Self::starting(settings, pool.limits().input_bytes);
        service.install(pool, name);
        service
    }

    /// Lets `pool` serve from now on: every request that has not been handed to a pool yet goes to it. What runs on the pool
    /// before it goes on there.
    pub fn install(&self, pool: &Arc<Pool>, name: &str) {
        let profile = pool.profile().hash();
        let sha256 = pool.profile().module.to_string();
        let module = Module { name: name.to_owned(), sha256, bytes: pool.module_bytes() };
        let generation =
            Generation { module, profile, profile_text: profile.to_string().into(), pool: Arc::clone(pool) };
        {
            // Whoever counts deaths sees each pool once.
            let mut past = lock(&self.0.past);
            let before = self.0.generation.swap(Some(Arc::new(generation)));
            // Of another module it says nothing.
            if let Some(before) = before.as_ref().filter(|before| before.profile == profile) {
                pool.take_over_quarantine(&before.pool);
            }
            past.leave(before.map(|generation| Arc::clone(&generation.pool)));
        }
        self.0.phase.send_if_modified(|phase| {
            let starts = *phase == Phase::Starting;
            if starts {
                *phase = Phase::Serving;
            }
            starts
        });
        self.0.follow_workers(&pool.health());
    }

    /// Lets go of the pool that was replaced last: it is drained.
    pub(super) fn forget_replaced(&self) {
        lock(&self.0.past).leave(None);
    }

    /// Refuses requests for heights that `state`, which the guests of every pool read, has not reached. Said once.
    pub fn read_state(&self, state: StateReader) {
        let _said_before = self.0.state.set(state);
    }

    /// What the process is doing.
    pub fn phase(&self) -> Phase {
        *self.0.phase.borrow()
    }

    /// Tells what the process is doing as it changes.
    pub fn watch(&self) -> watch::Receiver<Phase> {
        self.0.phase.subscribe()
    }

    /// Says that no more requests should be sent here; those that come are taken all the same.
    pub fn drain(&self) {
        self.0.phase.send_if_modified(|phase| {
            let drains = matches!(*phase, Phase::Starting | Phase::Serving);
            if drains {
                *phase = Phase::Draining;
            }
            drains
        });
    }

    /// Takes no more connections. Without a pool, whoever has waited for it is sent away.
    pub fn close(&self) {
        self.0.phase.send_replace(Phase::Closing);
        if self.0.generation().is_none() {
            self.0.gate.close();
        }
    }

    /// Says how far the first commit is.
    pub fn set_progress(&self, progress: StartProgress) {
        *lock(&self.0.progress) = Some(progress);
    }

    /// Whether another module is being put in place.
    pub fn is_swapping(&self) -> bool {
        lock(&self.0.swap).is_some()
    }

    /// The pool that serves now.
    pub fn pool(&self) -> Option<Arc<Pool>> {
        self.0.generation().map(|generation| Arc::clone(&generation.pool))
    }
}

impl Inner {
    pub(super) fn generation(&self) -> Option<Arc<Generation>> {
        self.generation.load_full()
    }

    /// Bytes that a body may have.
    pub(super) fn body_bytes(&self) -> u64 {
        self.generation().map_or(self.first_body_bytes, |generation| generation.pool.limits().input_bytes)
    }

    /// The pool's health; of no slot if there is no pool.
    pub(super) fn health(&self) -> Health {
        self.generation().map(|generation| generation.pool.health()).unwrap_or_default()
    }

    /// Deaths since the start, over all pools. Never falls.
    pub(super) fn deaths(&self) -> DeathCounts {
        let past = lock(&self.past);
        let mut deaths = past.deaths.clone();
        let leaving = past.leaving.iter().map(|pool| pool.health());
        let pools = leaving.chain([self.health()]);
        pools.for_each(|health| deaths.merge(&health.deaths_by_verdict()));
        deaths
    }

    /// Lets as many requests in as there are workers for them.
    pub(super) fn follow_workers(&self, health: &Health) {
        let most = self.generation().map_or(0, |generation| generation.pool.workers());
        // Held while it is set, or it could be set from a look before the pause.
        let paused = lock(&self.paused);
        // Where there is but one, it is shared.
        let ready = health.ready().min(most);
        let left = ready.saturating_sub(self.settings.reserved).max(ready.min(1));
        self.gate.set_capacity(if *paused { 0 } else { left });
    }

    /// Lets nobody in, or again as many as there are workers.
    pub(super) fn pause(&self, paused: bool) {
        *lock(&self.paused) = paused;
        self.follow_workers(&self.health());
    }

    /// Why there is no pool to run anything on.
    pub(super) fn not_serving(&self) -> Problem {
        match *self.phase.borrow() {
            Phase::Closing => Problem::Draining,
            _ => Problem::Starting("workers are committing their memory".to_owned()),
        }
    }

    /// Takes note of an answer, for metrics, the status page and the log.
    pub(super) fn note(&self, answer: &Answer) {
        self.metrics.count(answer);
        lock(&self.history).count(answer);
        {
            let mut recent = lock(&self.recent);
            recent.truncate(RECENT - 1);
            recent.push_front(Recent::of(answer, SystemTime::now()));
        }
        let (verdict, attempts, pid) = (answer.verdict.name(), answer.attempts, answer.worker.pid);
        let exec_us = u64::try_from(answer.exec.as_micros()).unwrap_or(u64::MAX);
        match answer.verdict {
            Verdict::COMPLETED => tracing::debug!(verdict, attempts, pid, exec_us, "answered"),
            _ if answer.is_from_memory() => tracing::info!(verdict, attempts, "{}", answer.detail),
            Verdict::Guest(_) => tracing::info!(verdict, attempts, pid, exec_us, "{}", answer.detail),
            Verdict::Host(_) => tracing::error!(verdict, attempts, pid, "{}", answer.detail),
        }
    }

    /// Takes note of a request that has no answer from a guest.
    pub(super) fn note_problem(&self, problem: &Problem) {
        self.metrics.count_refusal(problem);
        if problem.is_shed() {
            lock(&self.history).count_shed();
        }
        match problem {
            Problem::Internal(_) => tracing::error!("{problem}"),
            _ => tracing::debug!("refused: {problem}"),
        }
    }

    pub(super) fn note_reset(&self, result: &JobResult) {
        /// More than can be waiting between two looks, unless many jobs a look are done: those are not counted.
        const MOST: usize = 4096;
        let mut resets = lock(&self.resets);
        if resets.len() < MOST {
            resets.push(result.reset.clone());
        }
    }

    /// Counts the resets that are done.
    pub(super) fn count_resets(&self) {
        let handles = std::mem::take(&mut *lock(&self.resets));
        let mut pending = Vec::new();
        for handle in handles {
            match handle.report() {
                Some(report) => self.metrics.count_reset(report),
                None if handle.is_pending() => pending.push(handle),
                None => {}
            }
        }
        lock(&self.resets).append(&mut pending);
    }

    /// Room for an answer's body.
    pub(super) async fn room_for(&self, bytes: u64) -> Result<Held, Problem> {
        let held = self.room.take(bytes, self.settings.queue_wait).await;
        held.ok_or_else(|| Problem::NoRoom { retry_after: self.gate.retry_after() })
    }
}
