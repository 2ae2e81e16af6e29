//! Blocks at full speed: each runs on the state of the one before it while that one is still being committed.

use std::collections::VecDeque;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use cofferdam_protocol::profile::Hash;
use cofferdam_protocol::verdict::{GuestVerdict, Verdict};
use cofferdam_protocol::writes::Writes;

use super::committer::{Batch, CommitWatch, Committer, Observer, Ran};
use super::{ChainError, Hashed, OnGuestFailure, Outcome, extend_digest, hash_bytes, hash_of};
use crate::blocks::SourceBlock;
use cofferdam_pool::{Job, JobResult, MAX_LAYERS, Pool, PoolError, Runner, StateLayer};
use cofferdam_store::{Store, StoreError};

/// How long a second worker is waited for, and how often it is tried, where two are to agree.
const PATIENCE: Duration = Duration::from_mins(1);
const PAUSE: Duration = Duration::from_millis(20);

/// What a [`Pipeline`] runs blocks on: a pool, or what stands in for one in a test.
pub trait Workers: Runner {
    /// Lays what a block wrote over the state; none if there is no room. See [`Pool::layer`].
    fn layer(&self, height: u32, writes: &Writes) -> Option<StateLayer>;

    /// Runs `job` on two workers at the same time, if two are in service; else twice on one.
    ///
    /// # Errors
    /// Any [`PoolError`] about a job.
    fn call_twice(&self, job: &Job) -> Result<[JobResult; 2], PoolError>;
}

impl Workers for Arc<Pool> {
    fn layer(&self, height: u32, writes: &Writes) -> Option<StateLayer> {
        Pool::layer(self, height, writes)
    }

    fn call_twice(&self, job: &Job) -> Result<[JobResult; 2], PoolError> {
        // If a worker is idle, the job is sent to it before the second worker is taken, so these are two workers.
        let ticket = self.submit(job.clone())?;
        let (other, one) = (Pool::call(self, job)?, ticket.wait()?);
        Ok([one, other])
    }
}

/// How a [`Pipeline`] works.
#[derive(Clone, Copy, Debug)]
pub struct PipelineSettings {
    /// What to do when a block does not complete for a reason of its own.
    pub policy: OnGuestFailure,
    /// What is committed at a time.
    pub batch: Batch,
    /// Whether every block runs on two workers, and is only committed if they agree. The pool needs two.
    pub redundant: bool,
}

/// What came of a block that was pushed.
#[derive(Debug)]
pub enum Pushed {
    /// It ran, and is being committed.
    Taken,
    /// The chain stops before it; everything before it is committed.
    Stopped(Box<Outcome>),
}

/// Where the time of a chain went, added up since its start.
#[derive(Clone, Copy, Debug, Default)]
pub struct Times {
    /// Blocks that ran.
    pub blocks: u64,
    /// The guests' own time.
    pub guest: Duration,
    /// Everything else between handing a block over and having its result: pipe, copies, and waiting for a worker that is
    /// still being reset.
    pub overhead: Duration,
    /// Laying what blocks wrote over the state.
    pub layers: Duration,
    /// Waiting for commits, because too much was not committed yet.
    pub commits: Duration,
}

/// The newest block that was taken.
#[derive(Clone, Copy, Debug)]
struct Tip {
    height: u32,
    hash: [u8; 32],
}

/// A pool and a store at one point of a chain, with commits under way.
#[derive(Debug)]
pub struct Pipeline<W = Arc<Pool>> {
    pool: W,
    store: Arc<Store>,
    settings: PipelineSettings,
    tip: Option<Tip>,
    /// What is not known to be committed, oldest first.
    layers: VecDeque<StateLayer>,
    committer: Committer,
    times: Times,
}

impl<W: Workers> Pipeline<W> {
    /// Goes on from where `store` is. The pool must read the same store, and the store belong to the pool's profile.
    /// `observer` hears of each block once it is committed.
    ///
    /// # Errors
    /// [`ChainError::Store`], [`ChainError::Thread`].
    pub fn resume(
        pool: W,
        store: Arc<Store>,
        settings: PipelineSettings,
        observer: Observer,
    ) -> Result<Self, ChainError> {
        let record = store.tip()?;
        let digest = record.as_ref().map_or_else(|| pool.profile().hash(), |record| record.digest);
        let tip = record.map(|record| Tip { height: record.height, hash: record.hash });
        let height = tip.map(|tip| tip.height);
        let committer = Committer::start(&store, digest, height, settings.batch, observer);
        let committer = committer.map_err(ChainError::Thread)?;
        Ok(Self { pool, store, settings, tip, layers: VecDeque::new(), committer, times: Times::default() })
    }

    /// The newest height that was taken, committed or not.
    pub fn tip(&self) -> Option<u32> {
        self.tip.map(|tip| tip.height)
    }

    /// Where the time went.
    pub fn times(&self) -> Times {
        self.times
    }

    /// The commits, to be watched from elsewhere.
    pub fn watch(&self) -> CommitWatch {
        self.committer.watch()
    }

    /// Runs `block`, which must follow the newest one, on the state before it, and hands over what it wrote. Returns before
    /// that is committed.
    ///
    /// # Errors
    /// [`ChainError`]. What was taken before is committed or not, but whole.
    pub fn push(&mut self, block: Hashed) -> Result<Pushed, ChainError> {
        let Hashed { block, sha256 } = block;
        self.check_follows(&block)?;
        self.make_room()?;
        let SourceBlock { height, hash, bytes, .. } = block;
        let block_bytes = bytes.len() as u64;
        let layers: Vec<_> = self.layers.iter().rev().cloned().collect();
        // A block that ends its workers stops the chain anyway, and the next run has to try it.
        let job = Job::block(height, bytes).on_state(self.state_tip()).over(layers).despite_quarantine();
        let result = self.run(&job, height)?;
        self.times.blocks += 1;
        self.times.guest += result.exec;
        self.times.overhead += result.overhead;
        let writes_sha256 = Hash([0; 32]);
        let outcome =
            Outcome { height, hash, block_bytes, result, writes_sha256, digest: None, committed: false };
        match outcome.result.verdict {
            Verdict::Guest(verdict)
                if verdict == GuestVerdict::Completed || self.settings.policy == OnGuestFailure::Skip =>
            {
                self.take(outcome, sha256, verdict)?;
                Ok(Pushed::Taken)
            }
            _ => self.stop_before(outcome, sha256).map(|outcome| Pushed::Stopped(Box::new(outcome))),
        }
    }

    /// Waits until everything that was taken is committed.
    ///
    /// # Errors
    /// [`ChainError`] if a commit failed.
    pub fn flush(&mut self) -> Result<(), ChainError> {
        let started = Instant::now();
        self.committer.flush()?;
        self.layers.clear();
        self.times.commits += started.elapsed();
        Ok(())
    }

    /// Writes something else into the store, again and again while the disk is full.
    ///
    /// # Errors
    /// [`StoreError`], for whatever does not pass once somebody makes room.
    pub fn insist<T>(&self, mut write: impl FnMut(&Store) -> Result<T, StoreError>) -> Result<T, StoreError> {
        self.committer.insist(|| write(&self.store))
    }

    /// Takes back every block above `to`, all of them if it is none, and goes on from there. Returns how many they were: no
    /// more than `at_most`. Waits while the disk is full.
    ///
    /// # Errors
    /// [`ChainError`]. The store is then as it was after one of its blocks, which need not be `to`. [`StoreError::TooDeep`] leaves
    /// everything as it was.
    pub fn roll_back(&mut self, to: Option<u32>, at_most: u32) -> Result<u32, ChainError> {
        self.flush()?;
        let blocks = self.step_back(to, at_most);
        // After an error too: some of the steps may have been taken.
        let record = self.store.tip()?;
        let digest = record.as_ref().map_or_else(|| self.pool.profile().hash(), |record| record.digest);
        self.tip = record.map(|record| Tip { height: record.height, hash: record.hash });
        self.committer.go_on_from(digest, self.tip())?;
        Ok(blocks?)
    }

    fn step_back(&self, to: Option<u32>, at_most: u32) -> Result<u32, StoreError> {
        let mut blocks = 0;
        loop {
            match self.insist(|store| store.roll_back_step(to, at_most - blocks))? {
                0 => return Ok(blocks),
                more => blocks += more,
            }
        }
    }

    /// The height that the store has certainly reached: the one below the layers.
    fn state_tip(&self) -> Option<u32> {
        match self.layers.front() {
            // The first block of a store has none before it.
            Some(oldest) => oldest.height().checked_sub(1).filter(|height| self.committer.has(*height)),
            None => self.tip(),
        }
    }

    fn check_follows(&self, block: &SourceBlock) -> Result<(), ChainError> {
        let Some(tip) = self.tip else { return Ok(()) };
        let follows = tip.height.checked_add(1) == Some(block.height)
            && block.previous.is_none_or(|previous| hash_bytes(previous) == tip.hash);
        if follows {
            return Ok(());
        }
        Err(ChainError::DoesNotFollow {
            height: block.height,
            given: block.hash,
            tip: tip.height,
            stored: hash_of(tip.hash),
        })
    }

    /// Forgets layers that are committed, and waits for commits if there are too many that are not.
    fn make_room(&mut self) -> Result<(), ChainError> {
        while self.layers.front().is_some_and(|oldest| self.committer.has(oldest.height())) {
            self.layers.pop_front();
        }
        if self.layers.len() < MAX_LAYERS { Ok(()) } else { self.flush() }
    }

    fn run(&self, job: &Job, height: u32) -> Result<JobResult, ChainError> {
        if !self.settings.redundant {
            return Ok(self.pool.call(job)?);
        }
        let deadline = Instant::now() + PATIENCE;
        let is_guests = |result: &JobResult| matches!(result.verdict, Verdict::Guest(_));
        loop {
            let [one, other] = self.pool.call_twice(job)?;
            // While a worker is being replaced, one may have done both, and would agree with itself.
            if other.worker.pid != one.worker.pid || !is_guests(&one) || !is_guests(&other) {
                return agreed(height, one, &other);
            }
            if Instant::now() >= deadline {
                return Err(ChainError::OneWorker { height });
            }
            thread::sleep(PAUSE);
        }
    }

    fn take(&mut self, outcome: Outcome, sha256: Hash, verdict: GuestVerdict) -> Result<(), ChainError> {
        let (height, hash) = (outcome.height, hash_bytes(outcome.hash));
        let started = Instant::now();
        let layer = self.pool.layer(height, outcome.result.writes());
        self.times.layers += started.elapsed();
        self.committer.commit(Ran { outcome: Box::new(outcome), sha256, verdict })?;
        self.tip = Some(Tip { height, hash });
        match layer {
            Some(layer) => {
                self.layers.push_back(layer);
                Ok(())
            }
            // There is no room to lay it in: the next block reads it from the store.
            None => self.flush(),
        }
    }

    /// Commits what came before a block that stops the chain, and says what it would have been.
    fn stop_before(&mut self, mut outcome: Outcome, sha256: Hash) -> Result<Outcome, ChainError> {
        self.flush()?;
        outcome.writes_sha256 = outcome.result.writes().hash();
        if let Verdict::Guest(verdict) = outcome.result.verdict {
            let before = self.store.tip()?.map_or_else(|| self.pool.profile().hash(), |tip| tip.digest);
            let digest = extend_digest(before, outcome.height, sha256, verdict, outcome.writes_sha256);
            outcome.digest = Some(digest);
        }
        Ok(outcome)
    }
}

/// The result that two workers came to; of one whose host failed it, that one.
fn agreed(height: u32, one: JobResult, other: &JobResult) -> Result<JobResult, ChainError> {
    for lost in [&one, other] {
        if matches!(lost.verdict, Verdict::Host(_)) {
            return Ok(lost.clone());
        }
    }
    if one.verdict == other.verdict && one.writes() == other.writes() {
        return Ok(one);
    }
    let said = |result: &JobResult| {
        let writes = result.writes();
        format!("{} with {} pairs ({})", result.verdict, writes.count(), writes.hash())
    };
    Err(ChainError::Disagreement {
        height,
        workers: [one.worker.pid, other.worker.pid],
        results: [said(&one), said(other)],
    })
}
