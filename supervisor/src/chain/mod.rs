//! Runs blocks in order on a pool, and commits them to a store.
//!
//! [`Pipeline`] is the one driver of chains. [`Pipeline::push`] runs a block while earlier blocks are still being committed;
//! [`Pipeline::push_and_wait`] returns when the block is committed. After a reorganisation, [`Pipeline::roll_back`] removes
//! blocks.

mod committer;
mod digest;
mod error;
mod full_disk;
mod outcome;
mod pipeline;
mod redundancy;
mod settings;
mod stop;

pub use committer::{CommitWatch, Committed, Observer};
pub use digest::extend as extend_digest;
pub use error::ChainError;
pub(crate) use outcome::hash_of;
pub use outcome::{Hashed, Outcome};
pub use pipeline::{Pipeline, Pushed, Times};
pub use settings::{Batch, OnFullDisk, OnGuestFailure, PipelineSettings};
