//! The reasons for which the host stops a guest.

use thiserror::Error;

use crate::state::StateError;

/// Why the host stops a guest. All but the last two are properties of module, block and profile.
#[derive(Debug, Error)]
pub(crate) enum GuestFault {
    /// The guest called `env.abort`.
    #[error("{0}")]
    Abort(String),
    /// A pointer, or the buffer it points at, is not inside the guest's memory.
    #[error("{what} at {pointer:#x} ({length} bytes) is outside the memory of {memory:#x} bytes")]
    BadPointer {
        /// The purpose of the pointer.
        what: &'static str,
        /// The pointer as an unsigned number.
        pointer: u32,
        /// Number of bytes to read or write there.
        length: u64,
        /// Size of the memory in bytes.
        memory: u64,
    },
    /// The flushed bytes are not a `KeyValueFlush`.
    #[error("__flush: {0}")]
    BadFlush(String),
    /// The output exceeds the limit of the profile.
    #[error("{bytes} bytes of output, above the limit of {limit}")]
    OutputTooLarge {
        /// Bytes of output so far, including those that did not fit.
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
    /// A registered host import failed, or returned values that do not match the type in the module.
    #[error("the host import `{module}.{name}` failed: {reason}")]
    HostImport {
        /// The import's module.
        module: &'static str,
        /// The import's name.
        name: &'static str,
        /// The reason.
        reason: String,
    },
    /// The start function called an import before the instance had a job.
    #[error("the start function calls an import")]
    NoJobYet,
    /// The state could not be read. This is a failure of the host.
    #[error(transparent)]
    State(#[from] StateError),
}
