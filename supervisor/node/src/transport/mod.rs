//! The JSON-RPC client over HTTP with which this crate queries other nodes: a Bitcoin node ([`crate::daemon`]), and Cofferdam
//! nodes that are audited ([`crate::agreement`]).
//!
//! Each thread keeps one connection open. A bound on the node's silence, and a limit on every answer in bytes and in time, keep a
//! request from waiting for ever. [`Connections::close`] ends all requests at once.

mod auth;
mod connections;
mod endpoint;
mod error;
mod limited;
mod quote;

pub use auth::Auth;
pub(crate) use connections::Connections;
pub(crate) use endpoint::Endpoint;
pub(crate) use error::TransportError;
pub(crate) use limited::LimitedTransport;
