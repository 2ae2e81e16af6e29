//! The guest: the ABI it is given, one instance for one job, and what came of it.
//!
//! - [`abi`]: the functions that a guest imports;
//! - `registered`: the functions that the embedding program adds to them;
//! - `buffer`: checked access to its memory; every pointer and length from a guest passes through it;
//! - `flush`: the `KeyValueFlush` message;
//! - `context`: what one job may see and what it has given so far;
//! - `instance`: preparing an instance ahead of its job, and calling it;
//! - `outcome`: from a trap or an error to a verdict.

pub mod abi;
mod buffer;
mod context;
mod flush;
mod instance;
mod outcome;
mod registered;

pub use context::{JobInput, Output};
pub use instance::{Done, Guest, GuestError, Prepared};

use thiserror::Error;

/// What stops a guest from the host's side. All but the last two are properties of module, block and profile.
#[derive(Debug, Error)]
pub(crate) enum GuestFault {
    /// The guest called `env.abort`.
    #[error("{0}")]
    Abort(String),
    /// A pointer, or what it points at, is not inside the guest's memory.
    #[error("{what} at {pointer:#x} ({length} bytes) is outside the memory of {memory:#x} bytes")]
    BadPointer {
        /// What the pointer was for.
        what: &'static str,
        /// The pointer as an unsigned number.
        pointer: u32,
        /// Bytes that were to be read or written there.
        length: u64,
        /// Size of the memory in bytes.
        memory: u64,
    },
    /// The flushed bytes are no `KeyValueFlush`.
    #[error("__flush: {0}")]
    BadFlush(String),
    /// More output than the profile allows.
    #[error("{bytes} bytes of output, above the limit of {limit}")]
    OutputTooLarge {
        /// Bytes so far, with those that did not fit.
        bytes: u64,
        /// The limit in bytes.
        limit: u64,
    },
    /// The guest called an import that this host does not have.
    #[error("called the import `{module}.{name}`, which this host does not provide")]
    AbsentImport {
        /// The import's module.
        module: String,
        /// The import's name.
        name: String,
    },
    /// An import that the embedding program registered failed, or gave what the module does not expect.
    #[error("the host import `{module}.{name}` failed: {reason}")]
    HostImport {
        /// The import's module.
        module: &'static str,
        /// The import's name.
        name: &'static str,
        /// What was wrong.
        reason: String,
    },
    /// The start function called an import while there is no job yet.
    #[error("the start function calls an import")]
    NoJobYet,
    /// The state could not be read: the host's failure, not the guest's.
    #[error(transparent)]
    State(#[from] crate::state::StateError),
}
