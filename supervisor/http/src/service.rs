//! The state of the service: the pool that serves now, the admission control, and what is counted and remembered.
//!
//! [`Service`] is the public handle. The other files of the crate use [`Inner`], the state that all clones of a handle share.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Instant, SystemTime};

use arc_swap::ArcSwapOption;
use cofferdam_protocol::profile::Hash;
use cofferdam_protocol::verdict::Verdict;
use cofferdam_worker::state::StateReader;
use tokio::sync::watch;

use crate::admission::Admission;
use crate::answer::Answer;
use crate::application::Application;
use crate::body::BodyError;
use crate::history::History;
use crate::idempotency::KeyedAnswers;
use crate::memory::{MemoryBudget, Reservation};
use crate::metrics::Metrics;
use crate::problem::Problem;
use crate::records::{RecentJob, ServedModule, SwapProgress};
use crate::settings::Settings;
use cofferdam_base::sync::lock;
use cofferdam_pool::{DeathCounts, Health, JobResult, Pool, ResetHandle, StartProgress};

/// How many jobs the status shows.
const RECENT_JOBS: usize = 50;

/// The phase of the process, from its start to its end. It decides whether load balancers should send requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Workers are committing their memory. Requests wait for the workers.
    Starting,
    /// Requests are accepted.
    Serving,
    /// Requests are still accepted, but `/readyz` fails, so that load balancers stop sending them.
    Draining,
    /// No new connections are accepted. Requests on open connections are finished.
    Closing,
}

/// A pool that serves requests. The routers of this crate need a `Service`. Clones share the same state.
#[derive(Clone, Debug)]
pub struct Service(pub(crate) Arc<Inner>);

#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) settings: Settings,
    /// The largest body in bytes, until there is a pool with a limit of its own.
    initial_body_bytes: u64,
    pub(crate) admission: Admission,
    /// Memory for the bodies of requests and responses.
    pub(crate) budget: MemoryBudget,
    pub(crate) answers: Arc<KeyedAnswers>,
    pub(crate) metrics: Metrics,
    pub(crate) phase: watch::Sender<Phase>,
    pub(crate) started: Instant,
    generation: ArcSwapOption<Generation>,
    /// How much memory the first pool has committed.
    pub(crate) progress: Mutex<Option<StartProgress>>,
    replaced: Mutex<ReplacedPools>,
    pub(crate) swap: Mutex<Option<SwapProgress>>,
    /// Whether no request is admitted, because a swap stops the last worker of the old pool.
    paused: Mutex<bool>,
    pub(crate) recent: Mutex<VecDeque<RecentJob>>,
    pub(crate) history: Mutex<History>,
    /// Resets that have not reported yet.
    resets: Mutex<Vec<ResetHandle>>,
    /// The application over this service, if there is one.
    pub(crate) application: OnceLock<Arc<dyn Application>>,
    /// The store that guests read. If it is set, requests for heights above its newest block are refused.
    pub(crate) state: OnceLock<StateReader>,
}

/// A pool and its module. A swap replaces the whole generation at once.
#[derive(Debug)]
pub(crate) struct Generation {
    pub(crate) pool: Arc<Pool>,
    pub(crate) module: ServedModule,
    pub(crate) profile: Hash,
    /// The hash of the profile in hexadecimal.
    pub(crate) profile_text: Arc<str>,
}

/// The pools that swaps have replaced.
#[derive(Debug, Default)]
struct ReplacedPools {
    /// Deaths of workers in replaced pools that have ended.
    deaths: DeathCounts,
    /// The replaced pool that still finishes its jobs.
    leaving: Option<Arc<Pool>>,
}

impl ReplacedPools {
    /// Makes `pool` the replaced pool that finishes its jobs. The replaced pool before it has ended.
    fn set_leaving(&mut self, pool: Option<Arc<Pool>>) {
        if let Some(ended) = std::mem::replace(&mut self.leaving, pool) {
            self.deaths.merge(&ended.health().deaths_by_verdict());
        }
    }
}

impl Service {
    /// A service without a pool. `/livez` passes and `/readyz` fails; requests wait in the queue until [`Service::install`].
    /// Until then, a body may have `body_bytes` bytes: give the input limit of the pool that will be installed.
    pub fn starting(settings: Settings, body_bytes: u64) -> Self {
        let (phase, _) = watch::channel(Phase::Starting);
        Self(Arc::new(Inner {
            admission: Admission::new(settings.queue),
            budget: MemoryBudget::new(settings.buffered_bytes),
            answers: Arc::new(KeyedAnswers::new(&settings)),
            settings,
            initial_body_bytes: body_bytes,
            metrics: Metrics::new(),
            phase,
            started: Instant::now(),
            generation: ArcSwapOption::empty(),
            progress: Mutex::default(),
            replaced: Mutex::default(),
            swap: Mutex::default(),
            paused: Mutex::default(),
            recent: Mutex::default(),
            history: Mutex::default(),
            resets: Mutex::default(),
            application: OnceLock::new(),
            state: OnceLock::new(),
        }))
    }

    /// A service over `pool`, ready at once. `name` is the module's name in the status.
    pub fn new(pool: &Arc<Pool>, name: &str, settings: Settings) -> Self {
        let service = Self::starting(settings, pool.limits().input_bytes);
        service.install(pool, name);
        service
    }

    /// Makes `pool` serve from now on, under the module name `name`. Every job that no pool has taken yet goes to this
    /// pool. Jobs that run on the pool before it finish there.
    pub fn install(&self, pool: &Arc<Pool>, name: &str) {
        let profile = pool.profile().hash();
        let sha256 = pool.profile().module.to_string();
        let module = ServedModule { name: name.to_owned(), sha256, bytes: pool.module_bytes() };
        let generation =
            Generation { module, profile, profile_text: profile.to_string().into(), pool: Arc::clone(pool) };
        {
            // The lock is held during both changes, so that `Inner::deaths` counts each pool once.
            let mut replaced = lock(&self.0.replaced);
            let before = self.0.generation.swap(Some(Arc::new(generation)));
            // A quarantine is only valid for the profile that it was made with.
            if let Some(before) = before.as_ref().filter(|before| before.profile == profile) {
                pool.take_over_quarantine(&before.pool);
            }
            replaced.set_leaving(before.map(|generation| Arc::clone(&generation.pool)));
        }
        self.0.phase.send_if_modified(|phase| {
            let starts = *phase == Phase::Starting;
            if starts {
                *phase = Phase::Serving;
            }
            starts
        });
        self.0.update_capacity(&pool.health());
    }

    /// Drops the pool that was replaced last, after its jobs have finished.
    pub(crate) fn release_replaced_pool(&self) {
        lock(&self.0.replaced).set_leaving(None);
    }

    /// Names the store that the guests of every pool read. From then on requests for heights that the store has not reached
    /// are refused with 404. Call this at most once: later calls change nothing.
    pub fn set_state(&self, state: StateReader) {
        let _already_set = self.0.state.set(state);
    }

    /// Registers the application over this service. Call this at most once: later calls change nothing.
    pub fn set_application(&self, application: Arc<dyn Application>) {
        let _already_set = self.0.application.set(application);
    }

    /// The present phase.
    pub fn phase(&self) -> Phase {
        *self.0.phase.borrow()
    }

    /// Receives every change of the phase.
    pub fn watch(&self) -> watch::Receiver<Phase> {
        self.0.phase.subscribe()
    }

    /// Begins to drain: `/readyz` fails and HAProxy's agent check says `drain`, while requests are still accepted. Give
    /// load balancers a few seconds to notice before [`Service::close`].
    pub fn drain(&self) {
        self.0.phase.send_if_modified(|phase| {
            let changes = matches!(*phase, Phase::Starting | Phase::Serving);
            if changes {
                *phase = Phase::Draining;
            }
            changes
        });
    }

    /// Makes [`server::serve`](crate::server::serve) accept no more connections and finish the open ones. If there is no
    /// pool yet, requests that wait for the pool are refused.
    pub fn close(&self) {
        self.0.phase.send_replace(Phase::Closing);
        if self.0.generation().is_none() {
            self.0.admission.close();
        }
    }

    /// Reports how much memory the first pool has committed, for the probes and the status.
    pub fn report_start_progress(&self, progress: StartProgress) {
        *lock(&self.0.progress) = Some(progress);
    }

    /// Whether a swap of the module is in progress.
    pub fn is_swapping(&self) -> bool {
        lock(&self.0.swap).is_some()
    }

    /// The pool that serves now.
    pub fn pool(&self) -> Option<Arc<Pool>> {
        self.0.generation().map(|generation| Arc::clone(&generation.pool))
    }
}

impl Inner {
    pub(crate) fn generation(&self) -> Option<Arc<Generation>> {
        self.generation.load_full()
    }

    /// The largest body, in bytes.
    pub(crate) fn body_bytes(&self) -> u64 {
        self.generation().map_or(self.initial_body_bytes, |generation| generation.pool.limits().input_bytes)
    }

    /// The pool's health. Without a pool it has no slots.
    pub(crate) fn health(&self) -> Health {
        self.generation().map(|generation| generation.pool.health()).unwrap_or_default()
    }

    /// Deaths of workers since the start, in all pools. The counts never fall.
    pub(crate) fn deaths(&self) -> DeathCounts {
        let replaced = lock(&self.replaced);
        let mut deaths = replaced.deaths.clone();
        let leaving = replaced.leaving.iter().map(|pool| pool.health());
        let pools = leaving.chain([self.health()]);
        pools.for_each(|health| deaths.merge(&health.deaths_by_verdict()));
        deaths
    }

    /// Admits as many requests at a time as there are ready workers, minus the reserved ones.
    pub(crate) fn update_capacity(&self, health: &Health) {
        let most = self.generation().map_or(0, |generation| generation.pool.workers());
        // The lock is held while the capacity is set. Otherwise a capacity that was computed before a pause could be set in the
        // pause.
        let paused = lock(&self.paused);
        // If only one worker is ready, it is not reserved: requests share it.
        let ready = health.ready().min(most);
        let left = ready.saturating_sub(self.settings.reserved).max(ready.min(1));
        self.admission.set_capacity(if *paused { 0 } else { left });
    }

    /// Stops admitting requests, or admits them again.
    pub(crate) fn set_paused(&self, paused: bool) {
        *lock(&self.paused) = paused;
        self.update_capacity(&self.health());
    }

    /// The problem of a request for which there is no pool.
    pub(crate) fn not_serving(&self) -> Problem {
        match *self.phase.borrow() {
            Phase::Closing => Problem::Draining,
            _ => Problem::Starting("workers are committing their memory".to_owned()),
        }
    }

    /// Records an answer in the metrics, the history, the recent jobs and the log.
    pub(crate) fn record_answer(&self, answer: &Answer) {
        self.metrics.count(answer);
        lock(&self.history).count(answer);
        {
            let mut recent = lock(&self.recent);
            recent.truncate(RECENT_JOBS - 1);
            recent.push_front(RecentJob::of(answer, SystemTime::now()));
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

    /// Records a request without an answer in the metrics, the history and the log.
    pub(crate) fn record_problem(&self, problem: &Problem) {
        self.metrics.count_refusal(problem);
        if problem.is_shed() {
            lock(&self.history).count_shed();
        }
        match problem {
            Problem::Internal(_) => tracing::error!("{problem}"),
            _ => tracing::debug!("refused: {problem}"),
        }
    }

    /// Remembers the reset of the job's worker until [`Inner::collect_resets`] finds its report.
    pub(crate) fn record_reset(&self, result: &JobResult) {
        /// How many resets are remembered between two collections. Resets above that are not counted.
        const MAX_PENDING: usize = 4096;
        let mut resets = lock(&self.resets);
        if resets.len() < MAX_PENDING {
            resets.push(result.reset.clone());
        }
    }

    /// Counts the resets that have finished.
    pub(crate) fn collect_resets(&self) {
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

    /// Reserves memory for the body of a response.
    pub(crate) async fn reserve_response(&self, bytes: u64) -> Result<Reservation, Problem> {
        let reservation = self.budget.reserve(bytes, self.settings.queue_wait).await;
        reservation.ok_or_else(|| BodyError::NoMemory { retry_after: self.admission.retry_after() }.into())
    }
}
