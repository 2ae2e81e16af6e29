//! Reading a request's body: piece by piece as it comes, each piece held once, until it is copied into a worker's arena.
//!
//! Three bounds hold at any time: of one body in bytes, of one body in time, and of all bodies and answers together.

use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, HttpBody};
use axum::http::{HeaderMap, header};
use bytes::Bytes;
use cofferdam_protocol::profile::Hash;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use sha2::{Digest, Sha256};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout, timeout_at};

use super::problem::Problem;
use cofferdam_pool::Input;

/// Bytes that one permit stands for: semaphores count in 32 bits.
const UNIT_BYTES: u64 = 4096;

/// Memory for bodies and answers, shared by all requests.
#[derive(Clone, Debug)]
pub struct Room {
    units: Arc<Semaphore>,
    all: u32,
}

/// A part of the room, given back when dropped.
#[derive(Debug, Default)]
pub struct Held(#[allow(dead_code, reason = "held for its drop")] Option<OwnedSemaphorePermit>);

impl Room {
    pub fn new(bytes: u64) -> Self {
        let all = u32::try_from((bytes / UNIT_BYTES).max(1)).unwrap_or(u32::MAX);
        // What a semaphore can count is far more than 32 bits hold.
        let units = Semaphore::new(usize::try_from(all).unwrap_or(Semaphore::MAX_PERMITS));
        Self { units: Arc::new(units), all }
    }

    /// Takes room for `bytes`, waiting for it for at most `patience`. What is larger than all there is takes all.
    pub(super) async fn take(&self, bytes: u64, patience: Duration) -> Option<Held> {
        let units = u32::try_from(bytes.div_ceil(UNIT_BYTES)).unwrap_or(u32::MAX).min(self.all);
        if units == 0 {
            return Some(Held::default());
        }
        let permit = timeout(patience, Arc::clone(&self.units).acquire_many_owned(units)).await;
        // It is never closed.
        Some(Held(Some(permit.ok()?.ok()?)))
    }

    /// Bytes that are taken.
    pub(super) fn taken(&self) -> u64 {
        let free = u64::try_from(self.units.available_permits()).unwrap_or(u64::MAX);
        u64::from(self.all).saturating_sub(free) * UNIT_BYTES
    }
}

/// A body that is there.
#[derive(Debug)]
pub(super) struct Received {
    pub(super) input: Input,
    pub(super) sha256: Hash,
    /// The room that it takes.
    pub(super) held: Vec<Held>,
}

/// What a body may cost.
pub struct Bounds {
    pub bytes: u64,
    pub time: Duration,
    /// How long to wait for room.
    pub patience: Duration,
    /// Seconds to name to whoever finds no room.
    pub retry_after: u64,
}

/// Refuses a body that its headers call compressed: a guest would be given other bytes than its client meant.
pub fn check_coding(headers: &HeaderMap) -> Result<(), Problem> {
    match headers.get(header::CONTENT_ENCODING) {
        Some(coding) if !coding.as_bytes().eq_ignore_ascii_case(b"identity") => {
            let coding = String::from_utf8_lossy(coding.as_bytes());
            Err(Problem::Encoded(coding.chars().take(100).collect()))
        }
        _ => Ok(()),
    }
}

/// Reads all of `body`, to be run.
pub(super) async fn receive(body: Body, bounds: &Bounds, room: &Room) -> Result<Received, Problem> {
    let (mut parts, mut hasher) = (Parts::default(), Sha256::new());
    let held = read(body, bounds, room, |part| {
        hasher.update(&part);
        parts.add(part);
    })
    .await?;
    Ok(Received { input: Input::from_parts(parts.finish()), sha256: Hash(hasher.finalize().into()), held })
}

/// Reads all of `body`, hands each of its parts to `take`, and returns the room that they have.
pub async fn read(
    body: Body,
    bounds: &Bounds,
    room: &Room,
    mut take: impl FnMut(Bytes),
) -> Result<Vec<Held>, Problem> {
    let deadline = Instant::now() + bounds.time;
    let announced = body.size_hint().exact();
    if announced.is_some_and(|bytes| bytes > bounds.bytes) {
        return Err(Problem::TooLarge { limit: bounds.bytes });
    }
    let mut share = Share { room, bounds, announced, held: Vec::new(), left: 0 };
    let limit = usize::try_from(bounds.bytes).unwrap_or(usize::MAX);
    let mut body = Limited::new(body, limit);
    loop {
        let frame = timeout_at(deadline, body.frame()).await;
        let Some(frame) = frame.map_err(|_| Problem::SlowBody(bounds.time))? else { break };
        // Trailers mean nothing here.
        let Ok(part) = frame.map_err(|error| broken(&*error, bounds))?.into_data() else { continue };
        share.cover(part.len() as u64).await?;
        take(part);
    }
    Ok(share.held)
}

/// The room that one body has taken so far.
struct Share<'a> {
    room: &'a Room,
    bounds: &'a Bounds,
    /// Bytes that were announced and have no room yet.
    announced: Option<u64>,
    held: Vec<Held>,
    /// Bytes that are taken and not used.
    left: u64,
}

impl Share<'_> {
    /// Makes sure that `bytes` more have room.
    async fn cover(&mut self, bytes: u64) -> Result<(), Problem> {
        /// So much is taken at a time: a length is announced for nothing, and whoever then sends nothing would keep
        /// others out.
        const STEP_BYTES: u64 = 64 << 10;
        if bytes > self.left {
            let step = match self.announced {
                Some(announced) => STEP_BYTES.min(announced),
                // Most bodies without a length are of one part.
                None if self.held.is_empty() => 0,
                None => STEP_BYTES,
            };
            let more = bytes.max(step);
            self.announced = self.announced.map(|announced| announced.saturating_sub(more));
            let held = self.room.take(more, self.bounds.patience).await;
            self.held.push(held.ok_or(Problem::NoRoom { retry_after: self.bounds.retry_after })?);
            self.left = self.left.saturating_add(more);
        }
        self.left -= bytes;
        Ok(())
    }
}

/// The parts of a body. Small ones are put together, or a body that comes byte by byte would cost far more than its bytes.
#[derive(Default)]
struct Parts {
    whole: Vec<Bytes>,
    small: Vec<u8>,
}

impl Parts {
    fn add(&mut self, part: Bytes) {
        const SMALL_BYTES: usize = 4096;
        if part.len() < SMALL_BYTES {
            self.small.extend_from_slice(&part);
        }
        if part.len() >= SMALL_BYTES || self.small.len() >= SMALL_BYTES {
            self.flush();
        }
        if part.len() >= SMALL_BYTES {
            self.whole.push(part);
        }
    }

    fn flush(&mut self) {
        if !self.small.is_empty() {
            self.whole.push(std::mem::take(&mut self.small).into());
        }
    }

    fn finish(mut self) -> Vec<Bytes> {
        self.flush();
        self.whole
    }
}

fn broken(error: &(dyn std::error::Error + 'static), bounds: &Bounds) -> Problem {
    match error.downcast_ref::<LengthLimitError>() {
        Some(_) => Problem::TooLarge { limit: bounds.bytes },
        None => Problem::BrokenBody(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use futures_util::stream;

    use super::*;

    const BOUNDS: Bounds = Bounds {
        bytes: 10_000,
        time: Duration::from_millis(200),
        patience: Duration::from_millis(50),
        retry_after: 1,
    };

    fn streamed(parts: Vec<Vec<u8>>) -> Body {
        Body::from_stream(stream::iter(parts.into_iter().map(Ok::<_, std::io::Error>)))
    }

    #[tokio::test]
    async fn what_comes_in_pieces_is_the_same_body() {
        let room = Room::new(1 << 20);
        let whole: Vec<u8> = (0..9000u32).map(|index| index.to_le_bytes()[0]).collect();
        for size in [1, 7, 4096, 8999, 9000] {
            let body = streamed(whole.chunks(size).map(<[u8]>::to_vec).collect());
            let received = receive(body, &BOUNDS, &room).await.unwrap();
            assert_eq!(received.input.parts().collect::<Vec<_>>().concat(), whole);
            assert_eq!(received.sha256, Hash::of(&whole));
            assert!(received.input.parts().count() <= 4);
            assert!(room.taken() > 0);
        }
        assert_eq!(room.taken(), 0, "all of it was given back");
    }

    #[tokio::test]
    async fn every_bound_holds() {
        let room = Room::new(1 << 20);
        let too_large = Problem::TooLarge { limit: 10_000 };
        let announced = receive(Body::from(vec![0; 10_001]), &BOUNDS, &room).await;
        assert_eq!(announced.map(|_| ()), Err(too_large.clone()));
        let streamed_one = receive(streamed(vec![vec![0; 6000], vec![0; 6000]]), &BOUNDS, &room).await;
        assert_eq!(streamed_one.map(|_| ()), Err(too_large));
        let slow =
            receive(Body::from_stream(stream::pending::<Result<Bytes, std::io::Error>>()), &BOUNDS, &room)
                .await;
        assert_eq!(slow.map(|_| ()), Err(Problem::SlowBody(BOUNDS.time)));
        let torn = stream::iter([Ok(vec![1]), Err(std::io::Error::other("torn"))]);
        let torn = receive(Body::from_stream(torn), &BOUNDS, &room).await;
        assert!(matches!(torn, Err(Problem::BrokenBody(_))), "{torn:?}");
        let small = Room::new(UNIT_BYTES);
        let _all = small.take(1, Duration::ZERO).await.unwrap();
        let no_room = receive(Body::from(vec![0; 5]), &BOUNDS, &small).await;
        assert_eq!(no_room.map(|_| ()), Err(Problem::NoRoom { retry_after: 1 }));
    }
}
