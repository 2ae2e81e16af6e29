//! The node: a chain that follows a Bitcoin daemon, and the faces that it shows to its clients.

pub mod rpc;
