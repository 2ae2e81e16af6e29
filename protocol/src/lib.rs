//! What crosses the boundary between the Cofferdam supervisor and a worker process, and nothing else.
//!
//! Two processes that do not trust each other share this crate and no state:
//!
//! - [`message`]: the messages, carried in capped bincode frames ([`frame`]) over two pipes;
//! - [`arena`]: sealed memfds through which bulk bytes pass, so that a pipe carries only a [`arena::Span`];
//! - [`wait`]: how either side waits for the other;
//! - [`status`]: one shared page on which a worker says what it is doing;
//! - [`verdict`]: what can come of a job, and [`exit`]: what a process can end with;
//! - [`profile`]: what a result depends on; [`writes`] and [`state`]: the bytes of a result and where they are kept;
//! - [`layer`]: the bytes of results that are not kept yet, for the jobs that already read them;
//! - [`descriptors`]: where a new process finds all of these; [`refused`]: how a refused system call is named.
//!
//! A worker is never trusted: whatever arrives from it can lead to a verdict about its job, and to no state of the
//! supervisor. So every length is capped before anything is allocated, and arena bytes are copied out before they
//! are parsed. The one exception is LMDB's lock file, which every reader of the state maps writable: a process that was
//! taken over could hold up commits by it, though not change what is stored.

pub mod arena;
mod debug;
pub mod descriptors;
pub mod digest;
pub mod exit;
pub mod fault;
pub mod frame;
pub mod layer;
mod mapping;
pub mod message;
pub mod path;
pub mod profile;
mod refused;
pub mod state;
pub mod status;
pub mod verdict;
pub mod wait;
pub mod writes;

pub use refused::refused;

/// Version of the messages and arenas; a worker of another version is refused at `Hello`.
pub const PROTOCOL_VERSION: u32 = 3;

/// Identifies the build, so that a worker of another build is refused even where the versions agree.
pub const BUILD: &str = concat!("cofferdam ", env!("CARGO_PKG_VERSION"));

/// Bytes in one WebAssembly page (WebAssembly core specification, §4.2.8).
pub const WASM_PAGE: u64 = 64 * 1024;
