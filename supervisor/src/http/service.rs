//! The heart of the server: one pool at a time, the gate before it, and the way of a request from one to the other.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use arc_swap::ArcSwapOption;
use cofferdam_protocol::profile::Hash;
use cofferdam_protocol::verdict::Verdict;
use tokio::sync::watch;
use tokio::time::timeout_at;
use tracing::Instrument;

use super::answer::{Answer, Question};
use super::body::{Held, Received, Room};
use super::gate::{Gate, Lane, Refusal, Turn};
use super::history::History;
use super::idempotency::Answers;
use super::metrics::Metrics;
use super::problem::Problem;
use super::settings::Settings;
use super::snapshot::{Module, Recent, Swap};
use crate::pool::{
    Begun, DeathCounts, Health, Job, JobResult, Pool, PoolError, ResetHandle, StartProgress, Ticket,
};

/// How many of the last jobs the status shows.
const RECENT: usize = 50;

/// What the process is doing, as balancers need to know it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Workers are committing their memory.
    Starting,
    /// Requests are taken.
    Serving,
    /// Requests are still taken, but no more should be sent: readiness has fallen.
    Draining,
    /// No more requests are taken; those that run are finished.
    Closing,
}

/// A pool that serves requests: the state behind a [`router`](super::router). Cheap to clone.
#[derive(Clone, Debug)]
pub struct Service(pub(super) Arc<Inner>);

#[derive(Debug)]
pub(super) struct Inner {
    pub(super) settings: Settings,
    pub(super) gate: Gate,
    pub(super) room: Room,
    pub(super) answers: Arc<Answers>,
    pub(super) metrics: Metrics,
    pub(super) phase: watch::Sender<Phase>,
    pub(super) started: Instant,
    generation: ArcSwapOption<Generation>,
    /// How far the first commit is.
    pub(super) progress: Mutex<Option<StartProgress>>,
    /// Deaths in pools that were replaced.
    past_deaths: Mutex<DeathCounts>,
    pub(super) swap: Mutex<Option<Swap>>,
    /// Whether nobody is let in, because the last worker of a pool is on its way out.
    paused: Mutex<bool>,
    pub(super) recent: Mutex<VecDeque<Recent>>,
    pub(super) history: Mutex<History>,
    /// Resets whose reports are still to come.
    resets: Mutex<Vec<ResetHandle>>,
}

/// A pool with its module, until another takes its place.
#[derive(Debug)]
pub(super) struct Generation {
    pub(super) pool: Arc<Pool>,
    pub(super) module: Module,
    profile: Hash,
    pub(super) profile_text: Arc<str>,
}

/// One request for a job, read and understood.
pub(super) struct Request {
    pub(super) lane: Lane,
    pub(super) height: u32,
    pub(super) export: Option<String>,
    pub(super) body: Received,
    /// When whoever asked stops waiting.
    pub(super) deadline: Option<(Instant, Duration)>,
}

/// A request that has its turn.
struct Run {
    lane: Lane,
    height: u32,
    export: Option<String>,
    sha256: Hash,
    job: Job,
    queued: Duration,
    deadline: Option<(Instant, Duration)>,
    turn: Turn,
    /// The room that its body takes.
    held: Vec<Held>,
}

/// A request that has been run.
struct Done {
    run: Run,
    generation: Arc<Generation>,
    result: JobResult,
}

/// What came of beginning to run a request.
enum Step {
    Done(Done),
    Later(Run, (Arc<Generation>, Ticket)),
}

impl Run {
    fn new(request: Request, turn: Turn, queued: Duration) -> Self {
        let Request { lane, height, export, body, deadline } = request;
        let Received { input, sha256, held } = body;
        let job = match &export {
            None => Job::block(height, input),
            Some(export) => Job::view(export.clone(), height, input),
        };
        Self { lane, height, export, sha256, job, queued, deadline, turn, held }
    }
}

/// Locks `mutex`, poisoned or not: what is behind these is complete at every step.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Service {
    /// A service without a pool yet: it is alive, and not ready.
    pub fn starting(settings: Settings) -> Self {
        let (phase, _) = watch::channel(Phase::Starting);
        Self(Arc::new(Inner {
            gate: Gate::new(settings.queue),
            room: Room::new(settings.buffered_bytes),
            answers: Arc::new(Answers::new(&settings)),
            settings,
            metrics: Metrics::new(),
            phase,
            started: Instant::now(),
            generation: ArcSwapOption::empty(),
            progress: Mutex::default(),
            past_deaths: Mutex::default(),
            swap: Mutex::default(),
            paused: Mutex::default(),
            recent: Mutex::default(),
            history: Mutex::default(),
            resets: Mutex::default(),
        }))
    }

    /// A service over `pool`, ready at once. `name` is what the module is called in reports.
    pub fn new(pool: &Arc<Pool>, name: &str, settings: Settings) -> Self {
        let service = Self::starting(settings);
        service.install(pool, name);
        service
    }

    /// Lets `pool` serve from now on: every request that has not been handed to a pool yet goes to it. The pool before it,
    /// if there was one, is returned: what runs on it goes on.
    pub fn install(&self, pool: &Arc<Pool>, name: &str) -> Option<Arc<Pool>> {
        let profile = pool.profile().hash();
        let sha256 = pool.profile().module.to_string();
        let module = Module { name: name.to_owned(), sha256, bytes: pool.module_bytes() };
        let generation =
            Generation { module, profile, profile_text: profile.to_string().into(), pool: Arc::clone(pool) };
        let before = self.0.generation.swap(Some(Arc::new(generation)));
        self.0.phase.send_if_modified(|phase| {
            let starts = *phase == Phase::Starting;
            if starts {
                *phase = Phase::Serving;
            }
            starts
        });
        self.0.follow_workers(&pool.health());
        before.map(|generation| Arc::clone(&generation.pool))
    }

    /// Counts the deaths of a pool that is not used any more.
    pub(super) fn retire(&self, pool: &Pool) {
        let mut past = lock(&self.0.past_deaths);
        pool.health().slots.iter().for_each(|slot| past.merge(&slot.deaths));
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

    /// Takes no more requests.
    pub fn close(&self) {
        self.0.phase.send_replace(Phase::Closing);
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

    /// The pool's health; of no slot if there is no pool.
    pub(super) fn health(&self) -> Health {
        self.generation().map(|generation| generation.pool.health()).unwrap_or_default()
    }

    /// Deaths since the start, over all pools.
    pub(super) fn deaths(&self, health: &Health) -> DeathCounts {
        let mut deaths = lock(&self.past_deaths).clone();
        health.slots.iter().for_each(|slot| deaths.merge(&slot.deaths));
        deaths
    }

    /// Lets as many requests in as there are workers for them.
    pub(super) fn follow_workers(&self, health: &Health) {
        let most = self.generation().map_or(0, |generation| generation.pool.workers());
        // Held while it is set, or it could be set from a look before the pause.
        let paused = lock(&self.paused);
        self.gate.set_capacity(if *paused { 0 } else { health.ready().min(most) });
    }

    /// Lets nobody in, or again as many as there are workers.
    pub(super) fn pause(&self, paused: bool) {
        *lock(&self.paused) = paused;
        self.follow_workers(&self.health());
    }

    /// Runs a job for a request: waits for a turn, and for the answer.
    pub(super) async fn answer(self: Arc<Self>, request: Request) -> Result<Arc<Answer>, Problem> {
        let patience = self.patience(&request);
        let asked = Instant::now();
        let turn = self.gate.enter(request.lane, patience).await;
        let turn = turn.map_err(|refusal| self.refusal(refusal, patience, &request))?;
        let run = Run::new(request, turn, asked.elapsed());
        let (deadline, run) = match self.begin(run)? {
            (_, Step::Done(done)) => return self.finish(done).await,
            (deadline, Step::Later(run, ticket)) => (deadline, (run, ticket)),
        };
        // A task of its own: the worker is busy until the job is done, whether or not anybody waits.
        let mut running = tokio::spawn(Arc::clone(&self).follow(run.0, run.1).in_current_span());
        let joined = match deadline {
            None => running.await,
            Some((at, allowed)) => match timeout_at(at.into(), &mut running).await {
                Ok(joined) => joined,
                Err(_) => return Err(Problem::ClientDeadline(allowed)),
            },
        };
        joined.unwrap_or_else(|error| Err(Problem::Internal(error.to_string())))
    }

    /// Begins a job on the pool that serves now. Most are done by then: to hand them to another thread and back would
    /// cost more than they do.
    fn begin(&self, run: Run) -> Result<(Option<(Instant, Duration)>, Step), Problem> {
        /// How long this thread, which serves other connections, too, may wait for a worker.
        const MOMENT: Duration = Duration::from_micros(200);
        let generation = self.generation().ok_or_else(|| self.not_serving())?;
        let deadline = run.deadline;
        let step = match generation.pool.begin(run.job.clone(), MOMENT) {
            Ok(Begun::Done(result)) => Step::Done(Done { run, generation, result: *result }),
            Ok(Begun::Later(ticket)) => Step::Later(run, (generation, ticket)),
            // Replaced since; the next one takes it.
            Err(error) if self.is_replaced(&generation, &error) => return self.begin(run),
            Err(error) => return Err(self.problem(error)),
        };
        Ok((deadline, step))
    }

    async fn follow(
        self: Arc<Self>,
        mut run: Run,
        (mut generation, mut ticket): (Arc<Generation>, Ticket),
    ) -> Result<Arc<Answer>, Problem> {
        loop {
            match ticket.await {
                Ok(result) => return self.finish(Done { run, generation, result }).await,
                // Not begun by a pool that was replaced meanwhile: the next one takes it.
                Err(error) if self.is_replaced(&generation, &error) => match self.begin(run)?.1 {
                    Step::Done(done) => return self.finish(done).await,
                    Step::Later(again, next) => {
                        run = again;
                        (generation, ticket) = next;
                    }
                },
                Err(error) => return Err(self.problem(error)),
            }
        }
    }

    async fn finish(&self, done: Done) -> Result<Arc<Answer>, Problem> {
        let Done { run, generation, result } = done;
        let Run { lane, height, export, sha256, queued, .. } = run;
        drop((run.turn, run.held, run.job));
        self.note_reset(&result);
        let question = Question {
            lane,
            height,
            export,
            sha256,
            profile: generation.profile,
            profile_text: Arc::clone(&generation.profile_text),
            queued,
        };
        let answer = Arc::new(digested(question, result).await?);
        self.note(&answer);
        Ok(answer)
    }

    /// Whether a pool did not begin a job because another has taken its place, or its workers.
    fn is_replaced(&self, generation: &Arc<Generation>, error: &PoolError) -> bool {
        let has_another = || self.generation().is_some_and(|now| !Arc::ptr_eq(&now, generation));
        matches!(error, PoolError::Draining | PoolError::NoWorker) && has_another()
    }

    fn problem(&self, error: PoolError) -> Problem {
        match error {
            PoolError::InputTooLarge { limit, .. } => Problem::TooLarge { limit },
            error @ PoolError::ExportName { .. } => Problem::Malformed(error.to_string()),
            PoolError::Saturated(waiting) => {
                Problem::Saturated { waiting, retry_after: self.gate.retry_after() }
            }
            PoolError::Draining => Problem::Draining,
            PoolError::NoWorker => Problem::NoWorker,
            error => Problem::Internal(error.to_string()),
        }
    }

    /// How long a request may wait for its turn.
    fn patience(&self, request: &Request) -> Duration {
        let longest = self.settings.queue_wait;
        match request.deadline {
            Some((at, _)) => longest.min(at.saturating_duration_since(Instant::now())),
            None => longest,
        }
    }

    fn refusal(&self, refusal: Refusal, waited: Duration, request: &Request) -> Problem {
        let retry_after = self.gate.retry_after();
        match (refusal, request.deadline) {
            (Refusal::Full, _) => {
                let load = self.gate.load();
                Problem::Saturated { waiting: load.blocks + load.views, retry_after }
            }
            (Refusal::Waited, Some((_, allowed))) if waited < self.settings.queue_wait => {
                Problem::ClientDeadline(allowed)
            }
            (Refusal::Waited, _) => Problem::NoTurn { waited, retry_after },
        }
    }

    /// Why there is no pool to run anything on.
    pub(super) fn not_serving(&self) -> Problem {
        match *self.phase.borrow() {
            Phase::Closing => Problem::Draining,
            _ => Problem::Starting("workers are committing their memory".to_owned()),
        }
    }

    /// Takes note of an answer, for metrics, the status page and the log.
    fn note(&self, answer: &Answer) {
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

    fn note_reset(&self, result: &JobResult) {
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

/// The answer with its digest; of much output in a thread of its own, for others wait behind this one.
async fn digested(question: Question, result: JobResult) -> Result<Answer, Problem> {
    const MUCH_BYTES: usize = 256 << 10;
    let bytes = result.writes().as_bytes().len() + result.view_result().len();
    if bytes < MUCH_BYTES {
        return Ok(Answer::new(question, result));
    }
    let answer = tokio::task::spawn_blocking(move || Answer::new(question, result)).await;
    answer.map_err(|error| Problem::Internal(error.to_string()))
}
