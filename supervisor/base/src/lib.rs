//! What several crates of Cofferdam need and none of them owns: sizes as people write them, a lock that ignores poison, secrets,
//! and the explanation of a limit on addresses.
//!
//! This crate knows no other crate of Cofferdam.

pub mod addresses;
pub mod secret;
pub mod size;
pub mod sync;

pub use secret::Secret;
pub use size::Bytes;
