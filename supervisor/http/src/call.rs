//! Jobs that an application in the same process runs. They wait in the same queue as the requests of HTTP clients.

use std::sync::Arc;

use bytes::Bytes;
use cofferdam_protocol::profile::Hash;
use cofferdam_protocol::verdict::Verdict;
use thiserror::Error;

use crate::answer::Answer;
use crate::body::{BodyError, ReceivedBody};
use crate::job_kind::JobKind;
use crate::memory::Reservation;
use crate::problem::Problem;
use crate::request::Request;
use crate::service::{Inner, Service};
use cofferdam_pool::{Input, JobResult, StateLayer};

/// A job that the application runs. It waits in the queue of the views, even if it is a block.
#[derive(Clone, Debug)]
pub struct Call {
    /// The height that the guest is told.
    pub height: u32,
    /// The exported function of a view. None for a block.
    pub export: Option<String>,
    /// The input of the guest: the bytes of the block, or the view's argument.
    pub input: Vec<u8>,
    /// State that lies over the store, newest first. [`Pool::layer`](cofferdam_pool::Pool::layer) makes layers.
    pub layers: Vec<StateLayer>,
    /// The newest height of the store that the guest sees below `layers`. None for the newest height that the store has.
    pub base: Option<u32>,
}

/// The answer to a [`Call`].
#[derive(Clone, Debug)]
pub struct CallAnswer {
    /// How the job ended.
    pub verdict: Verdict,
    /// The verdict's evidence in words. Empty if there is nothing to say.
    pub detail: String,
    /// The result of a view, or the key-value pairs of a block as in [`cofferdam_protocol::writes`]. Empty unless the job
    /// completed.
    pub output: Bytes,
}

/// Why a [`Call`] has no answer.
#[derive(Clone, Error, PartialEq, Eq)]
pub enum CallRejection {
    /// The queue is full, or the call waited in it for [`Settings::queue_wait`](crate::Settings::queue_wait).
    #[error("the queue is full, or no worker became free in time")]
    Saturated,
    /// The service is starting or draining, or has no worker. The text says which.
    #[error("{0}")]
    NotServing(String),
    /// The input is larger than the pool's limit.
    #[error("the input is larger than the limit of {limit} bytes")]
    InputTooLarge {
        /// [`Limits::input_bytes`](cofferdam_pool::Limits::input_bytes).
        limit: u64,
    },
    /// Any other failure, in words.
    #[error("{0}")]
    Other(String),
}

cofferdam_protocol::debug_as_display!(CallRejection);

impl Service {
    /// Runs `call` on a worker, after the requests that wait already. The job runs to its end even if the returned future
    /// is dropped.
    ///
    /// # Errors
    /// [`CallRejection`] if no worker ran the job. A job that a worker ran has an answer, whatever its verdict.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub async fn call(&self, call: Call) -> Result<CallAnswer, CallRejection> {
        let limit = match self.0.generation() {
            Some(generation) => generation.pool.limits().input_bytes,
            None => return Err(reject(&self.0, self.0.not_serving())),
        };
        if call.input.len() as u64 > limit {
            return Err(CallRejection::InputTooLarge { limit });
        }
        let Call { height, export, input, layers, base } = call;
        // Only the digest depends on the hash of the input, and a `CallAnswer` has no digest.
        let body = ReceivedBody {
            input: Input::from(input),
            sha256: Hash([0; 32]),
            reservation: Reservation::default(),
        };
        let request = Request { kind: JobKind::View, height, export, body, layers, base, deadline: None };
        match Arc::clone(&self.0).answer(request).await {
            Ok(answer) => Ok(CallAnswer {
                verdict: answer.verdict,
                detail: answer.detail.clone(),
                output: answer.output.clone(),
            }),
            Err(problem) => Err(reject(&self.0, problem)),
        }
    }

    /// Counts a block that the application ran on the pool without this service. The block appears in the metrics, the history
    /// and the recent jobs of the status. `digest` is the digest of the chain after the block, if the verdict is a guest
    /// verdict.
    pub fn record_block(&self, height: u32, digest: Option<Hash>, result: &JobResult) {
        self.0.record_answer(&Answer::of_block(height, digest, result));
        self.0.record_reset(result);
    }
}

fn reject(inner: &Inner, problem: Problem) -> CallRejection {
    inner.record_problem(&problem);
    match problem {
        Problem::QueueFull { .. }
        | Problem::WaitTimedOut { .. }
        | Problem::Body(BodyError::NoMemory { .. }) => CallRejection::Saturated,
        Problem::Starting(_) | Problem::Draining | Problem::NoWorker => {
            CallRejection::NotServing(problem.to_string())
        }
        Problem::Body(BodyError::TooLarge { limit }) => CallRejection::InputTooLarge { limit },
        other => CallRejection::Other(other.to_string()),
    }
}
