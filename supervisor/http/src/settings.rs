//! The limits of the service.

use std::time::Duration;

use cofferdam_base::size::Bytes;

/// How much time and memory requests may take. The largest body is the pool's own limit
/// ([`Limits::input_bytes`](cofferdam_pool::Limits::input_bytes)).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// How many requests may wait for a worker. Default 1024.
    pub queue: usize,
    /// How many workers are reserved for jobs that do not come through the service. At least one worker is always left for
    /// requests. Default 0.
    pub reserved: usize,
    /// How long a request may wait for a worker, unless its own `Cofferdam-Deadline-Ms` is shorter. Default 5 s.
    pub queue_wait: Duration,
    /// Bytes of memory for the bodies of all requests and responses together. Default 256 MiB.
    pub buffered_bytes: u64,
    /// How long one body may take to arrive. Default 30 s.
    pub body_timeout: Duration,
    /// Bytes of memory for answers that are kept for their `Idempotency-Key`. Default 64 MiB.
    pub remembered_bytes: u64,
    /// How long an answer is kept for its `Idempotency-Key`. Default 10 minutes.
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
