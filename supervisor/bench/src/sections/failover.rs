//! The failover section: the time from the death of a busy worker to the result of its block, minus the time that the block
//! runs. It is measured with a spare worker, and without a spare worker, when a new worker has to start and commit its memory.

use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::context::{Bench, nanos, try_nanos_of};
use crate::error::BenchError;
use crate::figure::Figure;
use crate::guests;
use cofferdam_pool::restart::RestartPolicy;
use cofferdam_pool::{Health, Job, Pool, PoolError, SlotState};

/// Iterations of the guest's loop. They take some tens of milliseconds.
const SPINS: u32 = 100_000_000;

/// The time between the start of the block and the kill.
const MIDDLE: Duration = Duration::from_millis(10);

pub(super) fn measure(bench: &Bench<'_>) -> Result<Vec<Figure>, BenchError> {
    let job = Job::block(1, SPINS.to_le_bytes().to_vec());
    bench.doing("failover with a spare");
    let ours = rounds(bench, &job, 1)?;
    bench.doing("failover without a spare");
    let alone = rounds(bench, &job, 0)?;
    bench.doing("start and commit of a worker");
    let start = || try_nanos_of(|| Ok(bench.builder(guests::SPINNER).build()?));
    let start = (0..bench.args.rounds).map(|_| start()).collect::<Result<Vec<_>, _>>()?;
    let case = format!("kill -9 in a block, {} committed, a spare", bench.args.memory);
    Ok(vec![
        Figure::new("failover", case, &ours)
            .beside("without a spare", &alone)
            .beside("starting and committing a worker", &start),
    ])
}

fn rounds(bench: &Bench<'_>, job: &Job, spares: usize) -> Result<Vec<u64>, BenchError> {
    // This section kills many workers: the restart policy must neither give a slot up nor delay a restart.
    let restart = RestartPolicy { base: Duration::ZERO, intensity: u32::MAX, ..RestartPolicy::default() };
    let pool = bench.builder(guests::SPINNER).spares(spares).restart(restart).build()?;
    let mut late = Vec::new();
    for _ in 0..bench.args.rounds * 2 {
        wait_until_ready(&pool, spares + 1)?;
        late.extend(late_nanos(&pool, job)?);
    }
    Ok(late)
}

/// Nanoseconds from the death of the worker that runs `job` to the result, minus the time of the run that gave the result.
/// None if the job was done before the kill.
fn late_nanos(pool: &Pool, job: &Job) -> Result<Option<u64>, BenchError> {
    let (result, killed) = thread::scope(|scope| {
        let killer = scope.spawn(|| kill_busy(pool));
        let result = pool.call(job).map(|result| (result, Instant::now()));
        // If the killer panicked, the panic has been printed already. The round then counts as one without a kill.
        (result, killer.join().unwrap_or(None))
    });
    let (result, done) = result?;
    let killed = killed.filter(|_| result.attempts() > 1 && result.verdict.is_completed());
    Ok(killed.map(|killed| nanos(done.duration_since(killed).saturating_sub(result.exec))))
}

/// Kills the busy worker after [`MIDDLE`]. Returns the time of the kill.
fn kill_busy(pool: &Pool) -> Option<Instant> {
    const TIMEOUT: Duration = Duration::from_secs(1);
    const POLL_INTERVAL: Duration = Duration::from_micros(200);
    let begun = Instant::now();
    while begun.elapsed() < TIMEOUT {
        if let Some(pid) = busy(&pool.health()) {
            thread::sleep(MIDDLE);
            let killed = Instant::now();
            return kill(Pid::from_raw(pid.cast_signed()), Signal::SIGKILL).is_ok().then_some(killed);
        }
        thread::sleep(POLL_INTERVAL);
    }
    None
}

fn busy(health: &Health) -> Option<u32> {
    health.slots.iter().find(|slot| slot.state == SlotState::Busy).and_then(|slot| slot.pid)
}

fn wait_until_ready(pool: &Pool, workers: usize) -> Result<(), BenchError> {
    const TIMEOUT: Duration = Duration::from_mins(2);
    let begun = Instant::now();
    while pool.health().ready() < workers {
        if begun.elapsed() > TIMEOUT {
            return Err(PoolError::StartTimeout(TIMEOUT).into());
        }
        thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}
