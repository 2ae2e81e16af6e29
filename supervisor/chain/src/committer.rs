//! A thread that commits blocks to the store while later blocks run.
//!
//! Blocks are committed in order, one or several in a transaction. Until a block is committed, later blocks read its writes from
//! a layer over the state ([`cofferdam_pool::StateLayer`]). So a caller waits for a commit only in three cases: there is no room
//! for one more layer, the chain stops or rolls back, or the caller asks to wait.

use std::convert::Infallible;
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Instant;

use cofferdam_protocol::profile::Hash;
use cofferdam_protocol::verdict::GuestVerdict;
use crossbeam_channel::{Receiver, Sender, bounded, select};

use super::full_disk::FullDisk;
use super::outcome::hash_bytes;
use super::settings::{Batch, PipelineSettings};
use super::stop::StopRequest;
use super::{ChainError, Outcome, extend_digest};
use cofferdam_base::sync::lock;
use cofferdam_store::{BlockRecord, Store, StoreError, Transaction};

/// A function that the committing thread calls for each block, once the block is committed.
pub type Observer = Box<dyn FnMut(&Outcome) + Send>;

/// What a chain has committed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Committed {
    /// The height of the newest committed block; none if there is no block.
    pub tip: Option<u32>,
    /// The digest at that height. Without a block, the hash of the profile.
    pub digest: Hash,
}

/// A block that a worker has run, and that is to be committed.
pub(super) struct Ran {
    pub(super) outcome: Box<Outcome>,
    /// SHA-256 of the block.
    pub(super) sha256: Hash,
    pub(super) verdict: GuestVerdict,
    /// Gets the outcome once the block is committed.
    pub(super) reply: Option<Sender<Box<Outcome>>>,
}

/// What the thread is asked to do.
enum Order {
    /// Commit this block, alone or with others.
    Block(Box<Ran>),
    /// Commit all blocks so far without waiting for others. After the commit, send a message on this channel.
    Flush(Sender<()>),
    /// From now on, continue from this digest: a rollback has changed the newest block. The next block extends this digest.
    From(Hash),
}

/// What the thread and its users share.
#[derive(Debug)]
struct Shared {
    committed: Mutex<Committed>,
    /// Why the thread cannot go on.
    failure: Mutex<Option<StoreError>>,
    disk: FullDisk,
    stop: StopRequest,
}

/// The commits of a chain, as other threads see them.
#[derive(Clone, Debug)]
pub struct CommitWatch(Arc<Shared>);

impl CommitWatch {
    /// Why a write is being tried again: the disk is full. None while no write is being tried again.
    pub fn stalled(&self) -> Option<String> {
        self.0.disk.stalled()
    }

    /// Ends every wait of the chain: the wait for room on a full disk, and the wait for a second worker. A write that waits for
    /// room then fails.
    pub fn give_up(&self) {
        self.0.stop.make();
    }
}

/// A handle to the committing thread. When the handle is dropped, the thread commits the blocks that it has, and ends.
#[derive(Debug)]
pub(super) struct Committer {
    orders: Option<Sender<Order>>,
    /// Is disconnected when the thread ends, even if it panics.
    ended: Receiver<Infallible>,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Committer {
    /// Starts the thread, which goes on from `committed`.
    pub(super) fn start(
        store: &Arc<Store>,
        committed: Committed,
        settings: &PipelineSettings,
        observer: Observer,
    ) -> std::io::Result<Self> {
        // The number of layers limits how many blocks wait here.
        let (orders, received) = bounded(cofferdam_pool::MAX_LAYERS);
        let (alive, ended) = bounded(0);
        let shared = Arc::new(Shared {
            committed: Mutex::new(committed),
            failure: Mutex::default(),
            disk: FullDisk::new(settings.on_full_disk),
            stop: StopRequest::default(),
        });
        let work = Work {
            store: Arc::clone(store),
            shared: Arc::clone(&shared),
            batch: settings.batch,
            digest: committed.digest,
            waiting: Vec::new(),
            observer,
        };
        let thread = thread::Builder::new().name("cofferdam-commit".to_owned());
        let thread = thread.spawn(move || {
            let _alive: Sender<Infallible> = alive;
            work.run(&received);
        })?;
        Ok(Self { orders: Some(orders), ended, shared, thread: Some(thread) })
    }

    /// Hands over a block that has run.
    pub(super) fn commit(&mut self, ran: Ran) -> Result<(), ChainError> {
        self.order(Order::Block(Box::new(ran)))
    }

    /// Orders the commit of all blocks so far, without waiting for further blocks. Returns at once.
    pub(super) fn commit_now(&mut self) -> Result<(), ChainError> {
        let (done, _) = bounded(1);
        self.order(Order::Flush(done))
    }

    /// Waits until all blocks that were handed over are committed.
    pub(super) fn flush(&mut self) -> Result<(), ChainError> {
        let (done, flushed) = bounded(1);
        self.order(Order::Flush(done))?;
        let flushed = select! {
            recv(flushed) -> done => done.is_ok(),
            // A thread that panicked leaves the order in the channel.
            recv(self.ended) -> _ => flushed.try_recv().is_ok(),
        };
        if flushed { Ok(()) } else { Err(self.failure()) }
    }

    /// Tells the thread the state after a rollback. The next block extends the digest of `committed`.
    pub(super) fn go_on_from(&mut self, committed: Committed) -> Result<(), ChainError> {
        self.order(Order::From(committed.digest))?;
        *lock(&self.shared.committed) = committed;
        Ok(())
    }

    /// Calls `write` again while `write` fails because the disk is full.
    pub(super) fn retry<T>(&self, write: impl FnMut() -> Result<T, StoreError>) -> Result<T, StoreError> {
        self.shared.disk.retry(&self.shared.stop, write)
    }

    /// What is committed.
    pub(super) fn committed(&self) -> Committed {
        *lock(&self.shared.committed)
    }

    /// Whether the block at `height` is committed.
    pub(super) fn has(&self, height: u32) -> bool {
        self.committed().tip.is_some_and(|tip| height <= tip)
    }

    /// The request that ends the waits of this chain.
    pub(super) fn stop(&self) -> &StopRequest {
        &self.shared.stop
    }

    /// The commits of this chain, for other threads.
    pub(super) fn watch(&self) -> CommitWatch {
        CommitWatch(Arc::clone(&self.shared))
    }

    fn order(&mut self, order: Order) -> Result<(), ChainError> {
        let has_failed = lock(&self.shared.failure).is_some();
        let sent = !has_failed && self.orders.as_ref().is_some_and(|orders| orders.send(order).is_ok());
        if sent { Ok(()) } else { Err(self.failure()) }
    }

    /// Why the thread has ended. Waits for its end.
    fn failure(&mut self) -> ChainError {
        self.join();
        match lock(&self.shared.failure).take() {
            Some(error) => error.into(),
            // A thread that panicked has left no reason.
            None => ChainError::Committer,
        }
    }

    fn join(&mut self) {
        self.orders = None;
        if let Some(thread) = self.thread.take() {
            // If the thread panicked, `failure` reports that to its callers.
            let _ = thread.join();
        }
    }
}

impl Drop for Committer {
    fn drop(&mut self) {
        self.shared.stop.make();
        self.join();
    }
}

/// What the thread owns.
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
        if let Err(error) = self.serve(orders) {
            *lock(&self.shared.failure) = Some(error);
            // Nothing would ever answer a flush that is left in the channel. When the flush is dropped, its caller learns that
            // the flush failed.
            orders.iter().for_each(drop);
        }
    }

    fn serve(&mut self, orders: &Receiver<Order>) -> Result<(), StoreError> {
        while let Ok(order) = orders.recv() {
            match order {
                Order::Block(ran) => self.commit_from(ran, orders)?,
                Order::Flush(done) => {
                    // No block waits. The caller may be gone.
                    let _ = done.send(());
                }
                Order::From(digest) => self.digest = digest,
            }
        }
        Ok(())
    }

    /// Commits `first` and the blocks that arrive in time. Each block is written when it arrives, so that the commit itself is
    /// short.
    fn commit_from(&mut self, first: Box<Ran>, orders: &Receiver<Order>) -> Result<(), StoreError> {
        let store = Arc::clone(&self.store);
        let mut due = Instant::now() + self.batch.age;
        let begun = store.begin(first.outcome.height);
        self.add(first);
        let mut written = begun.and_then(|transaction| self.write_newest(transaction));
        let mut flushes = Vec::new();
        while written.is_ok() && !self.is_full() {
            // After the due time, this still takes the orders that are already in the channel.
            match orders.recv_deadline(due) {
                Ok(Order::Block(ran)) => {
                    self.add(ran);
                    written = written.and_then(|transaction| self.write_newest(transaction));
                }
                Ok(Order::Flush(done)) => {
                    flushes.push(done);
                    due = Instant::now();
                }
                // This order is given after a flush, when no block waits.
                Ok(Order::From(digest)) => self.digest = digest,
                Err(_) => break,
            }
        }
        match written.and_then(Transaction::commit) {
            Ok(()) => {}
            Err(error) => self.commit_again(error)?,
        }
        self.report();
        for done in flushes {
            // The caller may be gone.
            let _ = done.send(());
        }
        Ok(())
    }

    /// Writes the block that was added last.
    fn write_newest<'s>(&self, transaction: Transaction<'s>) -> Result<Transaction<'s>, StoreError> {
        match self.waiting.last() {
            Some((ran, record)) => transaction.put(record, ran.outcome.result.writes()),
            None => Ok(transaction),
        }
    }

    /// Adds a block to the blocks that are committed next. The hashes of the block are computed here, on the committing thread,
    /// so that the next block does not wait for them.
    fn add(&mut self, mut ran: Box<Ran>) {
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

    /// Commits the waiting blocks again. Their first commit failed with `error`. If the reason is not a full disk, this fails at
    /// once.
    fn commit_again(&self, error: StoreError) -> Result<(), StoreError> {
        let blocks: Vec<_> =
            self.waiting.iter().map(|(ran, record)| (record, ran.outcome.result.writes())).collect();
        let Shared { disk, stop, .. } = &*self.shared;
        disk.retry_after(error, stop, || self.store.commit_all(&blocks))
    }

    /// Reports that the waiting blocks are committed.
    fn report(&mut self) {
        for (ran, record) in self.waiting.drain(..) {
            let Ran { mut outcome, reply, .. } = *ran;
            outcome.committed = true;
            *lock(&self.shared.committed) = Committed { tip: Some(record.height), digest: record.digest };
            (self.observer)(&outcome);
            if let Some(reply) = reply {
                // The caller may be gone.
                let _ = reply.send(outcome);
            }
        }
    }
}
