//! Everything that crosses the boundary between the Cofferdam supervisor and a worker process.
//!
//! The two processes do not trust each other. They share this crate, and only the memory and the files that this crate describes.
//! The modules, in the order in which a worker meets them:
//!
//! - [`descriptors`]: the file descriptors and the role that a new process is given;
//! - [`message`]: the messages; [`frame`]: the length-prefixed bincode frames that carry them over two pipes;
//! - [`status`]: one shared page on which a worker reports its phase and its progress;
//! - [`arena`]: sealed memfds for bulk bytes, so that a pipe carries only a [`arena::Span`];
//! - [`state`]: the bytes of the state store; [`layer`]: the bytes of results that the store does not hold yet;
//! - [`wait`]: how either side waits for the other;
//! - [`verdict`]: the result of a job; [`writes`]: the pairs that a block wrote; [`profile`]: all that a result depends on;
//!   [`digest`]: the digest of a chain of results;
//! - [`exit`]: the exit codes; [`fault`]: failures that a test injects; [`path`]: paths as bytes;
//!   [`syscall_error`]: errors that name the system call.
//!
//! The supervisor never trusts a worker. Bytes from a worker can lead to a verdict about that worker's job, and to nothing
//! else in the supervisor. So every length is capped before anything is allocated, and arena bytes are copied out before
//! they are parsed. There is one exception to this: every reader of the state maps LMDB's lock file writable. A worker under an
//! attacker's control could delay commits through that file. It could not change stored data.
//!
//! `README.md` of this crate states the wire format.

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
mod sealing;
pub mod state;
pub mod status;
mod syscall;
pub mod verdict;
pub mod wait;
pub mod writes;

pub use syscall::syscall_error;

/// Runs the example of the README.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
#[derive(Debug)]
pub struct Readme;

/// Version of the messages and arenas. The supervisor refuses a worker of another version at `Hello`.
pub const PROTOCOL_VERSION: u32 = 3;

/// Identifies the build. The supervisor refuses a worker of another build even if the protocol versions agree.
pub const BUILD: &str = concat!("cofferdam ", env!("CARGO_PKG_VERSION"));

/// Bytes in one WebAssembly page (WebAssembly core specification, §4.2.8).
pub const WASM_PAGE: u64 = 64 * 1024;
