//! The state that a guest reads: snapshots of the state store, and the layers over them.
//!
//! The supervisor writes the store ([`cofferdam_protocol::state`] describes its bytes). A worker opens it read-only and takes one
//! [`Snapshot`] for each job. A snapshot uses a slot in LMDB's table of readers, which is in `lock.mdb`. So even a reader opens and
//! maps `lock.mdb` for writing. Only `data.mdb` is out of a worker's reach: an attacker who controls a worker could delay commits, but
//! not change stored data. A worker that dies leaves its slot in use until the supervisor clears stale readers.
//!
//! # Opening and the sandbox
//! Open the store before limits and filters are applied, and close no descriptor afterwards. LMDB keeps two descriptors, and the
//! process loses its `fcntl(2)` locks if it closes any descriptor of `lock.mdb`. Opening makes no file and grows none. It takes and
//! drops one snapshot, because the first snapshot of a process makes system calls (a lock on `lock.mdb`) that later ones do not make.
//! Later ones make no system call, except for `futex(2)` when two processes use the reader table at the same time.
//!
//! A snapshot prevents LMDB from reusing the pages that it sees. The file grows if blocks are committed while a snapshot is held. So
//! take one snapshot for each job, and drop it.

mod error;
mod reader;
mod view;

pub use error::StateError;
pub use reader::{Snapshot, StateReader, Table};
pub use view::{Layers, StateView};
