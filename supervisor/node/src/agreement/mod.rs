//! Agreement, and where it ends: whether two modules write the same over the same blocks ([`diff`]), and whether several
//! nodes came to the same results ([`audit`]).
//!
//! Two modules are compared by what they write, because their digests start from different profiles and so never agree.
//! Nodes of one profile are compared by their digests alone: equal digests at a height are equal results up to it.

pub mod audit;
pub mod diff;
