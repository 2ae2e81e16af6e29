//! Reads Bitcoin blocks from files, directories and pipes, checks each block, and gives it its height.
//!
//! A wrong block makes a wrong state. So every block is checked before this module delivers it: it decodes to its last byte, its
//! merkle root and its witness commitment match its transactions, its hash meets the target in its header, and its height agrees
//! with the height in its coinbase (BIP34). Bitcoind writes blocks in the order in which they arrive, and also writes stale
//! blocks. This module picks the chain with the most work and orders its blocks, so the rest of the program receives strictly
//! rising heights.
//!
//! A caller parses arguments into [`BlockInput`]s, calls [`open`] (or `bundled`, with the feature of that name), and
//! iterates over the [`BlockSource`].
//!
//! | step | files |
//! |---|---|
//! | parse one argument | `input` |
//! | find the files that an argument means | `discover` |
//! | join the files to parts, and find the first height of each chain of blk files | `open`, `opener` |
//! | iterate over the parts and assign heights | `source`, `part`, `heights` |
//! | index the headers of blk files | `scan`, `records`, `progress` |
//! | choose the branch with the most work, and read its blocks | `branches`, `best_chain` |
//! | read blocks from standard input or a pipe | `stream`, `stream_records`, `stream_input`, `lookahead`, `recording` |
//! | check one block, and the height that it states | `verify`, `bip34` |
//! | read the record format of bitcoind and its obfuscation | `framing`, `xor`, `byte_source` |
//! | log bytes that hold no whole block, and bound the search behind them | `unreadable` |
//! | types that the other files share | `block`, `options`, `error` |
//!
//! Sources are read lazily. Memory holds one block at a time. A chain from blk files also takes some 170 bytes for each
//! block while its headers are sorted, and 56 bytes afterwards.
//!
//! This module does not follow a running node, whose chain has no end and can be reorganised. The crate `cofferdam-node` follows
//! such a chain, and checks the blocks with [`verify`].

mod best_chain;
mod bip34;
mod block;
mod branches;
#[cfg(feature = "bundled")]
mod bundled;
mod byte_source;
#[cfg(test)]
mod damage;
mod discover;
mod error;
mod framing;
mod heights;
mod input;
mod lookahead;
mod open;
mod opener;
mod options;
mod part;
mod progress;
mod recording;
mod records;
mod scan;
mod source;
mod stream;
mod stream_input;
mod stream_records;
#[cfg(test)]
mod testing;
mod unreadable;
mod verify;
mod xor;

pub use bitcoin::{BlockHash, Network};

pub use bip34::HeightMismatch;
pub use block::{Hashed, Origin, SourceBlock};
#[cfg(feature = "bundled")]
pub use bundled::bundled;
pub use error::BlockError;
pub use framing::RecordDefect;
pub use input::BlockInput;
pub use open::open;
pub use options::{IndexedRange, MAX_BLOCK_BYTES, Options};
pub use source::BlockSource;
pub use verify::{BlockDefect, verify};
