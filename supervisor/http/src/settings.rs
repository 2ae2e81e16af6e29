//! What the server allows its clients.

use std::time::Duration;

use cofferdam_base::size::Bytes;

/// What requests may cost, in time and in memory. The size of one body is the pool's own limit
/// ([`Limits::input_bytes`](cofferdam_pool::Limits::input_bytes)).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// How many requests may wait for a worker. Default 1024.
    pub queue: usize,
    /// How many workers requests leave to others, if there are so many. Default 0.
    pub reserved: usize,
    /// How long one of them may wait, unless it says itself that it has less time. Default 5 s.
    pub queue_wait: Duration,
    /// Bytes of bodies and answers that are held at a time. Default 256 MiB.
    pub buffered_bytes: u64,
    /// How long a body may take to arrive. Default 30 s.
    pub body_timeout: Duration,
    /// Bytes of answers that are kept for their Idempotency-Key. Default 64 MiB.
    pub remembered_bytes: u64,
    /// How long they are kept. Default 10 minutes.
    pub remembered_for: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            queue: 1024,
            reserved: 0,
            queue_wait: Duration::from_secs(5),
            buffered_bytes: Bytes::mib(256).0,
            body_timeout: Duration::from_secs(30),
            remembered_bytes: Bytes::mib(64).0,
            remembered_for: Duration::from_secs(600),
        }
    }
}
