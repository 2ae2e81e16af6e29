//! What an application over the service adds to its health, figures and status: a node, its chain.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use cofferdam_protocol::profile::Hash;
use cofferdam_protocol::verdict::Verdict;
use serde_json::Value;

use super::answer::Answer;
use super::body::Received;
use super::gate::Lane;
use super::problem::Problem;
use super::request::Request;
use super::service::{Inner, Service};
use cofferdam_pool::{Input, JobResult, StateLayer};

/// An application over the service.
pub trait Extension: Send + Sync + fmt::Debug {
    /// What its check is called in `/readyz?verbose`.
    fn name(&self) -> &'static str;

    /// More to say of its readiness in one line.
    ///
    /// # Errors
    /// Why nothing should be routed here.
    fn ready(&self) -> Result<String, String>;

    /// What stands under its name in `/v1/status`.
    fn status(&self) -> Value;

    /// Its figures, for `/metrics`.
    fn figures(&self) -> Vec<Figure>;
}

/// One figure of an [`Extension`].
#[derive(Clone, Debug, PartialEq)]
pub struct Figure {
    /// Its name, without the prefix `cofferdam_`.
    pub name: &'static str,
    /// What it is, in a line.
    pub help: &'static str,
    /// Whether it only ever rises.
    pub counter: bool,
    /// Its value.
    pub value: f64,
}

/// A view that somebody in this process asks for.
#[derive(Clone, Debug)]
pub struct InternalJob {
    pub height: u32,
    /// The view; none for a block.
    pub export: Option<String>,
    pub input: Vec<u8>,
    /// What lies over the state, newest first.
    pub layers: Vec<StateLayer>,
    /// The newest height of the store that is seen under them.
    pub base: Option<u32>,
}

/// What came of an [`InternalJob`].
#[derive(Clone, Debug)]
pub struct InternalAnswer {
    pub verdict: Verdict,
    pub detail: String,
    /// The result of a view, the pairs of a block.
    pub output: Bytes,
}

/// Why an [`InternalJob`] has no answer.
#[derive(Clone, Debug)]
pub enum InternalProblem {
    /// It waits for its turn longer than it may, or nobody else may wait.
    Saturated,
    /// The service starts, drains, or has no worker.
    NotServing(String),
    /// The input is above the limit.
    TooLarge { limit: u64 },
    /// Anything else.
    Other(String),
}

impl Service {
    /// Adds what `extension` has to say. The first one that is added stays.
    pub fn extend(&self, extension: Arc<dyn Extension>) {
        // There is one application over a service.
        let _ = self.0.extension.set(extension);
    }

    /// Runs a job among those that requests ask for, in its turn.
    pub async fn run(&self, job: InternalJob) -> Result<InternalAnswer, InternalProblem> {
        let limit = match self.0.generation() {
            Some(generation) => generation.pool.limits().input_bytes,
            None => return Err(problem(&self.0, self.0.not_serving())),
        };
        if job.input.len() as u64 > limit {
            return Err(InternalProblem::TooLarge { limit });
        }
        let InternalJob { height, export, input, layers, base } = job;
        // Nobody is told the digest of these.
        let body = Received { input: Input::from(input), sha256: Hash([0; 32]), held: Vec::new() };
        let request = Request { lane: Lane::Views, height, export, body, layers, base, deadline: None };
        match Arc::clone(&self.0).answer(request).await {
            Ok(answer) => Ok(InternalAnswer {
                verdict: answer.verdict,
                detail: answer.detail.clone(),
                output: answer.output(),
            }),
            Err(refusal) => Err(problem(&self.0, refusal)),
        }
    }

    /// Takes note of a block that was indexed, as of one that a request asked for.
    pub fn note_block(&self, height: u32, digest: Option<Hash>, result: &JobResult) {
        self.0.note(&Answer::of_block(height, digest, result));
        self.0.note_reset(result);
    }
}

fn problem(inner: &Inner, problem: Problem) -> InternalProblem {
    inner.note_problem(&problem);
    match problem {
        Problem::Saturated { .. } | Problem::NoTurn { .. } | Problem::NoRoom { .. } => {
            InternalProblem::Saturated
        }
        Problem::Starting(_) | Problem::Draining | Problem::NoWorker => {
            InternalProblem::NotServing(problem.to_string())
        }
        Problem::TooLarge { limit } => InternalProblem::TooLarge { limit },
        other => InternalProblem::Other(other.to_string()),
    }
}
