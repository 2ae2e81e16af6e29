//! The guest: the functions that it imports, one instance for one job, and the result of the call.
//!
//! In order of use:
//! - `memory_access`: checked access to the guest's memory, for every pointer and length that a guest passes;
//! - `fault`: the reasons for which the host stops a guest;
//! - `flush`: the `KeyValueFlush` message;
//! - `input` and `output`: what a job gives to the guest, and what the guest gives back;
//! - `context`: the data of one instance;
//! - `functions`: the functions of the ABI ([`crate::abi`]); `host_import`: functions that the embedding program adds;
//! - `classify`: from a trap or an error to a verdict;
//! - `instance`: preparing an instance ahead of its job, and calling it.

mod classify;
mod context;
mod fault;
mod flush;
mod functions;
mod host_import;
mod input;
mod instance;
mod memory_access;
mod output;

pub use input::{InputBytes, JobInput};
pub use instance::{Guest, GuestError, GuestResult, PreparedInstance};
pub use output::OutputBuffer;
