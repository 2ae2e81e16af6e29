//! Frames on the pipes. A frame is a length as u32 little-endian, followed by that many bytes of bincode 2 in its standard
//! configuration (little-endian, variable-length integers). The length is capped before anything is allocated, and the bytes
//! are decoded under the same cap.
//!
//! The crate bincode is pinned to 2.0.1, the last release that compiles. Its wire format is specified
//! (<https://docs.rs/bincode/2.0.1/bincode/spec/index.html>), and `README.md` of this crate states the part that is used. Only
//! this file calls the codec; the message types derive its two traits. So another implementation of the format can replace it.

use std::io::{self, Read, Write};

use bincode::config::{Configuration, Limit, LittleEndian, Varint};
use bincode::{Decode, Encode};
use thiserror::Error;

/// Bytes of the length at the start of every frame.
pub const HEADER_BYTES: usize = 4;

/// The most bytes that one frame may carry behind its header. Bulk bytes pass through arenas, so every message is far shorter.
pub const MAX_FRAME_BYTES: usize = 64 * 1024;

const CONFIGURATION: Configuration<LittleEndian, Varint, Limit<MAX_FRAME_BYTES>> =
    bincode::config::standard().with_limit::<MAX_FRAME_BYTES>();

/// The bytes of a value that is kept in a store, in the format of messages. Empty if the value does not encode.
pub(crate) fn to_stored_bytes(value: &impl Encode) -> Vec<u8> {
    bincode::encode_to_vec(value, CONFIGURATION).unwrap_or_default()
}

/// The value that [`to_stored_bytes`] made these bytes of; none for other bytes.
pub(crate) fn from_stored_bytes<T: Decode<()>>(bytes: &[u8]) -> Option<T> {
    let (value, used) = bincode::decode_from_slice(bytes, CONFIGURATION).ok()?;
    (used == bytes.len()).then_some(value)
}

/// Why a message could not be read or written.
#[derive(Error)]
pub enum FrameError {
    /// The other side closed the pipe between two frames.
    #[error("the pipe was closed")]
    Closed,
    /// The other side closed the pipe in the middle of a frame.
    #[error("the pipe was closed after {got} bytes of a frame")]
    Truncated {
        /// Bytes of the frame, header included, that had arrived.
        got: usize,
    },
    /// The header announces more than [`MAX_FRAME_BYTES`].
    #[error("a frame of {announced} bytes was announced, above the cap of {MAX_FRAME_BYTES}")]
    TooLong {
        /// The length in the header.
        announced: u32,
    },
    /// The message to send does not fit into a frame.
    #[error("the message does not encode into a frame: {0}")]
    Encode(String),
    /// The bytes are not a message of this type.
    #[error("the frame does not decode: {0}")]
    Decode(String),
    /// The pipe failed.
    #[error("the pipe failed: {0}")]
    Io(#[from] io::Error),
}

crate::debug_as_display!(FrameError);

/// A type that can be sent in a frame.
pub trait Message: Encode + Decode<()> {}

impl<M: Encode + Decode<()>> Message for M {}

/// Appends `message` to `buffer` as one frame.
///
/// # Errors
/// [`FrameError::Encode`] if the message is longer than [`MAX_FRAME_BYTES`]. `buffer` is then unchanged.
pub fn encode<M: Message>(message: &M, buffer: &mut Vec<u8>) -> Result<(), FrameError> {
    let start = buffer.len();
    buffer.extend_from_slice(&[0; HEADER_BYTES]);
    let written = bincode::encode_into_std_write(message, &mut *buffer, CONFIGURATION);
    let body = buffer.len() - start - HEADER_BYTES;
    let length = match (written, u32::try_from(body)) {
        (Ok(_), Ok(length)) if body <= MAX_FRAME_BYTES => length,
        (Err(error), _) => {
            buffer.truncate(start);
            return Err(FrameError::Encode(error.to_string()));
        }
        _ => {
            buffer.truncate(start);
            return Err(FrameError::Encode(format!("{body} bytes, above the cap of {MAX_FRAME_BYTES}")));
        }
    };
    buffer[start..start + HEADER_BYTES].copy_from_slice(&length.to_le_bytes());
    Ok(())
}

/// Decodes the body of one frame. The message must use every byte.
///
/// # Errors
/// [`FrameError::Decode`] if the bytes are not a message of this type. No bytes make this function panic or allocate more
/// than the cap.
pub fn decode<M: Message>(body: &[u8]) -> Result<M, FrameError> {
    let (message, used) = bincode::decode_from_slice(body, CONFIGURATION)
        .map_err(|error| FrameError::Decode(error.to_string()))?;
    if used != body.len() {
        return Err(FrameError::Decode(format!("{} bytes are left over", body.len() - used)));
    }
    Ok(message)
}

/// Writes `message` to `pipe` as one frame. It makes one call of `write` if the pipe accepts the whole frame.
///
/// # Errors
/// [`FrameError::Encode`] or [`FrameError::Io`].
pub fn send<M: Message>(pipe: &mut impl Write, message: &M) -> Result<(), FrameError> {
    let mut buffer = Vec::with_capacity(256);
    encode(message, &mut buffer)?;
    pipe.write_all(&buffer)?;
    Ok(())
}

/// Takes frames out of a byte stream. A small frame and its header take one call of `read`.
///
/// The reader holds at most one frame and the bytes that arrived behind it. Its buffer is allocated once, at the cap.
#[derive(Debug)]
pub struct FrameReader {
    buffer: Box<[u8]>,
    start: usize,
    end: usize,
}

impl Default for FrameReader {
    fn default() -> Self {
        Self::new()
    }
}

impl FrameReader {
    /// An empty reader.
    pub fn new() -> Self {
        Self { buffer: vec![0; HEADER_BYTES + MAX_FRAME_BYTES].into_boxed_slice(), start: 0, end: 0 }
    }

    /// Reads from `pipe` until one whole frame has arrived, and decodes it.
    ///
    /// # Errors
    /// Any [`FrameError`] except `Encode`.
    pub fn receive<M: Message>(&mut self, pipe: &mut impl Read) -> Result<M, FrameError> {
        loop {
            if let Some(message) = self.take()? {
                return Ok(message);
            }
            self.fill(pipe)?;
        }
    }

    /// Decodes the next frame if all of it has arrived; none if not.
    ///
    /// # Errors
    /// [`FrameError::TooLong`] or [`FrameError::Decode`].
    pub fn take<M: Message>(&mut self) -> Result<Option<M>, FrameError> {
        let Some((header, rest)) = self.buffer[self.start..self.end].split_first_chunk::<HEADER_BYTES>()
        else {
            return Ok(None);
        };
        let announced = u32::from_le_bytes(*header);
        let length = match usize::try_from(announced) {
            Ok(length) if length <= MAX_FRAME_BYTES => length,
            _ => return Err(FrameError::TooLong { announced }),
        };
        let Some(body) = rest.get(..length) else { return Ok(None) };
        let message = decode(body)?;
        self.start += HEADER_BYTES + length;
        Ok(Some(message))
    }

    /// Reads once from `pipe`. If the pipe is a blocking one, this waits.
    ///
    /// # Errors
    /// [`FrameError::Closed`] or [`FrameError::Truncated`] at the end of the stream, [`FrameError::Io`] if the read failed.
    pub fn fill(&mut self, pipe: &mut impl Read) -> Result<(), FrameError> {
        // The unread part is at most one incomplete frame, so there is always room behind it once it is at the front.
        self.buffer.copy_within(self.start..self.end, 0);
        self.end -= self.start;
        self.start = 0;
        loop {
            match pipe.read(&mut self.buffer[self.end..]) {
                Ok(0) if self.end == 0 => return Err(FrameError::Closed),
                Ok(0) => return Err(FrameError::Truncated { got: self.end }),
                Ok(count) => {
                    self.end += count;
                    return Ok(());
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arena::Span;
    use crate::layer::Layer;
    use crate::message::{Call, Configure, Job, Reply, Request, Startup};
    use crate::verdict::GuestVerdict;
    use proptest::prelude::*;

    /// Returns at most `step` bytes for each read, as a pipe may.
    struct Dripping<'a> {
        bytes: &'a [u8],
        step: usize,
    }

    impl Read for Dripping<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let step = self.step.min(buffer.len());
            self.bytes.take(step as u64).read(buffer).inspect(|count| self.bytes = &self.bytes[*count..])
        }
    }

    fn any_request() -> impl Strategy<Value = Request> {
        let call = prop_oneof![Just(Call::Block), ".{0,100}".prop_map(|export| Call::View { export }),];
        let job = (
            any::<u64>(),
            any::<u32>(),
            call,
            any::<u32>(),
            any::<(u64, u64)>(),
            (any::<Option<u32>>(), 0..40usize),
        )
            .prop_map(|(id, attempt, call, height, (offset, length), (state_tip, layers))| {
                let input = Span { offset, length };
                let layers = vec![Layer { height, span: input, slots: id }; layers];
                Request::Job(Job { id, attempt, call, height, input, state_tip, base: state_tip, layers })
            });
        prop_oneof![Just(Request::Stop), job]
    }

    fn any_reply() -> impl Strategy<Value = Reply> {
        let verdict = prop::sample::select(GuestVerdict::ALL.to_vec());
        (any::<(u64, u64, u64, u64, u64, u64)>(), verdict, ".{0,1000}", any::<Option<u64>>()).prop_map(
            |((job, offset, length, start, exec_ns, memory_bytes), verdict, detail, fuel_used)| Reply {
                job,
                verdict,
                detail,
                output: Span { offset, length },
                log: Span { offset: start, length },
                exec_ns,
                memory_bytes,
                fuel_used,
            },
        )
    }

    proptest! {
        #[test]
        fn messages_come_back_as_they_went_in(
            requests in prop::collection::vec(any_request(), 1..20),
            step in 1usize..5000,
        ) {
            let mut bytes = Vec::new();
            for request in &requests {
                encode(request, &mut bytes).unwrap();
            }
            let mut pipe = Dripping { bytes: &bytes, step };
            let mut reader = FrameReader::new();
            for request in &requests {
                prop_assert_eq!(&reader.receive::<Request>(&mut pipe).unwrap(), request);
            }
            prop_assert!(matches!(reader.receive::<Request>(&mut pipe), Err(FrameError::Closed)));
        }

        #[test]
        fn replies_come_back_as_they_went_in(reply in any_reply()) {
            let mut bytes = Vec::new();
            encode(&reply, &mut bytes).unwrap();
            prop_assert_eq!(FrameReader::new().receive::<Reply>(&mut bytes.as_slice()).unwrap(), reply);
        }

        #[test]
        fn hostile_bytes_never_panic(bytes: Vec<u8>, step in 1usize..100) {
            let _ = decode::<Configure>(&bytes);
            let _ = decode::<Startup>(&bytes);
            let _ = decode::<Reply>(&bytes);
            let mut pipe = Dripping { bytes: &bytes, step };
            let mut reader = FrameReader::new();
            while reader.receive::<Reply>(&mut pipe).is_ok() {}
        }

        #[test]
        fn a_damaged_reply_never_panics(reply in any_reply(), at: prop::sample::Index, to: u8, cut: bool) {
            let mut bytes = Vec::new();
            encode(&reply, &mut bytes).unwrap();
            let at = at.index(bytes.len());
            if cut { bytes.truncate(at) } else { bytes[at] = to }
            let _ = FrameReader::new().receive::<Reply>(&mut bytes.as_slice());
        }
    }

    #[test]
    fn a_frame_above_the_cap_is_refused_before_it_is_read() {
        let mut pipe: &[u8] = &[0xff, 0xff, 0xff, 0xff, 0];
        let error = FrameReader::new().receive::<Reply>(&mut pipe).unwrap_err();
        assert!(matches!(error, FrameError::TooLong { announced: u32::MAX }), "{error}");
    }

    #[test]
    fn a_string_that_claims_more_than_the_cap_is_refused_before_it_is_allocated() {
        // Startup::Refused whose reason claims 2^60 bytes: variant 1, then a u64 varint.
        let mut body = vec![1, 253];
        body.extend_from_slice(&(1u64 << 60).to_le_bytes());
        assert!(matches!(decode::<Startup>(&body), Err(FrameError::Decode(_))));
    }

    #[test]
    fn a_message_above_the_cap_is_not_sent_in_part() {
        let mut buffer = b"before".to_vec();
        let reason = "x".repeat(MAX_FRAME_BYTES + 1);
        assert!(matches!(encode(&Startup::Refused { reason }, &mut buffer), Err(FrameError::Encode(_))));
        assert_eq!(buffer, b"before");
    }

    #[test]
    fn a_truncated_frame_and_trailing_bytes_are_errors() {
        let mut bytes = Vec::new();
        encode(&Request::Stop, &mut bytes).unwrap();
        let truncated = FrameReader::new().receive::<Request>(&mut &bytes[..bytes.len() - 1]);
        assert!(matches!(truncated, Err(FrameError::Truncated { got: 4 })));
        let mut body = bytes[HEADER_BYTES..].to_vec();
        body.push(0);
        assert!(matches!(decode::<Request>(&body), Err(FrameError::Decode(_))));
    }
}
