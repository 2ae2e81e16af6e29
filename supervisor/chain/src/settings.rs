//! How a [`Pipeline`](super::Pipeline) works.

use std::time::Duration;

/// What happens when a block fails with a guest verdict.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnGuestFailure {
    /// The chain stops before the block. The block is not committed, and the next run tries it again.
    #[default]
    Stop,
    /// The block is committed with its verdict and without writes, and the chain goes on.
    Skip,
}

/// What happens when the disk has no room for a commit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnFullDisk {
    /// The commit is tried again until there is room, or until the chain is asked to stop. This is for a service that runs
    /// without an end.
    #[default]
    Wait,
    /// The chain ends with the error. This is for a command that somebody waits for.
    Fail,
}

/// Which blocks are committed in one transaction. A transaction is committed as soon as one of the limits is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Batch {
    /// The most blocks in a transaction.
    pub blocks: usize,
    /// The size limit for pairs, in bytes. When the pairs of a transaction reach this size, the transaction takes no further
    /// block.
    pub bytes: u64,
    /// The longest time that a block waits for further blocks.
    pub age: Duration,
}

impl Batch {
    /// Each block is committed by itself, as soon as it has run.
    pub const SINGLE: Self = Self { blocks: 1, bytes: 0, age: Duration::ZERO };

    /// Several blocks are committed together. This is for a chain with many blocks to come. The batch is small enough for two
    /// reasons: the layers ([`cofferdam_pool::MAX_LAYERS`]) must have room for the blocks that run during a commit; and the last
    /// commit, during which no block runs, should be short.
    pub const CATCHING_UP: Self = Self { blocks: 32, bytes: 64 << 20, age: Duration::from_millis(500) };
}

/// How a [`Pipeline`](super::Pipeline) works. By default, a block that fails stops the chain, each block is committed by itself,
/// blocks must be linked, and the chain waits while the disk is full.
#[derive(Clone, Copy, Debug)]
pub struct PipelineSettings {
    /// What happens when a block fails with a guest verdict.
    pub policy: OnGuestFailure,
    /// Which blocks are committed together.
    pub batch: Batch,
    /// Whether every block runs on two workers, and is committed only if their results agree. The pool needs two workers.
    pub redundant: bool,
    /// Whether each block must have the height after the height of the newest block, and must name the newest block as its
    /// parent. Otherwise heights only have to rise.
    pub linked: bool,
    /// What happens when the disk has no room for a commit.
    pub on_full_disk: OnFullDisk,
}

impl Default for PipelineSettings {
    fn default() -> Self {
        Self {
            policy: OnGuestFailure::Stop,
            batch: Batch::SINGLE,
            redundant: false,
            linked: true,
            on_full_disk: OnFullDisk::Wait,
        }
    }
}
