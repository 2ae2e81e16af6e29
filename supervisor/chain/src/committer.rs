//! Commits behind the run: a thread that puts what blocks wrote into the store while the next ones run.
//!
//! Blocks are committed in order, one or several in a transaction. What is not committed yet lies in layers over the state
//! ([`cofferdam_pool::StateLayer`]), so nobody waits for a commit but who has run ahead too far, and who asks to.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use cofferdam_protocol::profile::Hash;
use cofferdam_protocol::verdict::GuestVerdict;
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};

use super::patience::Patience;
use super::{ChainError, Outcome, extend_digest, hash_bytes};
use cofferdam_base::sync::lock;
use cofferdam_store::{BlockRecord, Store, StoreError, Transaction};

/// What is committed at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Batch {
    /// Blocks, at most.
    pub blocks: usize,
    /// Bytes of pairs from which on no more is waited for.
    pub bytes: u64,
    /// How long a block waits for others.
    pub age: Duration,
}

impl Batch {
    /// Every block by itself, as soon as it has run.
    pub const SINGLE: Self = Self { blocks: 1, bytes: 0, age: Duration::ZERO };

    /// Several together, while there are many to come: so few that those which run meanwhile find room in layers
    /// ([`cofferdam_pool::MAX_LAYERS`]), and that the last commit, which nothing overlaps, is short.
    pub const CATCHING_UP: Self = Self { blocks: 32, bytes: 64 << 20, age: Duration::from_millis(500) };
}

/// Hears of every block once it is committed.
pub type Observer = Box<dyn FnMut(&Outcome) + Send>;

/// A block that has run.
pub(super) struct Ran {
    pub(super) outcome: Box<Outcome>,
    /// SHA-256 of the block.
    pub(super) sha256: Hash,
    pub(super) verdict: GuestVerdict,
}

/// What the thread is told.
enum Order {
    Block(Box<Ran>),
    /// Commit what there is, and say so.
    Flush(Sender<()>),
    /// The digest that the next block extends, after a rollback.
    From(Hash),
}

/// What both sides know.
#[derive(Debug, Default)]
struct Shared {
    /// One more than the newest height that is committed; 0 for none.
    committed: AtomicU64,
    /// Why the thread ended.
    failure: Mutex<Option<StoreError>>,
    patience: Patience,
}

/// What a chain writes, as other threads see it.
#[derive(Clone, Debug)]
pub struct CommitWatch(Arc<Shared>);

impl CommitWatch {
    /// Why a write is being tried again and again, if one is: a full disk.
    pub fn stalled(&self) -> Option<String> {
        self.0.patience.stalled()
    }

    /// Has a write that fails for want of room not be tried again: whoever waits for it then hears of it.
    pub fn give_up(&self) {
        self.0.patience.give_up();
    }
}

/// How often whoever waits for a flush looks whether the thread is still there.
const LOOK: Duration = Duration::from_millis(100);

/// The thread, as those who order see it. Dropped, it commits what it has and ends.
#[derive(Debug)]
pub(super) struct Committer {
    orders: Option<Sender<Order>>,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Committer {
    /// Starts the thread: it extends `digest`, and tells `observer` of what is committed.
    pub(super) fn start(
        store: &Arc<Store>,
        digest: Hash,
        tip: Option<u32>,
        batch: Batch,
        observer: Observer,
    ) -> std::io::Result<Self> {
        // Who runs ahead is held back by layers, which are fewer.
        let (orders, ordered) = bounded(cofferdam_pool::MAX_LAYERS);
        let shared = Arc::new(Shared { committed: AtomicU64::new(after(tip)), ..Shared::default() });
        let work = Work {
            store: Arc::clone(store),
            shared: Arc::clone(&shared),
            batch,
            digest,
            waiting: Vec::new(),
            observer,
        };
        let thread = thread::Builder::new().name("cofferdam-commit".to_owned());
        let thread = thread.spawn(move || work.run(&ordered))?;
        Ok(Self { orders: Some(orders), shared, thread: Some(thread) })
    }

    /// Hands over a block that has run.
    pub(super) fn commit(&mut self, ran: Ran) -> Result<(), ChainError> {
        self.order(Order::Block(Box::new(ran)))
    }

    /// Waits until everything that was handed over is committed.
    pub(super) fn flush(&mut self) -> Result<(), ChainError> {
        let (done, flushed) = bounded(1);
        self.order(Order::Flush(done))?;
        loop {
            match flushed.recv_timeout(LOOK) {
                Ok(()) => return Ok(()),
                // A thread that panicked leaves the order where it lies, and answers no more.
                Err(RecvTimeoutError::Timeout)
                    if self.thread.as_ref().is_some_and(|thread| !thread.is_finished()) => {}
                Err(_) => return Err(self.failure()),
            }
        }
    }

    /// Has the next block extend `digest`: the one before it is another than the last that was handed over.
    pub(super) fn go_on_from(&mut self, digest: Hash, tip: Option<u32>) -> Result<(), ChainError> {
        self.order(Order::From(digest))?;
        self.shared.committed.store(after(tip), Ordering::Release);
        Ok(())
    }

    /// Makes an attempt to write that is not a commit, again and again while there is no room.
    pub(super) fn insist<T>(&self, attempt: impl FnMut() -> Result<T, StoreError>) -> Result<T, StoreError> {
        self.shared.patience.insist(attempt)
    }

    /// Whether the block at `height` is committed.
    pub(super) fn has(&self, height: u32) -> bool {
        self.shared.committed.load(Ordering::Acquire) > u64::from(height)
    }

    /// What others may know and ask while the thread works.
    pub(super) fn watch(&self) -> CommitWatch {
        CommitWatch(Arc::clone(&self.shared))
    }

    fn order(&mut self, order: Order) -> Result<(), ChainError> {
        let has_failed = lock(&self.shared.failure).is_some();
        let sent = !has_failed && self.orders.as_ref().is_some_and(|orders| orders.send(order).is_ok());
        if sent { Ok(()) } else { Err(self.failure()) }
    }

    /// Why the thread has ended.
    fn failure(&mut self) -> ChainError {
        self.orders = None;
        if let Some(thread) = self.thread.take() {
            // If it panicked it has left no reason.
            let _ = thread.join();
        }
        match lock(&self.shared.failure).take() {
            Some(error) => error.into(),
            None => ChainError::Committer,
        }
    }
}

impl Drop for Committer {
    fn drop(&mut self) {
        self.watch().give_up();
        self.orders = None;
        if let Some(thread) = self.thread.take() {
            // A panic has nothing to tell those who no longer ask.
            let _ = thread.join();
        }
    }
}

fn after(tip: Option<u32>) -> u64 {
    tip.map_or(0, |tip| u64::from(tip) + 1)
}

/// The thread's own.
struct Work {
    store: Arc<Store>,
    shared: Arc<Shared>,
    batch: Batch,
    digest: Hash,
    waiting: Vec<(Box<Ran>, BlockRecord)>,
    observer: Observer,
}

impl Work {
    fn run(mut self, orders: &Receiver<Order>) {
        if let Err(error) = self.obey(orders) {
            *lock(&self.shared.failure) = Some(error);
            // An order that is left in the channel keeps whoever gave it waiting for ever: none is, until nobody gives any.
            orders.iter().for_each(drop);
        }
    }

    fn obey(&mut self, orders: &Receiver<Order>) -> Result<(), StoreError> {
        while let Ok(order) = orders.recv() {
            match order {
                Order::Block(ran) => self.commit_from(ran, orders)?,
                // Nothing waits. Whoever asked may have gone.
                Order::Flush(done) => drop(done.send(())),
                Order::From(digest) => self.digest = digest,
            }
        }
        Ok(())
    }

    /// Commits a block, together with those that come in time. Each is written as it comes, so that when it is time little is
    /// left to do.
    fn commit_from(&mut self, first: Box<Ran>, orders: &Receiver<Order>) -> Result<(), StoreError> {
        let store = Arc::clone(&self.store);
        let due = Instant::now() + self.batch.age;
        let begun = store.begin(first.outcome.height);
        self.take(first);
        let mut written = begun.and_then(|transaction| self.write_newest(transaction));
        let mut asked = None;
        while written.is_ok() && !self.is_full() {
            match orders.recv_deadline(due) {
                Ok(Order::Block(ran)) => {
                    self.take(ran);
                    written = written.and_then(|transaction| self.write_newest(transaction));
                }
                Ok(Order::Flush(done)) => {
                    asked = Some(done);
                    break;
                }
                // It is given after a flush, when nothing waits.
                Ok(Order::From(digest)) => self.digest = digest,
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => break,
            }
        }
        match written.and_then(Transaction::commit) {
            Ok(()) => {}
            Err(error) => self.commit_again(error)?,
        }
        self.announce();
        if let Some(done) = asked {
            // Whoever asked may have gone.
            let _ = done.send(());
        }
        Ok(())
    }

    /// Writes the block that was taken in last.
    fn write_newest<'s>(&self, transaction: Transaction<'s>) -> Result<Transaction<'s>, StoreError> {
        match self.waiting.last() {
            Some((ran, record)) => transaction.put(record, ran.outcome.result.writes()),
            None => Ok(transaction),
        }
    }

    /// Takes a block in: what is to be kept of it is computed here, off the way of the next one.
    fn take(&mut self, mut ran: Box<Ran>) {
        let Ran { outcome, sha256, verdict, .. } = &mut *ran;
        let writes = outcome.result.writes();
        outcome.writes_sha256 = writes.hash();
        self.digest = extend_digest(self.digest, outcome.height, *sha256, *verdict, outcome.writes_sha256);
        outcome.digest = Some(self.digest);
        let record = BlockRecord {
            height: outcome.height,
            hash: hash_bytes(outcome.hash),
            digest: self.digest,
            verdict: *verdict,
            writes: writes.count(),
            writes_sha256: outcome.writes_sha256,
        };
        self.waiting.push((ran, record));
    }

    fn is_full(&self) -> bool {
        let bytes = |(ran, _): &(Box<Ran>, BlockRecord)| ran.outcome.result.writes().as_bytes().len() as u64;
        self.waiting.len() >= self.batch.blocks
            || self.waiting.iter().map(bytes).sum::<u64>() >= self.batch.bytes
    }

    /// Commits what waits, after that has failed. Room on a full disk is waited for.
    fn commit_again(&self, error: StoreError) -> Result<(), StoreError> {
        let blocks: Vec<_> =
            self.waiting.iter().map(|(ran, record)| (record, ran.outcome.result.writes())).collect();
        self.shared.patience.insist_after(error, || self.store.commit_all(&blocks))
    }

    fn announce(&mut self) {
        for (mut ran, record) in self.waiting.drain(..) {
            ran.outcome.committed = true;
            self.shared.committed.store(u64::from(record.height) + 1, Ordering::Release);
            (self.observer)(&ran.outcome);
        }
    }
}
