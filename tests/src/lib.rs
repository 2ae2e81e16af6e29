//! End-to-end tests of Cofferdam. What they share is in [`support`]; [`oracle`] knows what the sample
//! indexer should find.

pub mod oracle;
pub mod support;
