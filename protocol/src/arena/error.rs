//! Why an arena could not be made or used.

use std::io;

use thiserror::Error;

use super::span::Span;

/// Why an arena could not be made or used.
#[derive(Error)]
pub enum ArenaError {
    /// The kernel refused to make, size, seal or map the memfd.
    #[error("arena {name}: {source}")]
    Create {
        /// Name of the arena.
        name: &'static str,
        /// The kernel's error.
        source: io::Error,
    },
    /// The descriptor is not a memfd of the announced size with the required seals.
    #[error("arena {name}: the descriptor is not the sealed memfd that was announced: {reason}")]
    NotSealed {
        /// Name of the arena.
        name: &'static str,
        /// What is missing.
        reason: String,
    },
    /// A span that is not inside the arena.
    #[error("a span of {} bytes at {} is outside the arena of {capacity} bytes", span.length, span.offset)]
    Outside {
        /// The span.
        span: Span,
        /// The arena's size in bytes.
        capacity: u64,
    },
    /// The bytes could not be copied out.
    #[error("arena: the bytes could not be copied out: {0}")]
    Copy(io::Error),
    /// The kernel refused the memory.
    #[error("the kernel refused to {what} the {name} arena of {bytes} bytes: {source}")]
    NotCommitted {
        /// `commit` or `lock`.
        what: &'static str,
        /// Name of the arena.
        name: &'static str,
        /// The arena's size in bytes.
        bytes: u64,
        /// The kernel's error.
        source: io::Error,
    },
}

crate::debug_as_display!(ArenaError);
