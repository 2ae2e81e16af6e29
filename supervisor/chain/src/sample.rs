//! The bundled sample indexer: unspent outputs and balances per script hash, headers by height, totals.
//!
//! Its source, the encodings of its state and views, and how to rebuild it to the same bytes are in
//! `supervisor/chain/sample/`.

/// The sample indexer in binary form.
pub const MODULE: &[u8] = include_bytes!("../sample/sample.wasm");
