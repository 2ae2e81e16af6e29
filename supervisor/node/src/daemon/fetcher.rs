//! The threads that fetch blocks ahead, check them, and compute what the caller needs of them, so that it never waits for
//! what could have been done before.

use std::path::PathBuf;
use std::sync::Arc;

use bitcoin::Block;

use super::client::{Client, NoBlock};
use super::error::DaemonError;
use super::line::{Job, Line};
use super::settings::Settings;
use super::status::{Activity, Reporter};
use super::trouble::{Backoff, Failure, Trouble};
use cofferdam_chain::Hashed;
use cofferdam_chain::blocks::{Origin, SourceBlock, verify};

/// How often a block may come wrong. More than once, since what damaged it may have been on the way.
const REJECTIONS: u32 = 3;

/// How often in a row a block may be missing before that is told: while the chain changes, it may.
const ABSENCES: u32 = 3;

/// One of them.
#[derive(Debug)]
pub(super) struct Fetcher {
    pub(super) client: Arc<Client>,
    pub(super) line: Arc<Line>,
    pub(super) reporter: Arc<Reporter>,
    pub(super) settings: Arc<Settings>,
}

/// What came of one try.
enum Fetched {
    Block(Hashed),
    /// These bytes are not the block.
    Wrong(String),
    Failed(NoBlock),
}

impl Fetcher {
    /// Fetches until the line is stopped.
    pub(super) fn run(self) {
        let mut backoff = Backoff::default();
        while let Some(job) = self.line.claim() {
            let pause = match self.fetch(job) {
                Fetched::Block(block) => {
                    backoff.reset();
                    self.reporter.worked(Activity::Fetching);
                    self.line.deliver(block);
                    continue;
                }
                // The request was ended with the line, which says nothing about the node.
                Fetched::Failed(_) if self.line.is_stopped() => return,
                Fetched::Wrong(reason) => {
                    self.reject(job, reason);
                    backoff.pause()
                }
                Fetched::Failed(NoBlock::Failed(Failure::Passing(trouble))) => {
                    let pause = backoff.pause();
                    self.failed(job, &trouble, &backoff);
                    pause
                }
                // The conductor will see what became of the chain; if nothing did, the node is at odds with itself.
                Fetched::Failed(NoBlock::Failed(Failure::Moved)) => {
                    let pause = backoff.pause();
                    if backoff.tries() > ABSENCES {
                        let trouble = Trouble::Missing { height: job.height };
                        self.reporter.failed(Activity::Fetching, &trouble);
                    }
                    self.line.give_back(job);
                    pause
                }
                Fetched::Failed(no_block) => {
                    self.lose(job, no_block);
                    continue;
                }
            };
            if !self.line.pause(pause) {
                return;
            }
        }
    }

    fn fetch(&self, job: Job) -> Fetched {
        let bytes = match self.client.block(job.hash) {
            Ok(bytes) => bytes,
            Err(no_block) => return Fetched::Failed(no_block),
        };
        let block: Block = match verify(&bytes) {
            Ok(block) => block,
            Err(defect) => return Fetched::Wrong(defect.to_string()),
        };
        let found = block.block_hash();
        if found != job.hash {
            return Fetched::Wrong(format!("it gave block {found}"));
        }
        let file = PathBuf::from(format!("block {} of {}", job.hash, self.client.url()));
        let origin = Origin { file: file.into(), offset: 0 };
        let previous = Some(block.header.prev_blockhash);
        Fetched::Block(SourceBlock { height: job.height, hash: job.hash, previous, bytes, origin }.into())
    }

    fn failed(&self, job: Job, trouble: &Trouble, backoff: &Backoff) {
        self.reporter.failed(Activity::Fetching, trouble);
        match trouble.gives_up_after() {
            Some(tries) if backoff.tries() >= tries => self.line.lose(job, self.client.credentials()),
            _ => self.line.give_back(job),
        }
    }

    fn reject(&self, Job { height, hash }: Job, reason: String) {
        let job = Job { height, hash };
        let times = self.line.reject(job);
        if times >= REJECTIONS {
            let url = self.client.url().to_owned();
            self.line.lose(job, DaemonError::WrongBlock { url, height, hash, times, reason });
        } else {
            self.reporter.failed(Activity::Fetching, &Trouble::WrongBlock { height, reason });
        }
    }

    fn lose(&self, job: Job, no_block: NoBlock) {
        let Job { height, hash } = job;
        let url = self.client.url().to_owned();
        let error = match no_block {
            NoBlock::Pruned => DaemonError::Pruned { url, height, hash },
            NoBlock::TooLarge => {
                DaemonError::TooLarge { url, height, hash, limit: self.settings.max_block_bytes }
            }
            NoBlock::Failed(Failure::Final(error)) => *error,
            // These two were dealt with where they can pass.
            NoBlock::Failed(Failure::Passing(_) | Failure::Moved) => return self.line.give_back(job),
        };
        self.line.lose(job, error);
    }
}
