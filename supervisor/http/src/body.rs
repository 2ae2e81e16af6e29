//! Reads the body of a request piece by piece. Only one copy of each piece is held, until the piece is copied into the memory
//! that a worker reads.
//!
//! There are three limits: on the bytes of one body, on the time that one body takes to arrive, and on the bytes of all bodies
//! and responses together ([`MemoryBudget`]).
//!
//! An application with its own routes can read bodies with [`read_body`]. The same limits then apply.

use std::time::Duration;

use axum::body::{Body, HttpBody};
use axum::http::{HeaderMap, header};
use bytes::Bytes;
use cofferdam_protocol::profile::Hash;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use sha2::{Digest, Sha256};
use thiserror::Error;
use tokio::time::{Instant, timeout_at};

pub use crate::memory::{MemoryBudget, Reservation};
use cofferdam_base::size::Bytes as Size;
use cofferdam_pool::Input;

/// The limits of one body.
#[derive(Clone, Copy, Debug)]
pub struct BodyLimits {
    /// The largest body, in bytes.
    pub max_bytes: u64,
    /// How long the whole body may take to arrive.
    pub receive_timeout: Duration,
    /// How long each piece may wait for memory of the budget.
    pub memory_wait: Duration,
    /// `Retry-After` of the response if the budget has no memory, in seconds.
    pub retry_after: u64,
}

/// Why a body was not read. As a response ([`IntoResponse`](axum::response::IntoResponse)) it is a problem document with
/// the right status and headers. After most of these errors the connection is closed, because the rest of the body was not
/// read.
#[derive(Clone, Error, PartialEq, Eq)]
pub enum BodyError {
    /// The body has more bytes than allowed. Status 413.
    #[error("the body is larger than the limit of {}", Size(*limit))]
    TooLarge {
        /// [`BodyLimits::max_bytes`].
        limit: u64,
    },
    /// The body took longer than [`BodyLimits::receive_timeout`]. Status 408.
    #[error("the body did not arrive within {0:?}")]
    TooSlow(Duration),
    /// The connection failed, or the body does not match its headers. Status 400.
    #[error("the body ended early or does not match its headers: {0}")]
    Broken(String),
    /// The body has this `Content-Encoding`. Status 415.
    #[error(
        "the body has the Content-Encoding {0:?}: send the bytes as they are, without a Content-Encoding"
    )]
    Encoded(String),
    /// The memory budget had nothing left for [`BodyLimits::memory_wait`]. Status 503.
    #[error("the server's memory for request and response bodies is in use: retry in {retry_after} s")]
    NoMemory {
        /// [`BodyLimits::retry_after`], in seconds.
        retry_after: u64,
    },
}

cofferdam_protocol::debug_as_display!(BodyError);

impl BodyError {
    /// A name for programs: the last part of the problem document's `type`. It does not change between versions.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::TooLarge { .. } => "too-large",
            Self::TooSlow(_) => "slow-body",
            Self::Broken(_) => "broken-body",
            Self::Encoded(_) => "encoded",
            Self::NoMemory { .. } => "no-room",
        }
    }
}

/// A body that was read completely.
#[derive(Debug)]
pub(crate) struct ReceivedBody {
    pub(crate) input: Input,
    pub(crate) sha256: Hash,
    /// The memory that the body takes.
    pub(crate) reservation: Reservation,
}

/// Refuses a body with a `Content-Encoding`: the guest would receive the compressed bytes, and not the bytes before compression.
pub(crate) fn check_encoding(headers: &HeaderMap) -> Result<(), BodyError> {
    match headers.get(header::CONTENT_ENCODING) {
        Some(coding) if !coding.as_bytes().eq_ignore_ascii_case(b"identity") => {
            let coding = String::from_utf8_lossy(coding.as_bytes());
            Err(BodyError::Encoded(coding.chars().take(100).collect()))
        }
        _ => Ok(()),
    }
}

/// Reads all of `body` as the input of a job.
pub(crate) async fn receive_input(
    body: Body,
    limits: &BodyLimits,
    budget: &MemoryBudget,
) -> Result<ReceivedBody, BodyError> {
    let (mut pieces, mut hasher) = (Pieces::default(), Sha256::new());
    let reservation = read_body(body, limits, budget, |piece| {
        hasher.update(&piece);
        pieces.add(piece);
    })
    .await?;
    let (input, sha256) = (Input::from_parts(pieces.finish()), Hash(hasher.finalize().into()));
    Ok(ReceivedBody { input, sha256, reservation })
}

/// Reads all of `body` and passes each piece to `receive`, in order. The returned reservation covers all pieces: keep it
/// for as long as the pieces are kept.
///
/// # Errors
/// [`BodyError`], but never [`BodyError::Encoded`], because the caller checks the headers. `receive` may have been called for
/// some pieces before the error.
///
/// # Panics
/// Outside of a tokio runtime with timers.
pub async fn read_body(
    body: Body,
    limits: &BodyLimits,
    budget: &MemoryBudget,
    mut receive: impl FnMut(Bytes),
) -> Result<Reservation, BodyError> {
    let deadline = Instant::now() + limits.receive_timeout;
    let announced_bytes = body.size_hint().exact();
    if announced_bytes.is_some_and(|bytes| bytes > limits.max_bytes) {
        return Err(BodyError::TooLarge { limit: limits.max_bytes });
    }
    let mut memory =
        BodyMemory { budget, limits, announced_bytes, reservation: Reservation::default(), unused_bytes: 0 };
    let max_bytes = usize::try_from(limits.max_bytes).unwrap_or(usize::MAX);
    let mut body = Limited::new(body, max_bytes);
    loop {
        let frame = timeout_at(deadline, body.frame()).await;
        let Some(frame) = frame.map_err(|_| BodyError::TooSlow(limits.receive_timeout))? else { break };
        // Trailers have no meaning here.
        let Ok(piece) = frame.map_err(|error| read_error(&*error, limits))?.into_data() else { continue };
        memory.reserve(piece.len() as u64).await?;
        receive(piece);
    }
    Ok(memory.reservation)
}

/// The memory that one body has reserved so far.
struct BodyMemory<'a> {
    budget: &'a MemoryBudget,
    limits: &'a BodyLimits,
    /// Bytes that the `Content-Length` announced and that are not reserved yet. None without a `Content-Length`.
    announced_bytes: Option<u64>,
    reservation: Reservation,
    /// Bytes that are reserved and not used yet.
    unused_bytes: u64,
}

impl BodyMemory<'_> {
    /// Reserves memory for `bytes` more.
    async fn reserve(&mut self, bytes: u64) -> Result<(), BodyError> {
        /// How much is reserved at a time. The whole announced length is not reserved at once: a client that announces much and
        /// sends nothing would take the memory from others.
        const STEP_BYTES: u64 = 64 << 10;
        if bytes > self.unused_bytes {
            let step = match self.announced_bytes {
                Some(announced) => STEP_BYTES.min(announced),
                // Most bodies without a length have one piece.
                None if self.reservation.is_empty() => 0,
                None => STEP_BYTES,
            };
            let more = bytes.max(step);
            self.announced_bytes = self.announced_bytes.map(|announced| announced.saturating_sub(more));
            let reservation = self.budget.reserve(more, self.limits.memory_wait).await;
            let no_memory = BodyError::NoMemory { retry_after: self.limits.retry_after };
            self.reservation.add(reservation.ok_or(no_memory)?);
            self.unused_bytes = self.unused_bytes.saturating_add(more);
        }
        self.unused_bytes -= bytes;
        Ok(())
    }
}

/// The pieces of a body. Small pieces are joined: a body that arrives byte by byte would otherwise take much more memory
/// than its bytes.
#[derive(Default)]
struct Pieces {
    finished: Vec<Bytes>,
    small: Vec<u8>,
}

impl Pieces {
    fn add(&mut self, piece: Bytes) {
        const SMALL_BYTES: usize = 4096;
        if piece.len() < SMALL_BYTES {
            self.small.extend_from_slice(&piece);
        }
        if piece.len() >= SMALL_BYTES || self.small.len() >= SMALL_BYTES {
            self.flush();
        }
        if piece.len() >= SMALL_BYTES {
            self.finished.push(piece);
        }
    }

    fn flush(&mut self) {
        if !self.small.is_empty() {
            self.finished.push(std::mem::take(&mut self.small).into());
        }
    }

    fn finish(mut self) -> Vec<Bytes> {
        self.flush();
        self.finished
    }
}

fn read_error(error: &(dyn std::error::Error + 'static), limits: &BodyLimits) -> BodyError {
    match error.downcast_ref::<LengthLimitError>() {
        Some(_) => BodyError::TooLarge { limit: limits.max_bytes },
        None => BodyError::Broken(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use futures_util::stream;

    use super::*;
    use crate::memory::UNIT_BYTES;

    const LIMITS: BodyLimits = BodyLimits {
        max_bytes: 10_000,
        receive_timeout: Duration::from_millis(200),
        memory_wait: Duration::from_millis(50),
        retry_after: 1,
    };

    fn streamed(pieces: Vec<Vec<u8>>) -> Body {
        Body::from_stream(stream::iter(pieces.into_iter().map(Ok::<_, std::io::Error>)))
    }

    #[tokio::test]
    async fn a_body_in_pieces_is_the_same_body() {
        let budget = MemoryBudget::new(1 << 20);
        let whole: Vec<u8> = (0..9000u32).map(|index| index.to_le_bytes()[0]).collect();
        for size in [1, 7, 4096, 8999, 9000] {
            let body = streamed(whole.chunks(size).map(<[u8]>::to_vec).collect());
            let received = receive_input(body, &LIMITS, &budget).await.unwrap();
            assert_eq!(received.input.parts().collect::<Vec<_>>().concat(), whole);
            assert_eq!(received.sha256, Hash::of(&whole));
            assert!(received.input.parts().count() <= 4);
            assert!(budget.reserved_bytes() > 0);
        }
        assert_eq!(budget.reserved_bytes(), 0, "every reservation was returned");
    }

    #[tokio::test]
    async fn every_limit_holds() {
        let budget = MemoryBudget::new(1 << 20);
        let too_large = BodyError::TooLarge { limit: 10_000 };
        let announced = receive_input(Body::from(vec![0; 10_001]), &LIMITS, &budget).await;
        assert_eq!(announced.map(drop), Err(too_large.clone()));
        let not_announced = streamed(vec![vec![0; 6000], vec![0; 6000]]);
        assert_eq!(receive_input(not_announced, &LIMITS, &budget).await.map(drop), Err(too_large));
        let silent = Body::from_stream(stream::pending::<Result<Bytes, std::io::Error>>());
        let silent = receive_input(silent, &LIMITS, &budget).await;
        assert_eq!(silent.map(drop), Err(BodyError::TooSlow(LIMITS.receive_timeout)));
        let broken = stream::iter([Ok(vec![1]), Err(std::io::Error::other("broken"))]);
        let broken = receive_input(Body::from_stream(broken), &LIMITS, &budget).await;
        assert!(matches!(broken, Err(BodyError::Broken(_))), "{broken:?}");
        let small = MemoryBudget::new(UNIT_BYTES);
        let _whole = small.reserve(1, Duration::ZERO).await.unwrap();
        let no_memory = receive_input(Body::from(vec![0; 5]), &LIMITS, &small).await;
        assert_eq!(no_memory.map(drop), Err(BodyError::NoMemory { retry_after: 1 }));
    }
}
