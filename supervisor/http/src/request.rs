//! A request's way from its body to its answer: a turn at the gate, a worker of the pool that serves at that moment, and
//! another pool's worker if that one was replaced before it began.

use std::sync::Arc;
use std::time::{Duration, Instant};

use cofferdam_protocol::profile::Hash;
use cofferdam_protocol::wait;
use tokio::time::timeout_at;
use tracing::Instrument;

use super::answer::{Answer, Question};
use super::body::{Held, Received};
use super::gate::{Lane, Refusal, Turn};
use super::problem::Problem;
use super::service::{Generation, Inner};
use cofferdam_pool::{Begun, Job, JobResult, PoolError, StateLayer};

/// Bytes from which on it takes longer to copy them, hash them, or write them as JSON than to hand them to another thread: by the
/// ones that serve, others would wait for it.
pub(super) const MUCH_BYTES: usize = 256 << 10;

/// One request for a job, read and understood.
pub(super) struct Request {
    pub(super) lane: Lane,
    pub(super) height: u32,
    pub(super) export: Option<String>,
    pub(super) body: Received,
    /// What lies over the state, newest first.
    pub(super) layers: Vec<StateLayer>,
    /// The newest height of the store that is seen under them.
    pub(super) base: Option<u32>,
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
    Later(Later),
}

/// A request that runs, or waits for a worker, on a pool.
struct Later {
    run: Run,
    generation: Arc<Generation>,
    begun: Begun,
}

impl Request {
    fn job(&self) -> Job {
        let input = self.body.input.clone();
        let job = match &self.export {
            None => Job::block(self.height, input),
            Some(export) => Job::view(export.clone(), self.height, input),
        };
        job.over(self.layers.clone()).based_on(self.base)
    }
}

impl Run {
    fn new(request: Request, turn: Turn, queued: Duration) -> Self {
        let job = request.job();
        let Request { lane, height, export, body, .. } = request;
        let Received { sha256, held, .. } = body;
        Self { lane, height, export, sha256, job, queued, turn, held }
    }
}

impl Inner {
    /// Runs a job for a request: waits for a turn, and for the answer.
    pub(super) async fn answer(self: Arc<Self>, request: Request) -> Result<Arc<Answer>, Problem> {
        if let Some(answer) = self.in_quarantine(&request).await? {
            return Ok(answer);
        }
        let patience = self.patience(&request);
        let asked = Instant::now();
        let turn = self.gate.enter(request.lane, patience).await;
        let turn = turn.map_err(|refusal| self.refusal(refusal, patience, &request))?;
        let deadline = request.deadline;
        let later = match self.begin(Run::new(request, turn, asked.elapsed()))? {
            Step::Done(done) => return self.finish(done).await,
            Step::Later(later) => later,
        };
        // A task of its own: the worker is busy until the job is done, whether or not anybody waits.
        let mut running = tokio::spawn(Arc::clone(&self).follow(later).in_current_span());
        let joined = match deadline {
            None => running.await,
            Some((at, allowed)) => match timeout_at(at.into(), &mut running).await {
                Ok(joined) => joined,
                Err(_) => return Err(Problem::ClientDeadline(allowed)),
            },
        };
        joined.unwrap_or_else(|error| Err(Problem::Internal(error.to_string())))
    }

    /// The answer to a request whose job is in quarantine: at once, for it needs no worker and no turn.
    async fn in_quarantine(&self, request: &Request) -> Result<Option<Arc<Answer>>, Problem> {
        let Some(generation) = self.generation().filter(|generation| generation.pool.has_quarantine()) else {
            return Ok(None);
        };
        let job = request.job();
        if !generation.pool.may_be_quarantined(&job) {
            return Ok(None);
        }
        let pool = Arc::clone(&generation.pool);
        let found = match job.input().len() < MUCH_BYTES {
            true => pool.quarantined(&job),
            false => tokio::task::spawn_blocking(move || pool.quarantined(&job))
                .await
                .map_err(|error| Problem::Internal(error.to_string()))?,
        };
        let Some(result) = found else { return Ok(None) };
        let question = Question {
            lane: request.lane,
            height: request.height,
            export: request.export.clone(),
            sha256: request.body.sha256,
            profile: generation.profile,
            profile_text: Arc::clone(&generation.profile_text),
            queued: Duration::ZERO,
        };
        let answer = Arc::new(Answer::new(question, result));
        self.note(&answer);
        Ok(Some(answer))
    }

    /// Begins a job on the pool that serves now. This thread, which serves other connections, too, waits for it for a moment:
    /// in that a short job is done, and to sleep and be woken would take as long.
    fn begin(&self, run: Run) -> Result<Step, Problem> {
        let is_large = run.job.input().len() > MUCH_BYTES;
        loop {
            let generation = self.generation().ok_or_else(|| self.not_serving())?;
            let job = run.job.clone();
            let begun = if is_large {
                generation.pool.submit(job).map(Begun::Later)
            } else {
                generation.pool.begin(job, wait::SPIN)
            };
            match begun {
                Ok(Begun::Done(result)) => return Ok(Step::Done(Done { run, generation, result: *result })),
                Ok(begun) => return Ok(Step::Later(Later { run, generation, begun })),
                // Replaced since; the next one takes it.
                Err(error) if self.is_replaced(&generation, &error) => {}
                Err(error) => return Err(self.problem(error)),
            }
        }
    }

    async fn follow(self: Arc<Self>, mut later: Later) -> Result<Arc<Answer>, Problem> {
        loop {
            let Later { run, generation, begun } = later;
            let step = match begun.land().await {
                Ok(result) => Step::Done(Done { run, generation, result }),
                // Not begun by a pool that was replaced meanwhile: the next one takes it.
                Err(error) if self.is_replaced(&generation, &error) => self.begin(run)?,
                Err(error) => return Err(self.problem(error)),
            };
            match step {
                Step::Done(done) => return self.finish(done).await,
                Step::Later(again) => later = again,
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
            (Refusal::Closed, _) => self.not_serving(),
            (Refusal::Waited, _) if self.generation().is_none() => self.not_serving(),
            (Refusal::Waited, _) => Problem::NoTurn { waited, retry_after },
        }
    }
}

/// The answer with its digest; of much output in a thread of its own, for others wait behind this one.
async fn digested(question: Question, result: JobResult) -> Result<Answer, Problem> {
    let bytes = result.writes().as_bytes().len() + result.view_result().len();
    if bytes < MUCH_BYTES {
        return Ok(Answer::new(question, result));
    }
    let answer = tokio::task::spawn_blocking(move || Answer::new(question, result)).await;
    answer.map_err(|error| Problem::Internal(error.to_string()))
}
