//! The limits on connections.

use std::time::Duration;

/// How many connections a server keeps, and how long it waits for their clients.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnectionLimits {
    /// How many connections may be open. Only busy connections can exceed this number, because no busy connection is closed
    /// for a new one. Default 4096.
    pub connections: usize,
    /// How long the headers of a request may take to arrive, counted from when the connection is ready for the request. An
    /// idle connection is therefore closed after this time. Choose a longer time than the idle timeout of the load balancer.
    /// Default 75 s.
    pub header_timeout: Duration,
    /// How long a client may read nothing of its response. Default 30 s.
    pub write_timeout: Duration,
}

impl Default for ConnectionLimits {
    fn default() -> Self {
        Self {
            connections: 4096,
            header_timeout: Duration::from_secs(75),
            write_timeout: Duration::from_secs(30),
        }
    }
}
