//! The threads that fetch blocks ahead of the caller, verify them, and hash them, so that the caller need not wait for work
//! that can be done in advance.

use std::path::PathBuf;
use std::sync::Arc;

use bitcoin::Block;

use super::backoff::Backoff;
use super::block_queue::{BlockQueue, BlockRef};
use super::client::{Client, FetchError};
use super::error::DaemonError;
use super::settings::FollowerSettings;
use super::status::{Activity, Reporter};
use super::transient::{RequestFailure, TransientError};
use cofferdam_chain::Hashed;
use cofferdam_chain::blocks::{Origin, SourceBlock, verify};

/// How many times the node may send wrong bytes for a block. The number is more than one, because the bytes may have been damaged
/// on the way.
const REJECTIONS: u32 = 3;

/// How many attempts in a row may find a block missing before the missing block is logged. A block may be missing while the chain
/// changes.
const ABSENCES: u32 = 3;

/// One of the threads that fetch blocks.
#[derive(Debug)]
pub(super) struct Fetcher {
    pub(super) client: Arc<Client>,
    pub(super) queue: Arc<BlockQueue>,
    pub(super) reporter: Arc<Reporter>,
    pub(super) settings: Arc<FollowerSettings>,
}

/// The result of one attempt.
enum Fetched {
    Block(Hashed),
    /// The bytes are not the block, for this reason.
    Wrong(String),
    Failed(FetchError),
}

impl Fetcher {
    /// Fetches blocks until the queue is stopped.
    pub(super) fn run(self) {
        let mut backoff = Backoff::default();
        while let Some(block) = self.queue.claim() {
            let delay = match self.fetch(block) {
                Fetched::Block(fetched) => {
                    backoff.reset();
                    self.reporter.succeeded(Activity::Fetching);
                    self.queue.deliver(fetched);
                    continue;
                }
                // The request was ended because the queue was stopped. That says nothing about the node.
                Fetched::Failed(_) if self.queue.is_stopped() => return,
                Fetched::Wrong(reason) => {
                    self.reject(block, reason);
                    backoff.next_delay()
                }
                Fetched::Failed(FetchError::Failed(RequestFailure::Transient(error))) => {
                    let delay = backoff.next_delay();
                    self.failed(block, &error, &backoff);
                    delay
                }
                // If the chain has changed, the chain tracker will notice the change. If the chain has not changed, the node
                // contradicts itself.
                Fetched::Failed(FetchError::Failed(RequestFailure::ChainMoved)) => {
                    let delay = backoff.next_delay();
                    if backoff.failures() > ABSENCES {
                        let error = TransientError::Missing { height: block.height };
                        self.reporter.failed(Activity::Fetching, &error);
                    }
                    self.queue.give_back(block);
                    delay
                }
                Fetched::Failed(error) => {
                    self.lose(block, error);
                    continue;
                }
            };
            if !self.queue.pause(delay) {
                return;
            }
        }
    }

    fn fetch(&self, block: BlockRef) -> Fetched {
        let BlockRef { height, hash } = block;
        let bytes = match self.client.block(hash) {
            Ok(bytes) => bytes,
            Err(error) => return Fetched::Failed(error),
        };
        let block: Block = match verify(&bytes) {
            Ok(block) => block,
            Err(defect) => return Fetched::Wrong(defect.to_string()),
        };
        let found = block.block_hash();
        if found != hash {
            return Fetched::Wrong(format!("the node sent block {found}"));
        }
        let file = PathBuf::from(format!("block {hash} of {}", self.client.url()));
        let origin = Origin { file: file.into(), offset: 0 };
        let previous = Some(block.header.prev_blockhash);
        Fetched::Block(SourceBlock { height, hash, previous, bytes, origin }.into())
    }

    fn failed(&self, block: BlockRef, error: &TransientError, backoff: &Backoff) {
        self.reporter.failed(Activity::Fetching, error);
        match error.attempt_limit() {
            Some(limit) if backoff.failures() >= limit => {
                self.queue.lose(block, self.client.credentials_error());
            }
            _ => self.queue.give_back(block),
        }
    }

    fn reject(&self, block: BlockRef, reason: String) {
        let BlockRef { height, hash } = block;
        let times = self.queue.reject(block);
        if times >= REJECTIONS {
            let url = self.client.url().to_owned();
            self.queue.lose(block, DaemonError::WrongBlock { url, height, hash, times, reason });
        } else {
            self.reporter.failed(Activity::Fetching, &TransientError::WrongBlock { height, reason });
        }
    }

    fn lose(&self, block: BlockRef, error: FetchError) {
        let BlockRef { height, hash } = block;
        let url = self.client.url().to_owned();
        let error = match error {
            FetchError::Pruned => DaemonError::Pruned { url, height, hash },
            FetchError::TooLarge => {
                DaemonError::TooLarge { url, height, hash, limit: self.settings.max_block_bytes }
            }
            FetchError::Failed(RequestFailure::Fatal(error)) => *error,
            // `run` handles these two, because they can pass.
            FetchError::Failed(RequestFailure::Transient(_) | RequestFailure::ChainMoved) => {
                return self.queue.give_back(block);
            }
        };
        self.queue.lose(block, error);
    }
}
