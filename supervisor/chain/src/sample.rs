//! The bundled sample indexer. It keeps Bitcoin's unspent outputs, the balance of each script hash, the headers by height, and some
//! totals.
//!
//! `supervisor/chain/sample/` holds its source, the encodings of its state and views, and the steps to rebuild it to the same bytes.

/// The sample indexer in binary form.
pub const MODULE: &[u8] = include_bytes!("../sample/sample.wasm");

/// The examples of the README, which are tested as examples of this item.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
