//! Runs blocks in order on a pool, and commits them to a store.
//!
//! [`Pipeline`] runs and commits the blocks of a chain. [`Pipeline::push`] runs a block while earlier blocks are still being
//! committed; [`Pipeline::push_and_wait`] returns when the block is committed. After a reorganisation, [`Pipeline::roll_back`]
//! removes blocks. The module [`blocks`] reads blocks.

pub mod blocks;
mod committer;
mod error;
mod full_disk;
mod outcome;
mod pipeline;
mod redundancy;
#[cfg(feature = "bundled")]
pub mod sample;
mod settings;
mod stop;

pub use blocks::Hashed;
pub use cofferdam_protocol::digest::extend as extend_digest;
pub use committer::{CommitWatch, Committed, Observer};
pub use error::ChainError;
pub use outcome::{Outcome, hash_of};
pub use pipeline::{Pipeline, Pushed, Times};
pub use settings::{Batch, OnFullDisk, OnGuestFailure, PipelineSettings};
