//! Compares results. [`audit`] finds out whether several nodes came to the same results. [`diff`] finds out whether two modules
//! write the same pairs for the same blocks.
//!
//! Nodes of one profile are compared by their digests alone: equal digests at a height mean equal results up to that height.
//! Two modules are compared by what they write. Their digests start from different profiles, and so are never equal.

pub mod audit;
pub mod diff;
