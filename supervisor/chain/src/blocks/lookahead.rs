//! A reader that keeps bytes it has read ahead. If a record turns out not to be intact, the search for the next record goes on
//! one byte behind the start of that record.

use std::io::{self, Read};

use super::recording::{BUFFER_BYTES, CountingReader};

/// The most bytes that are allocated before data has arrived for them.
const STEP_BYTES: usize = 1 << 20;

/// A stream, and the bytes that were read from it and not consumed.
#[derive(Debug)]
pub(super) struct LookaheadReader<R: Read> {
    input: CountingReader<R>,
    held: Vec<u8>,
    /// How many of the held bytes are consumed.
    consumed: usize,
}

impl<R: Read> LookaheadReader<R> {
    pub(super) fn new(input: R) -> Self {
        Self { input: CountingReader::new(input), held: Vec::new(), consumed: 0 }
    }

    /// The offset of the first byte that is not consumed.
    pub(super) fn position(&self) -> u64 {
        self.input.position() - self.buffered().len() as u64
    }

    /// How many bytes were read, consumed or not.
    pub(super) fn bytes_read(&self) -> u64 {
        self.input.position()
    }

    /// The bytes that were read and not consumed.
    pub(super) fn buffered(&self) -> &[u8] {
        self.held.get(self.consumed..).unwrap_or_default()
    }

    /// Reads until `least` bytes are buffered, or the stream ends. Never waits for more bytes than these.
    pub(super) fn fill(&mut self, least: usize) -> io::Result<&[u8]> {
        let mut missing = least.saturating_sub(self.buffered().len());
        while missing > 0 {
            let step = missing.min(STEP_BYTES);
            let before = self.held.len();
            (&mut self.input).take(step as u64).read_to_end(&mut self.held)?;
            let got = self.held.len() - before;
            if got < step {
                break;
            }
            missing -= got;
        }
        Ok(self.buffered())
    }

    /// Buffers the bytes that are available, and waits if none are. Returns how many bytes came; 0 at the end of the stream.
    pub(super) fn read_more(&mut self) -> io::Result<usize> {
        let before = self.held.len();
        self.held.resize(before + BUFFER_BYTES, 0);
        let got = loop {
            match self.input.read(&mut self.held[before..]) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                got => break got,
            }
        };
        self.held.truncate(before + got.as_ref().map_or(0, |got| *got));
        got
    }

    /// Consumes up to `bytes` of the buffered bytes.
    pub(super) fn consume(&mut self, bytes: usize) {
        self.consumed = self.consumed.saturating_add(bytes).min(self.held.len());
        // Moving the rest costs no more than reading the consumed bytes did.
        if self.consumed >= self.held.len() - self.consumed {
            self.held.drain(..self.consumed);
            self.consumed = 0;
        }
    }

    /// The rest of the stream, for a reader that needs no lookahead. No bytes may be buffered.
    pub(super) fn unbuffered(&mut self) -> &mut CountingReader<R> {
        debug_assert!(self.buffered().is_empty(), "buffered bytes would be lost");
        &mut self.input
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffered_bytes_can_be_read_again() {
        let bytes: Vec<u8> = (0..=99).collect();
        let mut reader = LookaheadReader::new(bytes.as_slice());
        assert_eq!(reader.fill(10).unwrap(), &bytes[..10]);
        reader.consume(1);
        assert_eq!(reader.fill(3).unwrap(), &bytes[1..10]);
        assert_eq!((reader.position(), reader.bytes_read()), (1, 10));
        assert_eq!(reader.fill(20).unwrap(), &bytes[1..21]);
        for _ in 0..20 {
            reader.consume(1);
        }
        assert_eq!((reader.buffered(), reader.position()), (&[][..], 21));
        assert_eq!(reader.fill(500).unwrap(), &bytes[21..]);
        reader.consume(500);
        assert_eq!((reader.fill(1).unwrap().len(), reader.position()), (0, 100));
    }

    #[test]
    fn a_long_fill_allocates_as_bytes_arrive() {
        let mut reader = LookaheadReader::new(&b"few bytes"[..]);
        assert_eq!(reader.fill(usize::MAX).unwrap().len(), 9);
        assert!(reader.held.capacity() <= 2 * STEP_BYTES);
    }
}
