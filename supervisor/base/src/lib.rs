//! Sizes of memory, locks and secrets: what several crates of Cofferdam use and none of them owns.
//!
#![doc = include_str!("../README.md")]

pub mod address_limit;
pub mod secret;
pub mod size;
pub mod sync;

pub use secret::Secret;
pub use size::Bytes;
