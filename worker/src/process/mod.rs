//! The process of a worker or a compiler: what it is given, what it gives up, how its end is noticed, and what it says.

pub(crate) mod harden;
pub(crate) mod inherited;
pub(crate) mod liveness;
pub(crate) mod stderr;
