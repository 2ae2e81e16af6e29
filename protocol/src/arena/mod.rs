//! Arenas: sealed memfds through which bulk bytes pass between supervisor and worker.
//!
//! ```text
//!              supervisor                      worker
//! input   InputArena  (maps it RW) ──────▶ InputView   (maps it R; F_SEAL_FUTURE_WRITE forbids more)
//! output  OutputArena (reads a copy) ◀──── OutputSink  (maps it RW)
//! ```
//!
//! A message on the pipe names bytes in an arena by a [`Span`]. The supervisor never looks at bytes that a worker can still
//! change: it copies them out with `pread(2)` and checks the copy. Both files are sealed against growing and shrinking, so
//! neither side can make the other access a page that does not exist.
//!
//! A new arena has no memory. The worker has the kernel allocate all of it when the worker starts. If there is not enough
//! memory, the worker ends, and the supervisor does not.
//!
//! `sealed_memfd`, `unsealed_memfd` and `seal_memfd` make the memfds that carry a module or a compiled artifact.

mod artifact;
mod commit;
mod error;
mod input;
mod output;
mod span;

pub use artifact::{check_sealed, seal_memfd, sealed_memfd, unsealed_memfd};
pub use error::ArenaError;
pub use input::{InputArena, InputView, StableBytes};
pub use output::{OutputArena, OutputSink, SpanWriter};
pub use span::Span;

#[cfg(test)]
mod tests;
