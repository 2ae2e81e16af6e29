//! Tests of the store, by topic.

mod blocks;
mod failures;
mod measurements;
mod opening;
mod processes;
mod rollbacks;
