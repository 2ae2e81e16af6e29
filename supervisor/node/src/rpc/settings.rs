//! The limits of the JSON-RPC server.

use std::time::Duration;

use super::cors::Cors;
use cofferdam_base::size::Bytes;

/// What calls may cost, and which web pages may call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RpcSettings {
    /// The longest request, in bytes. A block to preview arrives in hexadecimal, which takes two bytes for each byte of the
    /// block. Default 64 MiB.
    pub request_bytes: u64,
    /// The longest response, in bytes. Results are sent in hexadecimal, too. Default 64 MiB.
    pub response_bytes: u64,
    /// How many bytes of requests are held at a time. The decoded requests take up to half as much in addition. Default 256 MiB.
    pub buffered_bytes: u64,
    /// How long a request may take to arrive, and how long it may wait for room in `buffered_bytes`. Default 30 s.
    pub body_timeout: Duration,
    /// How many calls one batch may have. Default 100.
    pub batch_entries: usize,
    /// How many calls of one batch run at a time. Default 8.
    pub batch_concurrency: usize,
    /// How long a view may take. The wait for a worker counts. Default 60 s.
    pub view_timeout: Duration,
    /// How long a preview may take. The waits for workers count. Default 120 s.
    pub preview_timeout: Duration,
    /// How long a call of any other method may take. Default 10 s.
    pub read_timeout: Duration,
    /// Which web pages may call. Default none.
    pub cors: Cors,
}

impl Default for RpcSettings {
    fn default() -> Self {
        Self {
            request_bytes: Bytes::mib(64).0,
            response_bytes: Bytes::mib(64).0,
            buffered_bytes: Bytes::mib(256).0,
            body_timeout: Duration::from_secs(30),
            batch_entries: 100,
            batch_concurrency: 8,
            view_timeout: Duration::from_secs(60),
            preview_timeout: Duration::from_secs(120),
            read_timeout: Duration::from_secs(10),
            cors: Cors::Off,
        }
    }
}
