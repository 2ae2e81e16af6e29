//! Runs a request: waits for a permit, submits the job to the pool that serves at that moment, and makes an answer of the
//! result. If a swap replaces the pool before the job has begun, the job is submitted to the new pool.

use std::sync::Arc;
use std::time::{Duration, Instant};

use cofferdam_protocol::profile::Hash;
use futures_util::FutureExt;
use tokio::time::timeout_at;
use tracing::Instrument;

use crate::admission::{Permit, Rejection};
use crate::answer::{Answer, AnsweredRequest};
use crate::body::{BodyError, ReceivedBody};
use crate::job_kind::JobKind;
use crate::memory::Reservation;
use crate::problem::Problem;
use crate::service::{Generation, Inner};
use cofferdam_pool::{Job, JobResult, PoolError, StateLayer, Ticket};

/// Bytes of this size or more are copied, hashed and written as JSON in a blocking thread. For so many bytes, the change of
/// threads takes less time than the work, and other connections of this thread do not wait for the work.
pub(crate) const LARGE_BYTES: usize = 256 << 10;

/// One request for a job, read and parsed.
pub(crate) struct Request {
    pub(crate) kind: JobKind,
    pub(crate) height: u32,
    pub(crate) export: Option<String>,
    pub(crate) body: ReceivedBody,
    /// State that lies over the store, newest first.
    pub(crate) layers: Vec<StateLayer>,
    /// The newest height of the store that the guest sees below `layers`.
    pub(crate) base: Option<u32>,
    /// When the client stops waiting, and the time that it allowed.
    pub(crate) deadline: Option<(Instant, Duration)>,
}

/// A request that has a permit.
struct AdmittedRequest {
    kind: JobKind,
    height: u32,
    export: Option<String>,
    sha256: Hash,
    job: Job,
    queued: Duration,
    permit: Permit,
    /// The memory that the body takes.
    reservation: Reservation,
}

/// A request that was submitted to a pool.
struct SubmittedRequest {
    request: AdmittedRequest,
    generation: Arc<Generation>,
    ticket: Ticket,
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

impl AdmittedRequest {
    fn new(request: Request, permit: Permit, queued: Duration) -> Self {
        let job = request.job();
        let Request { kind, height, export, body, .. } = request;
        let ReceivedBody { sha256, reservation, .. } = body;
        Self { kind, height, export, sha256, job, queued, permit, reservation }
    }

    /// Whether the input is so large that the job is submitted in a blocking thread.
    fn is_large(&self) -> bool {
        self.job.input().len() > LARGE_BYTES
    }
}

impl Inner {
    /// Runs the job of a request: waits for a permit and for the result.
    pub(crate) async fn answer(self: Arc<Self>, request: Request) -> Result<Arc<Answer>, Problem> {
        if let Some(answer) = self.answer_from_quarantine(&request).await? {
            return Ok(answer);
        }
        let max_wait = self.max_wait(&request);
        let asked = Instant::now();
        let permit = self.admission.acquire(request.kind, max_wait).await;
        let permit = permit.map_err(|rejection| self.rejected(rejection, max_wait, &request))?;
        let deadline = request.deadline;
        let admitted = AdmittedRequest::new(request, permit, asked.elapsed());
        let follow = if admitted.is_large() {
            Arc::clone(&self).submit_and_follow(admitted).boxed()
        } else {
            let mut submitted = self.submit(admitted)?;
            // The first poll of a ticket waits a short time for the result. A short job is finished in this time, in this thread.
            match (&mut submitted.ticket).now_or_never() {
                Some(Ok(result)) => return self.finish(submitted, result).await,
                first => Arc::clone(&self).follow(submitted, first).boxed(),
            }
        };
        // A separate task holds the permit: the worker is busy until the job is done, whether or not the client still waits.
        let mut task = tokio::spawn(follow.in_current_span());
        let joined = match deadline {
            None => task.await,
            Some((at, allowed)) => match timeout_at(at.into(), &mut task).await {
                Ok(joined) => joined,
                Err(_) => return Err(Problem::ClientDeadline(allowed)),
            },
        };
        joined.unwrap_or_else(|error| Err(Problem::Internal(error.to_string())))
    }

    /// The answer to a request whose job is in quarantine. It needs no worker and no permit.
    async fn answer_from_quarantine(&self, request: &Request) -> Result<Option<Arc<Answer>>, Problem> {
        let Some(generation) = self.generation().filter(|generation| generation.pool.has_quarantine()) else {
            return Ok(None);
        };
        let job = request.job();
        if !generation.pool.may_be_quarantined(&job) {
            return Ok(None);
        }
        let pool = Arc::clone(&generation.pool);
        let found = match job.input().len() < LARGE_BYTES {
            true => pool.quarantined(&job),
            false => tokio::task::spawn_blocking(move || pool.quarantined(&job))
                .await
                .map_err(|error| Problem::Internal(error.to_string()))?,
        };
        let Some(result) = found else { return Ok(None) };
        let answered = AnsweredRequest {
            kind: request.kind,
            height: request.height,
            export: request.export.clone(),
            sha256: request.body.sha256,
            profile: generation.profile,
            profile_text: Arc::clone(&generation.profile_text),
            queued: Duration::ZERO,
        };
        let answer = Arc::new(Answer::new(answered, result));
        self.record_answer(&answer);
        Ok(Some(answer))
    }

    /// Submits the job of a request to the pool that serves now, in this thread.
    fn submit(&self, request: AdmittedRequest) -> Result<SubmittedRequest, Problem> {
        loop {
            let generation = self.generation().ok_or_else(|| self.not_serving())?;
            match generation.pool.submit(request.job.clone()) {
                Ok(ticket) => return Ok(SubmittedRequest { request, generation, ticket }),
                // A swap has replaced the pool meanwhile. The new pool takes the job.
                Err(error) if self.is_replaced(&generation, &error) => {}
                Err(error) => return Err(self.problem(error)),
            }
        }
    }

    /// Submits a job with a large input in a blocking thread, and waits for its result.
    async fn submit_and_follow(self: Arc<Self>, request: AdmittedRequest) -> Result<Arc<Answer>, Problem> {
        let submitted = Arc::clone(&self).submit_large(request).await?;
        self.follow(submitted, None).await
    }

    async fn submit_large(self: Arc<Self>, request: AdmittedRequest) -> Result<SubmittedRequest, Problem> {
        let submitted = tokio::task::spawn_blocking(move || self.submit(request)).await;
        submitted.map_err(|error| Problem::Internal(error.to_string()))?
    }

    /// Waits for the result of a job. `outcome` is what a poll of the ticket has given already.
    async fn follow(
        self: Arc<Self>,
        mut submitted: SubmittedRequest,
        mut outcome: Option<Result<JobResult, PoolError>>,
    ) -> Result<Arc<Answer>, Problem> {
        loop {
            let outcome = match outcome.take() {
                Some(outcome) => outcome,
                None => (&mut submitted.ticket).await,
            };
            match outcome {
                Ok(result) => return self.finish(submitted, result).await,
                // The pool was replaced before it started the job. The new pool takes the job.
                Err(error) if self.is_replaced(&submitted.generation, &error) => {
                    let request = submitted.request;
                    submitted = match request.is_large() {
                        true => Arc::clone(&self).submit_large(request).await?,
                        false => self.submit(request)?,
                    };
                }
                Err(error) => return Err(self.problem(error)),
            }
        }
    }

    async fn finish(&self, submitted: SubmittedRequest, result: JobResult) -> Result<Arc<Answer>, Problem> {
        let SubmittedRequest { request, generation, ticket } = submitted;
        drop(ticket);
        let AdmittedRequest { kind, height, export, sha256, queued, .. } = request;
        drop((request.permit, request.reservation, request.job));
        self.record_reset(&result);
        let answered = AnsweredRequest {
            kind,
            height,
            export,
            sha256,
            profile: generation.profile,
            profile_text: Arc::clone(&generation.profile_text),
            queued,
        };
        let answer = Arc::new(digested(answered, result).await?);
        self.record_answer(&answer);
        Ok(answer)
    }

    /// Whether the pool of `generation` did not run a job because a swap has replaced the pool or stopped its workers.
    fn is_replaced(&self, generation: &Arc<Generation>, error: &PoolError) -> bool {
        let has_another = || self.generation().is_some_and(|now| !Arc::ptr_eq(&now, generation));
        matches!(error, PoolError::Draining | PoolError::NoWorker) && has_another()
    }

    fn problem(&self, error: PoolError) -> Problem {
        match error {
            PoolError::InputTooLarge { limit, .. } => BodyError::TooLarge { limit }.into(),
            error @ PoolError::ExportName { .. } => Problem::Malformed(error.to_string()),
            PoolError::Saturated { waiting, limit } => {
                Problem::QueueFull { waiting, limit, retry_after: self.admission.retry_after() }
            }
            PoolError::Draining => Problem::Draining,
            PoolError::NoWorker => Problem::NoWorker,
            error => Problem::Internal(error.to_string()),
        }
    }

    /// How long the request may wait for a permit.
    fn max_wait(&self, request: &Request) -> Duration {
        let longest = self.settings.queue_wait;
        match request.deadline {
            Some((at, _)) => longest.min(at.saturating_duration_since(Instant::now())),
            None => longest,
        }
    }

    fn rejected(&self, rejection: Rejection, waited: Duration, request: &Request) -> Problem {
        let retry_after = self.admission.retry_after();
        match (rejection, request.deadline) {
            (Rejection::QueueFull, _) => {
                let load = self.admission.load();
                let waiting = load.waiting_blocks + load.waiting_views;
                Problem::QueueFull { waiting, limit: load.limit, retry_after }
            }
            (Rejection::TimedOut, Some((_, allowed))) if waited < self.settings.queue_wait => {
                Problem::ClientDeadline(allowed)
            }
            (Rejection::Closed, _) => self.not_serving(),
            (Rejection::TimedOut, _) if self.generation().is_none() => self.not_serving(),
            (Rejection::TimedOut, _) => Problem::WaitTimedOut { waited, retry_after },
        }
    }
}

/// Makes the answer, which hashes the output. A large output is hashed in a blocking thread.
async fn digested(answered: AnsweredRequest, result: JobResult) -> Result<Answer, Problem> {
    let bytes = result.writes().as_bytes().len() + result.view_result().len();
    if bytes < LARGE_BYTES {
        return Ok(Answer::new(answered, result));
    }
    let answer = tokio::task::spawn_blocking(move || Answer::new(answered, result)).await;
    answer.map_err(|error| Problem::Internal(error.to_string()))
}
