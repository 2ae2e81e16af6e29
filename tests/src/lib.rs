//! End-to-end tests of Cofferdam. What they share is in [`support`].

pub mod support;
