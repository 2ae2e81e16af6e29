//! JSON-RPC 2.0 over HTTP, as clients of a metashrew node speak it.

pub mod backend;

pub use backend::{At, Backend, CallError, ChainDigest, Info, Snapshot};
