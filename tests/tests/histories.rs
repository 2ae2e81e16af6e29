//! Random histories of one node: blocks, reorganisations, failures of the store, full disks and ends of the process, over the
//! node's own driver (follower, indexer, pipeline and store) and a node of Bitcoin of the tests' own.
//!
//! Whatever happens, the store is that of a node which saw only the final chain; and it never gives up a block that the chain has
//! not left, nor more than `--max-reorg-depth` blocks for one reorganisation. A worker's part is played by
//! [`stand_in`](cofferdam_tests::support::stand_in), so that no history starts a process.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use bitcoin::hashes::Hash as _;
use cofferdam::blocks::BlockHash;
use cofferdam::chain::{Batch, ChainError, Pipeline, PipelineSettings, extend_digest};
use cofferdam::http::Application;
use cofferdam::node::daemon::{DaemonError, Follower, FollowerSettings};
use cofferdam::node::feed::FeedError;
use cofferdam::node::{IndexError, Indexer, NodeState, ReadinessLimits, StopReason};
use cofferdam::profile::Hash;
use cofferdam::store::{BlockRecord, Durability, Identity, Store, StoreCall, StoreError, StoreFaults};
use cofferdam::verdict::GuestVerdict;
use cofferdam::writes::Writes;
use cofferdam_tests::support::command::PATIENCE;
use cofferdam_tests::support::daemon::{Daemon, hash_of};
use cofferdam_tests::support::random::{Random, seed};
use cofferdam_tests::support::regtest::{chain, extend};
use cofferdam_tests::support::stand_in::{StandIn, profile, writes_of};
use tempfile::TempDir;

/// How many there are, and on how many threads: each waits for its own follower most of the time.
const HISTORIES: u64 = 1_000;
const THREADS: u64 = 8;

const EIO: i32 = 5;
const ENOSPC: i32 = 28;
const EROFS: i32 = 30;

type Blocks = Vec<Vec<u8>>;

#[test]
fn the_store_is_that_of_a_node_that_saw_only_the_final_chain() {
    let first = seed();
    let (next, seen) = (AtomicU64::new(0), Seen::default());
    thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= HISTORIES {
                        return;
                    }
                    let seed = first.wrapping_add(number);
                    let run = catch_unwind(AssertUnwindSafe(|| History::new(seed).run(&seen)));
                    if let Err(panic) = run {
                        next.store(HISTORIES, Ordering::Relaxed);
                        eprintln!("history {number}: COFFERDAM_TEST_SEED={seed} begins with it");
                        resume_unwind(panic);
                    }
                }
            });
        }
    });
    eprintln!("{HISTORIES} histories: {seen:?}");
    // What is to be survived must have happened, many times.
    for happened in [&seen.rewinds, &seen.failures, &seen.waits, &seen.kills, &seen.refusals] {
        assert!(happened.load(Ordering::Relaxed) > HISTORIES / 20, "{seen:?}");
    }
}

/// What happened in all histories together.
#[derive(Debug, Default)]
struct Seen {
    sessions: AtomicU64,
    rewinds: AtomicU64,
    /// Sessions that a failure of the store has ended.
    failures: AtomicU64,
    /// Sessions that have come through a full disk.
    waits: AtomicU64,
    kills: AtomicU64,
    /// Reorganisations that were too deep.
    refusals: AtomicU64,
}

fn count(counter: &AtomicU64, by: u64) {
    counter.fetch_add(by, Ordering::Relaxed);
}

/// Something that happens to a node.
#[derive(Clone, Copy, Debug)]
enum Act {
    /// The chain grows.
    Extend(u32),
    /// So many blocks are left for so many others.
    Reorganise { left: u32, new: u32 },
    /// The store fails.
    Fail { call: Option<StoreCall>, after: u64, times: u64, errno: i32 },
    /// The process ends: nothing more is committed.
    Kill,
}

/// One history.
struct History {
    random: Random,
    home: TempDir,
    limit: u32,
    daemon: Daemon,
    /// The daemon's chain. Shared with what happens in the middle of a session.
    chain: RefCell<Blocks>,
    /// Every block that there ever was.
    blocks: RefCell<HashMap<BlockHash, Vec<u8>>>,
    /// In how many blocks, from the first one on, every chain of this session agrees with what the store had at its beginning.
    agreed: Cell<usize>,
    branches: Cell<u32>,
    faults: Arc<StoreFaults>,
}

/// What the store has: hashes of its blocks from the genesis block on.
type Held = Vec<BlockHash>;

impl History {
    fn new(seed: u64) -> Self {
        let mut random = Random::new(seed);
        let chain = extend(&chain(1), 4 + below(&mut random, 10), 1);
        let directory =
            if std::path::Path::new("/dev/shm").is_dir() { "/dev/shm".into() } else { std::env::temp_dir() };
        let history = Self {
            home: tempfile::tempdir_in(directory).expect("a temporary directory"),
            limit: 1 + below(&mut random, 6),
            daemon: Daemon::start(&chain),
            chain: RefCell::default(),
            blocks: RefCell::default(),
            agreed: Cell::new(0),
            branches: Cell::new(1),
            faults: Arc::default(),
            random,
        };
        history.adopt(chain, &[]);
        history
    }

    fn run(mut self, seen: &Seen) {
        for _ in 0..3 + below(&mut self.random, 4) {
            let acts: Vec<_> = (0..below(&mut self.random, 5)).map(|_| self.act()).collect();
            self.faults.limit_rollback_step(1 + below(&mut self.random, 3) as usize);
            drop(self.session(&acts, seen));
        }
        // And at last nothing more happens, but that the chain comes back into reach, if it is not.
        let held = self.held();
        let reach = held.len().saturating_sub(common(&held, &self.chain.borrow()));
        if reach > self.limit as usize {
            let mut blocks: Blocks = held.iter().map(|hash| self.blocks.borrow()[hash].clone()).collect();
            self.grow(&mut blocks, 1);
            self.adopt(blocks, &held);
        }
        let ended = self.session(&[], seen);
        assert!(matches!(ended, Ok(StopReason::Reached(_))), "{ended:?}");
        let held = self.held();
        assert_eq!(held, self.chain.borrow().iter().map(|block| hash_of(block)).collect::<Held>());
        self.check_content(&held);
    }

    fn act(&mut self) -> Act {
        let random = &mut self.random;
        match random.below(10) {
            0..=2 => Act::Extend(1 + below(random, 4)),
            3..=5 => Act::Reorganise { left: 1 + below(random, self.limit + 1), new: 1 + below(random, 5) },
            6 => Act::Fail { call: None, after: random.below(40), times: 1, errno: EIO },
            7 => {
                let call = [StoreCall::Begin, StoreCall::Write, StoreCall::Commit][below(random, 3) as usize];
                Act::Fail {
                    call: Some(call),
                    after: random.below(8),
                    times: 1 + random.below(2),
                    errno: ENOSPC,
                }
            }
            8 => Act::Fail { call: Some(StoreCall::Read), after: random.below(6), times: 1, errno: EIO },
            _ => Act::Kill,
        }
    }

    /// Runs the node until it is at the tip, or something has ended it. What happens meanwhile happens at some of the moments at
    /// which the node looks whether to end.
    fn session(&mut self, acts: &[Act], seen: &Seen) -> Result<StopReason, IndexError> {
        let before = self.held();
        self.agreed.set(common(&before, &self.chain.borrow()));
        let mut moment = 0;
        let mut acts: Vec<(u32, Act)> = acts
            .iter()
            .map(|act| {
                moment += below(&mut self.random, 4);
                (moment, *act)
            })
            .collect();
        acts.reverse();
        let (acts, moment, killed) = (RefCell::new(acts), Cell::new(0), Cell::new(false));
        let room = [0, 300, 1 << 20][below(&mut self.random, 3) as usize];
        let began = Instant::now();
        // Some happen at once, whether or not the node begins to work.
        let is_asked = || {
            assert!(began.elapsed() < PATIENCE, "nothing comes of it");
            while let Some((_, act)) = acts.borrow_mut().pop_if(|(when, _)| *when <= moment.get()) {
                killed.set(killed.get() || matches!(act, Act::Kill));
                self.happen(act, &before);
            }
            moment.set(moment.get() + 1);
            killed.get()
        };
        is_asked();
        let state = NodeState::new(None, None, ReadinessLimits { max_lag: 2, max_silence: PATIENCE }, true);
        let state = Arc::new(state);
        let struck = self.faults.injected();
        let ended = self.node(&state, room, &before, &is_asked);
        let struck = self.faults.injected() - struck;
        self.faults.clear();
        let rewinds = state.status()["reorgs"].as_u64().expect("a number");
        self.check(&before, &ended, rewinds);
        // What was to happen later happens to the daemon while there is no node.
        for (_, act) in acts.into_inner().into_iter().rev() {
            if matches!(act, Act::Extend(_) | Act::Reorganise { .. }) {
                self.happen(act, &before);
            }
        }
        count(&seen.sessions, 1);
        count(&seen.rewinds, rewinds);
        count(&seen.kills, killed.get().into());
        match &ended {
            Ok(_) => count(&seen.waits, (struck > 0).into()),
            Err(error) if is_refusal(error) => count(&seen.refusals, 1),
            Err(_) => {
                assert!(struck > 0, "without a failure: {ended:?}");
                count(&seen.failures, 1);
            }
        }
        ended
    }

    /// The node, as `cofferdam node` puts it together.
    fn node(
        &self,
        state: &Arc<NodeState>,
        room: u64,
        before: &Held,
        is_asked: &dyn Fn() -> bool,
    ) -> Result<StopReason, IndexError> {
        let store = Arc::new(self.open().with_undo(self.limit).with_faults(Arc::clone(&self.faults)));
        let tip = before.len().checked_sub(1).map(|tip| (u32::try_from(tip).expect("short"), before[tip]));
        let batch = if before.len().is_multiple_of(2) { Batch::SINGLE } else { Batch::CATCHING_UP };
        let settings = PipelineSettings { batch, ..PipelineSettings::default() };
        let stand_in = StandIn::new(&store, room);
        let mut pipeline = Pipeline::resume(stand_in, Arc::clone(&store), settings, Box::new(|_| {}))?;
        let indexed = Arc::clone(&store);
        let committed_hash =
            move |height| Ok(indexed.indexed(height)?.map(|record| BlockHash::from_byte_array(record.hash)));
        let settings = FollowerSettings {
            poll_interval: Duration::from_millis(2),
            max_reorg_depth: self.limit,
            ..FollowerSettings::new(self.daemon.url())
        };
        let mut follower =
            Follower::start(settings, tip, committed_hash).map_err(|error| IndexError::Feed(error.into()))?;
        let mut indexer = Indexer::new(&mut pipeline, &store, state, self.limit, is_asked);
        indexer.stop_at_tip = true;
        indexer.run(&mut follower)
    }

    fn open(&self) -> Store {
        let identity = Identity { profile: profile().hash(), network: None };
        Store::open(self.home.path(), &identity, Durability::None).expect("the store opens")
    }

    /// What the store has now, all of it sound.
    fn held(&self) -> Held {
        let store = self.open();
        let tip = store.tip().expect("it can be read").map_or(0, |tip| tip.height + 1);
        let records = (0..tip).map(|height| store.block(height).expect("it can be read").expect("no gap"));
        let records: Vec<BlockRecord> = records.collect();
        let hashes: Held = records.iter().map(|record| BlockHash::from_byte_array(record.hash)).collect();
        let expected = self.index(&hashes);
        assert!(
            records.iter().eq(expected.iter().map(|(record, _)| record)),
            "{records:?}, not {expected:?}"
        );
        hashes
    }

    /// What a node makes of these blocks that saw only them.
    fn index(&self, hashes: &[BlockHash]) -> Vec<(BlockRecord, Writes)> {
        let (mut state, mut digest) = (BTreeMap::<Vec<u8>, Vec<u8>>::new(), profile().hash());
        let mut records = Vec::new();
        let blocks = self.blocks.borrow();
        let mut parent = BlockHash::all_zeros();
        for (height, hash) in (0..).zip(hashes) {
            let block = &blocks[hash];
            let header: bitcoin::block::Header =
                bitcoin::consensus::deserialize(&block[..80]).expect("a header");
            assert_eq!(header.prev_blockhash, parent, "the store is no chain");
            parent = *hash;
            let writes = writes_of(block, |key| state.get(key).cloned().unwrap_or_default());
            state.extend(writes.iter().map(|(key, value)| (key.to_vec(), value.to_vec())));
            let verdict = GuestVerdict::Completed;
            digest = extend_digest(digest, height, Hash::of(block), verdict, writes.hash());
            let record = BlockRecord {
                height,
                hash: hash.to_byte_array(),
                digest,
                verdict,
                writes: writes.count(),
                writes_sha256: writes.hash(),
            };
            records.push((record, writes));
        }
        records
    }

    /// What has become of the blocks that the store had before a session.
    fn check(&self, before: &Held, ended: &Result<StopReason, IndexError>, rewinds: u64) {
        let after = self.held();
        let kept = before.iter().zip(&after).take_while(|(before, after)| before == after).count();
        assert!(kept >= self.agreed.get(), "{ended:?}: blocks are gone that no chain has left");
        let lost = (before.len() - kept) as u64;
        assert!(lost <= rewinds * u64::from(self.limit), "{ended:?}: {lost} lost in {rewinds} rewinds");
    }

    /// Holds every value against a store that these blocks alone were put into.
    fn check_content(&self, hashes: &[BlockHash]) {
        let other = tempfile::tempdir_in(self.home.path().parent().expect("a parent")).expect("a directory");
        let identity = Identity { profile: profile().hash(), network: None };
        let fresh = Store::open(other.path(), &identity, Durability::None).expect("a new store");
        for (record, writes) in self.index(hashes) {
            fresh.commit(&record, &writes).expect("it has room");
        }
        let store = self.open();
        assert_eq!(store.content_hash().expect("read"), fresh.content_hash().expect("read"));
        assert_eq!(store.tip().expect("read"), fresh.tip().expect("read"));
    }

    fn happen(&self, act: Act, before: &Held) {
        match act {
            Act::Extend(blocks) => {
                let mut chain = self.chain.borrow().clone();
                self.grow(&mut chain, blocks);
                self.adopt(chain, before);
            }
            Act::Reorganise { left, new } => {
                let mut chain = self.chain.borrow().clone();
                // The genesis block is never left.
                chain.truncate(chain.len().saturating_sub(left as usize).max(1));
                self.branches.set(self.branches.get() + 1);
                self.grow(&mut chain, new);
                self.adopt(chain, before);
            }
            Act::Fail { call, after, times, errno } => self.faults.fail(call, after, times, errno),
            Act::Kill => self.faults.fail(None, 0, u64::MAX, EROFS),
        }
    }

    fn grow(&self, chain: &mut Blocks, blocks: u32) {
        *chain = extend(chain, blocks, self.branches.get());
    }

    fn adopt(&self, chain: Blocks, before: &[BlockHash]) {
        self.daemon.adopt(&chain);
        self.agreed.set(self.agreed.get().min(common(before, &chain)));
        let mut blocks = self.blocks.borrow_mut();
        for block in &chain {
            blocks.entry(hash_of(block)).or_insert_with(|| block.clone());
        }
        drop(blocks);
        *self.chain.borrow_mut() = chain;
    }
}

/// In how many blocks, from the first one on, the two agree.
fn common(held: &[BlockHash], chain: &[Vec<u8>]) -> usize {
    held.iter().zip(chain).take_while(|(hash, block)| **hash == hash_of(block)).count()
}

fn is_refusal(error: &IndexError) -> bool {
    matches!(
        error,
        IndexError::Feed(FeedError::Daemon(DaemonError::TooDeep { .. }))
            | IndexError::Chain(ChainError::Store(StoreError::TooDeep { .. }))
    )
}

fn below(random: &mut Random, end: u32) -> u32 {
    u32::try_from(random.below(end.into())).expect("it is below")
}
