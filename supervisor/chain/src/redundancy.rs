//! Runs a block on two workers and compares their results.

use std::time::{Duration, Instant};

use cofferdam_protocol::verdict::Verdict;

use super::ChainError;
use super::stop::StopRequest;
use cofferdam_pool::{Job, JobResult, Runner};

/// How long a block waits until a second worker is in service.
const TIMEOUT: Duration = Duration::from_mins(1);
/// The time between two tries to run a block on two workers.
const INTERVAL: Duration = Duration::from_millis(20);

/// Runs `job`, the block at `height`, on two workers, and returns the result that they agree on. While only one worker is in
/// service, waits for the second.
pub(super) fn run_on_two(
    pool: &impl Runner,
    job: &Job,
    height: u32,
    stop: &StopRequest,
) -> Result<JobResult, ChainError> {
    let deadline = Instant::now() + TIMEOUT;
    let is_guests = |result: &JobResult| matches!(result.verdict, Verdict::Guest(_));
    loop {
        let [one, other] = pool.call_twice(job)?;
        // While a worker is being replaced, the other worker may have run the block twice. Its two results prove nothing.
        if other.worker.pid != one.worker.pid || !is_guests(&one) || !is_guests(&other) {
            return agreed(height, one, &other);
        }
        if Instant::now() >= deadline {
            return Err(ChainError::OneWorker { height });
        }
        if stop.wait(INTERVAL) {
            return Err(ChainError::Interrupted { height });
        }
    }
}

/// Returns the result that two workers agree on. If one of the two has a host verdict, this returns the result with the host
/// verdict.
fn agreed(height: u32, one: JobResult, other: &JobResult) -> Result<JobResult, ChainError> {
    for lost in [&one, other] {
        if matches!(lost.verdict, Verdict::Host(_)) {
            return Ok(lost.clone());
        }
    }
    if one.verdict == other.verdict && one.writes() == other.writes() {
        return Ok(one);
    }
    let described = |result: &JobResult| {
        let writes = result.writes();
        format!("{} with {} pairs ({})", result.verdict, writes.count(), writes.hash())
    };
    Err(ChainError::Disagreement {
        height,
        workers: [one.worker.pid, other.worker.pid],
        results: [described(&one), described(other)],
    })
}
